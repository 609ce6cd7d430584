"""Servers that die in the middle of work: nothing acknowledged is lost, and everyone goes on by himself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from anomalyze.bus import Bus, open_bus
from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.errors import ConfigError, TransientError
from anomalyze.settings import Settings
from tests.folders import passable_folder
from tests.test_bus.conftest import PARTITIONS, Member, open_log
from tests.test_bus.test_contract import ALL, by_partition, poll_until, read

if TYPE_CHECKING:
    from tests.kafka import KafkaBroker


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that the test may kill."""
    with passable_folder() as folder:
        server = EmbeddedPostgres(folder / "pg", free_port())
        server.start()
        yield server
        server.stop()


@pytest.fixture
def own_broker(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that the test may kill; with few logs, so that it recovers soon. The shared one says if we can."""
    broker = type(kafka_broker)(tmp_path / "kafka", free_port())
    broker.start()
    yield broker
    broker.stop()


class Sender:
    """Appends numbered records from a thread until told to stop; knows what was acknowledged."""

    def __init__(self, bus: Bus) -> None:
        self.sent = 0
        self.acknowledged = 0
        self.errors: list[TransientError] = []
        self._stop = threading.Event()
        self._bus = bus
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End after the block in hand."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_for(self, acknowledged: int) -> None:
        """Until so many are acknowledged."""
        until = time.monotonic() + 60
        while self.acknowledged < acknowledged:
            assert time.monotonic() < until, self.errors
            time.sleep(0.01)

    def _run(self) -> None:
        producer = self._bus.producer()
        while not self._stop.is_set():
            numbers = range(self.sent, self.sent + 40)
            try:
                producer.send_many(
                    TRANSACTIONS,
                    [i % PARTITIONS for i in numbers],
                    [b"k"] * 40,
                    [b"%d" % i for i in numbers],
                )
                self.sent += 40
                producer.flush(45)
                self.acknowledged = self.sent
            except TransientError as error:
                self.errors.append(error)
                return
        producer.close()


def check(sender: Sender, bus: Bus, member: Member) -> None:
    """All that was acknowledged is in the log once, in order, and a group's member got it."""
    assert not sender.errors
    ends = bus.watermarks(TRANSACTIONS)
    rows = read(bus.reader(TRANSACTIONS, ALL), sum(end for _, end in ends.values()))
    for p, values in by_partition(rows).items():
        assert values == [b"%d" % i for i in range(p, sender.acknowledged, PARTITIONS)]
    poll_until(lambda: {row[:2] for row in member.got} == {row[:2] for row in rows}, member)


def test_postgres_killed_in_the_middle(own_postgres: EmbeddedPostgres) -> None:
    bus = EmbeddedBus(own_postgres.dsn)
    bus.ensure_topics(PARTITIONS)
    member = Member(bus)
    poll_until(lambda: len(member.consumer.assignment()) == PARTITIONS, member)
    sender = Sender(bus)
    sender.wait_for(sender.acknowledged + 400)
    poll_until(lambda: len(member.got) > 0, member)
    process = own_postgres.process
    assert process is not None
    process.kill()
    process.wait(20)
    process.release()
    poll_until(lambda: not member.consumer.assignment(), member)
    assert member.told[-1] == ("lost", (0, 1, 2, 3))
    own_postgres.start()
    poll_until(lambda: len(member.consumer.assignment()) == PARTITIONS, member)
    sender.wait_for(sender.acknowledged + 400)
    sender.stop()
    check(sender, bus, member)
    member.consumer.close()
    bus.close()


def test_postgres_away_and_back(own_postgres: EmbeddedPostgres) -> None:
    bus = EmbeddedBus(own_postgres.dsn)
    bus.ensure_topics(PARTITIONS)
    reader = bus.reader(TRANSACTIONS, ALL)
    waiting, late = bus.producer(), bus.producer()
    waiting.send(TRANSACTIONS, 0, b"k", b"known")
    waiting.flush(20)
    assert len(read(reader, 1)) == 1
    own_postgres.stop()
    with pytest.raises(TransientError):
        bus.ready()
    started = time.monotonic()
    assert len(reader.read(10, 0.3)) == 0
    assert time.monotonic() - started < 3
    late.send(TRANSACTIONS, 1, b"k", b"unknown")
    with pytest.raises(TransientError, match="did not acknowledge within"):
        late.flush(0.3)
    with pytest.raises(TransientError, match="make a new one"):
        late.send(TRANSACTIONS, 1, b"k", b"refused")
    waiting.send(TRANSACTIONS, 0, b"k", b"patient")
    own_postgres.start()
    waiting.flush(20)
    # What was not acknowledged may be there; what was refused is not.
    assert {row[2] for row in read(reader, 2)} == {b"patient", b"unknown"}
    reader.close()
    bus.close()


def test_an_append_whose_answer_was_lost_is_not_doubled(empty_database: str) -> None:
    bus = EmbeddedBus(empty_database)
    bus.ensure_topics(PARTITIONS)
    producer = bus.producer()
    producer.send(TRANSACTIONS, 0, b"k", b"1")
    producer.flush(20)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        # The same append again, as the writer sends it when the connection ended before the answer.
        row = connection.execute("SELECT writer_id, last_append FROM bus.writer").fetchone()
        assert row is not None
        connection.execute(
            "SELECT bus.append(%s, %s::bigint, ARRAY[1::smallint], ARRAY[0], ARRAY[1], ARRAY[''::bytea])", row
        )
    assert bus.watermarks(TRANSACTIONS)[0] == (0, 1)
    bus.close()


def test_a_stopped_members_partitions_move(empty_database: str) -> None:
    bus = open_log("embedded", empty_database, "")
    bus.ensure_topics(PARTITIONS)
    argv = [sys.executable, "-m", "tests.test_bus.member", "embedded", empty_database, ""]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.send_signal(signal.SIGSTOP)
        mine = Member(bus)
        poll_until(lambda: len(mine.consumer.assignment()) == PARTITIONS, mine)
        other.send_signal(signal.SIGCONT)
        # It finds its session ended and joins again as a new member.
        poll_until(lambda: len(mine.consumer.assignment()) == 2, mine)
        other.kill()
    mine.consumer.close()
    bus.close()


def test_more_members_than_partitions(empty_database: str) -> None:
    bus = open_log("embedded", empty_database, "")
    bus.ensure_topics(PARTITIONS)
    members = [Member(bus) for _ in range(PARTITIONS + 1)]
    poll_until(lambda: sorted(len(m.consumer.assignment()) for m in members) == [0, 1, 1, 1, 1], *members)
    members[0].consumer.close()
    poll_until(lambda: [len(m.consumer.assignment()) for m in members[1:]] == [1] * 4, *members[1:])
    for member in members[1:]:
        member.consumer.close()
    bus.close()


def test_expire_deletes_whole_old_segments(empty_database: str) -> None:
    bus = EmbeddedBus(empty_database)
    bus.ensure_topics(PARTITIONS)
    producer = bus.producer()
    for i in range(30):
        producer.send_many(TRANSACTIONS, [1] * 10, [b"k"] * 10, [b"%d" % (10 * i + j) for j in range(10)])
        producer.flush(20)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE bus.segment SET append_ms = 1000 + last_offset / 10")
    assert bus.offsets_at(TRANSACTIONS, 1000)[1] == 0
    for ms in (1001, 1012, 1029):
        assert bus.offsets_at(TRANSACTIONS, ms)[1] == 10 * (ms - 1000)
    assert bus.offsets_at(TRANSACTIONS, 1030)[1] == 300
    reader = bus.reader(TRANSACTIONS, {1: 0})
    assert bus.expire(1012) == 12
    assert bus.expire(1012) == 0
    assert bus.watermarks(TRANSACTIONS)[1] == (120, 300)
    assert bus.offsets_at(TRANSACTIONS, 0)[1] == 120
    assert bus.offsets_at(TRANSACTIONS, 1020)[1] == 200
    # Who is behind goes on with the oldest there is.
    assert read(reader, 180)[0] == (1, 120, b"120")
    assert bus.expire(now_ms=1029 + 7 * 86_400_000) == 17
    # The segment that begins at the limit stays, also when it is a single record.
    for i in range(3):
        producer.send(TRANSACTIONS, 2, b"k", b"%d" % i)
        producer.flush(20)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE bus.segment SET append_ms = 2000 + last_offset WHERE partition = 2")
    assert bus.expire(2001) == 2
    assert bus.watermarks(TRANSACTIONS)[2] == (1, 3)
    assert bus.expire(10**15) == 2
    assert bus.watermarks(TRANSACTIONS)[1] == (300, 300)
    producer.send(TRANSACTIONS, 1, b"k", b"new")
    producer.flush(20)
    assert read(reader, 1) == [(1, 300, b"new")]
    reader.close()
    bus.close()


def test_broker_killed_in_the_middle(own_broker: KafkaBroker) -> None:
    bus = open_log("kafka", own_broker.bootstrap_servers, "")
    bus.ensure_topics(PARTITIONS)
    member = Member(bus)
    poll_until(lambda: len(member.consumer.assignment()) == PARTITIONS, member)
    sender = Sender(bus)
    sender.wait_for(400)
    own_broker.kill()
    with pytest.raises(TransientError):
        bus.ready(0.3)
    started = time.monotonic()
    member.poll(0.2)
    assert time.monotonic() - started < 3
    own_broker.start()
    sender.wait_for(sender.acknowledged + 400)
    sender.stop()
    check(sender, bus, member)
    member.consumer.close()
    bus.close()


def test_an_order_that_cannot_be_kept_is_told_as_our_error(own_broker: KafkaBroker) -> None:
    bus = open_log("kafka", own_broker.bootstrap_servers, "")
    bus.ensure_topics(PARTITIONS)
    producer = bus.producer()
    producer.send(TRANSACTIONS, 0, b"k", b"first")
    producer.flush(30)
    assert own_broker.process is not None
    assert own_broker.process.pid is not None
    os.kill(own_broker.process.pid, signal.SIGSTOP)
    try:
        producer.send(TRANSACTIONS, 0, b"k", b"lost")
        time.sleep(0.5)  # it is in flight
        # The library gives it up, as it does by itself when a broker that came back has no place for it.
        producer._producer.purge()
        with pytest.raises(TransientError, match="make a new one"):
            producer.flush(5)
        with pytest.raises(TransientError, match="make a new one"):
            producer.send(TRANSACTIONS, 0, b"k", b"after")
        producer.close()
    finally:
        os.kill(own_broker.process.pid, signal.SIGCONT)
    other = bus.producer()
    other.send(TRANSACTIONS, 0, b"k", b"second")
    other.flush(30)
    bus.close()


def test_kafka_that_is_not_there() -> None:
    bus = open_bus(Settings(kafka_bootstrap_servers=f"127.0.0.1:{free_port()}"))
    started = time.monotonic()
    with pytest.raises(TransientError, match="Kafka did not answer"):
        bus.ready(0.5)
    producer = bus.producer()
    producer.send(TRANSACTIONS, 0, b"k", b"v")
    with pytest.raises(TransientError, match="not acknowledged within"):
        producer.flush(0.3)
    with pytest.raises(TransientError, match="make a new one"):
        producer.send(TRANSACTIONS, 0, b"k", b"v")
    producer.close()
    assert time.monotonic() - started < 10
    bus.close()


def test_open_bus_by_settings(empty_database: str) -> None:
    with pytest.raises(ConfigError, match="expected its DSN"):
        open_bus(Settings())
    bus = open_bus(Settings(topic_prefix="mine-"), postgres_dsn=empty_database)
    assert isinstance(bus, EmbeddedBus)
    bus.ensure_topics(2)
    with psycopg.connect(empty_database) as connection:
        names = connection.execute("SELECT name FROM bus.topic").fetchall()
    assert ("mine-transactions",) in names
    bus.close()
