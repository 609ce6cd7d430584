"""What holds beside the question itself: thresholds, who is told and when not, what is left out, how long it is kept."""

from __future__ import annotations

import math
import re
from typing import Any

from anomalyze.metrics.anomstack.folder import Note
from anomalyze.metrics.anomstack.models import models_of
from anomalyze.metrics.anomstack.spec import Spec
from anomalyze.metrics.duration import fits_days, format_duration, parse_duration

__all__ = ["build_treatment", "resample_of", "tags_of"]

TAGS_MAX, METRICS_MAX = 50, 2_000
KEPT_DAYS_MAX = 36_500
_UNITS = {"s": "s", "min": "m", "t": "m", "h": "h", "d": "d", "w": "w"}


def build_treatment(spec: Spec, step: str) -> tuple[dict[str, Any], list[Note]]:
    """Keys of our batch, and what could not be carried over."""
    made: dict[str, Any] = {}
    models, notes = models_of(spec) if spec.keep_models else ([], [])
    days = spec.number("delete_after_n_days")
    made["retention"] = (
        f"{KEPT_DAYS_MAX}d"
        if spec.flag("disable_delete") or not days
        else f"{int(min(max(days, 1), KEPT_DAYS_MAX))}d"
    )
    alerts: dict[str, Any] = {}
    if spec.flag("disable_alert") or not spec.text("alert_methods").strip():
        alerts["enabled"] = False
    elif (snooze := spec.number("alert_snooze_n") or 0) >= 1:
        alerts["cooldown"] = format_duration(parse_duration(step) * min(int(snooze), 1_000))
    if alerts:
        made["alerts"] = alerts
    usual = [] if spec.flag("disable_score") else models or ["novelty", "rarity"]
    shifts = [] if spec.flag("disable_change") else ["level_shift"]
    only = spec.names("change_include_metrics")
    made["detectors"] = usual if only else usual + shifts
    metrics = _by_metric(spec, notes)
    for name in (only or spec.names("change_exclude_metrics")) if shifts else ():
        metrics.setdefault(name, {}).setdefault("detectors", usual + shifts if only else usual)
    if metrics:
        made["metrics"] = metrics
    return made, notes


def _by_metric(spec: Spec, notes: list[Note]) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = {}
    excluded = [*spec.names("score_exclude_metrics"), *spec.names("train_exclude_metrics")]
    for name in dict.fromkeys(excluded):
        metrics.setdefault(name, {})["detectors"] = []
    for name in spec.names("alert_exclude_metrics"):
        metrics.setdefault(name, {})["alerts"] = {"enabled": False}
    limits = spec.mapping("tholdalert_thresholds")
    if limits and spec.flag("disable_tholdalert"):
        notes.append(
            spec.note(
                "tholdalert_thresholds",
                "thresholds are switched off (disable_tholdalert) and not carried over",
            )
        )
        limits = {}
    for name, tags in spec.mapping("metric_tags").items():
        level = _priority(tags.get("priority")) if isinstance(tags, dict) else None
        if level is not None:
            metrics.setdefault(name, {})["priority"] = level
    left_out = set(spec.names("tholdalert_exclude_metrics"))
    for name, told in limits.items():
        if name in left_out:
            continue
        found = _limits(told)
        if found is None:
            notes.append(
                spec.note(
                    "tholdalert_thresholds", f"thresholds of {name} are no upper above a lower: left out"
                )
            )
        elif found:
            metrics.setdefault(name, {})["thresholds"] = found
    odd = [name for name in metrics if not 1 <= len(name) <= 200]
    if odd or len(metrics) > METRICS_MAX:
        notes.append(
            spec.note("metric_batch", f"more than {METRICS_MAX:,} metrics or longer names are left out")
        )
    return {name: own for name, own in list(metrics.items())[:METRICS_MAX] if name not in odd}


def _limits(told: Any) -> dict[str, float] | None:
    """Upper and lower; None when they are no limits."""
    if not isinstance(told, dict):
        return None
    found: dict[str, float] = {}
    for key in ("lower", "upper"):
        value = told.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        found[key] = value
    return None if len(found) == 2 and found["lower"] >= found["upper"] else found


def _priority(told: Any) -> int | None:
    found = re.fullmatch(r"p?([1-5])", str(told).strip().lower())
    return int(found[1]) if found else None


def tags_of(spec: Spec) -> tuple[list[str], list[Note]]:
    """Tags of the batch, and a note where they were a metric's; a priority is no tag."""
    tags = ["anomstack"]
    for own in spec.mapping("metric_tags").values():
        for key, value in own.items() if isinstance(own, dict) else ():
            if str(key) != "priority" or _priority(value) is None:
                tags.append(re.sub(r"[^a-z0-9_-]+", "-", f"{key}-{value}".lower()).strip("-_")[:64])
    notes = []
    if len(tags) > 1:
        text = "tags are of the batch here, not of a metric: those of all metrics are put together"
        notes.append(spec.note("metric_tags", text))
    return [tag for tag in dict.fromkeys(tags) if tag][:TAGS_MAX], notes


def _is_span(text: str) -> bool:
    try:
        fits_days(parse_duration(text))
    except ValueError:
        return False
    return True


def resample_of(spec: Spec, is_measured: bool) -> tuple[dict[str, str], list[Note]]:
    """Our ``preprocessing``, of ``preprocess_params``: only ``freq``, as our detectors take values as they are."""
    params = spec.mapping("preprocess_params")
    freq, aggregate = params.get("freq"), str(params.get("freq_agg") or "mean")
    notes: list[Note] = []
    if freq is None:
        return {}, notes
    found = re.fullmatch(r"([0-9]{0,5})\s*([A-Za-z]+)", str(freq).strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    if is_measured:
        text = f"freq {freq} is not carried over: a run reads one value; set step to the distance you want between points"
    elif found is None or not _is_span(f"{found[1] or 1}{unit}") or aggregate not in ("mean", "sum"):
        text = (
            f"freq {freq} with {aggregate} is not carried over: see preprocessing.resample in docs/metrics.md"
        )
    else:
        return {"resample": f"{found[1] or 1}{unit}", "aggregate": aggregate}, notes
    notes.append(spec.note("preprocess_params", text))
    return {}, notes
