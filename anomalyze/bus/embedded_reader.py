"""Reading the embedded log from given offsets.

Segments are fetched for all wanted partitions at once and delivered record by record, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
import structlog

from anomalyze.bus.contract import Records
from anomalyze.bus.embedded_session import AWAY, Signals, connect, quiet_close
from anomalyze.bus.segment import decode_segment

__all__ = ["POLL_S", "EmbeddedReader", "Fetched", "Fetcher"]

log = structlog.get_logger(__name__)

# Looked again this often when no signal comes.
POLL_S = 0.25
# Segments of at most 256 KiB each fetched at once, over all partitions: what one reader holds in memory.
FETCH_SEGMENTS = 128

FETCH = """
SELECT w.partition, s.last_offset - s.records + 1, s.append_ms, s.payload
FROM unnest(%b::integer[], %b::bigint[]) AS w(partition, start)
CROSS JOIN LATERAL (
    SELECT last_offset, records, append_ms, payload FROM bus.segment
    WHERE topic_id = %b::smallint AND partition = w.partition AND last_offset >= w.start
    ORDER BY last_offset LIMIT %b::bigint
) AS s
"""


class Fetched:
    """Records of one partition that were fetched and not delivered yet."""

    __slots__ = ("append_ms", "begin", "keys", "next_offset", "offsets", "values")

    def __init__(self, start: int) -> None:
        self.next_offset = start  # of the next fetch
        self.begin = 0  # first row not delivered
        self.offsets: list[int] = []
        self.append_ms: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes] = []

    @property
    def waiting(self) -> int:
        """Records that can be delivered."""
        return len(self.offsets) - self.begin

    @property
    def position(self) -> int:
        """Offset of the next record to deliver."""
        return self.offsets[self.begin] if self.waiting else self.next_offset

    def add(self, first_offset: int, append_ms: int, payload: bytes) -> None:
        """Take a segment over, from the offset on that is wanted."""
        skip = max(0, self.next_offset - first_offset)
        keys, values = decode_segment(payload, skip)
        if not self.waiting:
            self.begin = 0
            self.offsets, self.append_ms, self.keys, self.values = [], [], [], []
        self.next_offset = first_offset + skip + len(values)
        self.offsets.extend(range(first_offset + skip, self.next_offset))
        self.append_ms.extend([append_ms] * len(values))
        self.keys.extend(keys)
        self.values.extend(values)


class Fetcher:
    """Positions and fetched records of some partitions of one topic."""

    def __init__(self, topic: str, topic_id: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partitions: dict[int, Fetched] = {}
        self._turn = 0

    def fetch(self, connection: psycopg.Connection[Any], wanted: Iterable[int]) -> None:
        """Ask for what follows in these partitions."""
        asked = list(wanted)
        if not asked:
            return
        starts = [self.partitions[p].next_offset for p in asked]
        each = max(1, FETCH_SEGMENTS // len(asked))
        cursor = connection.execute(FETCH, (asked, starts, self.topic_id, each), binary=True)
        for partition, first_offset, append_ms, payload in cursor:
            self.partitions[partition].add(first_offset, append_ms, payload)

    def take(self, records_max: int, wanted: Iterable[int]) -> Records:
        """Deliver fetched records; whose turn is first moves on, so that a full partition starves no other."""
        waiting = [p for p in sorted(wanted) if self.partitions[p].waiting]
        self._turn += 1
        pivot = self._turn % len(waiting) if waiting else 0
        counts: dict[int, int] = {}
        left = records_max
        for p in waiting[pivot:] + waiting[:pivot]:
            counts[p] = min(left, self.partitions[p].waiting)
            left -= counts[p]
        records = Records(self.topic, [], [], [], [], [])
        for p in sorted(counts):
            fetched = self.partitions[p]
            rows = slice(fetched.begin, fetched.begin + counts[p])
            records.partitions.extend([p] * counts[p])
            records.offsets.extend(fetched.offsets[rows])
            records.append_ms.extend(fetched.append_ms[rows])
            records.keys.extend(fetched.keys[rows])
            records.values.extend(fetched.values[rows])
            fetched.begin += counts[p]
        return records


class EmbeddedReader:
    """See ``contract.Reader``."""

    def __init__(
        self, dsn: str, signals: Signals, topic: str, topic_id: int, start: Mapping[int, int]
    ) -> None:
        self._dsn = dsn
        self._signals = signals
        self._names = (str(topic_id),)
        self._fetcher = Fetcher(topic, topic_id)
        self._fetcher.partitions = {p: Fetched(offset) for p, offset in start.items()}
        self._connection: psycopg.Connection[Any] | None = None

    def read(self, records_max: int, timeout_s: float) -> Records:
        """Like ``Consumer.poll``."""
        deadline = time.monotonic() + timeout_s
        fetcher = self._fetcher
        while True:
            seen = self._signals.count(self._names)
            records = fetcher.take(records_max, fetcher.partitions)
            if not records:
                try:
                    if self._connection is None:
                        self._connection = connect(self._dsn, "reader")
                    fetcher.fetch(self._connection, fetcher.partitions)
                    records = fetcher.take(records_max, fetcher.partitions)
                except AWAY as error:
                    log.warning("read_repeated", topic=fetcher.topic, error=str(error))
                    quiet_close(self._connection)
                    self._connection = None
            left_s = deadline - time.monotonic()
            if records or left_s <= 0:
                return records
            self._signals.wait(self._names, seen, min(left_s, POLL_S))

    def seek(self, partition: int, offset: int) -> None:
        """Deliver from this offset on."""
        self._fetcher.partitions[partition] = Fetched(offset)

    def close(self) -> None:
        """Release the connection."""
        quiet_close(self._connection)
        self._connection = None
