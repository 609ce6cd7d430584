"""A series in few enough points for a conversation: neighbours become one, and no strange point is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anomalyze.events.batch import Severity
from anomalyze.storage.metrics_view import SeriesPoint
from realtime.api.shapes import time_text

__all__ = ["plain_point", "thin_points"]


def thin_points(points: Sequence[SeriesPoint], points_max: int) -> list[dict[str, Any]]:
    """Runs of neighbouring points, each as one: when it begins, mean, least and greatest value, mean band.

    Parameters
    ----------
    points
        In the order of time.
    points_max
        Of what comes back; every run but the last has the same number of points.
    """
    size = -(-len(points) // points_max)
    if size <= 1:
        return [plain_point(point) for point in points]
    return [_merge(points[start : start + size]) for start in range(0, len(points), size)]


def plain_point(point: SeriesPoint) -> dict[str, Any]:
    """One point; what is null was not scored, or is known to be missing."""
    shape: dict[str, Any] = {
        "timestamp": time_text(point.ts),
        "value": point.value,
        "expected": point.expected,
        "lower": point.lower,
        "upper": point.upper,
    }
    if point.judged is not None and point.judged != point.value:
        shape["judged"] = point.judged
    if point.severity:
        shape |= {"severity": Severity(point.severity).name, "novelty": point.novelty}
    return shape


def _merge(run: Sequence[SeriesPoint]) -> dict[str, Any]:
    values = [point.value for point in run if point.value is not None]
    return {
        "timestamp": time_text(run[0].ts),
        "points": len(run),
        "mean": _mean(values),
        "min": min(values, default=None),
        "max": max(values, default=None),
        "lower": _mean([point.lower for point in run if point.lower is not None]),
        "upper": _mean([point.upper for point in run if point.upper is not None]),
        "anomalies": sum(1 for point in run if point.severity),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(value / len(values) for value in values) if values else None
