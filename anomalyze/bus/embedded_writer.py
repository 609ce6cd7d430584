"""Appending to the embedded log: one thread a process gathers what all producers send.

Records gather for a few milliseconds (less when somebody waits in ``flush``) and are appended in one transaction.
While it commits, the next group gathers. Each append carries a number, so that the one whose answer was lost with
the connection is repeated safely: PostgreSQL may restart in between.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog

from anomalyze.bus.embedded_session import (
    AWAY,
    CHANNEL,
    RECONNECT_S_MAX,
    RECONNECT_S_MIN,
    connect,
    quiet_close,
)
from anomalyze.bus.segment import encode_segment
from anomalyze.bus.topics import RECORD_BYTES_MAX
from anomalyze.errors import EventError, TransientError

__all__ = ["EmbeddedProducer", "Writer"]

log = structlog.get_logger(__name__)

# One transaction's payload; twice that may wait in memory besides, then ``send`` blocks.
GROUP_BYTES_MAX = 4 * 1024 * 1024
WAITING_BYTES_MAX = 32 * 1024 * 1024
SEGMENT_BYTES_MAX = 256 * 1024
RECORD_OVERHEAD_BYTES = 16
SEND_TIMEOUT_S = 30.0

APPEND = "SELECT bus.append(%b, %b, %b::smallint[], %b::integer[], %b::integer[], %b::bytea[])"
# A signal needs no durability: without this it would wait for the disk once more.
SIGNAL = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, t) FROM unnest(%s::text[]) AS t"


class Group:
    """Records that will be appended in one transaction."""

    def __init__(self, linger_s: float) -> None:
        self.records: dict[tuple[int, int], tuple[list[bytes | None], list[bytes]]] = {}
        self.bytes = 0
        self.due = time.monotonic() + linger_s
        self.done = False
        self.failure: str | None = None


class Writer:
    """The one thread that appends.

    Parameters
    ----------
    dsn
        Where the log lives.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._writer_id = uuid.uuid4()
        self._appends = 0
        self._condition = threading.Condition()
        self._sealed: deque[Group] = deque()
        self._open: Group | None = None
        self._waiting_bytes = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection[Any] | None = None

    def add(
        self,
        topic_id: int,
        partitions: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes],
        linger_s: float,
    ) -> Group:
        """Take records over; blocks while too many wait. Returns the group they went into."""
        size = sum(map(len, values)) + sum(len(k) for k in keys if k) + RECORD_OVERHEAD_BYTES * len(values)
        with self._condition:
            if not self._condition.wait_for(self._has_room, SEND_TIMEOUT_S):
                raise TransientError(
                    f"the embedded log took nothing for {SEND_TIMEOUT_S:.0f} s: is PostgreSQL running?"
                )
            if self._closed:
                raise TransientError("this log was closed: open a new one")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bus-writer", daemon=True)
                self._thread.start()
            group = self._open
            if group is None:
                group = self._open = Group(linger_s)
            group.due = min(group.due, time.monotonic() + linger_s)
            _gather(group.records, topic_id, partitions, keys, values)
            group.bytes += size
            self._waiting_bytes += size
            if group.bytes >= GROUP_BYTES_MAX:
                self._sealed.append(group)
                self._open = None
            self._condition.notify_all()
            return group

    def wait(self, group: Group, timeout_s: float) -> bool:
        """Append the group at once; whether that was done (or has failed) within the timeout."""
        with self._condition:
            group.due = 0.0
            self._condition.notify_all()
            return self._condition.wait_for(lambda: group.done or self._closed, timeout_s) and group.done

    def close(self) -> None:
        """Stop; what still waits is lost."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(10)
        quiet_close(self._connection)

    def _has_room(self) -> bool:
        return self._closed or self._waiting_bytes < WAITING_BYTES_MAX

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                self._append(group)
            except Exception as error:  # noqa: BLE001 - top of the thread: its end would block everyone
                # Not about the connection: repeating it would fail again.
                group.failure = str(error)
                log.error("append_failed", error=str(error))
            with self._condition:
                self._waiting_bytes -= group.bytes
                group.done = True
                self._condition.notify_all()

    def _next_group(self) -> Group | None:
        """The oldest group that is due; None when closed."""
        with self._condition:
            while not self._closed:
                if self._sealed:
                    return self._sealed.popleft()
                if self._open is None:
                    self._condition.wait()
                    continue
                left_s = self._open.due - time.monotonic()
                if left_s <= 0:
                    group, self._open = self._open, None
                    return group
                self._condition.wait(left_s)
            return None

    def _append(self, group: Group) -> None:
        topic_ids: list[int] = []
        partitions: list[int] = []
        counts: list[int] = []
        payloads: list[bytes] = []
        # In order, so that two writers never wait for each other in a circle.
        for (topic_id, partition), (keys, values) in sorted(group.records.items()):
            for start, end in cut_records(keys, values):
                topic_ids.append(topic_id)
                partitions.append(partition)
                counts.append(end - start)
                payloads.append(encode_segment(keys[start:end], values[start:end]))
        group.records = {}
        self._appends += 1
        parameters = (self._writer_id, self._appends, topic_ids, partitions, counts, payloads)
        self._persist(lambda c: c.execute(APPEND, parameters, binary=True))
        with self._condition:
            group.done = True
            self._condition.notify_all()
        try:
            if self._connection is not None:
                self._connection.execute(SIGNAL, (CHANNEL, [str(t) for t in sorted(set(topic_ids))]))
        except AWAY:
            quiet_close(self._connection)
            self._connection = None

    def _persist(self, append: Callable[[psycopg.Connection[Any]], object]) -> None:
        """Append until PostgreSQL has acknowledged it, over as many connections as that takes."""
        pause_s = RECONNECT_S_MIN
        while not self._closed:
            try:
                if self._connection is None:
                    self._connection = connect(self._dsn, "writer")
                append(self._connection)
                return
            except AWAY as error:
                quiet_close(self._connection)
                self._connection = None
                log.warning("append_repeated", error=str(error), pause_s=pause_s)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_S_MAX)
        raise psycopg.OperationalError("closed while PostgreSQL was away")


class EmbeddedProducer:
    """See ``contract.Producer``."""

    def __init__(self, writer: Writer, topic_id: Callable[[str], int], linger_ms: float) -> None:
        self._writer = writer
        self._topic_id = topic_id
        self._linger_s = linger_ms / 1000
        self._groups: deque[Group] = deque()
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why this producer can no longer be used, or None."""
        return self._failure

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Append to a known partition; buffered until sent. Blocks while too much waits."""
        self.send_many(topic, (partition,), (key,), (value,))

    def send_many(
        self, topic: str, partitions: Sequence[int], keys: Sequence[bytes | None], values: Sequence[bytes]
    ) -> None:
        """The same for many records; keeps their order within each partition.

        Raises
        ------
        EventError
            A record is larger than ``RECORD_BYTES_MAX``; none of the call was taken.
        TransientError
            The producer has failed, or nothing was taken for 30 s.
        """
        self._raise_failure()
        if not values:
            return
        if not len(partitions) == len(keys) == len(values):
            raise ValueError(
                f"expected as many partitions and keys as values, got {len(partitions)}, {len(keys)}, {len(values)}"
            )
        largest = max(map(len, values))
        if largest > RECORD_BYTES_MAX:
            raise EventError("", f"at most {RECORD_BYTES_MAX} bytes", f"{largest} bytes")
        group = self._writer.add(self._topic_id(topic), partitions, keys, values, self._linger_s)
        if not self._groups or self._groups[-1] is not group:
            self._groups.append(group)
            self._forget_done()

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was sent is durable. Raises ``TransientError`` when it is not known to be."""
        self._raise_failure()
        # Groups are appended in their order: the last one is done last.
        if self._groups and not self._writer.wait(self._groups[-1], timeout_s):
            self._failure = f"PostgreSQL did not acknowledge within {timeout_s:g} s"
        self._forget_done()
        self._raise_failure()

    def close(self) -> None:
        """Release it; what was not flushed may be lost."""
        self._failure = self._failure or "it was closed"

    def _forget_done(self) -> None:
        while self._groups and self._groups[0].done:
            failure = self._groups.popleft().failure
            self._failure = self._failure or failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise TransientError(f"this producer cannot go on ({self._failure}): make a new one")


def _gather(
    records: dict[tuple[int, int], tuple[list[bytes | None], list[bytes]]],
    topic_id: int,
    partitions: Sequence[int],
    keys: Sequence[bytes | None],
    values: Sequence[bytes],
) -> None:
    """Add records to their partitions' lists, run by run: what a worker sends lies in runs of one partition."""
    start, n = 0, len(partitions)
    while start < n:
        partition = partitions[start]
        end = start + 1
        while end < n and partitions[end] == partition:
            end += 1
        bucket = records.get((topic_id, partition))
        if bucket is None:
            bucket = records[topic_id, partition] = ([], [])
        bucket[0].extend(keys[start:end])
        bucket[1].extend(values[start:end])
        start = end


def cut_records(keys: Sequence[bytes | None], values: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where to cut a partition's records so that no segment of several grows beyond its limit."""
    cuts, start, size = [], 0, 0
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        more = len(value) + len(key or b"") + RECORD_OVERHEAD_BYTES
        if size + more > SEGMENT_BYTES_MAX and i > start:
            cuts.append((start, i))
            start, size = i, 0
        size += more
    return [*cuts, (start, len(values))]
