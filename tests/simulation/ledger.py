"""What must be true after the faults: everything accepted is stored once, and every stored verdict is the one
that an undisturbed replay of the log gives, to the bit."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg

from anomalyze.bus.contract import Bus, Records
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import PartitionState
from anomalyze.events.batch import Severity
from anomalyze.features.snapshot import ProfileStore
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from realtime.detector.detector_cache import DetectorCache
from realtime.detector.judge import Judge, read_bundles, take
from realtime.detector.partition import OwnedPartition
from realtime.detector.profiles import ProfileCache

__all__ = ["Comparison", "compare", "replay", "replayed"]

SLICE_MAX = 3_000


class _Scored(msgspec.Struct):
    data: msgspec.Raw
    verdict: msgspec.Raw
    src: dict[str, int]
    enrichment: msgspec.Raw = msgspec.Raw(b"")
    analysis: msgspec.Raw = msgspec.Raw(b"")


class _Says(msgspec.Struct):
    bundle: str
    final_severity: str


class _Named(msgspec.Struct):
    bundle: str
    challenger: _Says | None = None


@dataclass(slots=True)
class Comparison:
    """The ledger.

    Attributes
    ----------
    bundles
        Verdicts by the bundle that gave them.
    challenged
        Of them, those with what a challenger would have said.
    """

    stored: int = 0
    missing: int = 0
    doubled: int = 0
    verdicts_differ: int = 0
    counters_differ: int = 0
    bundles: dict[str, int] = field(default_factory=dict)
    challenged: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled or judged otherwise."""
        return not (self.missing or self.doubled or self.verdicts_differ or self.counters_differ)


def replay(
    bus: Bus, settings: Settings, seed: int
) -> tuple[dict[tuple[int, int], _Scored], dict[tuple[str, str], str]]:
    """Judge the whole log again, undisturbed and cut elsewhere.

    Returns scored records by (partition, offset), and the newest status by (user_id, tx_id) where an update
    changed it.
    """
    scored: dict[tuple[int, int], _Scored] = {}
    statuses: dict[tuple[str, str], str] = {}
    for partition, key, value in replayed(bus, settings, seed):
        record = msgspec.json.decode(value, type=_Scored)
        verdict = msgspec.json.decode(record.verdict)
        if "status_update" in verdict:
            assert key is not None
            tx_id = msgspec.json.decode(record.data)["tx_id"]
            statuses[(key.decode(), tx_id)] = verdict["status_update"]
        else:
            scored[(partition, record.src["offset"])] = record
    return scored, statuses


def replayed(bus: Bus, settings: Settings, seed: int) -> Iterator[tuple[int, bytes | None, bytes]]:
    """(partition, key, value) of every record that an undisturbed worker would write to `scored`, in order."""
    cut = random.Random(seed)
    objects = open_objects(settings.object_store)
    marks = bus.watermarks(TRANSACTIONS)
    judge = Judge(
        DetectorCache(BundleStore(objects).load),
        ProfileCache(ProfileStore(objects, settings.data_dir / "profiles").open),
        len(marks),
        settings.future_tolerance_s,
    )
    for partition, (low, high) in marks.items():
        records = read_all(bus, partition, low, high)
        owned = {partition: OwnedPartition(partition, PartitionState.empty(), bundle=first_bundle(records))}
        at = 0
        while at < len(records):
            size = cut.randint(1, SLICE_MAX)
            outputs = judge.judge(take(records, list(range(at, min(at + size, len(records))))), owned, {})
            at += size
            for key, value in zip(outputs.scored_keys, outputs.scored, strict=True):
                yield partition, key, value


def compare(
    connection: psycopg.Connection[Any],
    accepted: set[str],
    scored: dict[tuple[int, int], _Scored],
    statuses: dict[tuple[str, str], str],
) -> Comparison:
    """Hold PostgreSQL's rows against what was accepted and against the replay."""
    result = Comparison()
    names = ("approved", "pending", "declined", "refunded", "reversed")
    seen: Counter[str] = Counter()
    hourly: Counter[int] = Counter()
    rows = connection.execute(
        "SELECT tx_id, user_id, src_partition, src_offset, enrichment::text, analysis::text, verdict::text, severity, "
        "status, bundle FROM transactions"
    )
    challenges: Counter[tuple[str, str, int, int]] = Counter()
    for tx_id, user_id, partition, offset, enrichment, analysis, verdict, severity, status, bundle in rows:
        seen[tx_id] += 1
        hourly[severity] += 1
        named = msgspec.json.decode(analysis, type=_Named)
        result.bundles[named.bundle] = result.bundles.get(named.bundle, 0) + 1
        if bundle != named.bundle:
            result.verdicts_differ += 1
            result.examples.append(f"{tx_id}: judged by {named.bundle}, stored as of {bundle}")
        if named.challenger is not None:
            says = Severity[named.challenger.final_severity]
            challenges[named.bundle, named.challenger.bundle, severity, int(says)] += 1
        expected = scored.get((partition, offset))
        came = (enrichment.encode(), analysis.encode(), verdict.encode())
        if expected is None or came != (
            bytes(expected.enrichment),
            bytes(expected.analysis),
            bytes(expected.verdict),
        ):
            result.verdicts_differ += 1
            if len(result.examples) < 3:
                result.examples.append(f"{tx_id} at {partition}/{offset}: stored {came}, replay {expected}")
        told = statuses.get((user_id, tx_id))
        if told is not None and names[status] != told:
            result.verdicts_differ += 1
            result.examples.append(f"{tx_id}: status {names[status]} stored, {told} in the log")
    result.stored = sum(seen.values())
    result.missing = len(accepted - seen.keys())
    result.doubled = sum(count - 1 for count in seen.values())
    if result.missing:
        result.examples.append(f"missing: {sorted(accepted - seen.keys())[:5]}")
    counted = dict(
        connection.execute("SELECT severity, sum(transactions)::bigint FROM hourly GROUP BY severity")
    )
    by_user = connection.execute("SELECT coalesce(sum(transactions), 0)::bigint FROM users").fetchone()
    anomalies = connection.execute("SELECT count(*) FROM anomalies").fetchone()
    in_cases = connection.execute("SELECT coalesce(sum(anomalies), 0)::bigint FROM cases").fetchone()
    assert by_user is not None
    assert anomalies is not None
    assert in_cases is not None
    flagged = sum(count for severity, count in hourly.items() if severity > 0)
    shadowed = connection.execute(
        "SELECT champion, challenger, severity, challenger_severity, sum(transactions)::bigint "
        "FROM challenger_hourly GROUP BY 1, 2, 3, 4"
    ).fetchall()
    result.challenged = sum(challenges.values())
    facts = {
        "challenges": ({tuple(row[:4]): row[4] for row in shadowed}, dict(challenges)),
        "hourly": (counted, dict(hourly)),
        "users": (by_user[0], result.stored),
        "anomalies": (anomalies[0], flagged),
        "cases": (in_cases[0], flagged),
    }
    for name, (came, wanted) in facts.items():
        if came != wanted:
            result.counters_differ += 1
            result.examples.append(f"{name}: {came}, expected {wanted}")
    return result


def read_all(bus: Bus, partition: int, low: int, high: int, topic: str = TRANSACTIONS) -> Records:
    """Every record of one partition of a topic."""
    records = Records(topic, [], [], [], [], [])
    reader = bus.reader(topic, {partition: low})
    try:
        while high > low and (not records.offsets or records.offsets[-1] + 1 < high):
            part = reader.read(5_000, 1.0)
            records.partitions += part.partitions
            records.offsets += part.offsets
            records.append_ms += part.append_ms
            records.keys += part.keys
            records.values += part.values
    finally:
        reader.close()
    return records


def first_bundle(records: Records) -> str | None:
    """What stands before the first bundle record is judged by it."""
    return next(iter(read_bundles(records)), None)
