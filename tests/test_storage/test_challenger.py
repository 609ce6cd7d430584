"""What a challenger would have said: counted once, kept where it differs, found without reading a verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from anomalyze.storage import challenger
from anomalyze.storage.challenger import forget_challenges, list_counts, list_differences
from anomalyze.storage.period import load_period_end
from anomalyze.storage.query import fetch
from tests.test_storage.records import NOON, scored, store

NEW = "sha256:def"


def since(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def says(severity: str = "NONE", flags: tuple[str, ...] = (), bundle: str = NEW) -> dict[str, Any]:
    section: dict[str, Any] = {"bundle": bundle, "final_severity": severity, "ml_score": 0.75}
    return section | ({"rule_flags": list(flags)} if flags else {})


RECORDS = [
    scored(0, challenger=says()),
    scored(1, challenger=says("HIGH", ("A", "B"))),
    scored(2, severity="LOW", flags=("C",), challenger=says()),
    scored(3, severity="HIGH", flags=("A",), challenger=says("HIGH", ("A",))),
    scored(4),
    scored(5, account="acct_8", challenger=says("LOW")),
    scored(6, challenger=says("LOW", bundle="sha256:other")),
    scored(7, status_update="reversed", tx="tx_0_0", ts=NOON),
]


def test_counted_once_and_differences_kept(connection: psycopg.Connection[Any]) -> None:
    store(connection, RECORDS)
    store(connection, RECORDS)  # delivered again
    counts = fetch(connection, list_counts("acct_7", NEW, since(7)))
    assert [(c.severity, c.challenger_severity, c.transactions) for c in counts] == [
        (0, 0, 1),
        (0, 3, 1),
        (1, 0, 1),
        (3, 3, 1),
    ]
    newest, older = fetch(connection, list_differences("acct_7", NEW, since(7), 10))
    assert (newest.tx_id, newest.severity, newest.challenger_severity) == ("tx_0_2", 1, 0)
    assert (newest.rule_flags, newest.challenger_flags) == (["C"], [])
    assert (older.tx_id, older.severity, older.challenger_severity) == ("tx_0_1", 0, 3)
    assert (older.rule_flags, older.challenger_flags) == ([], ["A", "B"])
    assert (older.score, older.challenger_score) == (pytest.approx(0.98), 0.75)
    assert (older.user_id, str(older.amount), older.currency) == ("user_99", "12.5", "USD")
    assert len(fetch(connection, list_differences("acct_7", NEW, since(7), 1))) == 1
    assert fetch(connection, list_differences("acct_7", NEW, since(1), 10)) == []
    assert [c.transactions for c in fetch(connection, list_counts("acct_8", NEW, since(7)))] == [1]
    # What is too old goes.
    assert forget_challenges(connection) == 0
    connection.execute("UPDATE challenger_differences SET ts = ts - interval '61 days'")
    connection.execute("UPDATE challenger_hourly SET hour = hour - interval '61 days'")
    assert forget_challenges(connection) == 4 + 6


def test_what_a_file_of_old_days_was_shadowed_with_is_kept(connection: psycopg.Connection[Any]) -> None:
    store(connection, RECORDS)
    for table, column in (
        ("hourly", "hour"),
        ("challenger_hourly", "hour"),
        ("challenger_differences", "ts"),
    ):
        connection.execute(f"UPDATE {table} SET {column} = {column} - interval '400 days'")
    assert forget_challenges(connection) == 0
    end = fetch(connection, load_period_end("acct_7", datetime.now(UTC)))
    assert end == NOON.replace(minute=0) + timedelta(hours=1) - timedelta(days=400)
    assert (
        sum(c.transactions for c in fetch(connection, list_counts("acct_7", NEW, end - timedelta(days=1))))
        == 4
    )


def test_a_flood_of_differences_is_counted_and_not_kept(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(challenger, "DIFFERENCES_MAX", 3)
    store(connection, [scored(i, challenger=says("LOW")) for i in range(10)])
    (count,) = fetch(connection, list_counts("acct_7", NEW, since(7)))
    assert count.transactions == 10
    assert len(fetch(connection, list_differences("acct_7", NEW, since(7), 100))) == 3


def test_one_that_cannot_be_read_is_a_dead_letter(connection: psycopg.Connection[Any]) -> None:
    counts = store(
        connection, [scored(0, flags=("A",), challenger=says("ENORMOUS")), scored(1, challenger=says())]
    )
    assert (counts.stored, counts.dead_letters) == (1, 1)
