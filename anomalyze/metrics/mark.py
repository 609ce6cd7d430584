"""Numbers that stand for what scores and values were made by: another number, and they are made again. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from anomalyze.metrics.batch import Batch
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.relation import Relation

__all__ = ["mark_of", "mark_of_reading", "mark_of_shape"]

# They decide who is told when, and change no score.
_TELLING = frozenset(
    {
        "unit", "late_after_s", "told", "severity_min", "lasts_min_s", "cooldown_s", "remind_every_s", "maintenance",
        "grouped", "priority",
    }
)  # fmt: skip
_SHAPING = ("lag_s", "difference", "smooth", "rolling", "rolling_aggregate", "direction")
# What of a batch decides which values a read stores, beside its statement.
_READING = ("source", "python", "params", "timestamps", "timezone", "step")
_READ_BY_METRIC = ("resample", "aggregate", "fill", "function")


def mark_of(rules: SeriesRules, period_s: float, zone: str, relation: Relation | None = None) -> int:
    """What a metric's scores are made by: its rules without those of telling, never 0.

    A rule that is as it is when nothing is said counts as not said: one that is added to the product later changes no mark.

    Examples
    --------
    >>> calm = mark_of(SeriesRules(), 3600.0, "UTC")
    >>> mark_of(SeriesRules(unit="EUR", priority=1), 3600.0, "UTC") == calm
    True
    >>> mark_of(SeriesRules(upper=5.0), 3600.0, "UTC") == calm
    False
    """
    told = _told(rules, [one.name for one in fields(rules) if one.name not in _TELLING])
    by_name = sorted((one.kind, one.version) for one in rules.detectors)
    return _number([told | ({"detectors": by_name} if by_name else {}), period_s, zone, _described(relation)])


def mark_of_shape(rules: SeriesRules, period_s: float, zone: str, relation: Relation | None = None) -> int:
    """What a metric's values are made by before detectors judge them, and which way is bad; never 0."""
    return _number([_told(rules, _SHAPING), period_s, zone, _described(relation)])


def mark_of_reading(batch: Batch, statement: str | None) -> int:
    """What a batch's stored values are made by, never 0: its source's own words, and what is done before they are stored.

    Parameters
    ----------
    statement
        The text of its SQL, wherever it stands; line breaks and indents change nothing.
    """
    told = batch.model_dump(mode="json", include=set(_READING), exclude_defaults=True)
    # How it is asked changes no value.
    for key in ("timeout_s", "rows_max", "memory_mb", "bytes_billed_max"):
        (told.get("source") or {}).pop(key, None)
    each = {
        name: {key: getattr(batch.settings(name).preprocessing, key) for key in _READ_BY_METRIC}
        for name in (*batch.metrics, "")
    }
    plain = each[""]
    others = {name: one for name, one in each.items() if one != plain}
    return _number([told, None if statement is None else statement.split(), plain, others])


def _told(rules: SeriesRules, names: Sequence[str]) -> dict[str, Any]:
    usual = {one.name: one.default for one in fields(rules) if one.default is not MISSING}
    return {
        name: getattr(rules, name)
        for name in names
        if name != "detectors" and getattr(rules, name) != usual.get(name)
    }


def _described(relation: Relation | None) -> dict[str, Any] | None:
    return None if relation is None else relation.model_dump(mode="json", exclude_none=True)


def _number(parts: Any) -> int:
    text = json.dumps(parts, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True) or 1
