"""What is older than its batch keeps goes: by partitions where no batch keeps it, else by rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import psycopg

from anomalyze.storage.metrics_retention import Forgotten, forget_metrics
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.partition import load_partitions

Connection = psycopg.Connection[Any]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def stored(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT batch, count(*) FROM metric_values GROUP BY 1").fetchall())


def fill(connection: Connection) -> None:
    times = pl.Series([NOW - DAY * n for n in range(1, 101)], dtype=pl.Datetime("us", "UTC"))
    for batch in ("shop", "ops"):
        store_values(connection, batch, pl.DataFrame({"metric": "a", "timestamp": times, "value": 1.0}), NOW)


def test_each_batch_keeps_its_time_and_partitions_go_with_the_longest(connection: Connection) -> None:
    fill(connection)
    before = len(load_partitions(connection, "metric_values"))
    done = forget_metrics(connection, {"shop": 10, "ops": 40}, NOW)
    assert stored(connection) == {"shop": 10, "ops": 40}
    # Of August and September in both tables; October has days that are kept.
    assert len(load_partitions(connection, "metric_values")) == before - 2
    assert done.partitions == 4
    assert forget_metrics(connection, {"shop": 10, "ops": 40}, NOW) == Forgotten(0, 0, 0)


def test_a_batch_whose_file_is_away_keeps_all(connection: Connection) -> None:
    fill(connection)
    assert forget_metrics(connection, {"shop": 10}, NOW).partitions == 0
    assert stored(connection) == {"shop": 10, "ops": 100}
