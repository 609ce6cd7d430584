"""Metrics and their alerts as clients see them."""

from __future__ import annotations

from typing import Any

from anomalyze.events.batch import Severity
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.metrics_view import MetricRow, SeriesPoint
from realtime.api.shapes import time_text

__all__ = ["alert_shape", "metric_shape", "point_shape"]

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
        "newest": None
        if row.newest_ts is None
        else {
            "timestamp": time_text(row.newest_ts),
            "value": row.value,
            "expected": row.expected,
            "lower": row.lower,
            "upper": row.upper,
            "novelty": row.newest_novelty,
            "severity": Severity(row.newest_severity).name,
        },
        "points": row.points,
        "anomaly_rate": row.recent_anomalies / row.recent_points if row.recent_points else None,
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
