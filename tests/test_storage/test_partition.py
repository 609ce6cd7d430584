"""Partitions are made on demand, by several programs at once, and never behind a reader."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from anomalyze.errors import ContractError
from anomalyze.storage import partition
from anomalyze.storage.partition import PartitionKeeper, ensure_partitions, load_partitions
from anomalyze.storage.pool import connect

Connection = psycopg.Connection[Any]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def ranges(connection: Connection, table: str = "transactions") -> list[str]:
    return [f"{a:%Y-%m-%d}..{b:%Y-%m-%d}" for a, b in load_partitions(connection, table)]


@pytest.fixture
def bare(connection: Connection) -> Connection:
    """Without the partitions that migrating makes."""
    for table in partition.PARTITIONED_TABLES:
        for (name,) in connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [table]
        ).fetchall():
            connection.execute(f"DROP TABLE {name}")
    return connection


def test_months_lately_and_years_before(bare: Connection) -> None:
    moments = [NOW, NOW.replace(year=2024, month=1), NOW.replace(year=2023), datetime(1970, 1, 1, tzinfo=UTC)]
    ensure_partitions(bare, moments, now=NOW)
    expected = [
        "1970-01-01..1971-01-01",
        "2023-01-01..2024-01-01",
        "2024-01-01..2024-02-01",
        "2026-11-01..2026-12-01",
    ]
    assert ranges(bare) == ranges(bare, "anomalies") == expected
    # Two years on, what was begun in months goes on in months.
    ensure_partitions(bare, [datetime(2024, 2, 29, tzinfo=UTC)], now=NOW.replace(year=2028))
    assert "2024-02-01..2024-03-01" in ranges(bare)


def test_a_new_partition_has_the_keys_and_indexes_of_its_table(bare: Connection) -> None:
    ensure_partitions(bare, [NOW], now=NOW)
    kinds = bare.execute(
        "SELECT c.relname, count(*), count(*) FILTER (WHERE i.indisunique), bool_and(i.indisvalid) FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname ~ '^(anomalies|transactions)_y2026m11$' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert kinds == [("anomalies_y2026m11", 5, 1, True), ("transactions_y2026m11", 2, 1, True)]


@pytest.mark.parametrize("moment", [datetime(1969, 12, 31, tzinfo=UTC), NOW + timedelta(days=400)])
def test_absurd_times_get_none(connection: Connection, moment: datetime) -> None:
    with pytest.raises(ContractError, match="expected event times from 1970-01-01"):
        ensure_partitions(connection, [moment], now=NOW)


def test_several_programs_at_once(bare: Connection, database: str) -> None:
    months = [datetime(2022 + m // 12, 1 + m % 12, 15, tzinfo=UTC) for m in range(60)]
    gate = threading.Barrier(4)

    def run(turn: int) -> None:
        with connect(database) as own:
            gate.wait()
            for month in months[turn:] + months[:turn]:
                ensure_partitions(own, [month], now=NOW)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(run, turn) for turn in (0, 5, 30, 0)]:
            future.result()
    # 2022 and 2023 are years by now, 2024 to 2026 months.
    assert len(ranges(bare)) == len(ranges(bare, "anomalies")) == 2 + 36


def test_a_reader_holds_nobody_up(bare: Connection, database: str) -> None:
    ensure_partitions(bare, [NOW], now=NOW)
    with connect(database) as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM transactions")
        bare.execute("SET statement_timeout = '5s'")
        ensure_partitions(bare, [NOW.replace(month=12)], now=NOW)
        assert "2026-12-01..2027-01-01" in ranges(bare)


def test_a_lock_is_waited_for_in_short_turns(
    bare: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits nobody queues up behind it for long, and afterwards it gets its turn."""
    monkeypatch.setattr(partition, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(partition, "RETRY_S", 0.05)
    ensure_partitions(bare, [NOW], now=NOW)
    with connect(database) as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute("LOCK TABLE transactions IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM does
            future = pool.submit(ensure_partitions, bare, [NOW.replace(month=12)], now=NOW)
            deadline = time.monotonic() + 20
            while not future.done() and time.monotonic() < deadline:
                row = other.execute(
                    "SELECT count(*) FROM pg_stat_database_conflicts, pg_stat_activity WHERE wait_event_type = 'Lock'"
                ).fetchone()
                if row and row[0]:
                    break
        future.result()
    assert "2026-12-01..2027-01-01" in ranges(bare)


def test_a_keeper_asks_once(bare: Connection) -> None:
    keeper = PartitionKeeper()
    keeper.ensure(bare, [datetime.now(UTC)])
    bare.execute("ALTER TABLE transactions RENAME TO elsewhere")  # asking would fail now
    keeper.ensure(bare, [datetime.now(UTC)])
    keeper.forget()
    with pytest.raises(psycopg.Error):
        keeper.ensure(bare, [datetime.now(UTC)])
