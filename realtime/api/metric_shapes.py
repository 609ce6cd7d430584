"""Metrics and their alerts as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from anomalyze.events.batch import Severity
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.metrics_notices import Notice
from anomalyze.storage.metrics_ranking import MetricRank
from anomalyze.storage.metrics_view import MetricRow, SeriesPoint
from realtime.api.shapes import time_text

__all__ = ["alert_shape", "anomaly_rate", "metric_shape", "notice_shape", "point_shape", "rank_shape"]

STATES = {1: "open", 2: "resolved"}
DIRECTIONS = {-1: "down", 1: "up"}


def metric_shape(row: MetricRow, rules: SeriesRules, batch: Batch) -> dict[str, Any]:
    """A metric of a list; unit, direction and tags as its file says them."""
    return {
        "batch": row.batch,
        "metric": row.metric,
        "unit": rules.unit,
        "direction": rules.direction,
        "owner": batch.owner,
        "tags": list(batch.tags),
        "priority": rules.priority,
        "newest": _scored_shape(row, row.newest_ts, row.newest_novelty, row.newest_severity),
        "points": row.points,
        "anomaly_rate": anomaly_rate(row.recent_anomalies, row.recent_points),
        "anomalies": row.recent_anomalies,
        "snoozed_until": None if row.snoozed_until is None else time_text(row.snoozed_until),
        "alert": None
        if row.alert_id is None or row.alert_severity is None or row.alert_opened_ts is None
        else {
            "id": row.alert_id,
            "kind": row.alert_kind,
            "severity": Severity(row.alert_severity).name,
            "since": time_text(row.alert_opened_ts),
            "sentence": row.alert_sentence,
            "muted": row.alert_muted,
        },
    }


def rank_shape(row: MetricRank, rules: SeriesRules) -> dict[str, Any]:
    """A metric of a ranking, with the strangest point of its period."""
    return {
        "batch": row.batch,
        "metric": row.metric,
        "unit": rules.unit,
        "points": row.points,
        "anomalies": row.anomalies,
        "anomaly_rate": anomaly_rate(row.anomalies, row.points),
        "strangest": _scored_shape(row, row.ts, row.novelty, row.severity or 0),
        "open_alerts": row.alerts,
    }


def anomaly_rate(anomalies: int, points: int) -> float | None:
    """The share of points that were strange; None without points."""
    return anomalies / points if points else None


def _scored_shape(
    row: MetricRow | MetricRank, at: datetime | None, novelty: float | None, severity: int
) -> dict[str, Any] | None:
    """The point of a metric that a row shows, with its band."""
    if at is None:
        return None
    return {
        "timestamp": time_text(at),
        "value": row.value,
        "expected": row.expected,
        "lower": row.lower,
        "upper": row.upper,
        "novelty": novelty,
        "severity": Severity(severity).name,
    }


def point_shape(point: SeriesPoint) -> dict[str, Any]:
    """A point of a series; nulls where it was not scored."""
    severity = point.severity or 0
    return {
        "timestamp": time_text(point.ts),
        "value": point.value,
        "revision": point.revision,
        "judged": point.judged,
        "expected": point.expected,
        "lower": point.lower,
        "upper": point.upper,
        "novelty": point.novelty,
        "rarity": point.rarity,
        "severity": None if point.severity is None else Severity(severity).name,
        "is_anomaly": severity > 0,
    }


def alert_shape(alert: Alert) -> dict[str, Any]:
    """An alert."""
    return {
        "id": alert.alert_id,
        "batch": alert.batch,
        "metric": alert.metric,
        "kind": alert.kind,
        "direction": DIRECTIONS.get(alert.direction),
        "state": STATES[alert.state],
        "severity": Severity(alert.severity).name,
        "first": time_text(alert.opened_ts),
        "last": time_text(alert.last_ts),
        "points": alert.strange_points,
        "peak": {
            "timestamp": time_text(alert.peak_ts),
            "value": alert.peak_value,
            "expected": alert.peak_expected,
            "lower": alert.peak_lower,
            "upper": alert.peak_upper,
        },
        "priority": alert.priority,
        "sentence": alert.sentence,
        "image": f"/v1/alerts/{alert.alert_id}/image",
        "muted": alert.muted,
        "found_at": time_text(alert.opened_at),
        "told_at": None if alert.notified_at is None else time_text(alert.notified_at),
        "resolved_at": None if alert.resolved_at is None else time_text(alert.resolved_at),
        "resolution": alert.resolution,
        "feedback": alert.feedback,
    }


def notice_shape(notice: Notice) -> dict[str, Any]:
    """What people were told of an alert, once."""
    return {
        "kind": notice.kind,
        "at": time_text(notice.at),
        "severity": Severity(notice.severity).name,
        "said": notice.sentence,
        "told_with": notice.told_with,
    }
