"""The sink's write path: everything once, whatever is delivered how often."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomalyze.errors import ContractError, TransientError
from anomalyze.storage.partition import PartitionKeeper, load_partitions
from anomalyze.storage.pool import connect
from anomalyze.storage.position import Position, load_positions
from anomalyze.storage.scored import decode_scored, encode_numeric
from anomalyze.storage.store import StoredCounts
from tests.test_storage.records import LOG, NOON, TABLES, contents, recount, scored, store

Connection = psycopg.Connection[Any]


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row if row is None or len(row) > 1 else row[0]


def test_a_record_becomes_a_row_with_the_detectors_bytes(connection: Connection) -> None:
    value = (
        b'{"meta":{"trace_id":"abc-123-xyz","timestamp":"2025-12-20T12:00:00.123456+02:00","source":"REALTIME_API",'
        b'"user_id":"us\\u00e9r\\n\\"99\\\\","account_id":"acct_7"},\r\n'
        b'"data" :\t{"tx_id":"tx\t555","amount":4500.50,"currency":"USD", "note":"a\\u0001\xe2\x82\xac", "status":"declined"},'
        b'"enrichment": { "features":{"amount_base":4500.50 , "x":1.10e2}},\n"analysis":{"rule_flags":["A","B"],"ml_score":0.25,'
        b'"bundle":"sha256:1"},"verdict":{"final_severity":"HIGH","action":"BLOCK","case_id":"case_1","anomaly_id":"an_1",'
        b'"explanation":"37x \xe2\x80\x93 \\"higher\\"","late":true},"src":{"partition":3,"offset":1041,"previous":1040}}'
    ).replace(b"tx\t555", b"tx_555")
    store(connection, [value])
    row = one(
        connection,
        "SELECT account_id, user_id, ts, tx_id, amount::text, currency, status, severity, action, score, case_id, "
        "src_partition, src_offset, source, trace_id, bundle, data->>'note', enrichment::text, analysis::text, verdict::text "
        "FROM transactions",
    )
    assert row == (
        "acct_7",
        'usér\n"99\\',
        datetime(2025, 12, 20, 10, 0, 0, 123456, tzinfo=UTC),
        "tx_555",
        "4500.50",
        "USD",
        2,
        3,
        2,
        0.25,
        "case_1",
        3,
        1041,
        "REALTIME_API",
        "abc-123-xyz",
        "sha256:1",
        "a\x01€",
        '{ "features":{"amount_base":4500.50 , "x":1.10e2}}',
        '{"rule_flags":["A","B"],"ml_score":0.25,"bundle":"sha256:1"}',
        '{"final_severity":"HIGH","action":"BLOCK","case_id":"case_1","anomaly_id":"an_1","explanation":"37x – \\"higher\\"","late":true}',
    )
    assert one(
        connection,
        "SELECT anomaly_id, amount_base, explanation, rule_flags, late, status FROM anomalies, "
        "(SELECT status FROM transactions)",
    ) == ("an_1", Decimal("4500.50"), '37x – "higher"', ["A", "B"], True, 2)


@given(
    st.one_of(
        st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=6),
        st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=2),
        st.integers(-(10**20), 10**20).map(Decimal),
        st.sampled_from(["1e3", "1E-7", "-1.5e2", "0", "-0.00", "10000", "0.00001", "9999.9999"]).map(
            Decimal
        ),
    )
)
@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    database=None,
)
def test_amounts_are_exact(number_connection: Connection, amount: Decimal) -> None:
    text = str(amount)
    row = number_connection.cursor(binary=True).execute("SELECT %s::text::numeric", [text])
    assert row.pgresult is not None
    sent = row.pgresult.get_value(0, 0)
    assert encode_numeric(text.encode())[4:] == sent


@pytest.fixture(scope="module")
def number_connection(postgres_server: Any) -> Any:
    with connect(postgres_server.dsn) as opened:
        yield opened


@pytest.mark.parametrize("text", [b'"12"', b"null", b"NaN", b"Infinity", b"", b"1_0", b"0x10"])
def test_what_is_no_number_is_rejected(text: bytes) -> None:
    value = scored(0).replace(b'"amount": 12.5', b'"amount": ' + text)
    assert list(decode_scored([value]).rejected) == [0]


def test_the_same_batch_again_changes_nothing(connection: Connection) -> None:
    batch = [scored(i, severity="LOW", flags=("R",), amount_base=1) for i in range(5)]
    assert store(connection, batch) == StoredCounts(stored=5, anomalies=5)
    before = contents(connection)
    assert store(connection, batch) == StoredCounts(dropped=5)
    assert contents(connection) == before
    recount(connection)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[bytes]], list[tuple[int, int, int]]]:
    """Records of three partitions, and deliveries (partition, from, to) that overlap and repeat."""
    logs = []
    for partition in range(3):
        log, previous = [], -1
        offset = draw(st.integers(0, 3))
        for _ in range(draw(st.integers(0, 9))):
            user = f"u{partition}{draw(st.integers(0, 2))}"
            severity = draw(st.sampled_from(["NONE", "NONE", "LOW", "HIGH"]))
            # A few identities come again under another src, as beyond the detector's horizon.
            tx = f"t{draw(st.integers(0, 8))}"
            log.append(
                scored(
                    offset,
                    partition=partition,
                    previous=previous,
                    user=user,
                    tx=tx,
                    ts=NOON + timedelta(minutes=draw(st.integers(0, 2)) * 40),
                    severity=severity,
                    flags=("A",) if severity == "HIGH" else (),
                    amount_base=draw(st.integers(1, 9)),
                    status_update=draw(st.sampled_from([None, None, None, "declined"])),
                )
            )
            previous, offset = offset, offset + draw(st.integers(1, 3))
        logs.append(log)
    deliveries = []
    done = [0, 0, 0]
    for _ in range(draw(st.integers(0, 10))):
        partition = draw(st.integers(0, 2))
        start = draw(st.integers(0, done[partition]))
        end = draw(st.integers(start, len(logs[partition])))
        deliveries.append((partition, start, end))
        done[partition] = max(done[partition], end)
    deliveries += [(p, done[p], len(logs[p])) for p in range(3)]
    return logs, deliveries


@given(histories())
@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, database=None
)
def test_any_cut_and_repetition_stores_the_same(
    connection: Connection, history: tuple[list[list[bytes]], list[tuple[int, int, int]]]
) -> None:
    logs, deliveries = history
    keeper = PartitionKeeper()

    def clean() -> None:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}")

    clean()
    store(connection, [record for log in logs for record in log], keeper=keeper)
    at_once = contents(connection)
    clean()
    for partition, start, end in deliveries:
        store(connection, logs[partition][start:end], keeper=keeper, next_offsets={partition: 0})
    cut = contents(connection)
    # A partition that was asked for and had no record has a position all the same.
    cut["positions"] = [p for p in cut["positions"] if '"src_offset": -1' not in p]
    assert cut == at_once
    recount(connection)


def test_a_gap_halts_and_stores_nothing(connection: Connection) -> None:
    store(connection, [scored(0), scored(1), scored(0, partition=1)])
    before = contents(connection)
    with pytest.raises(ContractError, match=r"partition 1: the record of src offset 9 follows 4, expected 0"):
        store(connection, [scored(2), scored(9, partition=1, previous=4)])
    assert contents(connection) == before
    # Offsets may have holes (dead letters, controls); only the chain of `previous` may not.
    assert store(connection, [scored(9, partition=1, previous=0)]).stored == 1


def test_a_first_record_may_begin_anywhere(connection: Connection) -> None:
    assert store(connection, [scored(1000, previous=999)]).stored == 1


def test_of_two_workers_the_first_in_the_topic_wins(connection: Connection) -> None:
    ours = [scored(i, amount=1) for i in range(3)]
    zombie = [scored(i, amount=2) for i in range(1, 5)]
    counts = store(connection, ours + zombie)
    assert (counts.stored, counts.dropped) == (5, 2)
    amounts = connection.execute("SELECT amount FROM transactions ORDER BY src_offset").fetchall()
    assert [int(a) for (a,) in amounts] == [1, 1, 1, 2, 2]


def test_two_sinks_with_the_same_records_store_them_once(connection: Connection, database: str) -> None:
    batch = [scored(i, user=f"u{i % 7}", severity="LOW", amount_base=1) for i in range(200)]
    store(connection, batch[:1])
    gate = threading.Barrier(4)

    def run() -> tuple[int, int]:
        with connect(database) as own:
            gate.wait()
            counts = store(own, batch)
            return counts.stored, counts.dropped

    with ThreadPoolExecutor(4) as pool:
        found = sorted(f.result() for f in [pool.submit(run) for _ in range(4)])
    assert found == [(0, 200), (0, 200), (0, 200), (199, 1)]
    recount(connection)


@pytest.mark.parametrize("table", ["users", "cases", "hourly", "rule_hourly"])
def test_sinks_that_meet_in_a_table_wait_in_one_order(
    connection: Connection, database: str, table: str
) -> None:
    """Two sinks change the same two rows, named in opposite orders, while somebody holds the second one."""

    def record(partition: int, offset: int, key: int) -> bytes:
        return scored(
            offset,
            partition=partition,
            user=f"u{key}" if table == "users" else f"sink{partition}",
            case=f"c{key}" if table == "cases" else f"sink{partition}",
            # For hits of rules: other severities, so that the sinks do not meet in `hourly` before.
            severity=["LOW", "MEDIUM", "HIGH"][partition if table == "rule_hourly" else 0],
            ts=NOON + timedelta(hours=key if table == "hourly" else 0),
            flags=(f"R{key}",) if table == "rule_hourly" else (),
        )

    store(connection, [record(0, 0, 1), record(0, 1, 2)])
    second = {
        "users": "user_id = 'u2'",
        "cases": "case_id = 'c2'",
        "hourly": f"hour = '{NOON + timedelta(hours=2)}'",
        "rule_hourly": "rule_id = 'R2'",
    }
    orders = {1: [2, 1], 2: [1, 2]}
    sinks = {partition: connect(database) for partition in orders}
    with ThreadPoolExecutor(2) as pool:
        with connection.transaction():
            connection.execute(f"SELECT FROM {table} WHERE {second[table]} FOR UPDATE")
            futures = []
            for partition, order in orders.items():
                batch = [record(partition, offset, key) for offset, key in enumerate(order)]
                futures.append(pool.submit(store, sinks[partition], batch))
                wait_for_lock(connection, sinks[partition].info.backend_pid)
        assert [future.result().stored for future in futures] == [2, 2]
    for sink in sinks.values():
        sink.close()
    recount(connection)


def wait_for_lock(connection: Connection, pid: int) -> None:
    """Return when that backend waits for a lock."""
    deadline = time.monotonic() + 30
    query = f"SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}"
    while one(connection, query) != "Lock":
        assert time.monotonic() < deadline
        # Within a transaction the statistics are those of its first look.
        connection.execute("SELECT pg_stat_clear_snapshot()")


def test_a_sink_killed_in_the_middle_leaves_nothing(connection: Connection, database: str) -> None:
    batch = [scored(i, severity="HIGH", flags=("R",), amount_base=5) for i in range(50)]
    before = contents(connection)
    victim = connect(database)
    pid = victim.info.backend_pid
    with ThreadPoolExecutor(1) as pool, connection.transaction():
        # The counters come last: everything else is written when it waits for them.
        connection.execute("LOCK TABLE hourly IN EXCLUSIVE MODE")
        future = pool.submit(store, victim, batch)
        wait_for_lock(connection, pid)
        connection.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(TransientError):
            future.result()
    victim.close()
    assert contents(connection) == before
    assert store(connection, batch) == StoredCounts(stored=50, anomalies=50)
    recount(connection)


def test_an_identity_beyond_the_horizon_keeps_its_first_verdict(connection: Connection) -> None:
    store(connection, [scored(0, tx="a", ts=NOON, amount=1)])
    counts = store(
        connection,
        [
            scored(1, tx="a", ts=NOON, amount=2, severity="HIGH", flags=("R",)),
            scored(2, tx="b", ts=NOON, severity="LOW"),
        ],
    )
    assert counts == StoredCounts(stored=1, anomalies=1, repeated=1)
    assert one(connection, "SELECT amount, severity FROM transactions WHERE tx_id = 'a'") == (1, 0)
    assert one(connection, "SELECT count(*) FROM rule_hourly") == 0
    recount(connection)
    assert load_positions(connection, "sink", LOG, "scored")[0].src_offset == 2


def test_positions_are_written_with_the_rows(connection: Connection) -> None:
    store(connection, [scored(4), scored(0, partition=2)], next_offsets={0: 17, 1: 5, 2: 9})
    assert load_positions(connection, "sink", LOG, "scored") == {
        0: Position(4, 17),
        1: Position(-1, 5),
        2: Position(0, 9),
    }
    # A consumer that was paused and reports an older place moves nothing back.
    store(connection, [scored(4)], next_offsets={0: 3})
    assert load_positions(connection, "sink", LOG, "scored")[0] == Position(4, 17)
    assert load_positions(connection, "sink", "another log", "scored") == {}


def test_a_status_update_finds_its_payment(connection: Connection) -> None:
    long_ago = NOON - timedelta(days=1500)
    store(
        connection,
        [scored(0, tx="old", ts=long_ago, status="pending"), scored(1, tx="new", status="pending")],
    )
    counts = store(
        connection,
        [
            scored(2, tx="old", status_update="approved"),
            scored(3, tx="same", status="pending"),
            scored(4, tx="same", status_update="declined"),
            scored(5, tx="same", status_update="refunded"),
            scored(6, tx="unheard of", status_update="declined"),
            scored(7, tx="new", user="another", status_update="declined"),
        ],
    )
    assert counts == StoredCounts(stored=1, status_updates=3, status_unmatched=2)
    rows = connection.execute("SELECT tx_id, status FROM transactions ORDER BY tx_id").fetchall()
    assert rows == [("new", 1), ("old", 0), ("same", 3)]
    recount(connection)


def test_an_update_is_for_the_payment_before_it(connection: Connection) -> None:
    store(connection, [scored(0, tx="a", ts=NOON)])
    later = scored(2, tx="a", ts=NOON + timedelta(days=1))  # the same identity, beyond the horizon
    store(connection, [scored(1, tx="a", status_update="declined"), later])
    rows = connection.execute("SELECT src_offset, status FROM transactions ORDER BY ts").fetchall()
    assert rows == [(0, 2), (2, 0)]


class TestCase:
    def test_it_gathers_its_anomalies(self, connection: Connection) -> None:
        store(
            connection,
            [
                scored(0, tx="a", severity="MEDIUM", flags=("B",), amount_base=10, case="c"),
                scored(1, tx="b"),
                scored(2, tx="c", severity="HIGH", flags=("A", "B"), amount_base=-5, case="c"),
            ],
        )
        store(
            connection,
            [
                scored(
                    3,
                    tx="d",
                    severity="HIGH",
                    amount_base=1,
                    case="c",
                    ts=NOON - timedelta(hours=1),
                    flags=("C",),
                )
            ],
        )
        assert one(
            connection,
            "SELECT anomalies, severity, value_base, headline, headline_anomaly_id, rule_flags, opened_at, last_at, state "
            "FROM cases",
        ) == (
            3,
            3,
            16,
            "c is HIGH",
            "an_user_99_c",
            ["A", "B", "C"],
            NOON - timedelta(hours=1),
            NOON + timedelta(seconds=2),
            "open",
        )

    def test_a_decided_case_reopens_only_when_it_grows_much(self, connection: Connection) -> None:
        def decide() -> None:
            connection.execute("UPDATE cases SET state = 'dismissed', decided_at = now(), decided_by = 'me'")

        def grow(offset: int, severity: str, amount_base: float) -> str:
            store(connection, [scored(offset, severity=severity, amount_base=amount_base, case="c")])
            return str(one(connection, "SELECT state FROM cases"))

        assert grow(0, "MEDIUM", 100) == "open"
        decide()
        queued_at = one(connection, "SELECT stored_at FROM cases")
        assert grow(1, "MEDIUM", 60) == "dismissed"
        assert one(connection, "SELECT stored_at FROM cases") == queued_at
        assert grow(2, "LOW", 39) == "dismissed"
        assert grow(3, "LOW", 1) == "open"  # 200 against 100 at the decision
        assert one(connection, "SELECT stored_at FROM cases") > queued_at
        decide()
        assert grow(4, "MEDIUM", 0) == "dismissed"
        assert grow(5, "HIGH", 0) == "open"
        recount(connection)


LONE_SURROGATE = '{"tx_id": "bad", "amount": 1, "currency": "USD", "note": "\\ud800"}'
TOO_LARGE_NUMBER = '{"tx_id": "bad", "amount": 1, "currency": "USD", "x": 1e400000}'
NUL = '{"tx_id": "bad", "amount": 1, "currency": "USD", "x": "\\u0000"}'
NUL_KEY = '{"tx_id": "bad\\u0000", "amount": 1, "currency": "USD"}'
DEEP = '{"tx_id": "bad", "amount": 1, "currency": "USD", "x": ' + "[" * 30_000 + "]" * 30_000 + "}"
LONG_ID = f'{{"tx_id": "{random.Random(1).randbytes(9_000).hex()}", "amount": 1, "currency": "USD"}}'


@pytest.mark.parametrize(
    "poison",
    [
        scored(3, raw_data=LONE_SURROGATE),
        scored(3, raw_data=TOO_LARGE_NUMBER),
        scored(3, raw_data=NUL),
        scored(3, raw_data=NUL_KEY),
        scored(3, raw_data=DEEP),
        scored(3, raw_data=LONG_ID),
        scored(3, ts="9999-12-31T23:59:59Z"),
        scored(3, ts="1969-12-31T23:59:59Z"),
        scored(3, ts="2025-12-20T12:00:00"),
        scored(3, severity="HIGH").replace(b"anomaly_id", b"something"),
        scored(3).replace(b'"NONE"', b'"WORSE"'),
        scored(3, user="\0"),
    ],
    ids=[
        "surrogate", "number", "nul", "nul in id", "deep", "long id", "9999", "1969", "naive", "no anomaly_id",
        "severity", "nul user",
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_stored_stops_nothing(connection: Connection, poison: bytes) -> None:
    batch = [scored(i, severity="LOW", amount_base=1) for i in range(3)]
    batch += [poison] + [scored(i, partition=0) for i in range(4, 8)]
    counts = store(connection, batch)
    assert counts == StoredCounts(stored=7, anomalies=3, dead_letters=1)
    assert one(connection, "SELECT src_partition, src_offset, reason, value FROM dead_letters") == (
        0,
        3,
        "unstorable",
        poison,
    )
    assert load_positions(connection, "sink", LOG, "scored")[0].src_offset == 7
    recount(connection)
    assert store(connection, batch).dropped == 8


def test_an_escaped_backslash_before_u0000_is_no_nul(connection: Connection) -> None:
    record = scored(0, raw_data='{"tx_id": "a\\\\u0000", "amount": 1, "currency": "USD"}')
    assert store(connection, [record]).stored == 1
    assert one(connection, "SELECT tx_id FROM transactions") == "a\\u0000"


@pytest.mark.parametrize("value", [b"", b"{}", b"nonsense", b'{"src": {"partition": 0}}', b"\xff"])
def test_a_record_without_src_is_refused(value: bytes) -> None:
    with pytest.raises(ContractError, match="something other than the detector"):
        decode_scored([scored(0), value])


def test_a_partition_dropped_meanwhile_is_made_again(connection: Connection) -> None:
    keeper = PartitionKeeper()
    old = NOON.replace(year=2019)
    store(connection, [scored(0, ts=old)], keeper=keeper)
    connection.execute("DROP TABLE transactions_y2019")
    assert store(connection, [scored(1, ts=old)], keeper=keeper).stored == 1
    assert old.replace(month=1, day=1, hour=0) in [a for a, _ in load_partitions(connection, "transactions")]


def test_postgresql_away_is_transient(connection: Connection, database: str) -> None:
    victim = connect(database)
    connection.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
    with pytest.raises(TransientError):
        store(victim, [scored(0)])
    with pytest.raises(TransientError):  # the broken connection stays broken, and says so in the same way
        store(victim, [scored(0)])
    victim.close()
    with pytest.raises(TransientError):
        connect("postgresql://nobody@127.0.0.1:1/none")
