"""Users: who had the most anomalies in 30 days, and who was seen last."""

from __future__ import annotations

from datetime import timedelta

from starlette.requests import Request

from anomalyze.storage import board_page
from anomalyze.storage.board_page import UserRow
from anomalyze.storage.period import load_period_end
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import (
    cell,
    copyable,
    empty_row,
    head_cell,
    moment,
    search_box,
    severity,
    table,
    user_link,
)
from dashboard.element import FT, A, Div, Form, P, Span, Tr
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, open_page, remember
from dashboard.period import describe_days
from dashboard.security import Viewer, viewer_of

__all__ = ["users_page"]

COLUMNS = 7
PERIOD = timedelta(days=30)


async def users_page(request: Request) -> Answer:
    """GET /users."""
    viewer = viewer_of(request)
    words = request.query_params.get("q", "").strip().replace("\x00", "")[:128]
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        end = await fetch_async(connection, load_period_end(viewer.account_id, viewer.now))
        users = await board_page.load_users(connection, viewer.account_id, end - PERIOD, words)
    order = "Most anomalies in 30 days first. "
    if end < viewer.now:
        shown = describe_days(PERIOD.days, end, viewer.now, viewer.zone)
        order = f"Most anomalies first: {shown}. "
    heads = (
        head_cell("User"),
        head_cell(("Anomalies", Span(", 30 days", cls="mid-w")), "num", sort="descending"),
        head_cell("Worst"),
        head_cell("Anomalies", "num wide"),
        head_cell("Transactions", "num mid"),
        head_cell("First seen", "num wide"),
        head_cell("Last seen", "num"),
    )
    grid = table(
        "Users, most anomalies in 30 days first",
        heads,
        [_row(u, viewer) for u in users] or [_none(words)],
        cls="grid",
    )
    grid.children[-1].attrs["id"] = "rows"
    full = len(users) == board_page.PAGE_ROWS
    content = [
        page_head("Users", right=(order, zone_note(viewer))),
        P(order, cls="small muted phone") if end < viewer.now else None,
        Form(
            search_box(words, "User id or part of it", "Find users"),
            action=routes.USERS,
            method="get",
            cls="filters",
        ),
        Div(grid, cls="sheet"),
        P(f"The first {board_page.PAGE_ROWS}. Search to find others.", cls="muted small after")
        if full
        else None,
    ]
    return frame(
        viewer,
        channel.state,
        title="Users",
        active="users",
        content=remember(request, [c for c in content if c is not None]),
        styles=("lists.css",),
    )


def _row(user: UserRow, viewer: Viewer) -> FT:
    return Tr(
        cell(user_link(user.user_id), cls="c-id"),
        cell(form.format_count(user.anomalies_30d), cls="num wm"),
        cell(severity(user.severity_max)),
        cell(form.format_count(user.anomalies), cls="num muted wide"),
        cell(form.format_count(user.transactions), cls="num mid"),
        cell(moment(user.first_ts, viewer.now, viewer.zone, ticks=False), cls="num muted wide"),
        cell(moment(user.last_ts, viewer.now, viewer.zone), cls="num muted"),
        role="row",
        id=f"user-{user.user_id}",
    )


def _none(words: str) -> FT:
    if words:
        return empty_row(
            COLUMNS, f"No user id contains “{words}”. ", A("Clear filters", href=routes.USERS, cls="link")
        )
    return empty_row(
        COLUMNS,
        P("No transaction yet. Send one:"),
        copyable("anomalyze simulate --rate 50 --seconds 60 --seed 1", "the simulate command"),
    )
