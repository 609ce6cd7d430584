"""The event log in PostgreSQL, for one machine: the same contract as Kafka's, without Kafka.

A row of ``bus.segment`` holds the records that one append brought to one partition, so that PostgreSQL's cost is
per segment and not per record. Sessions matter here (advisory locks, LISTEN): no pooler that shares sessions may
stand between.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import structlog

from anomalyze.bus.contract import Rebalance
from anomalyze.bus.embedded_consumer import EmbeddedConsumer
from anomalyze.bus.embedded_reader import EmbeddedReader
from anomalyze.bus.embedded_session import CHANNEL, Metadata, Signals
from anomalyze.bus.embedded_writer import EmbeddedProducer, Writer
from anomalyze.bus.topics import RETENTION_MS, TOPICS
from anomalyze.errors import ConfigError, TransientError

__all__ = ["EmbeddedBus"]

log = structlog.get_logger(__name__)

FORMAT = 1
SESSION_TIMEOUT_S = 15.0
EXPIRE_SEGMENTS = 500
WRITERS_KEPT = "1 day"


class EmbeddedBus:
    """One log in one PostgreSQL database, in the schema ``bus``.

    Parameters
    ----------
    dsn
        Where it lives. Holds a password: never logged.
    prefix
        Put before each topic's name.
    session_timeout_s
        How long a silent member of a group keeps its partitions.
    """

    def __init__(self, dsn: str, *, prefix: str = "", session_timeout_s: float = SESSION_TIMEOUT_S) -> None:
        self._dsn = dsn
        self._prefix = prefix
        self._session_timeout_s = session_timeout_s
        self._metadata = Metadata(dsn)
        self._signals = Signals(dsn)
        self._writer = Writer(dsn)
        self._topics: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def log_id(self) -> str:
        """The identity that the log got when its schema was made."""
        rows = self._metadata.ask("SELECT log_id FROM bus.log")
        return f"embedded-{rows[0][0]}"

    def ensure_topics(self, partitions: int) -> None:
        """Make schema and topics that are missing; never changes one that exists.

        Raises ``ConfigError`` when the log was made by a later version.
        """
        names = [self._prefix + topic for topic in TOPICS]
        schema = (files("anomalyze.bus") / "embedded_schema.sql").read_text()
        self._metadata.run(lambda connection: _make(connection, schema, names, partitions))

    def partitions(self, topic: str) -> int:
        """Number of partitions of a topic."""
        return self._topic(topic)[1]

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """(oldest offset, next offset) by partition."""
        rows = self._metadata.ask(
            "SELECT h.partition, coalesce(s.first_offset, h.next_offset), h.next_offset FROM bus.head AS h "
            "LEFT JOIN LATERAL (SELECT last_offset - records + 1 AS first_offset FROM bus.segment "
            "WHERE topic_id = h.topic_id AND partition = h.partition ORDER BY last_offset LIMIT 1) AS s ON true "
            "WHERE h.topic_id = %s ORDER BY h.partition",
            [self._topic_id(topic)],
        )
        return {partition: (first, end) for partition, first, end in rows}

    def offsets_at(self, topic: str, append_ms: int) -> dict[int, int]:
        """First offset at or after that append time, by partition (next offset when none)."""
        rows = self._metadata.ask(
            "SELECT partition, bus.offset_at(topic_id, partition, %s::bigint) FROM bus.head WHERE topic_id = %s",
            (append_ms, self._topic_id(topic)),
        )
        return dict(sorted((int(p), int(o)) for p, o in rows))

    def committed(self, topic: str, group: str) -> dict[int, int]:
        """Next offset of the group by partition (missing when none)."""
        rows = self._metadata.ask(
            "SELECT c.partition, c.next_offset FROM bus.committed AS c JOIN bus.consumer_group USING (group_id) "
            "WHERE topic_id = %s AND name = %s",
            (self._topic_id(topic), group),
        )
        return {int(p): int(o) for p, o in rows}

    def producer(self, *, linger_ms: float = 2.0) -> EmbeddedProducer:
        """A producer; all producers of this object share one writing thread."""
        return EmbeddedProducer(self._writer, self._topic_id, linger_ms)

    def consumer(self, topic: str, group: str, rebalance: Rebalance) -> EmbeddedConsumer:
        """A member of a group; partitions arrive during ``poll``."""
        topic_id, partitions = self._topic(topic)
        return EmbeddedConsumer(
            self._dsn, self._signals, topic, topic_id, partitions, group, rebalance, self._session_timeout_s
        )

    def reader(self, topic: str, start: Mapping[int, int]) -> EmbeddedReader:
        """A reader of these partitions from these offsets."""
        return EmbeddedReader(self._dsn, self._signals, topic, self._topic_id(topic), start)

    def ready(self, timeout_s: float = 2.0) -> None:
        """Return when PostgreSQL answers; raise ``TransientError`` when not."""
        self._metadata.ask("SELECT 1", timeout_s=timeout_s)

    def expire(self, before_ms: int | None = None, *, now_ms: int = 0) -> int:
        """Delete what is too old; returns the number of segments deleted.

        Whole segments from the beginning of each partition, a few hundred a transaction, so that nobody waits for
        it; PostgreSQL reuses the room. Nobody's position moves: who is behind goes on with the oldest there is.

        Parameters
        ----------
        before_ms
            Append time; older segments go. None: by each topic's retention, counted from ``now_ms``.
        """
        deleted = 0
        for topic in TOPICS:
            limit_ms = now_ms - RETENTION_MS[topic] if before_ms is None else before_ms
            topic_id = self._topic_id(topic)
            for partition, end in self.offsets_at(topic, limit_ms).items():
                deleted += self._expire_partition(topic_id, partition, end)
        self._metadata.ask("DELETE FROM bus.writer WHERE used_at < now() - %s::interval", [WRITERS_KEPT])
        return deleted

    def close(self) -> None:
        """Release what is shared between producers and consumers."""
        self._writer.close()
        self._signals.close()
        with contextlib.suppress(TransientError):
            self._metadata.ask("SELECT pg_notify(%s, '')", [CHANNEL])
        self._signals.join()
        self._metadata.close()

    def _expire_partition(self, topic_id: int, partition: int, end: int) -> int:
        deleted = 0
        while True:
            rows = self._metadata.ask(
                "WITH old AS (SELECT last_offset FROM bus.segment WHERE topic_id = %s AND partition = %s "
                "AND last_offset < %s ORDER BY last_offset LIMIT %s) "
                "DELETE FROM bus.segment AS s USING old WHERE s.topic_id = %s AND s.partition = %s "
                "AND s.last_offset = old.last_offset RETURNING 1",
                (topic_id, partition, end, EXPIRE_SEGMENTS, topic_id, partition),
            )
            deleted += len(rows)
            if len(rows) < EXPIRE_SEGMENTS:
                return deleted

    def _topic_id(self, topic: str) -> int:
        return self._topic(topic)[0]

    def _topic(self, topic: str) -> tuple[int, int]:
        """(id, partitions) of a topic: fixed for its life, so asked once."""
        with self._lock:
            if topic not in self._topics:
                rows = self._metadata.ask(
                    "SELECT topic_id, partitions FROM bus.topic WHERE name = %s", [self._prefix + topic]
                )
                if not rows:
                    raise TransientError(
                        f"the topic {self._prefix + topic} is not there: it is made by ensure_topics when the programs start"
                    )
                self._topics[topic] = (int(rows[0][0]), int(rows[0][1]))
            return self._topics[topic]


def _make(connection: Any, schema: str, names: list[str], partitions: int) -> None:
    """In one transaction: the schema when it is missing, then the topics that are missing."""
    with connection.transaction():
        # Programs start together.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('anomalyze bus schema', 0))")
        _make_missing(connection, schema, names, partitions)


def _make_missing(connection: Any, schema: str, names: list[str], partitions: int) -> None:
    if connection.execute("SELECT to_regclass('bus.log')").fetchone()[0] is None:
        connection.execute(schema)
    found = connection.execute("SELECT format FROM bus.log").fetchone()[0]
    if found != FORMAT:
        raise ConfigError(
            f"the embedded log has format {found}, this version knows {FORMAT}: run the version that made it"
        )
    for name in names:
        made = connection.execute(
            "INSERT INTO bus.topic (name, partitions) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING topic_id",
            (name, partitions),
        ).fetchone()
        if made is not None:
            connection.execute(
                "INSERT INTO bus.head (topic_id, partition) SELECT %s, generate_series(0, %s - 1)",
                (made[0], partitions),
            )
            log.info("topic_created", topic=name, partitions=partitions)
