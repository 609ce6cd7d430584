"""Lists: right while rows arrive, by index, and deaf to anything but their own cursors."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.events.batch import DeadLetter
from anomalyze.storage import queries
from anomalyze.storage.cursor import CursorError, FilterError, decode_cursor, encode_cursor
from anomalyze.storage.dead_letters import store_dead_letters
from anomalyze.storage.heartbeat import beat, forget_program
from anomalyze.storage.pool import AsyncPool, Pool
from anomalyze.storage.query import Page, Query, fetch, fetch_async
from tests.test_storage.records import LOG, NOON, scored, store

Connection = psycopg.Connection[Any]


def walk(
    connection: Connection, ask: Callable[[str | None], Query[Page[Any]]], meanwhile: Any = None
) -> list[Any]:
    """All rows, page by page; ``meanwhile(page number)`` runs between pages."""
    seen: list[Any] = []
    cursor = None
    for number in range(1000):
        page = fetch(connection, ask(cursor))
        if not page.rows:
            assert page.cursor is None
            return seen
        seen += page.rows
        cursor = page.cursor
        if meanwhile is not None:
            meanwhile(number)
    raise AssertionError("the walk does not end")


def test_a_walk_stays_right_while_rows_arrive(connection: Connection) -> None:
    # Many share an instant, so that pages end in the middle of one.
    offsets = list(range(90))
    random.Random(1).shuffle(offsets)
    store(
        connection,
        [
            scored(i, user=f"u{place % 5}", tx=f"t{place}", ts=NOON + timedelta(minutes=place // 9))
            for i, place in enumerate(offsets)
        ],
    )
    begun = {row.tx_id for row in fetch(connection, queries.transactions("acct_7", limit=1000)).rows}

    def arrive(number: int) -> None:
        # Newer ones, older ones, and some with the same instants.
        moments = [
            NOON + timedelta(hours=1),
            NOON - timedelta(hours=1),
            NOON + timedelta(minutes=number % 10),
        ]
        store(
            connection,
            [
                scored(
                    1000 + 3 * number + j,
                    previous=89 if number + j == 0 else None,
                    tx=f"new{number}.{j}",
                    ts=ts,
                )
                for j, ts in enumerate(moments)
            ],
        )

    seen = walk(connection, lambda c: queries.transactions("acct_7", limit=7, cursor=c), arrive)
    keys = [(row.ts, row.user_id, row.tx_id) for row in seen]
    assert keys == sorted(keys, reverse=True)
    assert len(set(keys)) == len(keys)
    assert begun <= {row.tx_id for row in seen}


def test_transactions_by_every_filter(connection: Connection) -> None:
    store(
        connection,
        [scored(i, user=f"u{i % 2}", amount=i, ts=NOON + timedelta(minutes=i)) for i in range(10)]
        + [scored(0, partition=1, account="other", user="u0", ts=NOON)]
        + [scored(1, partition=1, user="u0", ts=NOON - timedelta(days=20)), scored(2, partition=1, user="u0", ts=NOON - timedelta(days=40))],
    )  # fmt: skip

    def ask(**filters: Any) -> list[str]:
        return [row.tx_id for row in fetch(connection, queries.transactions("acct_7", **filters)).rows]

    assert ask(user_id="u1") == [f"tx_0_{i}" for i in (9, 7, 5, 3, 1)]
    assert ask(user_id="u0") == [f"tx_0_{i}" for i in (8, 6, 4, 2, 0)] + ["tx_1_1"]
    assert ask(user_id="u0", since=NOON - timedelta(days=50))[-1] == "tx_1_2"
    assert ask(since=NOON + timedelta(minutes=2), until=NOON + timedelta(minutes=4)) == [
        "tx_0_4",
        "tx_0_3",
        "tx_0_2",
    ]
    assert ask(amount_min=Decimal(3), amount_max=Decimal(4)) == ["tx_0_4", "tx_0_3"]
    assert ask(user_id="nobody") == []
    assert [row.account_id for row in fetch(connection, queries.transactions("other")).rows] == ["other"]


def test_the_window_of_a_walk_does_not_move(connection: Connection) -> None:
    store(connection, [scored(i, ts=NOON + timedelta(minutes=i)) for i in range(4)])
    begun = NOON + timedelta(days=30)
    first = fetch(connection, queries.transactions("acct_7", limit=2, now=begun))
    later = queries.transactions("acct_7", limit=2, cursor=first.cursor, now=begun + timedelta(days=30))
    assert [row.tx_id for row in first.rows + fetch(connection, later).rows] == [
        f"tx_0_{i}" for i in (3, 2, 1, 0)
    ]


def test_anomalies_cases_and_users(connection: Connection) -> None:
    severities = ["LOW", "MEDIUM", "HIGH", "CRITICAL"]
    store(
        connection,
        [
            scored(i, user=f"u{i % 3}", severity=severities[i % 4], flags=("A",) if i % 2 else ("A", "B"), case=f"c{i % 6}")
            for i in range(12)
        ]
        + [scored(0, partition=1, account="other", user="u0", severity="LOW")],
    )  # fmt: skip
    connection.execute(
        "UPDATE cases SET state = 'confirmed', decided_at = now() WHERE case_id IN ('c0', 'c1')"
    )

    def ask(**filters: Any) -> set[int]:
        seen = walk(connection, lambda c: queries.anomalies("acct_7", limit=2, cursor=c, **filters))
        assert [row.ts for row in seen] == sorted((row.ts for row in seen), reverse=True)
        assert {row.account_id for row in seen} <= {"acct_7"}
        return {row.src_offset for row in seen}

    assert ask() == set(range(12))
    assert ask(severities=[3, 4]) == {2, 3, 6, 7, 10, 11}
    assert ask(rule="B") == {0, 2, 4, 6, 8, 10}
    assert ask(user_id="u1") == {1, 4, 7, 10}
    assert ask(reviewed=True) == {0, 1, 6, 7}
    assert ask(reviewed=False, severities=[1]) == {4, 8}
    assert ask(score_min=0.99) == set()
    found = fetch(connection, queries.anomaly("acct_7", "an_u1_tx_0_7"))
    assert found is not None
    assert (found.state, found.severity, found.explanation) == ("confirmed", 4, "tx_0_7 is CRITICAL")
    assert fetch(connection, queries.anomaly("other", "an_u1_tx_0_7")) is None

    cases = walk(connection, lambda c: queries.cases("acct_7", limit=1, cursor=c))
    assert [row.case_id for row in cases] == ["c5", "c4", "c3", "c2", "c1", "c0"]
    assert [r.case_id for r in fetch(connection, queries.cases("acct_7", state="confirmed")).rows] == [
        "c1",
        "c0",
    ]
    assert [r.case_id for r in fetch(connection, queries.cases("acct_7", severities=[4])).rows] == [
        "c5",
        "c3",
        "c1",
    ]
    one = fetch(connection, queries.case("acct_7", "c5"))
    assert one is not None
    assert one.anomalies == 2
    assert [row.src_offset for row in fetch(connection, queries.case_anomalies("acct_7", "c5"))] == [11, 5]
    assert fetch(connection, queries.case("other", "c5")) is None

    users = walk(connection, lambda c: queries.users("acct_7", limit=1, cursor=c))
    assert [(row.user_id, row.transactions, row.anomalies) for row in users] == [
        ("u0", 4, 4),
        ("u1", 4, 4),
        ("u2", 4, 4),
    ]
    assert fetch(connection, queries.user("acct_7", "u0")) == users[0]


def test_dead_letters_and_programs(connection: Connection) -> None:
    letters = [
        DeadLetter(0, i, "invalid", "data.amount", "a number", "x", scored(i, account=f"a{i % 2}"))
        for i in range(5)
    ]
    letters.append(DeadLetter(0, 5, "malformed", "", "JSON", "\x00\ud800", b"\xff\x00"))
    for letter in letters:
        store_dead_letters(
            connection,
            [letter, letter],
            consumer="sink",
            log_id=LOG,
            topic="dead-letters",
            next_offsets={0: 9},
        )
    everything = walk(connection, lambda c: queries.dead_letters(None, limit=2, cursor=c))
    assert [row.src_offset for row in everything] == [5, 4, 3, 2, 1, 0]
    assert (everything[0].value, everything[0].account_id) == (b"\xff\x00", None)
    assert [r.src_offset for r in fetch(connection, queries.dead_letters("a1")).rows] == [3, 1]

    started = datetime.now(UTC)
    for state in ({"rate": 1}, {"rate": 2}):
        beat(connection, program="sink", instance="0", started_at=started, state=state)
    (program,) = fetch(connection, queries.programs())
    assert (program.program, program.state, program.started_at) == ("sink", {"rate": 2}, started)
    forget_program(connection, program="sink", instance="0")
    assert fetch(connection, queries.programs()) == []


def test_pages_are_answered_by_index_within_their_months(connection: Connection) -> None:
    store(connection, [scored(i, ts=NOON - timedelta(days=30 * i)) for i in range(14)])
    connection.execute(
        "INSERT INTO transactions SELECT account_id, 'u' || n % 100, ts + n * interval '1 second', tx_id || n, amount, "
        "currency, status, severity, action, score, case_id, src_partition, n, source, trace_id, bundle, data, "
        "enrichment, analysis, verdict FROM transactions, generate_series(1, 2000) n"
    )
    for (ahead,) in connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'transactions'::regclass"
    ).fetchall():
        if connection.execute(f"SELECT NOT EXISTS (SELECT FROM {ahead})").fetchone() == (True,):
            connection.execute(f"DROP TABLE {ahead}")  # an empty one is rightly read without an index
    connection.execute("ANALYZE")
    for filters in ({}, {"user_id": "u1"}):
        query = queries.transactions("acct_7", **filters)  # type: ignore[arg-type]
        plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + query.text, query.parameters))
        assert "Seq Scan" not in plan
        assert "Sort" not in plan
        assert plan.count("Index Scan") <= 4  # months that the default window touches


@given(st.one_of(st.text(max_size=80), st.binary(max_size=60).map(lambda b: b.hex())))
def test_a_damaged_cursor_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        queries.transactions("acct_7", cursor=text)


def test_a_cursor_serves_its_own_list_and_filters_only(connection: Connection) -> None:
    store(connection, [scored(i) for i in range(3)])
    cursor = fetch(connection, queries.transactions("acct_7", user_id="user_99", limit=1)).cursor
    assert cursor is not None
    assert len(fetch(connection, queries.transactions("acct_7", user_id="user_99", cursor=cursor)).rows) == 2
    for wrong in (
        lambda: queries.transactions("acct_7", user_id="user_98", cursor=cursor),
        lambda: queries.transactions("acct_7", cursor=cursor),
        lambda: queries.transactions("acct_7", user_id="user_99", amount_min=Decimal(1), cursor=cursor),
        lambda: queries.anomalies("acct_7", user_id="user_99", cursor=cursor),
        lambda: queries.transactions("acct_7", user_id="user_99", cursor=cursor + "A"),
        lambda: queries.transactions("acct_7", user_id="user_99", cursor=cursor[:-2]),
    ):
        with pytest.raises(CursorError):
            wrong()
    # Another account with that cursor sees its own rows: none.
    assert fetch(connection, queries.transactions("acct_8", user_id="user_99", cursor=cursor)).rows == []
    with pytest.raises(CursorError):
        decode_cursor(encode_cursor("users", {}, (5,)), "users", {}, tuple[str])
    with pytest.raises(FilterError):
        queries.users("acct_7", cursor=encode_cursor("users", {}, ("\0",)))


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limits_are_limited(limit: int) -> None:
    with pytest.raises(FilterError, match="limit: expected 1 to 1000"):
        queries.users("acct_7", limit=limit)


def test_hostile_text_is_only_ever_a_value(connection: Connection) -> None:
    store(connection, [scored(0)])
    for text in ("'; DROP TABLE users; --", "%(account)s", "%s", "\\", "𝕏"):
        assert fetch(connection, queries.transactions("acct_7", user_id=text)).rows == []
        assert fetch(connection, queries.anomalies("acct_7", rule=text)).rows == []
    with pytest.raises(FilterError):
        queries.transactions("acct_7", user_id="a\0")
    with pytest.raises(FilterError):
        queries.transactions("acct_7", user_id="\ud800")


def test_threads_and_asyncio_read_the_same(connection: Connection, database: str) -> None:
    import asyncio

    store(connection, [scored(i) for i in range(3)])

    async def read() -> Page[Any]:
        pool = AsyncPool(database)
        await pool.open()
        try:
            async with pool.connection() as own:
                return await fetch_async(own, queries.transactions("acct_7"))
        finally:
            await pool.close()

    pool = Pool(database)
    with pool.connection() as own:
        expected = fetch(own, queries.transactions("acct_7", now=NOON))
    pool.close()
    assert asyncio.run(read()).rows == expected.rows
