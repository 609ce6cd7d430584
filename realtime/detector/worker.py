"""The detector worker: reads `transactions`, writes a verdict for each to `scored`.

The order that makes it lose nothing, at each commit:

1. Outputs are flushed and acknowledged; then those who wait for a verdict get it (at once, between commits too).
2. Checkpoints that are due are copied between two micro-batches and written by a thread.
3. Offsets are committed. They only show lag: after a crash the truth is the tail of `scored`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

from anomalyze.bus.contract import Bus, Rebalance, Records
from anomalyze.bus.control import encode_control
from anomalyze.bus.topics import ANOMALIES, DEAD_LETTERS, RECORD_BYTES_MAX, SCORED, TRANSACTIONS
from anomalyze.errors import TransientError
from anomalyze.log import get
from anomalyze.storage.dead_letters import encode_dead_letter
from realtime.detector.checkpoint import Checkpoint, CheckpointStore
from realtime.detector.history import History
from realtime.detector.judge import Judge, Outputs, take
from realtime.detector.metrics import WorkerMetrics
from realtime.detector.partition import OwnedPartition
from realtime.detector.poison import AttemptFile, SkipList
from realtime.detector.recovery import Recovery

__all__ = ["Replies", "Worker"]

DONE = object()

GROUP = "detector"
RECORDS_MAX = 8_000
POLL_S = 0.2
COMMIT_S = 1.0
# Micro-batches begin at least this far apart: one of five records costs nearly what one of fifty does.
GATHER_S = 0.003
# Also with nothing new: a commit that met a rebalance was refused, and would show a lag that is not there.
COMMIT_IDLE_S = 5.0
# Outputs in flight: what a crash makes a successor judge again, and what a paused zombie can still write.
UNFLUSHED_MAX = 40_000
FLUSH_TIMEOUT_S = 30.0
CHECKPOINT_RECORDS = 500_000
# A dead letter carries its record in base64, a third longer: what does not fit is cut off.
DEAD_LETTER_BYTES_MAX = RECORD_BYTES_MAX * 7 // 10


class Replies(Protocol):
    """Where somebody waits for a verdict."""

    def pipeline(self, transaction: bool) -> Any: ...


class CheckpointWriter:
    """Writes checkpoints on a thread; a failure is logged and the next one tried when due."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._queue: queue.Queue[Checkpoint | None] = queue.Queue(maxsize=2)
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether another one can be taken without waiting."""
        return not self._queue.full()

    def submit(self, checkpoint: Checkpoint) -> None:
        """Queue one; waits while two are queued."""
        self._queue.put(checkpoint)

    def close(self) -> None:
        """Write what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (checkpoint := self._queue.get()) is not None:
            try:
                self._store.save(checkpoint)
            except Exception as error:  # noqa: BLE001 - the thread's top: recovery only takes longer
                get().error("checkpoint_failed", partition=checkpoint.partition, reason=repr(error))


class Worker:
    """One worker process's loop; ``run`` returns when ``stop`` is set."""

    def __init__(
        self,
        bus: Bus,
        log_id: str,
        judge: Judge,
        checkpoints: CheckpointStore,
        skips: SkipList,
        attempts: AttemptFile,
        history: History,
        champion: Callable[[], str | None],
        replies: Replies | None,
        metrics: WorkerMetrics,
        checkpoint_interval_s: float,
    ) -> None:
        self._bus = bus
        self._judge = judge
        self._skips = skips
        self._attempts = attempts
        self._replies = replies
        self._metrics = metrics
        self._interval_s = checkpoint_interval_s
        self._log_id = log_id
        self._failed = False
        self._owned: dict[int, OwnedPartition] = {}
        self._skipped: dict[int, set[int]] = {}
        self._singly: dict[int, int] = {}
        self._arrived: list[int] = []
        self._recovering: list[int] = []
        self._steps: Generator[None] | None = None
        self._again_at_s = 0.0
        self._unflushed = 0
        self._waiting: list[tuple[str, bytes]] = []
        self._last_commit_s = time.monotonic()
        self._producer = bus.producer()
        self._writer = CheckpointWriter(checkpoints)
        self._recovery = Recovery(bus, judge, checkpoints, history, champion, self._announce, self._reemit)

    def run(self, stop: threading.Event) -> None:
        """Judge until stopped; on the way out everything is flushed, checkpointed and committed."""
        self._skips.note_deaths(self._attempts.left_behind())
        self._attempts.idle()
        consumer = self._consumer = self._bus.consumer(
            TRANSACTIONS, GROUP, Rebalance(self._on_assigned, self._on_revoked, self._on_lost)
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._producer.close)
            stack.callback(self._writer.close)
            stack.callback(consumer.close)  # calls _on_revoked: flush, checkpoint, commit
            try:
                while not stop.is_set():
                    begun_s = time.monotonic()
                    busy = self._recover_some()
                    records = consumer.poll(RECORDS_MAX, 0.0 if busy else self._patience_s())
                    if len(records):
                        self._process(self._mine(records))
                    if self._waiting:
                        self._answer()
                    if self._due():
                        self._commit()
                    if 0 < len(records) < RECORDS_MAX:
                        time.sleep(max(0.0, begun_s + GATHER_S - time.monotonic()))
            except BaseException:
                # A state may have moved past what was written: none of it may be checkpointed or committed.
                self._failed = True
                raise

    def bundles(self) -> dict[str, Any]:
        """The bundles in force, for the heartbeat."""
        bundles = sorted({p.bundle for p in list(self._owned.values()) if p.bundle})
        newest = bundles[0] if len(bundles) == 1 else None
        return {
            "bundles": bundles,
            "bundle": newest,
            "bundle_kind": newest and self._judge.detectors.kind(newest),
            **self._challengers(),
        }

    def _challengers(self) -> dict[str, Any]:
        """The challenger that the log names, and why it is not shadowed where it is not."""
        pairs = {(p.bundle, p.challenger) for p in list(self._owned.values()) if p.challenger}
        shadowed = sorted({c for b, c in pairs if c != b and b is not None})
        if len(shadowed) != 1:
            return {"challenger": None}
        differing = dict(self._judge.shadow.differing)
        why = next((why for pair in pairs if (why := differing.get(pair)) is not None), None)  # type: ignore[arg-type]
        return {"challenger": shadowed[0], "challenger_off": why}

    # Partitions come and go

    def _on_assigned(self, partitions: Sequence[int]) -> Mapping[int, int] | None:
        # Nothing of them is wanted before they have recovered, and then from elsewhere.
        self._consumer.pause(partitions)
        self._arrived += partitions
        return None

    def _on_revoked(self, partitions: Sequence[int]) -> None:
        if not self._failed:
            self._commit(checkpoint=set(partitions))
        self._forget(partitions)

    def _on_lost(self, partitions: Sequence[int]) -> None:
        get().warning("partitions_lost", partitions=list(partitions))
        self._forget(partitions)

    def _forget(self, partitions: Sequence[int]) -> None:
        gone = set(partitions)
        self._arrived = [p for p in self._arrived if p not in gone]
        if gone & set(self._recovering):
            # Those that stay begin again: recovery only reads.
            self._arrived += [p for p in self._recovering if p not in gone]
            self._drop_recovery()
        for partition in gone:
            self._owned.pop(partition, None)

    def _recover_some(self) -> bool:
        """One slice of recovery; whether there is more to do."""
        if self._steps is None and not (self._arrived and time.monotonic() >= self._again_at_s):
            return False
        try:
            if self._steps is None:
                self._steps = self._begin_recovery()
            if next(self._steps, DONE) is DONE:
                for p in self._recovering:
                    self._consumer.seek(p, self._owned[p].offset + 1)
                self._consumer.resume(self._recovering)
                # Replay may have gone past what the predecessor could commit: no lag where there is none.
                self._consumer.commit({p: self._owned[p].offset + 1 for p in self._recovering})
                self._drop_recovery()
        except TransientError as error:
            get().warning("recovery_waits", reason=str(error))
            self._again_at_s = time.monotonic() + error.retry_after_s
            for p in self._recovering:
                self._owned.pop(p, None)
            self._arrived += self._recovering
            self._drop_recovery()
            return False
        return True

    def _begin_recovery(self) -> Generator[None]:
        self._recovering, self._arrived = self._arrived, []
        for p in self._recovering:
            self._skipped[p] = self._skips.skipped(p)
            self._singly[p] = self._skips.singly_until(p)
        return self._recovery.recover(self._recovering, self._skipped, self._owned)

    def _drop_recovery(self) -> None:
        if self._steps is not None:
            self._steps.close()
        self._recovering, self._steps = [], None

    def _mine(self, records: Records) -> Records:
        """Only records that come next in a partition that has recovered: a poll may still bring others."""
        if all(
            p in self._owned and records.offsets[first] > self._owned[p].offset
            for p, first, _ in records.runs()
        ):
            return records
        index = [
            i
            for i, (p, offset) in enumerate(zip(records.partitions, records.offsets, strict=True))
            if p in self._owned and offset > self._owned[p].offset
        ]
        return take(records, index)

    # Records

    def _process(self, records: Records) -> None:
        suspected = (
            [
                i
                for i, (p, offset) in enumerate(zip(records.partitions, records.offsets, strict=True))
                if offset <= self._singly[p]
            ]
            if any(last >= 0 for last in self._singly.values())
            else []
        )
        for i in suspected:
            self._judge_and_send(take(records, [i]))
        if suspected:
            chosen = set(suspected)
            records = take(records, [i for i in range(len(records)) if i not in chosen])
            for p, last in self._singly.items():
                if p in self._owned and self._owned[p].offset >= last:
                    self._singly[p] = -1
        if len(records):
            self._judge_and_send(records)

    def _judge_and_send(self, records: Records) -> None:
        self._attempts.begin(records)
        started_s = time.perf_counter()
        outputs = self._judge.judge(records, self._owned, self._skipped)
        self._attempts.idle()
        self._producer.send_many(SCORED, outputs.scored_partitions, outputs.scored_keys, outputs.scored)
        self._reemit(outputs)
        self._waiting += outputs.replies
        self._unflushed += len(records)
        now_s = time.monotonic()
        for p, _, _ in records.runs():
            if self._owned[p].changed_since_s is None:
                self._owned[p].changed_since_s = now_s
        self._metrics.judged(len(records), outputs, time.perf_counter() - started_s)

    def _reemit(self, outputs: Outputs) -> None:
        """Everything but `scored`: readers of these drop what they have seen."""
        self._producer.send_many(
            ANOMALIES, outputs.anomaly_partitions, outputs.anomaly_keys, outputs.anomalies
        )
        for letter in outputs.dead:
            fitting = dataclasses.replace(letter, value=letter.value[:DEAD_LETTER_BYTES_MAX])
            self._producer.send(DEAD_LETTERS, letter.partition, None, encode_dead_letter(fitting))
        if outputs.dead:
            self._metrics.dead_letters(outputs.dead)

    def _announce(self, partition: int, bundle: str) -> None:
        self._producer.send(TRANSACTIONS, partition, None, encode_control("bundle", {"bundle": bundle}))
        self._producer.flush(FLUSH_TIMEOUT_S)

    # Commit

    def _patience_s(self) -> float:
        """How long a poll may wait for a first record without delaying a commit."""
        if not self._unflushed:
            return POLL_S
        return max(0.0, min(POLL_S, self._last_commit_s + COMMIT_S - time.monotonic()))

    def _due(self) -> bool:
        if self._unflushed >= UNFLUSHED_MAX:
            return True
        is_idle = not self._unflushed and not self._checkpoints_due()
        return time.monotonic() - self._last_commit_s >= (COMMIT_IDLE_S if is_idle else COMMIT_S)

    def _commit(self, checkpoint: set[int] | None = None) -> None:
        """The commit order of the module's docstring; ``checkpoint`` forces some partitions' checkpoints."""
        # 1. Outputs are durable.
        self._answer()
        self._unflushed = 0
        # 2. Checkpoints that are due, or of partitions that leave.
        for p in sorted(checkpoint or ()) + self._checkpoints_due():
            partition = self._owned.get(p)
            if partition is None or partition.offset <= partition.checkpointed:
                continue
            if checkpoint is None and not self._writer.idle:
                break  # the disk is slow: later, never blocking commits
            self._writer.submit(
                Checkpoint(
                    self._log_id,
                    p,
                    partition.offset,
                    partition.emitted,
                    partition.bundle,
                    partition.state.snapshot(),
                    partition.profiles,
                    partition.challenger,
                )
            )
            partition.checkpointed = partition.offset
            partition.changed_since_s = None
        # 3. Offsets.
        self._consumer.commit({p: partition.offset + 1 for p, partition in self._owned.items()})
        self._last_commit_s = time.monotonic()
        self._metrics.committed(self._consumer.lag(), len(self._owned))

    def _answer(self) -> None:
        """Make the outputs durable, then tell those who wait for them."""
        self._producer.flush(FLUSH_TIMEOUT_S)
        waiting, self._waiting = self._waiting, []
        if not waiting or self._replies is None:
            return
        try:
            answers = self._replies.pipeline(transaction=False)
            for channel, message in waiting:
                answers.publish(channel, message)
            answers.execute()
        except Exception as error:  # noqa: BLE001 - whoever waits times out and asks PostgreSQL
            get().warning("reply_failed", reason=repr(error))

    def _checkpoints_due(self) -> list[int]:
        now_s = time.monotonic()
        return [
            p
            for p, partition in self._owned.items()
            if (
                partition.changed_since_s is not None
                and now_s - partition.changed_since_s >= self._interval_s
            )
            or partition.offset - partition.checkpointed >= CHECKPOINT_RECORDS
        ]
