"""Now: how bad is it, one attack or many, what first."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request

from anomalyze.storage import board
from anomalyze.storage.query import fetch_async
from anomalyze.storage.upload import load_upload
from dashboard import formatters as form
from dashboard import routes
from dashboard.case_filter import parse_view
from dashboard.case_row import decided_banner
from dashboard.components import (
    ago,
)
from dashboard.element import (
    FT,
    A,
    Div,
    P,
    ft,
)
from dashboard.frame import frame, page_head, zone_note
from dashboard.hours import HISTORY_DAYS, build_hours
from dashboard.live import Channel
from dashboard.now_budget import load_budget
from dashboard.now_figures import figure_strip, hours_figure, shared_table
from dashboard.now_list import case_list, filter_bar, list_footer
from dashboard.page import Answer, open_page, remember
from dashboard.security import Viewer, viewer_of
from dashboard.shared_values import load_shared
from dashboard.stream import StreamState

__all__ = ["now_page"]

HISTORY_AGE_MAX_S = 60.0
BUDGET_AGE_MAX_S = 10.0


async def now_page(request: Request) -> Answer:
    """GET /now."""
    viewer, view = viewer_of(request), parse_view(request.query_params)
    hub = request.app.state.hub
    channel = await hub.refresh(viewer.account_id, age_max_s=0.0)
    since = request.app.state.stamp()
    async with open_page(request) as connection:
        uploaded = (
            await fetch_async(connection, load_upload(viewer.account_id, view.filter.upload))
            if view.filter.upload
            else None
        )
        cases = await board.load_cases(connection, viewer.account_id, view.filter, limit=board.PAGE_ROWS + 1)
        figures = await board.load_queue_figures(connection, viewer.account_id)
        hourly = await _load_hourly(connection, channel, viewer)
        before = request.query_params.get("decided", "")
        decided = (
            await board.load_case(connection, viewer.account_id, before)
            if before and "\x00" not in before
            else None
        )
        budget = await channel.remembered("budget", BUDGET_AGE_MAX_S, lambda: load_budget(connection, viewer))
        shared = await load_shared(connection, channel, viewer, figures.open, hourly)
    hours = build_hours(hourly, viewer.now, viewer.zone)
    state = channel.state
    assert state is not None
    assert state.stream is not None
    content = [
        decided_banner(decided, viewer, routes.anomaly(decided.headline_anomaly_id)) if decided else None,
        page_head("Now", _of_metrics(state.open_alerts), right=_head_right(viewer, state.stream)),
        _silent(state.stream),
        figure_strip(viewer, figures, hours, budget),
        Div(hours_figure(hours), shared_table(view, shared, figures.open), cls="two"),
        filter_bar(view, figures, uploaded.name if uploaded else ""),
        case_list(viewer, view, cases, figures, state.stream, channel, since),
        list_footer(viewer, view, cases),
    ]
    return frame(
        viewer,
        state,
        title=f"{form.format_count(figures.open)} to review, Now",
        active="now",
        content=remember(request, [part for part in content if part is not None]),
        styles=("now.css",),
    )


async def _load_hourly(
    connection: board.Connection, channel: Channel, viewer: Viewer
) -> dict[datetime, list[int]]:
    """The month's hours; those before the last two change so seldom that all pages share one answer a minute."""
    this = viewer.now.replace(minute=0, second=0, microsecond=0)
    recent, start = this - timedelta(hours=1), this - timedelta(days=HISTORY_DAYS + 1)
    history = await channel.remembered(
        f"hourly {recent}",
        HISTORY_AGE_MAX_S,
        lambda: board.load_hourly(connection, viewer.account_id, start, recent),
    )
    return history | await board.load_hourly(connection, viewer.account_id, recent, this + timedelta(hours=1))


def _head_right(viewer: Viewer, stream: StreamState) -> tuple[Any, ...]:
    if stream.last_at is None:
        return (zone_note(viewer),)
    judged = (
        f", judged in {form.format_value(stream.p99_ms)}\u00a0ms (p99)" if stream.p99_ms is not None else ""
    )
    return (
        "Last transaction ",
        *ago(stream.last_at, viewer.now, viewer.zone),
        f"{judged}. {zone_note(viewer)}",
    )


def _of_metrics(waiting: int | None) -> FT | None:
    """What waits that is no case."""
    if not waiting:
        return None
    words = f"{form.plural(waiting, 'incident')} of metrics to review"
    return A(words, href=routes.with_query(routes.ALERTS, view="review"), cls="link small")


def _silent(stream: StreamState) -> FT | None:
    return P(icon_state("late"), stream.silent, cls="banner") if stream.silent else None


def icon_state(sign: str) -> FT:
    """The sign of a state (ok, late, down)."""
    return ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=f"sign {sign}")
