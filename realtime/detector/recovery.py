"""Bring newly assigned partitions to the point where their outputs end, without writing a verdict twice.

1. The tail of ``scored`` says up to which record this partition's verdicts are durable.
2. The newest usable checkpoint gives the state; without one, the log from its beginning does.
3. The records between the two are judged again, silently: what is in ``scored`` is not written again.
   Anomalies and dead letters are, because they go to other topics and may not have been durable; their
   readers drop what they have seen.

It runs in slices between two polls, so that the group does not evict the worker, on readers without a group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from anomalyze.detection.detector import PartitionState

from anomalyze.bus.contract import Bus, Records
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.errors import ContractError, TransientError
from anomalyze.log import get
from realtime.detector.checkpoint import CheckpointStore
from realtime.detector.judge import Judge, Outputs, OwnedPartition, take

__all__ = ["Recovery"]

SLICE_RECORDS = 5_000
READ_TIMEOUT_S = 0.25
# Records read back from the end of `scored`. Finding too low an end would only repeat records that every
# reader drops, so a window of one worker's largest unacknowledged burst is ample.
TAIL_RECORDS = 2_048


class _Source(msgspec.Struct):
    partition: int
    offset: int


class _Scored(msgspec.Struct):
    src: _Source


@dataclass(slots=True)
class Recovery:
    """Recovers partitions one assignment at a time.

    Attributes
    ----------
    champion
        Id of the published champion bundle, or None.
    announce
        Appends a bundle's control record to one partition, durably.
    reemit
        Sends the anomalies and dead letters of replayed records.
    """

    bus: Bus
    judge: Judge
    checkpoints: CheckpointStore
    champion: Callable[[], str | None]
    announce: Callable[[int, str], None]
    reemit: Callable[[Outputs], None]

    def recover(
        self, numbers: Sequence[int], skipped: Mapping[int, set[int]], owned: dict[int, OwnedPartition]
    ) -> Iterator[None]:
        """Recover these partitions; each step is short. They are in ``owned`` when it ends.

        Raises
        ------
        TransientError
            The log, the store or the champion bundle is not there yet: begin again later.
        """
        log = get().bind(partitions=list(numbers))
        marks = self.bus.watermarks(TRANSACTIONS)
        tails = yield from self._read_tails(numbers)
        found: dict[int, OwnedPartition] = {}
        for number in numbers:
            found[number] = self._load(number, marks[number])
            yield
            if found[number].bundle is None:
                yield from self._find_first_bundle(found[number], marks[number])
        replayed = yield from self._replay(found, tails, skipped)
        for number, partition in found.items():
            # An empty tail says nothing: retention may have taken what was written long ago.
            if partition.emitted > tails[number] >= 0:
                raise ContractError(
                    f"partition {number}: replay wrote up to {partition.emitted}, `scored` ends at {tails[number]}"
                )
            if tails[number] > partition.emitted:
                # The verdicts in `scored` stand; that the replay saw fewer points at a changed log or bundle.
                log.error("replay_differs", partition=number, scored=tails[number], replay=partition.emitted)
                partition.emitted = tails[number]
        owned.update(found)
        log.info("partitions_recovered", replayed=replayed, offsets={n: p.offset for n, p in found.items()})

    def _load(self, number: int, marks: tuple[int, int]) -> OwnedPartition:
        low, high = marks
        checkpoint, refused = self.checkpoints.load_newest(number, high - 1)
        for reason in refused:
            get().warning("checkpoint_refused", partition=number, reason=reason)
        partition = OwnedPartition(number, PartitionState.empty(), offset=low - 1)
        if checkpoint is not None:
            partition.state.restore(checkpoint.arrays)
            partition.bundle = checkpoint.bundle
            partition.offset = partition.checkpointed = checkpoint.offset
            partition.emitted = checkpoint.emitted
        if checkpoint is not None and checkpoint.offset + 1 < low:
            get().error("log_gap", partition=number, state_ends=checkpoint.offset, log_begins=low)
            partition.offset = low - 1
        return partition

    def _read_tails(self, numbers: Sequence[int]) -> Generator[None, None, dict[int, int]]:
        """Highest ``src`` offset in `scored` by partition, -1 where there is none."""
        tails = dict.fromkeys(numbers, -1)
        marks = self.bus.watermarks(SCORED)
        ends = {n: marks[n][1] for n in numbers if marks[n][1] > marks[n][0]}
        reader = self.bus.reader(SCORED, {n: max(marks[n][0], end - TAIL_RECORDS) for n, end in ends.items()})
        try:
            while ends:
                records = reader.read(SLICE_RECORDS, READ_TIMEOUT_S)
                for partition, offset, value in zip(
                    records.partitions, records.offsets, records.values, strict=True
                ):
                    source = msgspec.json.decode(value, type=_Scored).src
                    tails[partition] = max(tails[partition], source.offset)
                    if offset >= ends.get(partition, 0) - 1:
                        ends.pop(partition, None)
                yield
        finally:
            reader.close()
        return tails

    def _find_first_bundle(self, partition: OwnedPartition, marks: tuple[int, int]) -> Iterator[None]:
        """What stands before the log's first bundle record is judged by it; a log without one gets one."""
        reader = self.bus.reader(TRANSACTIONS, {partition.number: marks[0]})
        position = marks[0]
        try:
            while position < marks[1]:
                records = reader.read(SLICE_RECORDS, READ_TIMEOUT_S)
                for value in records.values:
                    if value.startswith(b'{"control":') and json.loads(value)["control"] == "bundle":
                        partition.bundle = json.loads(value)["bundle"]
                        return
                if len(records):
                    position = records.offsets[-1] + 1
                yield
        finally:
            reader.close()
        champion = self.champion()
        if champion is None:
            raise TransientError("no champion bundle is published: `anomalyze up` makes a starter one", 2.0)
        self.announce(partition.number, champion)
        partition.bundle = champion

    def _replay(
        self, found: dict[int, OwnedPartition], tails: Mapping[int, int], skipped: Mapping[int, set[int]]
    ) -> Generator[None, None, int]:
        """Judge silently what `scored` already holds; returns the number of records."""
        behind = {n for n, p in found.items() if p.offset < tails[n]}
        reader = self.bus.reader(TRANSACTIONS, {n: found[n].offset + 1 for n in behind})
        replayed = 0
        try:
            while behind:
                records = within(reader.read(SLICE_RECORDS, READ_TIMEOUT_S), behind, tails)
                if len(records):
                    self.reemit(self.judge.judge(records, found, dict(skipped)))
                    replayed += len(records)
                    behind = {n for n in behind if found[n].offset < tails[n]}
                yield
        finally:
            reader.close()
        return replayed


def within(records: Records, partitions: set[int], last: Mapping[int, int]) -> Records:
    """The records of these partitions up to these offsets."""
    index = [
        i
        for i, (p, offset) in enumerate(zip(records.partitions, records.offsets, strict=True))
        if p in partitions and offset <= last[p]
    ]
    return records if len(index) == len(records) else take(records, index)
