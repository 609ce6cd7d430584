"""What every event log promises, held against real Kafka and the real embedded one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalyze.bus import Bus, Consumer, Producer, Reader, Records
from anomalyze.bus.topics import RECORD_BYTES_MAX, SCORED, TOPICS, TRANSACTIONS
from anomalyze.errors import EventError, TransientError
from tests.test_bus.conftest import PARTITIONS, Log, Member

ALL = dict.fromkeys(range(PARTITIONS), 0)
DEADLINE_S = 40.0


def fill(bus: Bus, records: int, topic: str = TRANSACTIONS, start: int = 0) -> None:
    """Append numbered records, number i to partition i mod 4, and wait until they are durable."""
    producer = bus.producer()
    numbers = range(start, start + records)
    producer.send_many(
        topic,
        [i % PARTITIONS for i in numbers],
        [b"k%d" % i for i in numbers],
        [b"%d" % i for i in numbers],
    )
    producer.flush(20)
    producer.close()


def read(reader: Reader, count: int) -> list[tuple[int, int, bytes]]:
    """Read exactly so many records."""
    rows: list[tuple[int, int, bytes]] = []
    until = time.monotonic() + DEADLINE_S
    while len(rows) < count and time.monotonic() < until:
        got = reader.read(300, 0.5)
        rows += zip(got.partitions, got.offsets, got.values, strict=True)
    assert len(rows) == count
    return rows


def by_partition(rows: list[tuple[int, int, bytes]]) -> dict[int, list[bytes]]:
    """Values in the order of arrival, by partition; offsets are checked to grow."""
    values, last = defaultdict(list), defaultdict(lambda: -1)
    for partition, offset, value in rows:
        assert offset > last[partition]
        last[partition] = offset
        values[partition].append(value)
    return values


def poll_until(condition: Callable[[], bool], *members: Member) -> None:
    """Poll the members in turn until something holds."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, [m.told for m in members]
        for member in members:
            member.poll()


def test_implements_the_protocols(log: Log) -> None:
    bus: Bus = log.bus
    producer: Producer = bus.producer()
    reader: Reader = bus.reader(TRANSACTIONS, ALL)
    nothing: Records = reader.read(1, 0)
    assert len(nothing) == 0
    consumer: Consumer = Member(bus).consumer
    with pytest.raises(TransientError, match="not owned"):
        consumer.seek(0, 5)
    producer.close()
    reader.close()
    consumer.close()


def test_order_keys_and_times(log: Log) -> None:
    before_ms = time.time_ns() // 1_000_000
    producer = log.bus.producer()
    for i in range(300):
        producer.send(TRANSACTIONS, i % 3, None if i % 5 == 0 else b"k%d" % i, b"%d" % i)
    numbers = range(300, 3000)
    producer.send_many(
        TRANSACTIONS, [i % 3 for i in numbers], [b"k%d" % i for i in numbers], [b"%d" % i for i in numbers]
    )
    producer.flush(20)
    reader = log.bus.reader(TRANSACTIONS, ALL)
    rows = []
    while len(rows) < 3000:
        got = reader.read(700, 5)
        assert len(got)
        assert list(zip(got.partitions, got.offsets, strict=True)) == sorted(
            zip(got.partitions, got.offsets, strict=True)
        )
        assert got.topic == TRANSACTIONS
        rows += zip(got.partitions, got.offsets, got.append_ms, got.keys, got.values, strict=True)
    after_ms = time.time_ns() // 1_000_000
    for p, values in by_partition([(r[0], r[1], r[4]) for r in rows]).items():
        assert values == [b"%d" % i for i in range(p, 3000, 3)]
        times = [r[2] for r in rows if r[0] == p]
        assert times == sorted(times)
    assert all(before_ms - 1000 <= r[2] <= after_ms + 1000 for r in rows)
    for _, _, _, key, value in rows:
        i = int(value)
        assert key == (None if i < 300 and i % 5 == 0 else b"k%d" % i)
    assert log.bus.watermarks(TRANSACTIONS) == {0: (0, 1000), 1: (0, 1000), 2: (0, 1000), 3: (0, 0)}
    producer.close()
    reader.close()


def test_flush_means_durable_and_visible_to_others(log: Log) -> None:
    producer = log.bus.producer(linger_ms=5000)
    producer.send(TRANSACTIONS, 2, b"k", b"v")
    started = time.monotonic()
    producer.flush(20)
    assert time.monotonic() - started < 3, "flush waits for the linger time"
    other = log.open()
    assert other.watermarks(TRANSACTIONS)[2] == (0, 1)
    reader = other.reader(TRANSACTIONS, {2: 0})
    assert read(reader, 1) == [(2, 0, b"v")]
    producer.close()
    reader.close()


def test_linger_sends_without_flush(log: Log) -> None:
    producer = log.bus.producer(linger_ms=5)
    producer.send(TRANSACTIONS, 0, b"k", b"v")
    reader = log.bus.reader(TRANSACTIONS, ALL)
    assert read(reader, 1) == [(0, 0, b"v")]
    producer.close()
    reader.close()


def test_replay_by_offset_and_by_time(log: Log) -> None:
    fill(log.bus, 40)
    reader = log.bus.reader(TRANSACTIONS, {1: 3, 2: 10})
    assert by_partition(read(reader, 7)) == {1: [b"%d" % i for i in range(13, 40, 4)]}
    first_ms = 0
    reader.seek(2, 9)
    reader.seek(1, 9)
    while not (got := reader.read(10, 5)):
        pass
    first_ms = max(got.append_ms)
    while time.time_ns() // 1_000_000 <= first_ms + 1:
        pass
    middle_ms = time.time_ns() // 1_000_000
    fill(log.bus, 40, start=40)
    assert log.bus.offsets_at(TRANSACTIONS, middle_ms) == dict.fromkeys(range(PARTITIONS), 10)
    assert log.bus.offsets_at(TRANSACTIONS, 0) == dict.fromkeys(range(PARTITIONS), 0)
    assert log.bus.offsets_at(TRANSACTIONS, middle_ms + 3_600_000) == dict.fromkeys(range(PARTITIONS), 20)
    reader.close()


def test_group_gives_each_partition_to_one_member(log: Log) -> None:
    fill(log.bus, 400)
    one = Member(log.bus)
    poll_until(lambda: len(one.got) == 400, one)
    assert by_partition(one.got)[3] == [b"%d" % i for i in range(3, 400, 4)]
    one.consumer.commit(dict.fromkeys(range(PARTITIONS), 100))
    two = Member(log.open())
    poll_until(lambda: len(one.consumer.assignment()) == len(two.consumer.assignment()) == 2, one, two)
    assert not one.consumer.assignment() & two.consumer.assignment()
    # What it keeps, it was never told to give back.
    assert [what for what, _ in one.told] == ["assigned", "revoked"]
    fill(log.bus, 400, start=400)
    poll_until(lambda: len(one.got) + len(two.got) == 800, one, two)
    everything = by_partition(one.got + two.got)
    assert {p: len(values) for p, values in everything.items()} == dict.fromkeys(range(PARTITIONS), 200)
    for member in (one, two):
        assert member.owned_as_told() == member.consumer.assignment()
    two.consumer.close()
    assert two.told[-1][0] == "revoked"
    poll_until(lambda: len(one.consumer.assignment()) == PARTITIONS, one)
    one.consumer.close()
    assert one.owned_as_told() == set()


def test_revoked_is_told_while_commit_still_counts(log: Log) -> None:
    fill(log.bus, 400)

    def commit(member: Member, partitions: list[int]) -> None:
        assert set(partitions) <= member.consumer.assignment()
        member.consumer.commit(dict.fromkeys(partitions, 77))

    one = Member(log.bus, on_revoked=commit)
    poll_until(lambda: len(one.got) == 400, one)
    two = Member(log.open())
    poll_until(lambda: len(two.consumer.assignment()) == 2, one, two)
    moved = set(two.consumer.assignment())
    assert log.bus.committed(TRANSACTIONS, "group") == dict.fromkeys(moved, 77)
    poll_until(lambda: len(two.got) == 2 * 23, one, two)
    assert {offset for _, offset, _ in two.got} == set(range(77, 100))
    one.consumer.close()
    assert log.bus.committed(TRANSACTIONS, "group") == dict.fromkeys(range(PARTITIONS), 77)
    two.consumer.close()


def test_killed_members_partitions_move(log: Log) -> None:
    argv = [sys.executable, "-m", "tests.test_bus.member", log.kind, log.address, log.prefix]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert json.loads(other.stdout.readline()) == [0, 1, 2, 3]
        mine = Member(log.bus)
        poll_until(lambda: len(mine.consumer.assignment()) == 2, mine)
        other.kill()
    poll_until(lambda: len(mine.consumer.assignment()) == PARTITIONS, mine)
    fill(log.bus, 40)
    poll_until(lambda: len(mine.got) == 40, mine)
    mine.consumer.close()


def test_assigned_may_choose_the_start_and_pause(log: Log) -> None:
    fill(log.bus, 400)

    def choose(member: Member, partitions: list[int]) -> dict[int, int]:
        assert not member.got, "told after the first record"
        member.consumer.pause([1])
        return {p: 90 for p in partitions if p != 2}

    member = Member(log.bus, on_assigned=choose)
    poll_until(lambda: len(member.got) == 2 * 10 + 100, member)
    for _ in range(5):
        member.poll()
    values = by_partition(member.got)
    assert values.keys() == {0, 2, 3}
    assert values[0] == [b"%d" % i for i in range(360, 400, 4)]
    assert len(values[2]) == 100
    member.consumer.resume([1])
    poll_until(lambda: len(member.got) == 3 * 10 + 100, member)
    assert by_partition(member.got)[1] == [b"%d" % i for i in range(361, 400, 4)]
    member.consumer.close()


def test_pause_resume_and_seek_lose_nothing(log: Log) -> None:
    member = Member(log.bus)
    poll_until(lambda: len(member.consumer.assignment()) == PARTITIONS, member)
    for turn in range(6):
        fill(log.bus, 200, start=200 * turn)
        if turn % 2:
            member.consumer.pause([0, 2])
            member.consumer.pause([0])
            seen = len(member.got)
            for _ in range(3):
                member.poll()
            assert {row[0] for row in member.got[seen:]} <= {1, 3}
            member.consumer.resume([2, 0, 0])
            member.consumer.resume([1])
        else:
            member.poll()
    poll_until(lambda: len(member.got) == 1200, member)
    for p, values in by_partition(member.got).items():
        assert values == [b"%d" % i for i in range(p, 1200, PARTITIONS)]
    member.got.clear()
    member.consumer.seek(3, 290)
    member.consumer.pause([1])
    member.consumer.seek(1, 295)
    poll_until(lambda: len(member.got) == 10, member)
    member.consumer.resume([1])
    poll_until(lambda: len(member.got) == 15, member)
    assert [row[:2] for row in member.got] == [(3, i) for i in range(290, 300)] + [
        (1, i) for i in range(295, 300)
    ]
    member.consumer.close()


def test_seek_right_after_the_assignment(log: Log) -> None:
    fill(log.bus, 400)
    member = Member(log.bus, on_assigned=lambda member, partitions: member.consumer.pause(partitions))
    poll_until(lambda: len(member.consumer.assignment()) == PARTITIONS, member)
    for p in range(PARTITIONS):
        member.consumer.seek(p, 98)
    member.consumer.resume(range(PARTITIONS))
    poll_until(lambda: len(member.got) == 8, member)
    assert by_partition(member.got)[3] == [b"395", b"399"]
    member.consumer.close()


def test_small_polls_deliver_all_partitions_in_order(log: Log) -> None:
    fill(log.bus, 200)
    member = Member(log.bus)
    got: list[tuple[int, int, bytes]] = []
    while len(got) < 200:
        records = member.consumer.poll(7, 5)
        assert len(records) <= 7
        got += zip(records.partitions, records.offsets, records.values, strict=True)
    for p, values in by_partition(got).items():
        assert values == [b"%d" % i for i in range(p, 200, PARTITIONS)]
    member.consumer.close()


def test_reader_disturbs_no_group(log: Log) -> None:
    fill(log.bus, 40)
    member = Member(log.bus)
    poll_until(lambda: len(member.got) == 40, member)
    reader = log.bus.reader(TRANSACTIONS, ALL)
    assert len(read(reader, 40)) == 40
    for _ in range(5):
        member.poll()
    assert [what for what, _ in member.told] == ["assigned"]
    assert len(member.got) == 40
    assert log.bus.committed(TRANSACTIONS, "group") == {}
    reader.close()
    member.consumer.close()


def test_commit_lag_and_going_on(log: Log) -> None:
    fill(log.bus, 400)
    assert log.bus.committed(TRANSACTIONS, "group") == {}
    one = Member(log.bus)
    poll_until(lambda: len(one.got) == 400, one)
    poll_until(lambda: one.consumer.lag() == dict.fromkeys(range(PARTITIONS), 0), one)
    one.consumer.commit({0: 100, 1: 60})
    one.consumer.pause([3])
    fill(log.bus, 40, start=400)
    poll_until(lambda: len(one.got) == 430 and one.consumer.lag()[2] == 0, one)
    one.consumer.close()
    assert log.bus.committed(TRANSACTIONS, "group") == {0: 100, 1: 60}
    assert log.bus.committed(TRANSACTIONS, "another") == {}
    assert log.bus.committed(SCORED, "group") == {}
    two = Member(log.bus)
    poll_until(lambda: len(two.got) == 10 + 50 + 110 + 110, two)
    assert by_partition(two.got)[1][0] == b"241"
    two.consumer.close()


def test_big_records(log: Log) -> None:
    producer = log.bus.producer()
    sizes = [0, 1, 7000, 64 * 1024, 300_000, 900_000]
    for size in sizes:
        producer.send(TRANSACTIONS, 1, b"k", b"x" * size)
    with pytest.raises(EventError, match="at most"):
        producer.send(TRANSACTIONS, 1, b"k", b"x" * (RECORD_BYTES_MAX + 1))
    producer.send(TRANSACTIONS, 1, b"k", b"after")
    producer.flush(20)
    reader = log.bus.reader(TRANSACTIONS, ALL)
    assert [len(value) for _, _, value in read(reader, 7)] == [*sizes, 5]
    producer.close()
    reader.close()


def test_polls_wait_as_told(log: Log) -> None:
    member = Member(log.bus)
    poll_until(lambda: len(member.consumer.assignment()) == PARTITIONS, member)
    reader = log.bus.reader(TRANSACTIONS, ALL)
    reader.read(1, 1)
    for wait in (member.consumer.poll, reader.read):
        for timeout_s in (0.0, 0.3):
            started = time.monotonic()
            assert len(wait(100, timeout_s)) == 0
            assert timeout_s * 0.9 <= time.monotonic() - started < timeout_s + 1
    # The first record ends the wait, though more were allowed.
    later = threading.Timer(0.2, fill, (log.bus, 4))
    for wait in (member.consumer.poll, reader.read):
        started = time.monotonic()
        later = threading.Timer(0.2, fill, (log.bus, 4))
        later.start()
        assert len(wait(100, 20)) > 0
        assert time.monotonic() - started < 8
        later.join()
    reader.close()
    member.consumer.close()


def test_many_producers_at_once(log: Log) -> None:
    def work(name: int) -> None:
        producer = log.bus.producer()
        for block in range(20):
            producer.send_many(
                TRANSACTIONS,
                [p for p in range(PARTITIONS) for _ in range(5)],
                [b"k"] * 20,
                [b"%d %d" % (name, block * 5 + i) for _ in range(PARTITIONS) for i in range(5)],
            )
            producer.flush(20)
        producer.close()

    threads = [threading.Thread(target=work, args=[name]) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = log.bus.reader(TRANSACTIONS, ALL)
    rows = read(reader, 5 * 20 * 20)
    for values in by_partition(rows).values():
        for name in range(5):
            mine = [v for v in values if v.startswith(b"%d " % name)]
            assert mine == [b"%d %d" % (name, i) for i in range(100)]
    assert log.bus.watermarks(TRANSACTIONS) == dict.fromkeys(range(PARTITIONS), (0, 500))
    reader.close()


def test_identity_of_the_log(log: Log) -> None:
    first = log.bus.log_id()
    assert first == log.bus.log_id() == log.open().log_id()
    log.destroy()
    again = log.open()
    again.ensure_topics(PARTITIONS)
    assert again.log_id() != first


def test_ensure_topics_changes_nothing_that_is_there(log: Log) -> None:
    fill(log.bus, 4)
    again = log.open()
    again.ensure_topics(PARTITIONS * 2)
    for topic in TOPICS:
        assert again.partitions(topic) == PARTITIONS
    assert again.watermarks(TRANSACTIONS) == dict.fromkeys(range(PARTITIONS), (0, 1))


def test_a_topic_that_is_not_there(log: Log) -> None:
    with pytest.raises(TransientError, match="ensure_topics"):
        log.bus.partitions("nothing")


def test_two_topics_are_apart(log: Log) -> None:
    fill(log.bus, 8)
    fill(log.bus, 4, topic=SCORED)
    reader = log.bus.reader(SCORED, ALL)
    assert len(read(reader, 4)) == 4
    assert len(reader.read(10, 0)) == 0
    reader.close()


def test_an_error_in_a_callback_reaches_the_poller(log: Log) -> None:
    def fail(_member: Member, _partitions: list[int]) -> None:
        raise RuntimeError("no checkpoint")

    member = Member(log.bus, on_assigned=fail)
    with pytest.raises(RuntimeError, match="no checkpoint"):
        poll_until(lambda: False, member)
    member.consumer.close()


def test_a_closed_producer_takes_nothing(log: Log) -> None:
    producer = log.bus.producer()
    producer.close()
    with pytest.raises(TransientError, match="make a new one"):
        producer.send(TRANSACTIONS, 0, b"k", b"v")
