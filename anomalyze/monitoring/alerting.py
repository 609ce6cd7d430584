"""From judged points to alerts: what begins, goes on and ends, and who is told. Within a turn's transaction.

Only points whose value is new say anything; those that are merely scored again do not. An incident is kept in any
case; ``muted`` says why nobody is told of it, and is asked again while it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.metrics.columns import keep_rows
from anomalyze.metrics.incident import OPEN, OVER, PENDING, Incident, Track, follow
from anomalyze.metrics.judgement import (
    CALM_POINTS,
    KINDS,
    SEVERITY_OF_KIND,
    Flag,
    Judgement,
    SeriesRules,
)
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.sentence import describe, describe_late
from anomalyze.monitoring.keep import Context, build_context, is_in_maintenance, keep
from anomalyze.monitoring.notice import Said, finish, say
from anomalyze.monitoring.settle import Settled, covers, is_told_already, settle
from anomalyze.storage import metrics_alerts as store
from anomalyze.storage.metrics_alerts import StoredIncident
from anomalyze.storage.metrics_scores import SeriesState

__all__ = ["Judged", "build_track", "remind", "tell", "tell_late"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Incidents of one turn and metric, the newest, that are kept: a backfill of noise is no reason for a million rows.
INCIDENTS_A_TURN = 200


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows of a turn in the order of series and time: ``at`` is the series' place, ``number`` the row's place in it (from 1),
    ``changed``: its value is new, ``tail``: share of the values kept that are as far out (NaN: not
    known); ``kinds``: the incidents that these rows may begin; ``peak_ms``: when what they tell of happened, where that is
    not their own time.
    """

    at: Ints
    number: Ints
    ts_ms: Ints
    value: Floats
    expected: Floats
    lower: Floats
    upper: Floats
    flat: Ints
    judgement: Judgement
    changed: npt.NDArray[np.bool_]
    tail: Floats
    kinds: Mapping[str, Flag] = field(default_factory=lambda: KINDS)
    peak_ms: Ints | None = None

    def keep(self, mask: Flags) -> Judged:
        """The same with some of its rows."""
        columns = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in ("judgement", "kinds")
        }
        kept: dict[str, Any] = {
            name: None if column is None else column[mask] for name, column in columns.items()
        }
        return replace(self, **kept, judgement=keep_rows(self.judgement, mask))


def tell(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState,
    parts: Sequence[Judged], now: datetime, settled: Settled,
) -> int:  # fmt: skip
    """Bring alerts to what the points of a turn say, and those of ``settled`` series to their settings; how many began."""
    open_ = {(one.metric, one.incident.kind): one for one in store.load_open(connection, batch)}
    places = {name: place for place, name in enumerate(series.names)}
    with_open = np.zeros(len(series.names), bool)
    with_open[[places[metric] for metric, kind in open_ if kind != "late" and metric in places]] = True
    found: list[tuple[int, Judged, npt.NDArray[np.intp]]] = []
    for part in parts:
        flagged = np.zeros(len(series.names), bool)
        begun = int(sum(part.kinds.values()))
        asked = part.changed | settled.looks_at(part.at, part.ts_ms)
        flagged[part.at[((part.judgement.flags & begun) > 0) & asked]] = True
        # One at a time from here on, as few of them say anything.
        rows = np.flatnonzero(asked & (with_open | flagged)[part.at])
        edges = np.flatnonzero(np.diff(part.at[rows])) + 1
        found += [(int(part.at[some[0]]), part, some) for some in np.split(rows, edges) if len(some)]
    unasked = [one for one in open_.values() if not _is_asked(one, rules)]
    if not found and not unasked:
        return 0
    context = build_context(
        connection,
        batch,
        rules,
        series,
        now,
        [*(series.names[place] for place, _, _ in found), *(one.metric for one in unasked)],
        {series.names[place]: int(part.number[rows[-1]]) for place, part, rows in found},
    )
    for place, part, rows in found:
        metric = series.names[place]
        rule, newest = rules.of(metric), int(series.newest_ms[place])
        if settled.series[place]:
            for kind in part.kinds:
                _settle_kind(context, rule, metric, kind, open_.get((metric, kind)), part, rows, newest)
            continue
        is_late = part.ts_ms[rows] < newest
        _look_again(context, rule, metric, open_, part, rows[part.ts_ms[rows] <= newest])
        for kind in part.kinds:
            _follow_kind(context, rule, metric, kind, open_.get((metric, kind)), part, rows[~is_late])
            _follow_late_rows(context, rule, metric, kind, part, rows[is_late])
    for one in unasked:
        over = replace(one.incident, state=OVER, resolution="detector gone")
        keep(context, rules.of(one.metric), one.metric, over, one, store_sentence=None)
    _keep_late(context)
    _keep_settled(context)
    return finish(connection, batch, context.kept, context.period_s, now)


def _is_asked(one: StoredIncident, rules: BatchRules) -> bool:
    """Whether anything still judges an incident of this kind: a detector by name may have left the file."""
    kind = one.incident.kind
    return kind in KINDS or kind == "late" or any(kind == by.kind for by in rules.of(one.metric).detectors)


def tell_late(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, now: datetime
) -> int:
    """Open an incident for every metric whose newest value is too old, and end those whose values came."""
    open_ = {one.metric: one for one in store.load_open(connection, batch) if one.incident.kind == "late"}
    now_ms = int(now.timestamp() * 1000)
    due: list[tuple[str, SeriesRules, int]] = []
    for metric, newest in zip(series.names, series.newest_ms.tolist(), strict=True):
        rule = rules.of(metric)
        is_late = rule.late_after_s is not None and 0 < newest < now_ms - rule.late_after_s * 1000
        if is_late != (metric in open_):
            due.append((metric, rule, newest))
    if not due:
        return 0
    context = build_context(connection, batch, rules, series, now, [metric for metric, _, _ in due])
    for metric, rule, newest in due:
        before = open_.get(metric)
        if before is not None:
            over = replace(
                before.incident,
                state=OVER,
                resolution="data came",
                last_ms=max(newest, before.incident.last_ms),
            )
            keep(context, rule, metric, over, before, store_sentence=None)
            continue
        assert rule.late_after_s is not None
        nan = float("nan")
        incident = Incident(
            "late", -1, OPEN, SEVERITY_OF_KIND["late"], newest, now_ms, now_ms, 1, 0, newest,
            nan, nan, nan, nan, (now_ms - newest) / 1000,
        )  # fmt: skip
        keep(
            context,
            rule,
            metric,
            incident,
            None,
            store_sentence=describe_late(metric, newest, rule.late_after_s),
        )
    return finish(connection, batch, context.kept, context.period_s, now)


def remind(connection: psycopg.Connection[Any], batch: str, rules: BatchRules, now: datetime) -> int:
    """Tell again of what lasts, where the metric's rules want it; how many reminders."""
    if all(rule.remind_every_s is None for rule in (rules.default, *rules.named.values())):
        return 0
    said = []
    rows = connection.execute(
        "SELECT alert_id, metric, severity, peak_strength, sentence, notified_at FROM metric_alerts a "
        "WHERE batch = %s AND state = %s AND notified_at IS NOT NULL AND NOT EXISTS (SELECT FROM metric_series s "
        "WHERE s.batch = a.batch AND s.metric = a.metric AND s.snoozed_until > %s) AND NOT EXISTS (SELECT "
        "FROM metric_batches b WHERE b.batch = a.batch AND b.snoozed_until > %s)",
        [batch, OPEN, now, now],
    ).fetchall()
    for alert_id, metric, severity, strength, sentence, notified_at in rows:
        rule = rules.of(metric)
        if rule.remind_every_s is None or is_in_maintenance(rule, now):
            continue
        number = int((now - notified_at).total_seconds() // rule.remind_every_s)
        if number > 0:
            text = f"Still: {sentence}"
            said.append(Said(alert_id, metric, "reminder", number, severity, strength, text, sentence, rule))
    return say(connection, batch, said)


def build_track(
    kind: str, part: Judged, rows: npt.NDArray[np.intp], rule: SeriesRules, period_s: float
) -> Track:
    """What rows of one metric say of one kind of incident."""
    judgement = part.judgement
    flags = judgement.flags[rows]
    begins = (flags & int(part.kinds[kind])) > 0
    is_scored = kind == "unusual" or kind not in KINDS
    goes_on = begins | ((flags & int(Flag.OUTSIDE)) > 0) if is_scored else begins
    value = part.value[rows]
    severity = np.full(len(rows), SEVERITY_OF_KIND.get(kind, 0), np.int64)
    strength: npt.NDArray[Any]
    direction = judgement.direction[rows]
    if is_scored:
        severity, strength = judgement.unusual_severity[rows], judgement.unusual_strength[rows]
    elif kind == "change":
        change = judgement.change_percent[rows]
        strength, direction = np.abs(change), np.sign(np.nan_to_num(change)).astype(np.int64)
    elif kind == "flat":
        strength, direction = part.flat[rows] * period_s, np.zeros(len(rows), np.int64)
    else:
        limit = rule.upper if kind == "upper" else rule.lower
        strength = np.abs(value - (0.0 if limit is None else limit))
        direction = np.full(len(rows), 1 if kind == "upper" else -1)
    return Track(
        part.ts_ms[rows], begins, goes_on, direction, severity, value,
        part.expected[rows], part.lower[rows], part.upper[rows],
        np.minimum(np.nan_to_num(strength, posinf=1e30), 1e30), part.tail[rows],
        None if part.peak_ms is None else part.peak_ms[rows],
    )  # fmt: skip


def _begins(kind: str, part: Judged, rows: npt.NDArray[np.intp]) -> bool:
    """Whether an incident of a kind begins at one of these rows: asked for every metric, so before a track is built."""
    return bool((part.judgement.flags[rows] & int(part.kinds[kind])).any())


def _follow_kind(
    context: Context, rule: SeriesRules, metric: str, kind: str, before: StoredIncident | None,
    part: Judged, rows: npt.NDArray[np.intp],
) -> None:  # fmt: skip
    """Follow what is newer than all before."""
    if not len(rows) or (before is None and not _begins(kind, part, rows)):
        return
    track = build_track(kind, part, rows, rule, context.period_s)
    found = follow(
        kind, None if before is None else before.incident, track,
        calm_points=CALM_POINTS, lasts_min_ms=rule.lasts_min_s * 1000,
    )  # fmt: skip
    goes_on = before is not None and bool(found) and found[0].opened_ms == before.incident.opened_ms
    if before is not None and not goes_on:
        store.delete_pending(context.connection, before.alert_id)
    for number, incident in enumerate(found[-INCIDENTS_A_TURN:] if not goes_on else found):
        stored = before if goes_on and number == 0 else None
        keep(context, rule, metric, incident, stored, store_sentence=describe(metric, incident, rule))


def _settle_kind(
    context: Context, rule: SeriesRules, metric: str, kind: str, before: StoredIncident | None,
    part: Judged, rows: npt.NDArray[np.intp], newest_ms: int,
) -> None:  # fmt: skip
    """Bring a metric's incidents of one kind to settings that changed."""
    track = build_track(kind, part, rows, rule, context.period_s)
    if not covers(track, before):
        _follow_kind(context, rule, metric, kind, before, part, rows[part.ts_ms[rows] > newest_ms])
        return
    incident, others = settle(
        kind, None if before is None else before.incident, track, newest_ms, rule.lasts_min_s * 1000
    )
    context.settled += [(rule, metric, one) for one in others]
    if before is None or incident is None:
        return
    if incident.state == OVER and before.incident.state == PENDING:
        store.delete_pending(context.connection, before.alert_id)
    else:
        keep(context, rule, metric, incident, before, store_sentence=describe(metric, incident, rule))


def _keep_settled(context: Context) -> None:
    """Keep what goes on by settings that changed, unless an incident is known that lasted into it."""
    if not context.settled:
        return
    since = min(one.opened_ms for _, _, one in context.settled)
    until = max(one.last_ms for _, _, one in context.settled)
    metrics = {metric for _, metric, _ in context.settled}
    known = store.load_spans(context.connection, context.batch, metrics, since, until)
    for rule, metric, one in context.settled:
        if not is_told_already(one, known.get((metric, one.kind), ())):
            keep(context, rule, metric, one, None, store_sentence=describe(metric, one, rule))


def _follow_late_rows(
    context: Context, rule: SeriesRules, metric: str, kind: str, part: Judged, rows: npt.NDArray[np.intp]
) -> None:
    """Incidents among values that came late or were corrected."""
    if _begins(kind, part, rows):
        track = build_track(kind, part, rows, rule, context.period_s)
        found = follow(kind, None, track, calm_points=CALM_POINTS)[-INCIDENTS_A_TURN:]
        context.late += [(rule, metric, incident) for incident in found]


def _keep_late(context: Context) -> None:
    """Keep those of late values where no incident was known; they are over."""
    if not context.late:
        return
    opened = [incident.opened_ms for _, _, incident in context.late]
    metrics = {metric for _, metric, _ in context.late}
    known = store.load_spans(context.connection, context.batch, metrics, min(opened), max(opened))
    for rule, metric, incident in context.late:
        spans = known.get((metric, incident.kind), ())
        if not any(since <= incident.opened_ms <= until for since, until in spans):
            over = replace(incident, state=OVER, resolution=incident.resolution or "calm")
            keep(context, rule, metric, over, None, store_sentence=describe(metric, over, rule))


def _look_again(
    context: Context, rule: SeriesRules, metric: str, open_: dict[tuple[str, str], StoredIncident],
    part: Judged, rows: npt.NDArray[np.intp],
) -> None:  # fmt: skip
    """End the incidents whose peak was corrected and is nothing any more."""
    calm = rows[part.judgement.flags[rows] == 0]
    for kind in part.kinds:
        one = open_.get((metric, kind))
        if part.peak_ms is None and one is not None and one.incident.peak_ms in part.ts_ms[calm]:
            over = replace(one.incident, state=OVER, resolution="corrected")
            keep(context, rule, metric, over, one, store_sentence=None)
            del open_[metric, kind]
