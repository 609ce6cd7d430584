"""The slot above the list of Now: what came since, in a line of fixed height."""

from __future__ import annotations

from typing import Any

from dashboard import formatters as form
from dashboard import routes
from dashboard.case_filter import NowView
from dashboard.components import ago, cell, icon, key_cap
from dashboard.element import FT, Button, Span, Tbody, Tr
from dashboard.live import SlotState
from dashboard.security import Viewer

__all__ = ["slot_body", "slot_row"]

COLUMNS = "8"


def slot_body(state: SlotState, view: NowView, since: int, viewer: Viewer, **attributes: Any) -> FT:
    """The slot with its connection; replaced whole when the list has caught up."""
    return Tbody(
        slot_row(state, view, since, viewer),
        role="rowgroup",
        cls="slot",
        id="slot",
        hx_ext="sse",
        sse_connect=view.url(routes.EVENTS, since=str(since)),
        sse_swap="slot",
        **attributes,
    )


def slot_row(state: SlotState, view: NowView, since: int, viewer: Viewer) -> FT:
    """The slot's line: new ones, up to date, or why neither is known."""
    total = sum(state.new.values())
    if state.failed_at is not None:
        shown = form.format_clock(state.failed_at, viewer.zone)
        words = f"Anomalies could not be loaded: PostgreSQL does not answer. Shown as of {shown}. Next try in 5\u00a0s."
        content: Any = Span(words, cls="lost")
    elif total:
        critical = f", {form.format_count(state.new[4])} critical" if state.new.get(4) else ""
        content = Button(
            icon("up"),
            f"{form.format_count(total)} new{critical}. Show ",
            key_cap("n"),
            type="button",
            id="show-new",
            hx_get=view.url(routes.NOW_ROWS, since=str(since)),
            hx_target="#rows",
            hx_swap="afterbegin",
            hx_trigger="click, load" if view.follow else "click",
        )
    elif state.last_at is not None:
        content = Span(
            "Up to date, last ",
            *ago(state.last_at, viewer.now, viewer.zone),
            cls="quiet",
        )
    else:
        content = Span("Up to date, no anomaly yet", cls="quiet")
    return Tr(cell(content, colspan=COLUMNS), role="row")
