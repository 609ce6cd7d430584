"""Series for tests: calm ones, and what stands out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import psycopg

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def calm(points: int, seed: int = 1) -> list[float]:
    """A level with noise that has shown its range."""
    return np.random.default_rng(seed).normal(100, 5, points).round(3).tolist()


def frame(series: Mapping[str, Sequence[float | None]], end: datetime = NOW) -> pl.DataFrame:
    """Hourly values of each metric, the last one an hour before ``end``."""
    rows = [
        (metric, end + HOUR * (n - len(values)), value)
        for metric, values in series.items()
        for n, value in enumerate(values)
    ]
    return pl.DataFrame(
        rows,
        schema={"metric": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64},
        orient="row",
    )


def scores(connection: psycopg.Connection[Any], batch: str = "shop") -> list[tuple[Any, ...]]:
    """All stored scores, without what tells when they were stored."""
    return connection.execute(
        "SELECT metric, ts, value, novelty, surprise, rarity, expected, lower, upper, severity, flags "
        "FROM metric_scores WHERE batch = %s ORDER BY metric, ts, detector, version",
        [batch],
    ).fetchall()


def alerts(connection: psycopg.Connection[Any], batch: str = "shop") -> list[tuple[Any, ...]]:
    """All incidents: metric, kind, state, severity, first and last hour (0: the newest before NOW), points, muted."""
    rows = connection.execute(
        "SELECT metric, kind, state, severity, opened_ts, last_ts, strange_points, muted FROM metric_alerts "
        "WHERE batch = %s ORDER BY metric, kind, opened_ts",
        [batch],
    ).fetchall()
    return [(*row[:4], hour(row[4]), hour(row[5]), *row[6:]) for row in rows]


@dataclass(frozen=True)
class Told:
    """What people were told of one alert."""

    alert_id: int
    metric: str
    sentence: str
    told_with: int | None


def told(connection: psycopg.Connection[Any]) -> list[Told]:
    """All that people were told, in its order."""
    rows = connection.execute(
        "SELECT n.alert_id, metric, n.sentence, told_with FROM metric_notices n JOIN metric_alerts USING (alert_id) "
        "ORDER BY notice_id"
    ).fetchall()
    return [Told(*row) for row in rows]


def hour(moment: datetime) -> int:
    """How many hours before the newest one of ``frame``, negative."""
    return round((moment - NOW) / HOUR) + 1


def notices(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """What people were told: metric and kind, in its order."""
    return connection.execute(
        "SELECT metric, n.kind FROM metric_notices n JOIN metric_alerts USING (alert_id) ORDER BY notice_id"
    ).fetchall()
