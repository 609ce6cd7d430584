"""What a worker does when checkpoints, the log's beginning, servers or a whole process are gone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from anomalyze.bus.control import announce
from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.bus.partitioner import murmur2_partition
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.detection.detector import STATE_FORMAT, PartitionState
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.errors import ContractError, TransientError
from anomalyze.storage.migrate import migrate
from realtime.detector.checkpoint import CheckpointStore
from realtime.detector.history import StoredHistory
from realtime.detector.partition import OwnedPartition
from realtime.detector.recovery import TAIL_RECORDS, Recovery
from tests.folders import passable_folder
from tests.simulation.ledger import read_all
from tests.test_realtime.bed import PARTITIONS, Bed, bundles, open_bed, record, traffic

FIRST, SECOND = bundles()


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    with open_bed(request, tmp_path, "embedded") as opened:
        yield opened


def recover(bed: Bed, dsn: str | None = None) -> dict[int, OwnedPartition]:
    """Recover all partitions here, and take nothing over."""
    recovery = Recovery(
        bed.bus,
        bed.judge(),
        CheckpointStore(bed.objects, bed.bus.log_id(), STATE_FORMAT),
        StoredHistory(dsn or bed.dsn),
        lambda: bed.store.pointer("champion"),
        lambda _partition, _bundle: pytest.fail("the log names its bundle"),
        lambda _outputs: None,
    )
    owned: dict[int, OwnedPartition] = {}
    for _ in recovery.recover(range(PARTITIONS), {}, owned):
        pass
    return owned


def judge_log(bed: Bed, wait_for_stored: int = 0) -> None:
    """Let a worker (and a sink) do their work, and end. The worker runs here: its process is not the point."""
    with bed.worker_here():
        bed.wait_judged()
    if wait_for_stored:
        sink = bed.sink()
        with psycopg.connect(bed.dsn, autocommit=True) as connection:
            bed.wait(
                lambda: (
                    connection.execute("SELECT count(*) FROM transactions").fetchone() == (wait_for_stored,)
                ),
                "all stored",
            )
        assert sink.stop() == 0


def expire_everything(bed: Bed) -> None:
    """Retention takes all segments of all topics but what comes after."""
    assert isinstance(bed.bus, EmbeddedBus)
    assert bed.bus.expire(1 << 60) > 0
    assert all(low == high > 0 for low, high in bed.bus.watermarks(TRANSACTIONS).values())


def drop_checkpoints(bed: Bed) -> None:
    for path in bed.objects.list("checkpoints"):
        bed.objects.delete(path)


def assert_same_past(state: PartitionState, other: PartitionState) -> None:
    """Equal to the bit but for lists, and for days of append, which are days of storing here."""
    arrays, others = state.snapshot(), other.snapshot()
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        if not name.startswith("lists.") and name not in ("features.meta", "features.users"):
            assert array.tobytes() == others[name].tobytes(), name
    assert len(arrays["features.users"]) == len(others["features.users"])


def test_state_comes_back_from_postgresql_when_log_and_checkpoints_are_gone(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:300])
    announce(bed.bus, "bundle", {"bundle": SECOND.id})
    bed.send(rows[300:])
    judge_log(bed, len(rows))
    before = recover(bed)
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO list_entries (account_id, list, field, value, added_by) VALUES "
            "('acct', 'block', 'device_id', 'stolen', 'ann')"
        )
    drop_checkpoints(bed)
    expire_everything(bed)

    # PostgreSQL away: wait, and never begin with an empty state.
    with pytest.raises(TransientError):
        recover(bed, dsn=f"postgresql://nobody:x@127.0.0.1:{free_port()}/none")
    after = recover(bed)
    for number, partition in after.items():
        assert partition.bundle == SECOND.id
        assert partition.offset == before[number].offset == bed.bus.watermarks(TRANSACTIONS)[number][1] - 1
        assert partition.emitted == before[number].emitted
        assert len(partition.state.lists) == 1
        assert_same_past(partition.state, before[number].state)

    # A repeat is known, what is blocked is blocked, a new one is judged over the history: as if nothing happened.
    bed.send([*rows[-20:], record("ann", "blocked", 10.0, device_id="stolen")])
    bed.send([record(rows[-1][0].decode(), "new", 17.0)])
    sink = bed.sink()
    with bed.worker_here():
        bed.wait_judged()
    told = {json.loads(value)["data"]["tx_id"]: json.loads(value) for _, value in bed.scored()}
    assert told.keys() == {"blocked", "new"}
    assert told["blocked"]["verdict"]["action"] == "BLOCK"
    assert told["new"]["enrichment"]["user_avg_spend"] is not None
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        bed.wait(
            lambda: connection.execute("SELECT count(*) FROM transactions").fetchone() == (len(rows) + 2,),
            "stored without a gap",
        )
    assert sink.poll() is None


def test_a_checkpoint_that_ends_before_the_log_begins_is_completed_from_postgresql(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:300])
    judge_log(bed, 300)
    kept = {path: bed.objects.get(path) for path in bed.objects.list("checkpoints")}
    bed.send(rows[300:])
    judge_log(bed, len(rows))
    before = recover(bed)
    drop_checkpoints(bed)
    for path, data in kept.items():
        bed.objects.put(path, data or b"")
    expire_everything(bed)
    after = recover(bed)
    for number in after:
        assert after[number].emitted == before[number].emitted
        assert (
            after[number].state.features.snapshot().keys() == before[number].state.features.snapshot().keys()
        )
        assert_same_past(after[number].state, before[number].state)


def test_an_unusable_checkpoint_is_passed_over(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:200])
    judge_log(bed)
    before = recover(bed)
    for path in bed.objects.list("checkpoints"):
        data = bed.objects.get(path)
        assert data
        bed.objects.delete(path)
        bed.objects.put(path, data[:-40] + bytes(40))
    after = recover(bed)
    for number in after:
        assert after[number].checkpointed == -1
        assert after[number].emitted == before[number].emitted
        arrays = after[number].state.snapshot()
        for name, array in before[number].state.snapshot().items():
            assert array.tobytes() == arrays[name].tobytes(), name


def test_late_records_of_a_paused_worker_do_not_hide_where_verdicts_end(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:200])
    judge_log(bed)
    tails = {n: p.emitted for n, p in recover(bed).items()}
    partition, first = bed.scored()[0]
    producer = bed.bus.producer()
    producer.send_many(SCORED, [partition] * TAIL_RECORDS, [None] * TAIL_RECORDS, [first] * TAIL_RECORDS)
    producer.flush(30)
    assert {n: p.emitted for n, p in recover(bed).items()} == tails


def test_verdicts_that_are_gone_from_scored_are_found_out(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:100])
    judge_log(bed)
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        connection.execute("SET search_path = bus")
        connection.execute(
            "DELETE FROM segment s USING topic t WHERE s.topic_id = t.topic_id AND t.name = 'transactions'"
        )
        connection.execute(
            "UPDATE head SET next_offset = 1 FROM topic t WHERE head.topic_id = t.topic_id AND t.name = 'transactions'"
        )
    drop_checkpoints(bed)
    with pytest.raises(ContractError, match="gone from the log"):
        recover(bed)


def test_a_record_that_kills_the_process_is_skipped_and_told_of(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    user, poison = record("ann", "t-poison", 1.0, note="kills the process")
    home = murmur2_partition(user, PARTITIONS)
    bed.send(rows[:60])
    _, at = bed.bus.watermarks(TRANSACTIONS)[home]
    bed.send([(user, poison), *rows[60:120]])
    deaths = 0
    while not bed.judged():
        worker = bed.worker()
        bed.wait(lambda worker=worker: worker.poll() is not None or bed.judged(), "death or success")
        if worker.poll() is not None:
            deaths += 1
            assert worker.poll() == 128 + signal.SIGABRT
            assert deaths <= 6
    assert deaths == 6
    told = [json.loads(value)["data"]["tx_id"] for _, value in bed.effective()]
    assert sorted(told) == sorted(json.loads(value)["data"]["tx_id"] for _, value in rows[:120])
    found = {}
    for partition, (low, high) in bed.bus.watermarks("dead-letters").items():
        for value in read_all(bed.bus, partition, low, high, "dead-letters").values:
            letter = json.loads(value)
            found[letter["partition"], letter["offset"]] = letter["reason"]
    assert found == {(home, at): "poison"}


def test_a_worker_that_fails_in_the_middle_leaves_no_state_behind_that_moved_too_far(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:100])
    failing = bed.worker()
    bed.wait_judged()
    bed.send([record("ann", "t-fault", 1.0, note="raises in the encoder"), *rows[100:200]])
    assert failing.wait(60) == 1
    assert [e for e in bed.events() if e["event"] == "worker_failed"]
    bed.run("realtime.detector", log="whole", PYTHONPATH="")
    bed.wait_judged()
    assert len(bed.effective()) == 201
    assert bed.effective() == bed.undisturbed()


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_what_arrives_while_a_server_is_away_is_judged_when_it_is_back(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rows = traffic()
    with passable_folder() as folder:
        # Its own PostgreSQL: nobody else's test shall meet its absence.
        server = EmbeddedPostgres(folder / "pg", free_port())
        dsn = server.start()
        try:
            migrate(dsn)
            kafka = request.getfixturevalue("kafka_broker") if kind == "kafka" else None
            bed = Bed(dsn, tmp_path, kafka.bootstrap_servers if kafka else None)
            with bed.stack:
                announce(bed.bus, "bundle", {"bundle": FIRST.id})
                bed.send(rows[:100])
                worker, sink = bed.worker(), bed.sink()
                bed.wait_judged()
                if kafka is not None:
                    # Verdicts go on without PostgreSQL; the rows come when it is back.
                    server.stop()
                    bed.send(rows[100:200])
                    bed.wait_judged()
                    kafka.kill()
                    kafka.start()
                    bed.reopen()
                    bed.send(rows[200:300])
                    bed.wait_judged()
                else:
                    producer = bed.bus.producer()
                    server.stop()
                    for user, value in rows[100:300]:
                        producer.send(TRANSACTIONS, murmur2_partition(user, PARTITIONS), user, value)
                server.start()
                if kind == "embedded":
                    producer.flush(30)
                    bed.wait_judged()
                with psycopg.connect(dsn, autocommit=True) as connection:
                    bed.wait(
                        lambda: connection.execute("SELECT count(*) FROM transactions").fetchone() == (300,),
                        "all stored",
                    )
                assert bed.effective() == bed.undisturbed()
                assert worker.poll() is None, "no restart was needed"
                assert sink.poll() is None
        finally:
            server.stop()


def test_two_sinks_one_of_them_killed_at_work_store_everything_once_and_halt_at_a_gap(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows)
    sinks = [bed.sink("sink-0"), bed.sink("sink-1")]
    with psycopg.connect(bed.dsn, autocommit=True) as connection, psycopg.connect(bed.dsn) as holder:
        # Their transactions get as far as the first row, and wait there: killed in the middle.
        holder.execute("LOCK TABLE users IN SHARE MODE")
        with bed.worker_here():
            bed.wait_judged()
        waiting = (
            "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'users' "
        )
        bed.wait(
            lambda: connection.execute(f"{waiting} AND NOT l.granted").fetchone() != (0,),
            "a sink in its transaction",
        )
        os.kill(sinks[0].pid or 0, signal.SIGKILL)
        sinks[0].wait(10)
        holder.rollback()
        bed.wait(
            lambda: connection.execute("SELECT count(*) FROM transactions").fetchone() == (len(rows),),
            "the other stores all",
        )
        bed.wait(
            lambda: (
                connection.execute("SELECT coalesce(sum(transactions), 0) FROM users").fetchone()
                == connection.execute("SELECT sum(transactions) FROM hourly").fetchone()
                == (len(rows),)
            ),
            "counted once",
        )

    # What was lost before the sink is not passed over: it ends, and says why.
    partition, last = bed.scored()[-1]
    body = json.loads(last)
    body["src"] = {"partition": partition, "offset": 9_000, "previous": 8_999}
    producer = bed.bus.producer()
    producer.send(SCORED, partition, None, json.dumps(body).encode())
    producer.flush(30)
    assert sinks[1].wait(60) == 1
    [failure] = [e for e in bed.events("sink-1") if e["event"] == "sink_failed"]
    assert "gap in scored" in failure["exception"]
