"""The challenger: what it says is a function of the log and stands beside the champion's verdict, which it never
changes, whatever is wrong with it."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomalyze.bus.contract import Records
from anomalyze.bus.control import encode_control
from anomalyze.bus.partitioner import murmur2_partition
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import Detector, PartitionState
from anomalyze.detection.verdict import Challenged
from anomalyze.errors import TransientError
from anomalyze.features.snapshot import ProfileStore
from anomalyze.storage.objects import LocalObjects
from realtime.detector import shadow
from realtime.detector.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from realtime.detector.detector_cache import DetectorCache
from realtime.detector.judge import Judge
from realtime.detector.partition import OwnedPartition
from realtime.detector.profiles import ProfileCache
from tests.test_realtime.bed import PARTITIONS, bundles, record, traffic

CHAMPION, OTHER_CHAMPION = bundles()
BROKEN_TX = "the-row-at-which-it-fails"


def with_rules(bundle: Bundle, amount_limit: float | None = None, **severities: str) -> Bundle:
    """The bundle with other severities of some rules, and another limit of amounts."""
    document = json.loads(bundle.rules["rules.json"])
    for rule in document["rules"]:
        rule["severity"] = severities.get(rule["id"], rule["severity"])
        if rule["id"] == "AMOUNT_LIMIT" and amount_limit is not None:
            rule["parameters"]["limit"] = amount_limit
    return replace(bundle, rules={"rules.json": json.dumps(document, sort_keys=True)})


# It flags what the champion has nothing to say of.
CHALLENGER = with_rules(CHAMPION, amount_limit=60.0, AMOUNT_SPIKE="CRITICAL")
SECOND_CHALLENGER = with_rules(CHAMPION, AMOUNT_SPIKE="LOW", VELOCITY_5M="CRITICAL")
OTHER_FEATURES = replace(CHALLENGER, features=CHALLENGER.features + "\n# another file\n")


class Bench:
    """A judge over bundles in a folder, and what was told of bundles that cannot judge."""

    def __init__(self, folder: Path) -> None:
        self.objects = LocalObjects(folder)
        self.store = BundleStore(self.objects)
        for bundle in (CHAMPION, OTHER_CHAMPION, CHALLENGER, SECOND_CHALLENGER, OTHER_FEATURES):
            self.store.publish(bundle)
        self.alarms: list[tuple[str, str, str]] = []

    def judge(self) -> Judge:
        return Judge(
            DetectorCache(self.store.load),
            ProfileCache(ProfileStore(self.objects).load),
            PARTITIONS,
            300,
            lambda *said: self.alarms.append(said),
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("objects"))


@pytest.fixture(autouse=True)
def _quiet(bench: Bench) -> None:
    bench.alarms.clear()


def log_of(*parts: list[tuple[bytes, bytes]] | tuple[str, str]) -> list[list[tuple[bytes | None, bytes]]]:
    """Records by partition: rows where their users belong, control records everywhere."""
    made: list[list[tuple[bytes | None, bytes]]] = [[] for _ in range(PARTITIONS)]
    for part in parts:
        if isinstance(part, tuple):
            for partition in made:
                partition.append((None, encode_control(part[0], {"bundle": part[1]})))
        else:
            for user, value in part:
                made[murmur2_partition(user, PARTITIONS)].append((user, value))
    return made


def run(
    judge: Judge, log: list[list[tuple[bytes | None, bytes]]], cut: random.Random | None = None
) -> list[list[bytes]]:
    """What one worker writes of a log, by partition; with ``cut``, in random pieces and with random restarts."""
    owned = {p: OwnedPartition(p, PartitionState.empty(), bundle=CHAMPION.id) for p in range(PARTITIONS)}
    at, scored = [0] * PARTITIONS, [[] for _ in range(PARTITIONS)]  # type: ignore[var-annotated]
    while any(at[p] < len(log[p]) for p in range(PARTITIONS)):
        records = Records(TRANSACTIONS, [], [], [], [], [])
        for p in range(PARTITIONS):
            to = len(log[p]) if cut is None else min(len(log[p]), at[p] + cut.randrange(120))
            for offset in range(at[p], to):
                records.partitions.append(p)
                records.offsets.append(offset)
                records.append_ms.append(1_800_000_000_000)
                records.keys.append(log[p][offset][0])
                records.values.append(log[p][offset][1])
            at[p] = to
        outputs = judge.judge(records, owned, {})
        for p, value in zip(outputs.scored_partitions, outputs.scored, strict=True):
            scored[p].append(value)
        if cut is not None and cut.random() < 0.2:
            owned[0] = restarted(owned[0])
    return scored


def restarted(before: OwnedPartition) -> OwnedPartition:
    """The partition as the next worker finds it in its checkpoint."""
    found = decode_checkpoint(
        encode_checkpoint(
            Checkpoint(
                "log",
                before.number,
                before.offset,
                before.emitted,
                before.bundle,
                before.state.snapshot(),
                before.profiles,
                before.challenger,
            )
        )
    )
    state = PartitionState.empty()
    state.restore(found.arrays)
    return OwnedPartition(
        before.number, state, found.bundle, found.profiles, found.challenger, found.offset, found.emitted
    )


def without_challenger(value: bytes) -> bytes:
    """A scored record as it is where nothing is shadowed, byte for byte."""
    analysis = msgspec.json.decode(value, type=dict[str, msgspec.Raw])["analysis"]
    section = msgspec.json.decode(analysis, type=dict[str, msgspec.Raw]).get("challenger")
    return value if section is None else value.replace(b',"challenger":' + bytes(section), b"", 1)


def challengers(scored: list[list[bytes]]) -> list[dict[str, Any] | None]:
    return [json.loads(v)["analysis"].get("challenger") for v in itertools.chain(*scored)]


ROWS = list(traffic())
FULL = log_of(
    ROWS[:150],
    ("challenger", CHALLENGER.id),
    ROWS[150:400],
    ("challenger", SECOND_CHALLENGER.id),
    ROWS[400:500],
    ("bundle", SECOND_CHALLENGER.id),
    ROWS[500:600],
    ("bundle", CHAMPION.id),
    ROWS[600:],
)


@pytest.fixture(scope="module")
def whole(bench: Bench) -> list[list[bytes]]:
    return run(bench.judge(), FULL)


def test_it_stands_beside_the_champions_verdict_and_is_no_alarm(
    whole: list[list[bytes]], bench: Bench
) -> None:
    said = [s for s in challengers(whole) if s is not None]
    assert {s["bundle"] for s in said} == {CHALLENGER.id, SECOND_CHALLENGER.id}
    records = [json.loads(value) for value in itertools.chain(*whole)]
    differing = [
        r
        for r in records
        if (c := r["analysis"].get("challenger")) and c["final_severity"] != r["verdict"]["final_severity"]
    ]
    assert len(differing) > 5
    assert {"CRITICAL"} <= {r["analysis"]["challenger"]["final_severity"] for r in differing}
    raised = [r for r in differing if r["verdict"]["final_severity"] == "NONE"]
    assert len(raised) > 20
    for one in raised:
        assert "anomaly_id" not in one["verdict"]
    # Each names what fired, and nothing that explains.
    for s in said:
        assert set(s) <= {"bundle", "final_severity", "ml_score", "rule_flags"}
    assert bench.alarms == []


def test_it_says_what_it_would_have_said_as_champion(bench: Bench) -> None:
    shadowed = run(bench.judge(), log_of(("challenger", CHALLENGER.id), ROWS))
    champion = run(bench.judge(), log_of(("bundle", CHALLENGER.id), ROWS))
    for one, other in zip(itertools.chain(*shadowed), itertools.chain(*champion), strict=True):
        says, verdict = json.loads(one)["analysis"]["challenger"], json.loads(other)
        assert says["final_severity"] == verdict["verdict"]["final_severity"]
        assert says.get("rule_flags", []) == verdict["analysis"]["rule_flags"]
        assert says["ml_score"] == verdict["analysis"]["ml_score"]


def test_it_changes_no_bit_of_the_champions_verdict(whole: list[list[bytes]], bench: Bench) -> None:
    # The same places in the log, with records of another kind where the challengers are named.
    plain = [
        [(k, encode_control("nothing", {}) if b'"control":"challenger"' in v else v) for k, v in partition]
        for partition in FULL
    ]
    alone = run(bench.judge(), plain)
    assert not any(challengers(alone))
    for one, other in zip(itertools.chain(*whole), itertools.chain(*alone), strict=True):
        assert without_challenger(one) == other


def test_shadowing_ends_when_it_becomes_champion_and_goes_on_after_a_roll_back(
    whole: list[list[bytes]],
) -> None:
    by_tx = {}
    for value in itertools.chain(*whole):
        body = json.loads(value)
        by_tx[body["data"]["tx_id"]] = body["analysis"]
    names = [json.loads(value)["data"]["tx_id"] for _, value in ROWS]

    def of(first: int, end: int) -> set[tuple[str, str | None]]:
        return {
            (by_tx[t]["bundle"], (by_tx[t].get("challenger") or {}).get("bundle")) for t in names[first:end]
        }

    assert of(0, 150) == {(CHAMPION.id, None)}
    assert of(150, 400) == {(CHAMPION.id, CHALLENGER.id)}
    assert of(400, 500) == {(CHAMPION.id, SECOND_CHALLENGER.id)}
    assert of(500, 600) == {(SECOND_CHALLENGER.id, None)}
    assert of(600, len(names)) == {(CHAMPION.id, SECOND_CHALLENGER.id)}


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_however_the_log_is_cut_and_wherever_a_worker_restarts(
    whole: list[list[bytes]], bench: Bench, seed: int
) -> None:
    assert run(bench.judge(), FULL, random.Random(seed)) == whole


def test_one_with_other_features_is_not_shadowed_and_says_why(bench: Bench) -> None:
    judge = bench.judge()
    assert not any(challengers(run(judge, log_of(("challenger", OTHER_FEATURES.id), ROWS[:50]))))
    assert judge.shadow.differing == {(CHAMPION.id, OTHER_FEATURES.id): "its features differ: features.yaml"}


@pytest.mark.parametrize("part", ["currency_rates.json", "gazetteer.json", "overlay of acct"])
def test_what_features_are_made_of(part: str) -> None:
    changed = (
        replace(CHAMPION, overlays={"acct": {"time_zone": "Asia/Tokyo"}})
        if part.startswith("overlay")
        else replace(CHAMPION, tables={**CHAMPION.tables, part: CHAMPION.tables[part] + "\n"})
    )
    assert Detector(CHAMPION).differing_features(Detector(changed)) == part
    same = replace(CHAMPION, overlays={"acct": {}}, policy=OTHER_CHAMPION.policy)
    assert Detector(CHAMPION).differing_features(Detector(same)) is None


def test_one_that_is_missing_damaged_or_too_large_is_refused_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "sha256:" + "0" * 64
    tampered = replace(CHALLENGER, policy=CHALLENGER.policy + "\n# tampered\n")
    damaged = bytearray(tampered.data)
    damaged[5_000] ^= 1
    bench.objects.put(f"bundles/{tampered.id.removeprefix('sha256:')}.tar", bytes(damaged))
    for challenger, reason in ((missing, "not published"), (tampered.id, "was damaged or changed")):
        log = log_of(("challenger", CHALLENGER.id), ROWS[:40], ("challenger", challenger), ROWS[40:80])
        judge = bench.judge()
        scored = run(judge, log)
        assert sum(s is not None for s in challengers(scored)) == 40
        assert len(challengers(scored)) == 80
        assert {(kind, bundle) for kind, bundle, _ in bench.alarms} == {("challenger", challenger)}
        assert all(reason in why for _, _, why in bench.alarms), bench.alarms
        bench.alarms.clear()
    monkeypatch.setattr(shadow, "MODEL_BYTES_MAX", -1)
    assert not any(challengers(run(bench.judge(), log_of(("challenger", CHALLENGER.id), ROWS[:40]))))
    assert "a challenger's at most" in bench.alarms[0][2]


def test_a_store_that_is_away_holds_up_no_verdict_but_a_recovery_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(bundle: str) -> Bundle:
        if bundle == CHALLENGER.id:
            raise TransientError("object store: away")
        return bench.store.load(bundle)

    judge = bench.judge()
    judge.detectors._load = away  # type: ignore[assignment]
    assert challengers(run(judge, log_of(("challenger", CHALLENGER.id), ROWS[:40]))) == [None] * 40
    assert "object store: away" in bench.alarms[0][2]
    with pytest.raises(TransientError):
        judge.shadow.admit(CHALLENGER.id, patiently=True)


class Failing(Detector):
    """A challenger that raises at one row."""

    def challenge(self, batch: Any, *rest: Any, **named: Any) -> Challenged:
        if any(BROKEN_TX.encode() in batch.row_bytes(row) for row in range(batch.n)):
            raise ValueError("a row that it cannot judge")
        return super().challenge(batch, *rest, **named)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_one_that_raises_ends_at_that_row_and_hurts_nothing(bench: Bench, seed: int | None) -> None:
    user = ROWS[0][0].decode()
    rows = [*ROWS[:100], record(user, BROKEN_TX, 10.0), *ROWS[100:200]]
    log = log_of(("challenger", CHALLENGER.id), rows)

    def failing() -> Judge:
        judge = bench.judge()
        judge.detectors.get(CHALLENGER.id)
        judge.detectors._detectors[CHALLENGER.id] = Failing(CHALLENGER)
        return judge

    scored = run(failing(), log, None if seed is None else random.Random(seed))
    home = murmur2_partition(user.encode(), PARTITIONS)
    said = [json.loads(v) for v in scored[home]]
    place = next(i for i, r in enumerate(said) if r["data"]["tx_id"] == BROKEN_TX)
    assert all("challenger" in r["analysis"] for r in said[:place])
    assert not any("challenger" in r["analysis"] for r in said[place:])
    assert len(said) > place + 5
    assert all("challenger" in json.loads(v)["analysis"] for v in scored[1 - home])
    assert [(k, b) for k, b, _ in bench.alarms] == [("challenger", CHALLENGER.id)]
    assert "a row that it cannot judge" in bench.alarms[0][2]
    alone = run(bench.judge(), log_of(("nothing", ""), rows))
    assert [[without_challenger(v) for v in p] for p in scored] == alone
