"""The sink: reads `scored` and `dead-letters`, writes both to PostgreSQL.

Rows, anomalies, cases, counters and the place reached go into one transaction, so that a crash or a repeat
changes nothing: where to read on is asked of PostgreSQL, and records not above the place stored are dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

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

Store = Callable[[psycopg.Connection[Any], Records], int]
Positions = Callable[[psycopg.Connection[Any], Sequence[int]], Mapping[int, int]]


class Sink:
    """One topic's consumer that stores what it reads.

    Parameters
    ----------
    store
        Stores one poll's records in one transaction, returns how many were new.
    positions
        Next offsets of these partitions, as PostgreSQL knows them.
    """

    def __init__(
        self,
        bus: Bus,
        dsn: str,
        topic: str,
        group: str,
        store: Store,
        positions: Positions,
        metrics: SinkMetrics,
        stop: threading.Event,
    ) -> None:
        self._bus = bus
        self._dsn = dsn
        self._topic = topic
        self._group = group
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
        try:
            while not self._stop.is_set():
                records = consumer.poll(RECORDS_MAX, POLL_S)
                if not len(records):
                    continue
                started_s = time.perf_counter()
                stored = self._with_postgresql(partial(self._store_records, records))
                if stored is None:
                    return  # stopped while PostgreSQL was away: what was read is read again
                self._metrics.stored(self._topic, len(records), stored, time.perf_counter() - started_s)
                ends = next_offsets(records)
                consumer.commit({p: end for p, end in ends.items() if p in self._owned})
                self._metrics.lag(self._topic, consumer.lag())
        finally:
            consumer.close()
            if self._connection is not None:
                self._connection.close()

    def _store_records(self, records: Records, connection: psycopg.Connection[Any]) -> int:
        return self._store(connection, records)

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
