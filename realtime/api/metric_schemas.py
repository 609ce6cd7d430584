"""The shapes of metrics and their alerts, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX
from anomalyze.storage.metrics_alerts import NOTE_LENGTH_MAX
from realtime.api.metric_values import VALUES_MAX
from realtime.api.schemas import MOMENT, SEVERITIES, STRING, listed, record

__all__ = ["FEEDBACK_BODY", "METRIC_COMPONENTS", "SNOOZE_BODY", "VALUES_BODY"]

MAYBE_TEXT = {"type": ["string", "null"]}
MAYBE_MOMENT = {"type": ["string", "null"], "format": "date-time"}
MAYBE_NUMBER = {"type": ["number", "null"]}
COUNT = {"type": "integer", "minimum": 0}
ALERT_ID = {"type": "integer", "minimum": 1}
SEVERITY = {"type": "string", "enum": SEVERITIES}
KIND = {"type": "string", "description": "unusual, upper, lower, change, flat or late"}
MUTED = {**MAYBE_TEXT, "description": "why nobody was told of it; null: they were, or will be"}
_BAND = {
    "expected": {**MAYBE_NUMBER, "description": "null while it is learnt"},
    "lower": MAYBE_NUMBER,
    "upper": MAYBE_NUMBER,
}
_METRIC_NAME = {"type": "string", "minLength": 1, "maxLength": METRIC_CHARACTERS_MAX}
_VALUE = {
    "type": "object",
    "required": ["metric", "timestamp", "value"],
    "additionalProperties": False,
    "properties": {
        "metric": {**_METRIC_NAME, "description": "on one line"},
        "timestamp": {
            **MOMENT,
            "description": "the beginning of its step; not ahead, and not older than the batch keeps",
        },
        "value": {**MAYBE_NUMBER, "description": "null: known to be missing"},
    },
}


def _body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


METRIC_COMPONENTS: dict[str, Any] = {
    "MetricValue": _VALUE,
    "Metric": record(
        {
            "batch": STRING,
            "metric": STRING,
            "unit": STRING,
            "direction": {
                "type": "string",
                "enum": ["up", "down", "both"],
                "description": "which way is bad",
            },
            "owner": STRING,
            "tags": {"type": "array", "items": STRING},
            "priority": {"type": "integer", "minimum": 1, "maximum": 5, "description": "1: most important"},
            "newest": {
                "description": "the newest point that was scored; null before the first",
                "anyOf": [
                    record(
                        {
                            "timestamp": MOMENT,
                            "value": {**MAYBE_NUMBER, "description": "null: known to be missing"},
                            **_BAND,
                            "novelty": MAYBE_NUMBER,
                            "severity": SEVERITY,
                        }
                    ),
                    {"type": "null"},
                ],
            },
            "points": {**COUNT, "description": "scored so far"},
            "anomaly_rate": {**MAYBE_NUMBER, "description": "share of the points of the last 7 days"},
            "anomalies": {**COUNT, "description": "of the last 7 days"},
            "snoozed_until": MAYBE_MOMENT,
            "alert": {
                "description": "the most severe that is open",
                "anyOf": [
                    record(
                        {
                            "id": ALERT_ID,
                            "kind": KIND,
                            "severity": SEVERITY,
                            "since": MOMENT,
                            "sentence": STRING,
                            "muted": MUTED,
                        }
                    ),
                    {"type": "null"},
                ],
            },
        }
    ),
    "Metrics": listed("metrics", "Metric"),
    "Series": record(
        {
            "metric": {"$ref": "#/components/schemas/Metric"},
            "from": MOMENT,
            "to": MOMENT,
            "points": {
                "type": "array",
                "items": record(
                    {
                        "timestamp": MOMENT,
                        "value": {**MAYBE_NUMBER, "description": "as measured; null: known to be missing"},
                        "revision": {**COUNT, "description": "how often it was corrected"},
                        "judged": {
                            **MAYBE_NUMBER,
                            "description": "what the band is of: the value after differences and smoothing; null: "
                            "not scored",
                        },
                        **_BAND,
                        "novelty": {**MAYBE_NUMBER, "description": "0 to 1, higher = stranger"},
                        "rarity": {**MAYBE_NUMBER, "description": "higher = rarer"},
                        "severity": {"type": ["string", "null"], "enum": [*SEVERITIES, None]},
                        "is_anomaly": {"type": "boolean"},
                    }
                ),
            },
        }
    ),
    "ValuesTaken": record(
        {
            "new": {**COUNT, "description": "of times that were not known"},
            "corrected": {**COUNT, "description": "other values for known times"},
            "repeated": {**COUNT, "description": "as they were stored, or for the same time twice here"},
            "rejected": {"type": "array", "items": {"$ref": "#/components/schemas/Rejected"}},
        },
        example={"new": 1, "corrected": 0, "repeated": 0, "rejected": []},
    ),
    "Alert": record(
        {
            "id": ALERT_ID,
            "batch": STRING,
            "metric": STRING,
            "kind": KIND,
            "direction": {"type": ["string", "null"], "enum": ["up", "down", None]},
            "state": {"type": "string", "enum": ["open", "resolved"]},
            "severity": SEVERITY,
            "first": MOMENT,
            "last": MOMENT,
            "points": {**COUNT, "description": "how many points of it are strange"},
            "peak": record({"timestamp": MOMENT, "value": MAYBE_NUMBER, **_BAND}),
            "priority": {"type": "integer", "minimum": 1, "maximum": 5, "description": "1: most important"},
            "sentence": {**STRING, "description": "with what else of the batch is strange in the same hours"},
            "image": {**STRING, "description": "path of its picture"},
            "muted": MUTED,
            "found_at": MOMENT,
            "told_at": MAYBE_MOMENT,
            "resolved_at": MAYBE_MOMENT,
            "resolution": MAYBE_TEXT,
            "feedback": {"type": ["string", "null"], "enum": ["confirm", "dismiss", None]},
        }
    ),
    "Alerts": listed("alerts", "Alert"),
    "AlertTold": record(
        {
            "alert": {"$ref": "#/components/schemas/Alert"},
            "notices": {
                "type": "array",
                "description": "what people were told of it, the newest 200, the oldest first",
                "items": record(
                    {
                        "kind": {"type": "string", "enum": ["opened", "grown", "reminder", "resolved"]},
                        "at": MOMENT,
                        "severity": SEVERITY,
                        "said": STRING,
                        "told_with": {
                            "type": ["integer", "null"],
                            "description": "the alert in whose line it was told; null: in one of its own",
                        },
                    }
                ),
            },
        }
    ),
    "FeedbackKept": record(
        {
            "id": ALERT_ID,
            "batch": STRING,
            "metric": STRING,
            "feedback": {"type": "string", "enum": ["confirm", "dismiss"]},
        }
    ),
    "Snoozed": record(
        {
            "batch": STRING,
            "metric": {**MAYBE_TEXT, "description": "null: the whole batch"},
            "snoozed_until": MAYBE_MOMENT,
        }
    ),
}

_VALUE_REF = {"$ref": "#/components/schemas/MetricValue"}
VALUES_BODY = _body(
    {"oneOf": [_VALUE_REF, {"type": "array", "items": _VALUE_REF, "minItems": 1, "maxItems": VALUES_MAX}]},
    [{"metric": "visits", "timestamp": "2026-11-20T09:00:00Z", "value": 1204}],
)
FEEDBACK_BODY = _body(
    {
        "type": "object",
        "required": ["verdict"],
        "additionalProperties": False,
        "properties": {
            "verdict": {"type": "string", "enum": ["confirm", "dismiss"]},
            "note": {**MAYBE_TEXT, "maxLength": NOTE_LENGTH_MAX},
        },
    },
    {"verdict": "dismiss", "note": "the sale was planned"},
)
SNOOZE_BODY = _body(
    {
        "type": "object",
        "required": ["until"],
        "additionalProperties": False,
        "properties": {
            "until": {**MAYBE_MOMENT, "description": "at most 366 days ahead; null ends the snooze"},
            "whole_batch": {"type": "boolean", "default": False},
            "reason": {**MAYBE_TEXT, "maxLength": NOTE_LENGTH_MAX},
        },
    },
    {"until": "2026-12-01T08:00:00Z", "reason": "a sale"},
)
