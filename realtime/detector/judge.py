"""From records to outputs: decode, split at control records, judge, encode. No I/O but loading a new bundle.

What comes out depends on the records, the partitions' states and the bundles named in the log, and on
nothing else: the live worker and the silent replay call the same ``Judge.judge``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.bus.contract import Records
from anomalyze.detection.detector import Verdicts
from anomalyze.detection.output import encode_scored, pick_anomalies
from anomalyze.errors import ConfigError, ContractError, ModelError
from anomalyze.events.batch import Control, DeadLetter, MicroBatch
from anomalyze.events.decode import CONTROL_PREFIX, decode_records
from anomalyze.features.state import Disposition
from anomalyze.log import get
from realtime.detector.detector_cache import DetectorCache
from realtime.detector.partition import OwnedPartition
from realtime.detector.profiles import ProfileCache
from realtime.detector.shadow import Shadow

__all__ = [
    "Judge",
    "Outputs",
    "read_bundles",
    "read_controls",
    "take",
]


@dataclass(slots=True)
class Outputs:
    """What one poll of the log causes, as parallel lists ready for the producer."""

    scored_partitions: list[int] = field(default_factory=list)
    scored_keys: list[bytes | None] = field(default_factory=list)
    scored: list[bytes] = field(default_factory=list)
    anomaly_partitions: list[int] = field(default_factory=list)
    anomaly_keys: list[bytes | None] = field(default_factory=list)
    anomalies: list[bytes] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    replies: list[tuple[str, bytes]] = field(default_factory=list)
    repeats: int = 0
    append_ms: list[npt.NDArray[np.int64]] = field(default_factory=list)
    severities: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(5, np.int64))
    challenged: int = 0
    challenger_s: float = 0.0


class Judge:
    """Judges records of owned partitions and moves their states on.

    Parameters
    ----------
    alarm
        Told of a bundle that the log names and that cannot judge: ``bundle`` or ``challenger``, its id, and why.
    """

    def __init__(
        self,
        detectors: DetectorCache,
        profiles: ProfileCache,
        partition_count: int,
        future_tolerance_s: int,
        alarm: Callable[[str, str, str], None] = lambda kind, bundle, reason: None,
    ) -> None:
        self.detectors = detectors
        self.profiles = profiles
        self.shadow = Shadow(detectors, self._refuse_challenger)
        self._alarm = alarm
        self._partition_count = partition_count
        self._future_tolerance_ms = future_tolerance_s * 1000

    def refusal(self, bundle: str) -> str | None:
        """Why this bundle cannot judge; None when it can."""
        try:
            self.detectors.get(bundle)
        except (ConfigError, ContractError, ModelError) as error:
            return str(error)
        return None

    def _refuse_challenger(self, bundle: str, reason: str) -> None:
        get().error("challenger_refused", bundle=bundle, reason=reason)
        self._alarm("challenger", bundle, reason)

    def judge(
        self, records: Records, owned: dict[int, OwnedPartition], skipped: dict[int, set[int]]
    ) -> Outputs:
        """Judge one poll's records, in their order, and advance ``owned``.

        Parameters
        ----------
        skipped
            Offsets by partition that are known to kill the process: they become dead letters unseen.
        """
        outputs = Outputs()
        poisonous = [
            i
            for p, first, end in records.runs()
            if skipped.get(p)
            for i in range(first, end)
            if records.offsets[i] in skipped[p]
        ]
        if poisonous:
            outputs.dead += [poison_letter(records, i) for i in poisonous]
            records = take(records, [i for i in range(len(records)) if i not in set(poisonous)])
        for piece in self._pieces(records, owned):
            if isinstance(piece, Control):
                self._apply(piece, owned[piece.partition])
            else:
                self._judge_piece(piece, owned, outputs)
        for p, _, end in records.runs():
            owned[p].offset = max(owned[p].offset, records.offsets[end - 1])
        for i in outputs.dead:
            owned[i.partition].offset = max(owned[i.partition].offset, i.offset)
        return outputs

    def _pieces(self, records: Records, owned: dict[int, OwnedPartition]) -> Iterable[Records | Control]:
        """Runs of records under the same bundles and profiles, and the control records between them."""
        controls = read_controls(records)
        versions = {(owned[p].bundle, owned[p].profiles, owned[p].challenger) for p, _, _ in records.runs()}
        if not controls and len(versions) <= 1:
            yield records
            return
        for _, first, end in records.runs():
            run: list[int] = []
            for i in range(first, end):
                if i in controls:
                    yield take(records, run)
                    run = []
                    yield controls[i]
                else:
                    run.append(i)
            yield take(records, run)

    def _apply(self, control: Control, partition: OwnedPartition) -> None:
        log = get().bind(partition=control.partition, offset=control.offset, kind=control.kind)
        bundle = control.body.get("bundle")
        if control.kind == "bundle" and isinstance(bundle, str):
            refusal = self.refusal(bundle)
            if refusal is not None:
                # The last good bundle stays, and every verdict goes on naming it.
                log.error("bundle_refused", bundle=bundle, kept=partition.bundle, reason=refusal)
                self._alarm("bundle", bundle, refusal)
                return
            partition.bundle = bundle
            log.info("bundle_swapped", bundle=bundle)
        elif control.kind == "challenger" and isinstance(bundle, str):
            # One that is refused ends the shadowing of the one before, which nobody asks for any more.
            partition.challenger = bundle if self.shadow.admit(bundle) else None
            log.info("challenger_swapped", bundle=partition.challenger)
        elif control.kind == "profiles":
            self._follow_profiles(control.body.get("profiles"), partition, log)
        else:
            assert partition.bundle is not None, "recovery names the first bundle"
            refused = self.detectors.get(partition.bundle).apply_control(control, partition.state)
            log.info("control_applied") if refused is None else log.error("control_refused", reason=refused)

    def _follow_profiles(self, snapshot: object, partition: OwnedPartition, log: Any) -> None:
        try:
            partition.profiles = self.profiles.extended(partition.profiles, str(snapshot))
        except ContractError as error:
            # What was in force stays, and every verdict goes on naming it.
            log.error("profiles_refused", profiles=str(snapshot), reason=str(error))
            return
        log.info("profiles_swapped", profiles=snapshot, snapshots=len(partition.profiles))

    def _judge_piece(self, records: Records, owned: dict[int, OwnedPartition], outputs: Outputs) -> None:
        if not len(records):
            return
        first = owned[records.partitions[0]]
        bundle = first.bundle
        assert bundle is not None, "recovery names the first bundle"
        detector = self.detectors.get(bundle)
        decoded = decode_records(
            records.partitions,
            records.offsets,
            records.append_ms,
            records.values,
            partition_count=self._partition_count,
            future_tolerance_ms=self._future_tolerance_ms,
            gazetteer=detector.gazetteer,
        )
        outputs.dead += decoded.dead
        batch = decoded.batch
        if not batch.n:
            return
        states = {p: owned[p].state for p, _, _ in batch.groups}
        profiles = self.profiles.get(first.profiles)
        self.profiles.fetch(profiles, batch, detector)
        verdicts = detector.process(batch, states, profiles)
        outputs.dead += verdicts.dead
        begun_s = time.perf_counter()
        verdicts.challenger = self.shadow.judge(detector, batch, verdicts, owned)
        if verdicts.challenger is not None:
            outputs.challenged += batch.n
            outputs.challenger_s += time.perf_counter() - begun_s
        self._collect(records, batch, verdicts, owned, outputs)

    def _collect(
        self,
        records: Records,
        batch: MicroBatch,
        verdicts: Verdicts,
        owned: dict[int, OwnedPartition],
        outputs: Outputs,
    ) -> None:
        said = (verdicts.disposition == Disposition.JUDGE) | (
            verdicts.disposition == Disposition.STATUS_UPDATE
        )
        rows = np.flatnonzero(said)
        previous = np.empty(len(rows), np.int64)
        if len(rows):
            previous[1:] = batch.offset[rows[:-1]]
            partitions = batch.partition[rows]
            firsts = np.flatnonzero(np.r_[True, partitions[1:] != partitions[:-1]])
            for first in firsts:
                previous[first] = owned[int(partitions[first])].emitted
            lasts = np.r_[firsts[1:] - 1, len(rows) - 1]
            for last in lasts:
                owned[int(partitions[last])].emitted = int(batch.offset[rows[last]])
            scored = encode_scored(batch, verdicts, rows, previous)
            outputs.scored += scored
            outputs.scored_partitions += partitions.tolist()
            keys = row_keys(records, batch)
            outputs.scored_keys += [keys[row] for row in rows.tolist()] if len(rows) < len(keys) else keys
            for row, value in pick_anomalies(verdicts, rows, scored):
                outputs.anomaly_partitions.append(int(batch.partition[row]))
                outputs.anomaly_keys.append(keys[row])
                outputs.anomalies.append(value)
        if batch.replies:
            place = {int(row): i for i, row in enumerate(rows)}
            written = len(outputs.scored) - len(rows)
            for row, channel in batch.replies.items():
                at = place.get(row)
                outputs.replies.append(
                    (channel, outputs.scored[written + at] if at is not None else batch.row_bytes(row))
                )
        outputs.append_ms.append(batch.append_ms)
        outputs.repeats += int((verdicts.disposition == Disposition.REPEAT).sum())
        judged = verdicts.severity[verdicts.disposition == Disposition.JUDGE]
        outputs.severities += np.bincount(judged, minlength=5)


def read_controls(records: Records) -> dict[int, Control]:
    """Control records by position. What only begins like one stays a record: the decoder says what is wrong."""
    controls: dict[int, Control] = {}
    if CONTROL_PREFIX not in b"\n".join(records.values):
        return controls  # nearly always, and then thousands of looks cheaper
    for i, value in enumerate(records.values):
        if not value.startswith(CONTROL_PREFIX):
            continue
        try:
            body = msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if isinstance(body["control"], str):
            controls[i] = Control(records.partitions[i], records.offsets[i], body["control"], body)
    return controls


def read_bundles(records: Records) -> list[str]:
    """Ids of the bundles that these records announce, in their order."""
    announced = (c.body.get("bundle") for c in read_controls(records).values() if c.kind == "bundle")
    return [bundle for bundle in announced if isinstance(bundle, str)]


def row_keys(records: Records, batch: MicroBatch) -> list[bytes | None]:
    """The record key of every row of the batch."""
    if batch.n == len(records):
        return records.keys
    place = {pair: i for i, pair in enumerate(zip(records.partitions, records.offsets, strict=True))}
    pairs = zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)
    return [records.keys[place[pair]] for pair in pairs]


def take(records: Records, index: list[int]) -> Records:
    """Some of the records, in the order given."""
    return Records(
        records.topic,
        [records.partitions[i] for i in index],
        [records.offsets[i] for i in index],
        [records.append_ms[i] for i in index],
        [records.keys[i] for i in index],
        [records.values[i] for i in index],
    )


def poison_letter(records: Records, i: int) -> DeadLetter:
    """The dead letter of a record that ended the process again and again."""
    return DeadLetter(
        records.partitions[i],
        records.offsets[i],
        "poison",
        "",
        "a record that can be judged",
        "one that ended the worker three times when judged alone",
        records.values[i],
    )
