"""The event log's contract: ordered partitions, keyed records, replay by offset and time.

Two implementations: Kafka, and a log table in the embedded PostgreSQL. One contract suite runs over both.

Guarantees
----------
- Records of one partition are read in the order of their offsets; offsets only grow and may have gaps.
- What ``Producer.flush`` returned from is durable. A delivery error raises and the producer is then useless:
  the program ends and starts again, so that order and idempotence hold.
- Within a group each partition belongs to one consumer. On assignment the consumer is told before any record
  of the partition is delivered; on revocation it is told while it may still produce and commit; on loss
  it is told too late to do either.
- A reader has no group: it is never rebalanced and commits nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Bus", "Consumer", "Producer", "Reader", "Rebalance", "Records"]


@dataclass(slots=True)
class Records:
    """One poll's records as parallel lists, sorted by (partition, offset)."""

    topic: str
    partitions: list[int]
    offsets: list[int]
    append_ms: list[int]
    keys: list[bytes | None]
    values: list[bytes]

    def __len__(self) -> int:
        return len(self.offsets)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(partition, first, end) of each partition's records, by position."""
        first = 0
        while first < len(self.partitions):
            end = bisect_right(self.partitions, self.partitions[first], first)
            yield self.partitions[first], first, end
            first = end


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What a consumer does when partitions come and go; called from within ``poll`` and ``close``.

    ``assigned`` may return a start offset for some of its partitions; the others start after the group's
    committed offset (else at the log's beginning).
    """

    assigned: Callable[[Sequence[int]], Mapping[int, int] | None]
    revoked: Callable[[Sequence[int]], None]
    lost: Callable[[Sequence[int]], None]


class Producer(Protocol):
    """Appends records. One thread uses one producer."""

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Append to a known partition; buffered until sent. Blocks while the local queue is full."""

    def send_many(
        self, topic: str, partitions: Sequence[int], keys: Sequence[bytes | None], values: Sequence[bytes]
    ) -> None:
        """The same for many records; keeps their order within each partition."""

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was sent is durable. Raises ``TransientError`` when it is not known to be."""

    def close(self) -> None:
        """Release the connection; what was not flushed may be lost."""


class Consumer(Protocol):
    """Reads one topic as a member of a group."""

    def poll(self, records_max: int, timeout_s: float) -> Records:
        """Up to ``records_max`` records; waits up to ``timeout_s`` for the first one only."""

    def pause(self, partitions: Sequence[int]) -> None:
        """Deliver nothing of these until ``resume``; membership stays."""

    def resume(self, partitions: Sequence[int]) -> None:
        """Undo ``pause``."""

    def seek(self, partition: int, offset: int) -> None:
        """Deliver from this offset on."""

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Note the next offset to read for each partition (shows lag; the truth is in the outputs)."""

    def assignment(self) -> frozenset[int]:
        """Partitions owned now."""

    def lag(self) -> Mapping[int, int]:
        """Records behind the newest one, by owned partition; from cached watermarks."""

    def close(self) -> None:
        """Leave the group (after ``revoked``)."""


class Reader(Protocol):
    """Reads given partitions of one topic from given offsets, without a group."""

    def read(self, records_max: int, timeout_s: float) -> Records:
        """Like ``Consumer.poll``."""

    def seek(self, partition: int, offset: int) -> None:
        """Deliver from this offset on."""

    def close(self) -> None:
        """Release the connection."""


class Bus(Protocol):
    """One event log: its topics, producers and consumers."""

    def log_id(self) -> str:
        """Identity of this log; changes when the log is made anew. Part of a checkpoint's name."""

    def ensure_topics(self, partitions: int) -> None:
        """Make the topics that are missing; never changes one that exists."""

    def partitions(self, topic: str) -> int:
        """Number of partitions of a topic."""

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """(oldest offset, next offset) by partition."""

    def offsets_at(self, topic: str, append_ms: int) -> dict[int, int]:
        """First offset at or after that append time, by partition (next offset when none)."""

    def committed(self, topic: str, group: str) -> dict[int, int]:
        """Next offset of the group by partition (missing when none)."""

    def producer(self, *, linger_ms: float = 2.0) -> Producer:
        """A producer: idempotent, all replicas acknowledge."""

    def consumer(self, topic: str, group: str, rebalance: Rebalance) -> Consumer:
        """A member of a group; partitions arrive during ``poll``."""

    def reader(self, topic: str, start: Mapping[int, int]) -> Reader:
        """A reader of these partitions from these offsets."""

    def ready(self, timeout_s: float = 2.0) -> None:
        """Return when the log answers; raise ``TransientError`` when not."""

    def close(self) -> None:
        """Release what is shared between producers and consumers."""
