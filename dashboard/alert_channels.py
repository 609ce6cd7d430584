"""Where alerts go: the log, and what was told there lately. There is no other route yet, and the page says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from anomalyze.storage.metrics_incidents import ToldLine, load_told_lines
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, cell, empty_row, head_cell, severity, table
from dashboard.element import FT, H2, A, Div, P, Section, Small, Span, Tr, ft
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, open_page, remember
from dashboard.security import Viewer, viewer_of

__all__ = ["alert_routes_page"]

LINES_SHOWN = 50
COLUMNS = 4
NOTICE_WORDS = {"opened": "Opened", "grown": "Grown", "reminder": "Reminder", "resolved": "Over"}


async def alert_routes_page(request: Request) -> Answer:
    """GET /alerts/routes."""
    viewer = viewer_of(request)
    owned = await asyncio.to_thread(request.app.state.batches.of, viewer.account_id)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        lines = await fetch_async(connection, load_told_lines(list(owned), LINES_SHOWN))
    told = sum(entry.batch.alerts.enabled and "log" in entry.batch.alerts.routes for entry in owned.values())
    content = [
        page_head("Routes of alerts", right=(A("Alerts", href=routes.ALERTS, cls="link"), zone_note(viewer))),
        _routes(told, len(owned)),
        _lines(lines, viewer),
    ]
    return frame(
        viewer,
        channel.state,
        title="Routes of alerts",
        active="alerts",
        content=remember(request, content),
        styles=("lists.css", "metric.css", "alerts.css"),
    )


def _routes(told: int, batches: int) -> FT:
    row = Tr(
        cell(ft("b", "log"), cls="wrap"),
        cell(
            "Lines ", ft("code", "metric_alert", cls="mono"), " in the log of the runs: ",
            ft("code", "anomalyze logs --program dagster-runs", cls="mono"), " shows them. Each has the path of its picture.", cls="wrap",
        ),
        cell(f"{told} of {form.plural(batches, 'batch', 'batches')}", cls="num"),
        role="row",
    )  # fmt: skip
    heads = (head_cell("Route"), head_cell("What it is"), head_cell("Batches", "num"))
    return Section(
        Div(table("Routes", heads, [row], cls="grid"), cls="sheet"),
        P(
            "There is no other route yet: nothing is sent by mail, chat or webhook, and nobody is called. "
            "What they would send are the lines below; each comes once. ",
            "A file chooses by ", ft("code", "alerts: {routes: [log]}", cls="mono"), ".",
            cls="muted after",
        ),
        cls="s first",
    )  # fmt: skip


def _lines(lines: Sequence[ToldLine], viewer: Viewer) -> FT:
    rows = [
        Tr(
            cell(*ago(line.at, viewer.now, viewer.zone), cls="t"),
            cell(severity(line.severity), Small(NOTICE_WORDS.get(line.kind, line.kind), cls="muted kind")),
            cell(line.sentence, cls="wrap"),
            cell(form.format_count(line.count), cls="num"),
            role="row",
        )
        for line in lines
    ] or [empty_row(COLUMNS, "Nobody has been told of anything yet.")]
    heads = (head_cell("Told", "t"), head_cell("Severity"), head_cell("What"), head_cell("Incidents", "num"))
    return Section(
        Div(H2("What was told"), Span("newest first", cls="small muted"), cls="fh"),
        Div(table("What was told, newest first", heads, rows, cls="grid told"), cls="sheet"),
        cls="s",
    )
