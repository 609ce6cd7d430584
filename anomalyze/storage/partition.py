"""Partitions by month for this year and the two before it, by year before that.

They are made ahead of time by `ensure_partitions_ahead`, and when an event needs one by `PartitionKeeper`.
A new one is a table of its own (``LIKE``) that is then attached, which takes no lock that a reader or a
writer of the parent holds; creating it in place would wait behind every reader. There is no default partition:
attaching beside one scans it under an exclusive lock.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from anomalyze.errors import ContractError, TransientError

__all__ = [
    "METRIC_TABLES",
    "PARTITIONED_TABLES",
    "TS_MIN",
    "PartitionKeeper",
    "ensure_partitions",
    "ensure_partitions_ahead",
    "load_partitions",
    "partition_name",
    "ts_max",
]

PARTITIONED_TABLES = ("transactions", "anomalies")
METRIC_TABLES = ("metric_values", "metric_scores")
TS_MIN = datetime(1970, 1, 1, tzinfo=UTC)
# Events further ahead are refused when they come in; this is the last fence before a table for the year 9999.
FUTURE_MAX = timedelta(days=366)
MONTHS_SINCE_YEARS = 2
LOCK_TIMEOUT_MS = 1_000
ATTEMPTS_MAX = 20
RETRY_S = 0.25
_LOCK = 0x616E5F7061727469  # "an_parti"

Range = tuple[datetime, datetime]


class PartitionKeeper:
    """`ensure_partitions` for a program that asks for each micro-batch: remembers what is there.

    One keeper serves one database. `forget` when a partition was missing after all (an operator dropped it).
    """

    def __init__(self) -> None:
        self._known: list[Range] = []

    def ensure(self, connection: psycopg.Connection[Any], moments: Collection[datetime]) -> None:
        """As `ensure_partitions`, without asking for what is known."""
        if not _covered(self._known, moments):
            self._known = ensure_partitions(connection, moments)

    def forget(self) -> None:
        """Look again next time."""
        self._known = []


def ensure_partitions_ahead(connection: psycopg.Connection[Any], now: datetime | None = None) -> list[Range]:
    """Make this month's partitions and those of the next two, so that no event waits for one."""
    now = now or datetime.now(UTC)
    following = month_end(month_start(now))
    moments = [now, following, month_end(following)]
    ensure_partitions(connection, moments, now=now, tables=METRIC_TABLES)
    return ensure_partitions(connection, moments, now=now)


def ensure_partitions(
    connection: psycopg.Connection[Any],
    moments: Collection[datetime],
    *,
    now: datetime | None = None,
    tables: Sequence[str] = PARTITIONED_TABLES,
) -> list[Range]:
    """Make sure that tables have partitions for events at these moments.

    Safe when several programs do so at once. Commits what it makes: call it outside a transaction.

    Returns
    -------
    All ranges ``[from, to)`` that all of the tables now have, in order.

    Raises
    ------
    ContractError
        A time before 1970 or more than a year ahead.
    TransientError
        Another session (a VACUUM, another ATTACH) kept a lock too long.
    """
    now = now or datetime.now(UTC)
    for moment in moments:
        if not TS_MIN <= moment <= ts_max(now):
            raise ContractError(
                f"partition: expected event times from {TS_MIN:%Y-%m-%d} to {ts_max(now):%Y-%m-%d}, "
                f"got {moment.isoformat()}"
            )
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return _ensure(connection, moments, now, tables)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if attempt == ATTEMPTS_MAX:
                raise TransientError(
                    f"a new partition: another session keeps its table locked: {error}", retry_after_s=5
                ) from error
            time.sleep(RETRY_S)
    raise AssertionError("unreachable")


def load_partitions(connection: psycopg.Connection[Any], table: str) -> list[Range]:
    """The ranges ``[from, to)`` of a table's partitions, in order."""
    rows = connection.execute(
        "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(%s)",
        [table],
    ).fetchall()
    # FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00')
    bounds = [row[0].split("'") for row in rows]
    return sorted((_parse_bound(b[1]), _parse_bound(b[3])) for b in bounds)


def ts_max(now: datetime) -> datetime:
    """The latest event time that a partition is made for."""
    return now + FUTURE_MAX


def _parse_bound(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _ensure(
    connection: psycopg.Connection[Any], moments: Collection[datetime], now: datetime, tables: Sequence[str]
) -> list[Range]:
    found = {table: load_partitions(connection, table) for table in tables}
    if not all(_covered(ranges, moments) for ranges in found.values()):
        with connection.transaction():
            # One at a time: two programs that chose month and year for the same day would collide.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            for table in tables:
                ranges = load_partitions(connection, table)
                for moment in moments:
                    if not _covered(ranges, [moment]):
                        wanted = wanted_range(ranges, moment, now)
                        _create(connection, table, wanted)
                        ranges.append(wanted)
                found[table] = ranges
    return sorted(set.intersection(*map(set, found.values())))


def wanted_range(existing: list[Range], moment: datetime, now: datetime) -> Range:
    """The partition to make for a moment that none covers.

    A year of which some months exist goes on in months.

    >>> def show(found):
    ...     return f"{found[0]:%Y-%m} {found[1]:%Y-%m}"
    >>> now = datetime(2026, 11, 20, tzinfo=UTC)
    >>> show(wanted_range([], now, now)), show(wanted_range([], now.replace(year=2020), now))
    ('2026-11 2026-12', '2020-01 2021-01')
    """
    start = month_start(moment)
    year = (start.replace(month=1), start.replace(year=start.year + 1, month=1))
    touched = any(r[0] < year[1] and r[1] > year[0] for r in existing)
    if start.year < now.year - MONTHS_SINCE_YEARS and not touched:
        return year
    return start, month_end(start)


def month_start(moment: datetime) -> datetime:
    """The first instant of a moment's month, UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_end(start: datetime) -> datetime:
    """The first instant of the next month."""
    return (
        start.replace(year=start.year + 1, month=1)
        if start.month == 12
        else start.replace(month=start.month + 1)
    )


def partition_name(table: str, range_: Range) -> str:
    """The name of a table's partition.

    >>> partition_name("anomalies", (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)))
    'anomalies_y2026m11'
    """
    start, end = range_
    is_month = end - start < timedelta(days=32)
    return f"{table}_{start:y%Ym%m}" if is_month else f"{table}_{start:y%Y}"


def _create(connection: psycopg.Connection[Any], table: str, wanted: Range) -> None:
    start, end = wanted
    name = partition_name(table, wanted)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(sql.Identifier(name), sql.Identifier(table))
    )
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            sql.Identifier(table), sql.Identifier(name), sql.Literal(start), sql.Literal(end)
        )
    )


def _covered(ranges: list[Range], moments: Collection[datetime]) -> bool:
    return all(any(start <= moment < end for start, end in ranges) for moment in moments)
