"""One incident of a metric in the list of alerts: what, since when, who was told, its picture, and whether it is one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from anomalyze.metrics.incident import OPEN
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.metrics_board import IncidentLine
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, cell, moment, severity
from dashboard.element import FT, A, Details, Div, NotStr, P, Small, Span, Summary, Tr
from dashboard.metric_actions import feedback_form, snooze_form
from dashboard.metric_plots import sparkline
from dashboard.metric_words import kind_word, muted_word, said
from dashboard.security import Viewer

__all__ = ["alert_row"]

# Why it is over, where that is not plain.
HOW_WORDS = {
    "corrected": "; the data were corrected",
    "data came": "; data came",
    "detector gone": "; its detector is not asked any more",
    "settings changed": "; by the settings as they are now it is none",
}


def alert_row(
    alert: Alert, around: IncidentLine | None, here: str, snoozed_until: datetime | None, viewer: Viewer
) -> FT:
    """A row; ``here`` is where its forms lead back to."""
    back = f"{here}#alert-{alert.alert_id}"
    return Tr(
        cell(
            severity(alert.severity),
            Small(kind_word(alert.kind), cls="muted kind"),
            Small(f"priority {alert.priority}", cls="muted kind") if alert.priority != 3 else None,
            cls="i-k",
        ),
        cell(
            P(
                A(alert.metric, href=routes.metric(alert.batch, alert.metric), cls="name", dir="auto"),
                Span(f" {alert.batch}", cls="muted"),
            ),
            P(*said(alert.sentence, alert.metric, viewer.now, viewer.zone)),
            P(*_since(alert, viewer), " ", *_told(alert, viewer), cls="small muted"),
            _picture(alert),
            cls="i-s",
        ),
        cell(_line(alert, around), cls="i-p"),
        cell(
            feedback_form(alert, back, viewer, keys="data_act"),
            snooze_form(_Place(alert.batch, alert.metric, snoozed_until), back, viewer),
            cls="i-f",
        ),
        role="row",
        id=f"alert-{alert.alert_id}",
        cls="open" if alert.state == OPEN else None,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """What may be snoozed."""

    batch: str
    metric: str
    snoozed_until: datetime | None


def _line(alert: Alert, around: IncidentLine | None) -> NotStr | None:
    """For the eye only: the sentence says it, and the picture has axes."""
    if around is None or not around.line.ts:
        return None
    edges = around.since.timestamp(), around.until.timestamp()
    return sparkline(around.line, *edges, late=alert.kind == "late")


def _since(alert: Alert, viewer: Viewer) -> list[object]:
    points = form.plural(alert.strange_points, "point")
    if alert.state == OPEN:
        return ["Open since ", moment(alert.opened_ts, viewer.now, viewer.zone), f", {points}."]
    lasted = form.format_duration(max((alert.last_ts - alert.opened_ts).total_seconds(), 0))
    how = HOW_WORDS.get(alert.resolution or "", "")
    over = f"lasted {lasted}" if alert.last_ts > alert.opened_ts else "one point"
    return ["Over: ", *ago(alert.opened_ts, viewer.now, viewer.zone), f", {over}{how}."]


def _told(alert: Alert, viewer: Viewer) -> list[object]:
    if alert.notified_at is not None:
        return ["Told ", *ago(alert.notified_at, viewer.now, viewer.zone), "."]
    if alert.muted is not None:
        return [f"Nobody was told: {muted_word(alert.muted)}."]
    return ["Not told yet."]


def _picture(alert: Alert) -> FT:
    """Fetched when it is opened: a page of a hundred pictures would weigh a megabyte."""
    return Details(
        Summary("Picture, and what else", cls="link small"),
        Div(cls="pic-slot"),
        hx_get=routes.alert_picture(alert.alert_id),
        hx_trigger="toggle once",
        hx_target="find .pic-slot",
    )
