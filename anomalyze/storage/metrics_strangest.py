"""The series of a batch whose newest value is the strangest, for a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

__all__ = ["Strangest", "load_strangest"]


@dataclass(frozen=True, slots=True)
class Strangest:
    """A series' newest points, the oldest first; the band is None while it is learnt."""

    metric: str
    novelty: float
    ts: list[datetime]
    value: list[float | None]
    lower: list[float | None]
    upper: list[float | None]
    severity: list[int]


def load_strangest(
    connection: psycopg.Connection[Any], batch: str, detector: str, version: int, points: int
) -> Strangest | None:
    """The newest ``points`` of that series; None when nothing is scored."""
    row = connection.execute(
        "SELECT metric, newest_novelty FROM metric_series WHERE batch = %s AND newest_ts IS NOT NULL "
        "ORDER BY newest_severity DESC, newest_novelty DESC NULLS LAST, metric LIMIT 1",
        [batch],
    ).fetchone()
    if row is None:
        return None
    metric, novelty = row
    rows = connection.execute(
        "SELECT v.ts, v.value, s.lower, s.upper, coalesce(s.severity, 0) FROM metric_values v "
        "LEFT JOIN metric_scores s ON s.batch = v.batch AND s.metric = v.metric AND s.ts = v.ts "
        "AND s.detector = %s AND s.version = %s WHERE v.batch = %s AND v.metric = %s ORDER BY v.ts DESC LIMIT %s",
        [detector, version, batch, metric, points],
    ).fetchall()[::-1]
    ts, value, lower, upper, severity = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 5
    )
    return Strangest(metric, float(novelty or 0.0), ts, value, lower, upper, severity)
