"""What of metrics is forgotten, and when: whole partitions where all of their time is over, rows where a batch keeps less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from anomalyze.storage.partition import LOCK_TIMEOUT_MS, METRIC_TABLES, load_partitions, partition_name

__all__ = ["Forgotten", "forget_metrics"]

# Metrics of which one statement deletes: a day's rows of each, when it is done every night.
METRICS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Partitions that were dropped, rows and alerts that were deleted."""

    partitions: int
    rows: int
    alerts: int


def forget_metrics(
    connection: psycopg.Connection[Any], kept_days: Mapping[str, float], now: datetime | None = None
) -> Forgotten:
    """Forget what is older than its batch keeps; may be killed and begun again at any point.

    Parameters
    ----------
    connection
        In autocommit mode.
    kept_days
        By batch. A batch without a number keeps all: its file may only be away for a while.

    Returns
    -------
    What went. A partition whose table somebody keeps locked is left for the next time.
    """
    now = now or datetime.now(UTC)
    known = [row[0] for row in connection.execute("SELECT batch FROM metric_batches").fetchall()]
    partitions = 0
    if known and all(batch in kept_days for batch in known):
        oldest = now - timedelta(days=max(kept_days[batch] for batch in known))
        partitions = sum(_drop_before(connection, table, oldest) for table in METRIC_TABLES)
    rows = alerts = 0
    for batch in known:
        if batch in kept_days:
            before = now - timedelta(days=kept_days[batch])
            rows += sum(_delete_before(connection, table, batch, before) for table in METRIC_TABLES)
            alerts += connection.execute(
                "DELETE FROM metric_alerts WHERE batch = %s AND state = 2 AND last_ts < %s", [batch, before]
            ).rowcount
    return Forgotten(partitions, rows, alerts)


def _drop_before(connection: psycopg.Connection[Any], table: str, before: datetime) -> int:
    dropped = 0
    for one in load_partitions(connection, table):
        if one[1] > before:
            continue
        try:
            with connection.transaction():
                # Whoever comes behind a waiting lock waits too: it gives up first.
                connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                name = sql.Identifier(partition_name(table, one))
                connection.execute(sql.SQL("DROP TABLE {}").format(name))
            dropped += 1
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            continue
    return dropped


def _delete_before(connection: psycopg.Connection[Any], table: str, batch: str, before: datetime) -> int:
    """By metric, over the key: the rows of a batch have no other order."""
    names = connection.execute("SELECT metric FROM metric_series WHERE batch = %s", [batch]).fetchall()
    statement = sql.SQL("DELETE FROM {} WHERE batch = %s AND metric = ANY(%s) AND ts < %s").format(
        sql.Identifier(table)
    )
    deleted = 0
    for start in range(0, len(names), METRICS_AT_ONCE):
        part = [name for (name,) in names[start : start + METRICS_AT_ONCE]]
        deleted += connection.execute(statement, [batch, part, before]).rowcount
    return deleted
