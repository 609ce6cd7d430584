"""An incident is kept in any case; whether people are told of it is decided here. Within a turn's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from cronsim import CronSim

from anomalyze.metrics.incident import OVER, PENDING, Incident
from anomalyze.metrics.judgement import CRITICAL, SeriesRules
from anomalyze.metrics.rules import BatchRules
from anomalyze.monitoring.notice import Kept
from anomalyze.storage import metrics_alerts as store
from anomalyze.storage.metrics_alerts import Dismissed, StoredIncident
from anomalyze.storage.metrics_scores import SeriesState, load_batch

__all__ = ["Context", "build_context", "is_in_maintenance", "keep"]

# Nobody is told of what was over so long before it came to be known: a day, or three steps of slow metrics.
HISTORY_S = 86_400.0
HISTORY_STEPS = 3
# A series this short is still showing its range: in its first hundred points one in eighty is unlike all before. Nobody
# is told but of what would be critical.
LEARNING_POINTS = 100
# A dismissed alert lowers those up to so many times as strong.
DISMISSED_SHARE = 0.5


@dataclass(slots=True)
class Context:
    """What decides who is told, loaded once a turn."""

    connection: psycopg.Connection[Any]
    batch: str
    now: datetime
    period_s: float
    points: Mapping[str, int]
    snoozed: Mapping[str, datetime | None]
    batch_snoozed: datetime | None
    resolved: Mapping[tuple[str, str], int]
    dismissed: Mapping[tuple[str, str, int], Dismissed]
    kept: list[Kept] = field(default_factory=list)
    late: list[tuple[SeriesRules, str, Incident]] = field(default_factory=list)
    settled: list[tuple[SeriesRules, str, Incident]] = field(default_factory=list)


def build_context(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, now: datetime,
    metrics: Collection[str], points: Mapping[str, int] | None = None,
) -> Context:  # fmt: skip
    state = load_batch(connection, batch)
    return Context(
        connection, batch, now, rules.period_s,
        points or {},
        dict(zip(series.names, series.snoozed_until, strict=True)),
        None if state is None else state.snoozed_until,
        store.load_resolved(connection, batch, metrics),
        store.load_dismissed(connection, batch, metrics),
    )  # fmt: skip


def keep(
    context: Context, rule: SeriesRules, metric: str, incident: Incident, before: StoredIncident | None,
    *, store_sentence: str | None,
) -> None:  # fmt: skip
    """Take an incident up to be stored, and decide whether people are told of it."""
    incident, is_dismissed = _lowered(context, metric, incident, before)
    sentence = before.sentence if store_sentence is None and before is not None else store_sentence or ""
    is_told = before is not None and before.is_told
    muted = (
        before.muted
        if before is not None and incident.state == OVER
        else _muted(context, rule, metric, incident)
    )
    if muted is None and is_dismissed:
        muted = "dismissed"
    tells = not is_told and muted is None and incident.state != PENDING
    context.kept.append(Kept(rule, metric, incident, before, sentence, None if is_told else muted, tells))


def _lowered(
    context: Context, metric: str, incident: Incident, before: StoredIncident | None
) -> tuple[Incident, bool]:
    """The incident with the severity that people's dismissals leave it, and whether they said anything of its kind."""
    dismissed = context.dismissed.get((metric, incident.kind, incident.direction))
    if dismissed is None or incident.peak_strength * DISMISSED_SHARE > dismissed.strength:
        return incident, False
    # What is stored was lowered before.
    least = 1 if before is None else before.incident.severity
    if before is not None and incident.severity <= least:
        return incident, True
    return replace(incident, severity=max(least, incident.severity - dismissed.times)), True


def _muted(context: Context, rule: SeriesRules, metric: str, incident: Incident) -> str | None:
    """Why nobody is told of an incident; None: they are."""
    now_ms = context.now.timestamp() * 1000
    history_ms = max(HISTORY_S, HISTORY_STEPS * context.period_s) * 1000
    last = context.resolved.get((metric, incident.kind))
    snoozed = [until for until in (context.snoozed.get(metric), context.batch_snoozed) if until is not None]
    if not rule.told:
        return "disabled"
    if incident.last_ms < now_ms - history_ms:
        return "history"
    is_learning = incident.kind == "unusual" and context.points.get(metric, 0) < LEARNING_POINTS
    if is_learning and incident.severity < CRITICAL:
        return "learning"
    if incident.severity < rule.severity_min:
        return "severity"
    if any(until > context.now for until in snoozed):
        return "snoozed"
    if is_in_maintenance(rule, context.now):
        return "maintenance"
    if last is not None and 0 <= incident.opened_ms - last < rule.cooldown_s * 1000:
        return "cooldown"
    return None


def is_in_maintenance(rule: SeriesRules, now: datetime) -> bool:
    """Whether one of a metric's maintenance windows is open; it begins by its zone's clock and lasts real time."""
    for window in rule.maintenance:
        zone = ZoneInfo(window.zone)
        since = (now - timedelta(seconds=window.lasts_s)).astimezone(zone)
        try:
            begins = next(CronSim(window.begins, since))
        except StopIteration:
            continue
        if begins.astimezone(UTC) <= now:
            return True
    return False
