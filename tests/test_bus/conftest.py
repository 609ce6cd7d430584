"""Both implementations of the log, on real servers, fresh for each test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from anomalyze.bus import Bus, Consumer, Rebalance
from anomalyze.bus.topics import TOPICS
from anomalyze.settings import Settings

PARTITIONS = 4
# Short, so that a killed member's partitions move soon; long enough for a busy machine.
SESSION_TIMEOUT_MS = 5000


@dataclass
class Log:
    """One log, and what opens it again, in this process or in another."""

    kind: str
    address: str
    prefix: str
    bus: Bus = field(init=False)
    _opened: list[Bus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bus = self.open()

    def open(self) -> Bus:
        """A further bus object on the same log."""
        self._opened.append(open_log(self.kind, self.address, self.prefix))
        return self._opened[-1]

    def destroy(self) -> None:
        """Delete the log with all its records."""
        if self.kind == "embedded":
            with psycopg.connect(self.address, autocommit=True) as connection:
                connection.execute("DROP SCHEMA bus CASCADE")
        else:
            admin = AdminClient({"bootstrap.servers": self.address})
            names = [self.prefix + topic for topic in TOPICS]
            for future in admin.delete_topics(names).values():
                future.result(20)
            while set(names) & admin.list_topics(timeout=10).topics.keys():
                pass

    def close(self) -> None:
        """Release all that was opened."""
        for bus in self._opened:
            bus.close()


def open_log(kind: str, address: str, prefix: str) -> Bus:
    """Open a log by its parts, as a process of its own must."""
    if kind == "embedded":
        from anomalyze.bus.embedded import EmbeddedBus

        return EmbeddedBus(address, prefix=prefix, session_timeout_s=SESSION_TIMEOUT_MS / 1000)
    from anomalyze.bus.kafka import KafkaBus

    settings = Settings(kafka_bootstrap_servers=address, topic_prefix=prefix)
    return KafkaBus(settings, session_timeout_ms=SESSION_TIMEOUT_MS)


@pytest.fixture(params=["embedded", "kafka"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A new log with 4 partitions a topic."""
    if request.param == "embedded":
        opened = Log("embedded", request.getfixturevalue("empty_database"), "")
    else:
        broker = request.getfixturevalue("kafka_broker")
        opened = Log("kafka", broker.bootstrap_servers, f"t{uuid.uuid4().hex[:8]}-")
    opened.bus.ready(10)
    opened.bus.ensure_topics(PARTITIONS)
    yield opened
    opened.close()


class Member:
    """A consumer that notes what it is told and what it gets."""

    def __init__(
        self,
        bus: Bus,
        group: str = "group",
        topic: str = "transactions",
        *,
        on_assigned: Callable[[Member, list[int]], Any] = lambda _member, _partitions: None,
        on_revoked: Callable[[Member, list[int]], Any] = lambda _member, _partitions: None,
    ) -> None:
        self.told: list[tuple[str, tuple[int, ...]]] = []
        self.got: list[tuple[int, int, bytes]] = []
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self.consumer: Consumer = bus.consumer(
            topic, group, Rebalance(self._assigned, self._revoked, self._lost)
        )

    def poll(self, timeout_s: float = 0.05) -> int:
        """Poll once; number of records."""
        records = self.consumer.poll(500, timeout_s)
        assert set(records.partitions) <= self.consumer.assignment(), "a record of a partition not owned"
        rows = list(zip(records.partitions, records.offsets, records.values, strict=True))
        assert [r[:2] for r in rows] == sorted(r[:2] for r in rows), "not sorted by (partition, offset)"
        self.got += rows
        return len(rows)

    def owned_as_told(self) -> set[int]:
        """Partitions owned by the callbacks alone."""
        owned: set[int] = set()
        for what, partitions in self.told:
            owned = owned | set(partitions) if what == "assigned" else owned - set(partitions)
        return owned

    def _assigned(self, partitions: Any) -> Any:
        assert not self.owned_as_told() & set(partitions), "assigned what it owns already"
        self.told.append(("assigned", tuple(partitions)))
        return self._on_assigned(self, list(partitions))

    def _revoked(self, partitions: Any) -> None:
        assert set(partitions) <= self.owned_as_told()
        self._on_revoked(self, list(partitions))
        self.told.append(("revoked", tuple(partitions)))

    def _lost(self, partitions: Any) -> None:
        assert set(partitions) <= self.owned_as_told()
        self.told.append(("lost", tuple(partitions)))
