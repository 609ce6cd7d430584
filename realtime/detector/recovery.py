"""Bring newly assigned partitions to the point where their outputs end, without writing a verdict twice.

1. The newest usable checkpoint gives the state; without one, the log from its beginning does.
2. Where the log no longer reaches back to that point, rows of PostgreSQL stand in: state only, see ``history``.
3. The tail of ``scored`` says up to which record this partition's verdicts are durable.
4. The records in between are judged again, silently: what is in ``scored`` is not written again.
   Anomalies and dead letters are, because they go to other topics and may not have been durable; their
   readers drop what they have seen.

It runs in slices between two polls, so that the group does not evict the worker, on readers without a group.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from anomalyze.bus.contract import Bus, Records
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.detection.detector import PartitionState
from anomalyze.errors import ContractError, EventError, TransientError
from anomalyze.log import get
from realtime.detector.checkpoint import Checkpoint, CheckpointStore
from realtime.detector.history import History, HistorySlice
from realtime.detector.judge import Judge, Outputs, read_bundles, take
from realtime.detector.partition import OwnedPartition

__all__ = ["Recovery"]

SLICE_RECORDS = 5_000
READ_TIMEOUT_S = 0.25
# Records read back from the end of `scored`; further back where they end below what a checkpoint says is
# durable: then a worker that was paused and woke too late wrote all of them. Finding too low an end otherwise only
# repeats records that every reader drops.
TAIL_RECORDS = 2_048
TAIL_GROWTH = 8


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
    history
        Judged transactions that the log has dropped.
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
    history: History
    champion: Callable[[], str | None]
    announce: Callable[[int, str], None]
    reemit: Callable[[Outputs], None]

    def recover(
        self, numbers: Sequence[int], skipped: Mapping[int, set[int]], owned: dict[int, OwnedPartition]
    ) -> Generator[None]:
        """Recover these partitions; each step is short. They are in ``owned`` when it ends.

        Raises
        ------
        TransientError
            The log, the store or the champion bundle is not there yet: begin again later.
        """
        log = get().bind(partitions=list(numbers))
        marks = self.bus.watermarks(TRANSACTIONS)
        found: dict[int, OwnedPartition] = {}
        for number in numbers:
            found[number] = self._load(number, marks[number])
            yield
        tails = yield from self._find_tails(found)
        self._check_tails(tails, marks)
        gaps = {n: (p.offset, marks[n][0]) for n, p in found.items() if p.offset + 1 < marks[n][0]}
        if gaps:
            log.error("log_gap", state_ends_log_begins=gaps, scored={n: tails[n] for n in gaps})
            yield from self._fill(found, gaps)
        for partition in found.values():
            if partition.bundle is None:
                yield from self._find_first_bundle(partition)
        replayed = yield from self._replay(found, tails, skipped)
        for number, partition in found.items():
            # An empty tail says nothing: retention may have taken what was written long ago.
            if partition.emitted > tails[number] >= 0:
                raise ContractError(
                    f"partition {number}: its state holds verdicts up to {partition.emitted}, `scored` ends at "
                    f"{tails[number]}: verdicts that were durable are gone"
                )
            if tails[number] > partition.emitted:
                if number not in gaps:
                    # The verdicts in `scored` stand; that the replay saw fewer points at a changed log or bundle.
                    log.error(
                        "replay_differs", partition=number, scored=tails[number], replay=partition.emitted
                    )
                partition.emitted = tails[number]
        owned.update(found)
        log.info("partitions_recovered", replayed=replayed, offsets={n: p.offset for n, p in found.items()})

    def _load(self, number: int, marks: tuple[int, int]) -> OwnedPartition:
        partition = OwnedPartition(number, PartitionState.empty())

        def restore(checkpoint: Checkpoint) -> None:
            self.judge.profiles.get(checkpoint.profiles)  # one that is gone makes the checkpoint useless
            partition.state.restore(checkpoint.arrays)
            partition.bundle = checkpoint.bundle
            partition.profiles = checkpoint.profiles
            partition.challenger = checkpoint.challenger
            partition.offset = partition.checkpointed = checkpoint.offset
            partition.emitted = checkpoint.emitted

        _, refused = self.checkpoints.load_newest(number, marks[1] - 1, restore)
        for reason in refused:
            get().warning("checkpoint_refused", partition=number, reason=reason)
        if partition.challenger and not self.judge.shadow.admit(partition.challenger, patiently=True):
            partition.challenger = None
        return partition

    def _find_tails(self, found: Mapping[int, OwnedPartition]) -> Generator[None, None, dict[int, int]]:
        """Highest ``src`` offset in `scored` by partition, -1 where there is none."""
        tails = dict.fromkeys(found, -1)
        marks = self.bus.watermarks(SCORED)
        window = TAIL_RECORDS
        wanted = {n for n in found if marks[n][1] > marks[n][0]}
        while wanted:
            starts = {n: max(marks[n][0], marks[n][1] - window) for n in wanted}
            yield from self._read_tails(starts, {n: marks[n][1] for n in wanted}, tails)
            wanted = {n for n in wanted if tails[n] < found[n].emitted and starts[n] > marks[n][0]}
            window *= TAIL_GROWTH
        return tails

    def _read_tails(
        self, starts: Mapping[int, int], ends: dict[int, int], tails: dict[int, int]
    ) -> Iterator[None]:
        reader = self.bus.reader(SCORED, starts)
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

    def _check_tails(self, tails: Mapping[int, int], marks: Mapping[int, tuple[int, int]]) -> None:
        """`scored` names no record that `transactions` does not hold: waiting for it would never end."""
        if any(tail >= marks[n][1] for n, tail in tails.items()):
            marks = self.bus.watermarks(TRANSACTIONS)  # the owner before us may have gone on since
        for n, tail in tails.items():
            if tail >= marks[n][1]:
                raise ContractError(
                    f"partition {n}: `scored` ends at src offset {tail}, but `transactions` before {marks[n][1]}: "
                    "records that were judged are gone from the log"
                )

    def _fill(
        self, found: Mapping[int, OwnedPartition], gaps: Mapping[int, tuple[int, int]]
    ) -> Iterator[None]:
        """Rebuild from PostgreSQL what the log no longer holds."""
        bodies = self.history.lists()
        for number in gaps:
            for body in bodies:
                try:
                    found[number].state.lists.apply(body)
                except EventError as error:
                    get().error("list_entry_refused", partition=number, reason=str(error))
        rows = 0
        for part in self.history.read(gaps):
            if part is not None:
                self._rebuild(part, found)
                rows += len(part.records)
            yield
        for number, (_, log_begins) in gaps.items():
            found[number].offset = log_begins - 1
        get().info("rebuilt_from_postgresql", partitions=list(gaps), rows=rows)

    def _rebuild(self, part: HistorySlice, found: Mapping[int, OwnedPartition]) -> None:
        """Judge stored rows again, each by its own bundle, and keep nothing but the state."""
        places = zip(part.records.partitions, part.bundles, strict=True)
        for (number, bundle), run in groupby(enumerate(places), key=lambda item: item[1]):
            partition = found[number]
            if self.judge.refusal(bundle) is None:
                partition.bundle = bundle
            elif partition.bundle is None:
                partition.bundle = self._champion()
            self.judge.judge(take(part.records, [i for i, _ in run]), {number: partition}, {})

    def _find_first_bundle(self, partition: OwnedPartition) -> Iterator[None]:
        """What stands before the log's first bundle record is judged by it; a log without one gets one.

        Also the one that we add counts only where it came first: another worker may have added its own.
        """
        low, high = self.bus.watermarks(TRANSACTIONS)[partition.number]
        reader = self.bus.reader(TRANSACTIONS, {partition.number: low})
        try:
            while True:
                while low < high:
                    records = reader.read(SLICE_RECORDS, READ_TIMEOUT_S)
                    for bundle in read_bundles(records):
                        refusal = self.judge.refusal(bundle)
                        if refusal is None:
                            partition.bundle = bundle
                            return
                        get().error(
                            "bundle_refused", partition=partition.number, bundle=bundle, reason=refusal
                        )
                    if len(records):
                        low = records.offsets[-1] + 1
                    yield
                self.announce(partition.number, self._champion())
                high = self.bus.watermarks(TRANSACTIONS)[partition.number][1]
        finally:
            reader.close()

    def _champion(self) -> str:
        champion = self.champion()
        if champion is None:
            raise TransientError("no champion bundle is published: `anomalyze up` makes a starter one", 2.0)
        refusal = self.judge.refusal(champion)
        if refusal is not None:
            raise ContractError(
                f"no bundle can judge: the log names none, and the champion is refused: {refusal}"
            )
        return champion

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
