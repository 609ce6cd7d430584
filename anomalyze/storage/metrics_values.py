"""Values of metrics: stored once by (batch, metric, time), corrected with a revision, numbered as they change.

Every change of a batch's values has a number (``ingest``), given under the lock of the batch's row: what was scored
up to a number stays scored up to it, without a clock. All writing is set-wise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.errors import ConfigError, EventError
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX, METRICS_MAX
from anomalyze.storage.array import TextArray
from anomalyze.storage.binary import copy_in, to_postgres_us
from anomalyze.storage.metrics_runs import FAILURES_MAX, Failure
from anomalyze.storage.partition import METRIC_TABLES, TS_MIN, ensure_partitions, ts_max

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FAILURES_MAX", "VALUES_MAX", "Failure", "Stored", "load_values", "store_values"]

# Rows that change under one number, so that scoring can go in pieces.
ROWS_A_STEP = 200_000
# Values that are looked at together; a year of 200 hourly metrics is fewer.
VALUES_MAX = 2_000_000

_UPSERT = """
WITH changed AS (
    INSERT INTO metric_values AS v (batch, metric, ts, value, ingest)
    SELECT s.batch, s.metric, g.ts, nullif(g.value, 'NaN'), %(ingest)s
    FROM metric_staging g JOIN metric_series s USING (series_id)
    ON CONFLICT (batch, metric, ts) DO UPDATE SET
        value = excluded.value, ingest = excluded.ingest, revision = v.revision + 1, ingested_at = now()
    WHERE v.value IS DISTINCT FROM excluded.value
    RETURNING revision
) SELECT count(*) FILTER (WHERE revision = 0), count(*) FILTER (WHERE revision > 0) FROM changed
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of the rows of a batch.

    Attributes
    ----------
    rows
        As they came.
    new, corrected, repeated
        Times not known before; known ones with another value; known ones as they were, or twice in these rows.
    failures
        Metrics of which rows were left out, at most `FAILURES_MAX`.
    """

    rows: int
    new: int
    corrected: int
    repeated: int
    failures: list[Failure] = field(default_factory=list)


def store_values(
    connection: psycopg.Connection[Any], batch: str, frame: pl.DataFrame, now: datetime | None = None
) -> Stored:
    """Store what a batch yielded; once, however often it is called with the same rows.

    Killed between two steps it leaves whole steps; the next call with these rows does the rest.

    Parameters
    ----------
    frame
        Columns ``metric`` (text), ``timestamp`` (with time zone; cut to ms) and ``value`` (a number, or null: known
        to be missing). Of several rows for one time the last counts. Infinite values are stored as null.

    Raises
    ------
    EventError
        The frame is not of that shape.
    ConfigError
        More than `METRICS_MAX` metrics in the batch.
    TransientError
        A partition could not be made, as its table stays locked.
    """
    import polars as pl

    now = now or datetime.now(UTC)
    taken, failures = _checked(frame, now)
    names = taken["metric"].unique().sort().to_list()
    series = _find_series(connection, batch, names)
    kept = taken.unique(["metric", "timestamp"], keep="last", maintain_order=True).sort("timestamp")
    months = kept["timestamp"].dt.truncate("1mo").unique().sort().to_list()
    if months:
        # A month begins before a moment in it, at worst in 1970.
        ensure_partitions(connection, months, now=now, tables=METRIC_TABLES)
    numbers = kept["metric"].replace_strict(names, series, return_dtype=pl.Int64).to_numpy()
    ts_us = to_postgres_us(kept["timestamp"].dt.epoch("ms").to_numpy())
    values = kept["value"].fill_null(float("nan")).to_numpy()
    new = corrected = 0
    for start in range(0, len(kept), ROWS_A_STEP):
        part = slice(start, start + ROWS_A_STEP)
        counts = _store_step(connection, batch, numbers[part], ts_us[part], values[part])
        new, corrected = new + counts[0], corrected + counts[1]
    return Stored(len(frame), new, corrected, len(taken) - new - corrected, failures)


def load_values(connection: psycopg.Connection[Any], batch: str, since: datetime) -> pl.DataFrame:
    """A batch's values from a time on as a frame ``metric``, ``timestamp``, ``value``, in that order.

    Raises
    ------
    ConfigError
        There are more than `VALUES_MAX`.
    """
    rows = connection.execute(
        "SELECT metric, ts, value FROM metric_values WHERE batch = %s AND ts >= %s ORDER BY metric, ts LIMIT %s",
        [batch, since, VALUES_MAX + 1],
    ).fetchall()
    if len(rows) > VALUES_MAX:
        raise ConfigError(
            f"batch {batch}: expected at most {VALUES_MAX:,} values since {since:%Y-%m-%d %H:%M}, got more: take a "
            "shorter time"
        )
    import polars as pl

    return pl.DataFrame(
        rows,
        schema={"metric": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64},
        orient="row",
    )


def _store_step(
    connection: psycopg.Connection[Any],
    batch: str,
    series: npt.NDArray[np.int64],
    ts_us: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
) -> tuple[int, int]:
    with connection.transaction(), connection.cursor() as cursor:
        row = cursor.execute(
            "INSERT INTO metric_batches AS b (batch, ingest) VALUES (%s, 1) "
            "ON CONFLICT (batch) DO UPDATE SET ingest = b.ingest + 1 RETURNING ingest",
            [batch],
        ).fetchone()
        assert row is not None
        cursor.execute(
            "CREATE TEMP TABLE metric_staging (series_id bigint, ts timestamptz, value double precision) "
            "ON COMMIT DROP"
        )
        copy_in(cursor, "metric_staging", [series, ts_us, values])
        counts = cursor.execute(_UPSERT, {"ingest": row[0]}).fetchone()
    assert counts is not None
    return counts[0], counts[1]


def _find_series(connection: psycopg.Connection[Any], batch: str, names: Sequence[str]) -> list[int]:
    """The numbers of series by name, in that order; new ones get one."""
    with connection.transaction():
        # One at a time, so that the limit holds.
        connection.execute("INSERT INTO metric_batches (batch) VALUES (%s) ON CONFLICT DO NOTHING", [batch])
        connection.execute("SELECT FROM metric_batches WHERE batch = %s FOR UPDATE", [batch])
        known: dict[str, int] = dict(
            connection.execute(
                "SELECT metric, series_id FROM metric_series WHERE batch = %s", [batch]
            ).fetchall()
        )
        missing = [name for name in names if name not in known]
        if len(known) + len(missing) > METRICS_MAX:
            raise ConfigError(
                f"batch {batch}: expected at most {METRICS_MAX:,} metrics, got {len(known) + len(missing):,} "
                f"({len(missing):,} of them new, such as {', '.join(map(repr, missing[:3]))}): is an id or a time part "
                "of the metric's name? Group by fewer columns, or split the batch"
            )
        if missing:
            known.update(
                connection.execute(
                    "INSERT INTO metric_series (batch, metric) SELECT %s, name "
                    "FROM unnest(%s::text[]) WITH ORDINALITY AS n (name, place) ORDER BY place "
                    "RETURNING metric, series_id",
                    [batch, TextArray(missing)],
                ).fetchall()
            )
    return [known[name] for name in names]


def _checked(frame: pl.DataFrame, now: datetime) -> tuple[pl.DataFrame, list[Failure]]:
    """The rows that can be stored, and by metric why others cannot."""
    import polars as pl

    for name in ("metric", "timestamp", "value"):
        if name not in frame.columns:
            raise EventError(name, "a column metric, timestamp and value each", ", ".join(frame.columns))
    if not isinstance(frame.schema["timestamp"], pl.Datetime) or frame.schema["timestamp"].time_zone is None:
        raise EventError("timestamp", "times with a time zone", str(frame.schema["timestamp"]))
    if not (frame.schema["value"].is_numeric() or frame.schema["value"] == pl.Null):
        raise EventError("value", "numbers", str(frame.schema["value"]))
    rows = frame.select(
        pl.col("metric").cast(pl.String),
        pl.col("timestamp").dt.convert_time_zone("UTC").dt.cast_time_unit("us").dt.truncate("1ms"),
        pl.col("value").cast(pl.Float64),
    )
    latest = ts_max(now) - timedelta(days=1)
    reason = (
        pl.when(pl.col("metric").is_null() | (pl.col("metric") == ""))
        .then(pl.lit("expected a name, got none"))
        .when(pl.col("metric").str.len_chars() > METRIC_CHARACTERS_MAX)
        .then(pl.lit(f"expected a name of at most {METRIC_CHARACTERS_MAX} characters"))
        .when(pl.col("metric").str.contains("\0", literal=True))
        .then(pl.lit("expected a name without NUL"))
        .when(pl.col("timestamp").is_null())
        .then(pl.lit("expected a time, got none"))
        .when(~pl.col("timestamp").is_between(TS_MIN, latest))
        .then(pl.lit(f"expected times from {TS_MIN:%Y-%m-%d} to {latest:%Y-%m-%d}"))
    )
    rows = rows.with_columns(reason=reason)
    infinite = rows.filter(pl.col("reason").is_null() & pl.col("value").is_infinite())
    bad = pl.concat(
        [
            rows.filter(pl.col("reason").is_not_null()),
            infinite.with_columns(reason=pl.lit("expected finite values, stored as missing")),
        ]
    )
    failures = [
        Failure(
            metric[:METRIC_CHARACTERS_MAX].replace("\0", "\ufffd"), f"{why}: {count} rows, such as {example}"
        )
        for metric, why, count, example in bad.group_by("metric", "reason", maintain_order=True)
        .agg(pl.len(), pl.format("{} = {}", "timestamp", "value").first())
        .with_columns(pl.col("metric").fill_null(""))
        .head(FAILURES_MAX)
        .iter_rows()
    ]
    value = pl.when(pl.col("value").is_finite()).then(pl.col("value"))
    return rows.filter(pl.col("reason").is_null()).with_columns(value=value).drop("reason"), failures
