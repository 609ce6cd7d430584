"""The sink: reads `scored` and `dead-letters`, writes both to PostgreSQL.

Rows, anomalies, cases, counters and the place reached go into one transaction, so that a crash or a repeat
changes nothing: where to read on is asked of PostgreSQL, and records not above the place stored are dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg

from anomalyze.bus.contract import Bus, Rebalance, Records
from anomalyze.errors import TransientError
from anomalyze.log import get
from anomalyze.storage.pool import connect, postgres_errors
from realtime.sink.metrics import SinkMetrics

__all__ = ["Sink"]

RECORDS_MAX = 20_000
POLL_S = 0.2
RETRY_S_MAX = 10.0

Decoded = TypeVar("Decoded")
Positions = Callable[[psycopg.Connection[Any], Sequence[int]], Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class Batch(Generic[Decoded]):
    """One poll's records on their way through the decoding thread."""

    records: int
    next_offsets: dict[int, int]
    decoded: Future[Decoded]


class Sink(Generic[Decoded]):
    """One topic's consumer that stores what it reads; the next batch is decoded while PostgreSQL stores one.

    Parameters
    ----------
    decode
        Reads one poll's values, on a thread of its own.
    store
        Stores them with the next offsets in one transaction, returns how many were new.
    positions
        Next offsets of these partitions, as PostgreSQL knows them.
    """

    def __init__(
        self,
        bus: Bus,
        dsn: str,
        topic: str,
        group: str,
        decode: Callable[[Sequence[bytes]], Decoded],
        store: Callable[[psycopg.Connection[Any], Decoded, Mapping[int, int]], int],
        positions: Positions,
        metrics: SinkMetrics,
        stop: threading.Event,
    ) -> None:
        self._bus = bus
        self._dsn = dsn
        self._topic = topic
        self._group = group
        self._decode = decode
        self._store = store
        self._positions = positions
        self._metrics = metrics
        self._stop = stop
        self._connection: psycopg.Connection[Any] | None = None
        self._owned: set[int] = set()

    def run(self) -> None:
        """Store until stopped."""
        consumer = self._bus.consumer(
            self._topic, self._group, Rebalance(self._on_assigned, self._on_gone, self._on_gone)
        )
        before: Batch[Decoded] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix=f"decode-{self._topic}") as decoder:
            try:
                while not self._stop.is_set():
                    records = consumer.poll(RECORDS_MAX, 0.0 if before else POLL_S)
                    batch = self._begin(decoder, records)
                    if before is not None:
                        if not self._finish(before):
                            return
                        consumer.commit({p: o for p, o in before.next_offsets.items() if p in self._owned})
                        self._metrics.lag(self._topic, consumer.lag())
                    before = batch
                if before is not None:
                    self._finish(before)
            finally:
                consumer.close()
                if self._connection is not None:
                    self._connection.close()

    def _begin(self, decoder: ThreadPoolExecutor, records: Records) -> Batch[Decoded] | None:
        if not len(records):
            return None
        return Batch(len(records), next_offsets(records), decoder.submit(self._decode, records.values))

    def _finish(self, batch: Batch[Decoded]) -> bool:
        """Store a batch; False when stopped while PostgreSQL was away: what was read is read again."""
        started_s = time.perf_counter()
        decoded = batch.decoded.result()
        stored = self._with_postgresql(
            lambda connection: self._store(connection, decoded, batch.next_offsets)
        )
        if stored is None:
            return False
        self._metrics.stored(self._topic, batch.records, stored, time.perf_counter() - started_s)
        return True

    def _on_assigned(self, partitions: Sequence[int]) -> Mapping[int, int] | None:
        self._owned |= set(partitions)
        found = self._with_postgresql(lambda connection: self._positions(connection, partitions))
        return found

    def _on_gone(self, partitions: Sequence[int]) -> None:
        self._owned -= set(partitions)

    def _with_postgresql(self, work: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Do it, again and again while PostgreSQL is away; None when stopped meanwhile."""
        pause_s = 0.2
        while True:
            try:
                if self._connection is None:
                    self._connection = connect(self._dsn, program="anomalyze-sink")
                with postgres_errors():
                    return work(self._connection)
            except TransientError as error:
                get().warning("postgresql_away", topic=self._topic, reason=str(error))
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if self._stop.wait(pause_s):
                    return None
                pause_s = min(RETRY_S_MAX, pause_s * 2)


def next_offsets(records: Records) -> dict[int, int]:
    """The next offset to read of each partition in these records."""
    return {p: records.offsets[end - 1] + 1 for p, _, end in records.runs()}
