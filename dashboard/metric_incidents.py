"""A metric's incidents and what people say of them; its batch's runs."""

from __future__ import annotations

from collections.abc import Sequence

from anomalyze.metrics.incident import OPEN
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.metrics_runs import Run
from dashboard import formatters as form
from dashboard.components import ago, cell, empty_row, head_cell, severity, table
from dashboard.element import FT, H2, Div, P, Section, Small, Span, Tr
from dashboard.metric_actions import feedback_form
from dashboard.metric_row import state_sign
from dashboard.metric_words import kind_word, muted_word, said
from dashboard.security import Viewer

__all__ = ["decide_panel", "incidents_section", "runs_section"]

ERROR_LENGTH_MAX = 500
FAILURES_SHOWN = 3


def decide_panel(alert: Alert, here: str, viewer: Viewer) -> FT:
    """Confirm or dismiss the open incident; fixed at the foot of narrow pages."""
    return feedback_form(alert, here, viewer, cls="panel", title="Is this an incident?")


def incidents_section(alerts: Sequence[Alert], here: str, unit: str, viewer: Viewer, *, full: bool) -> FT:
    """All incidents of a metric, the newest first."""
    rows = [
        Tr(
            cell(severity(alert.severity), Small(kind_word(alert.kind), cls="muted kind"), cls="i-k"),
            cell(
                P(*said(alert.sentence, alert.metric, viewer.now, viewer.zone)),
                P(_since(alert, viewer), _told(alert), cls="small muted"),
                cls="i-s",
            ),
            cell(feedback_form(alert, here, viewer, keys=None), cls="i-f"),
            role="row",
            cls="open" if alert.state == OPEN else None,
        )
        for alert in alerts
    ]
    heads = (head_cell("Severity"), head_cell("What"), head_cell("Is it one?"))
    return Section(
        Div(
            H2("Incidents"),
            Span(f"the newest {len(alerts)}" if full else "newest first", cls="small muted")
            if rows
            else None,
            cls="fh",
        ),
        table("Incidents, newest first", heads, rows, cls="incidents")
        if rows
        else P("No incident of this metric.", cls="muted"),
        cls="s",
    )


def _since(alert: Alert, viewer: Viewer) -> str:
    begun = form.format_age(alert.opened_ts, viewer.now, viewer.zone)
    lasted = form.format_duration(max((alert.last_ts - alert.opened_ts).total_seconds(), 0))
    recent = "" if "," in begun else " ago"
    points = form.plural(alert.strange_points, "point")
    state = "open since" if alert.state == OPEN else "from"
    over = f", over after {lasted}" if alert.state != OPEN and alert.last_ts > alert.opened_ts else ""
    return f"{state} {begun}{recent}{over}, {points}"


def _told(alert: Alert) -> str:
    if alert.notified_at is not None:
        return "; people were told"
    return f"; nobody was told: {muted_word(alert.muted)}" if alert.muted else ""


def runs_section(runs: Sequence[Run], metric: str, viewer: Viewer) -> FT:
    """How the batch was read and scored lately, with what failed."""
    rows = [_run_row(run, metric, viewer) for run in runs] or [empty_row(6, "This batch has not run yet.")]
    heads = (
        head_cell("Run"),
        head_cell("State"),
        head_cell("Read", "num"),
        head_cell("New", "num"),
        head_cell("Corrected", "num wide"),
        head_cell("Scored", "num wide"),
    )
    return Section(
        Div(H2("Runs of the batch"), Span("newest first", cls="small muted"), cls="fh"),
        Div(table("Runs of the batch, newest first", heads, rows, cls="runs"), cls="scroll", tabindex="0"),
        cls="s",
    )


def _run_row(run: Run, metric: str, viewer: Viewer) -> FT:
    words: list[FT] = []
    if run.error is not None:
        sign = state_sign("down", "failed")
        words.append(Small(run.error[:ERROR_LENGTH_MAX], cls="why-not"))
    elif run.finished_at is None:
        sign = state_sign("late", "goes on, or was killed")
    elif run.failures:
        sign = state_sign("late", f"{form.plural(len(run.failures), 'metric')} failed")
    else:
        took = (run.finished_at - run.started_at).total_seconds()
        sign = state_sign("ok", f"in {form.format_duration(took)}")
    # This metric's failures first: they are what the reader came for.
    failures = sorted(run.failures, key=lambda failure: failure.get("metric") != metric)
    words += [
        Small(f"{failure.get('metric', '')}: {failure.get('reason', '')[:ERROR_LENGTH_MAX]}", cls="why-not")
        for failure in failures[:FAILURES_SHOWN]
    ]
    if len(failures) > FAILURES_SHOWN:
        words.append(Small(f"and {len(failures) - FAILURES_SHOWN} more", cls="why-not"))
    return Tr(
        cell(run.kind, " ", Span(*ago(run.started_at, viewer.now, viewer.zone), cls="muted")),
        cell(sign, *words, cls="wrap"),
        cell(form.format_count(run.rows_read), cls="num"),
        cell(form.format_count(run.rows_new), cls="num"),
        cell(form.format_count(run.rows_corrected), cls="num wide"),
        cell(form.format_count(run.scored), cls="num wide"),
        role="row",
    )
