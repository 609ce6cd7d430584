"""Alerts: what is strange of metrics now, did people hear, what is snoozed; and the picture of one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.picture import draw_picture
from anomalyze.metrics.picture_png import draw_png
from anomalyze.storage.cursor import FilterError
from anomalyze.storage.metrics_alerts import Alert, Snooze, list_snoozes
from anomalyze.storage.metrics_also import Also, what_else
from anomalyze.storage.metrics_board import IncidentLine, load_incident_lines
from anomalyze.storage.metrics_digest import StoredDigest, load_digests
from anomalyze.storage.metrics_incidents import AlertFigures, load_alert_figures, page_incidents
from anomalyze.storage.metrics_notices import Notice, list_notices
from anomalyze.storage.metrics_picture import build_picture, find_pictured, load_pictured_points
from anomalyze.storage.query import Page, Query, fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.alert_filter import AlertsView, parse_alerts_view
from dashboard.alert_row import alert_row
from dashboard.case_row import no_permission
from dashboard.components import (
    SEVERITY_WORDS,
    ago,
    cell,
    copyable,
    empty_row,
    head_cell,
    mark,
    moment,
    search_box,
    table,
)
from dashboard.element import (
    FT,
    H2,
    A,
    Button,
    Details,
    Div,
    Form,
    Input,
    Label,
    NotStr,
    Option,
    P,
    Pre,
    Section,
    Select,
    Small,
    Span,
    Summary,
    Tr,
)
from dashboard.formatters import SEVERITIES
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.security import Viewer, viewer_of

__all__ = ["alert_picture", "alerts_page"]

PAGE_ROWS = 30
COLUMNS = 4
DAY = timedelta(days=1)
VIEW_WORDS = {
    "": "Open first",
    "open": "Open",
    "review": "To review",
    "resolved": "Over",
    "muted": "Muted",
    "history": "History",
}
ALSO_NAMES = 8
NOTICES_SHOWN = 4
NOTICE_WORDS = {"opened": "opened", "grown": "more severe", "reminder": "reminder", "resolved": "over"}
# Of a picture to take along.
FILES = {"png": "image/png", "svg": "image/svg+xml"}
ID_MAX = 2**63 - 1


async def alerts_page(request: Request) -> Answer:
    """GET /alerts."""
    viewer = viewer_of(request)
    view = parse_alerts_view(request.query_params)
    owned = await asyncio.to_thread(request.app.state.batches.of, viewer.account_id)
    chosen = [name for name in owned if view.batch in ("", name)]
    channel = await request.app.state.hub.refresh(viewer.account_id)

    def asked(cursor: str | None) -> Query[Page[Alert]]:
        return page_incidents(
            chosen,
            view=view.view,
            severity_min=view.severity_min,
            words=view.words,
            limit=PAGE_ROWS,
            cursor=cursor,
        )

    try:
        query = asked(view.cursor or None)
    except FilterError:
        # A cursor of another list: it begins anew.
        query = asked(None)
    async with open_page(request) as connection:
        page = await fetch_async(connection, query)
        shown = [alert.alert_id for alert in page.rows]
        lines = await fetch_async(connection, load_incident_lines(list(owned), shown))
        figures = await fetch_async(connection, load_alert_figures(list(owned), viewer.now - DAY))
        snoozes = await fetch_async(connection, list_snoozes(list(owned), viewer.now))
        digests = await fetch_async(connection, load_digests(viewer.account_id))
    content: list[FT | None] = [page_head("Alerts", right=(_routes_link(), zone_note(viewer)))]
    if not owned:
        content.append(_none(viewer))
    else:
        content += [
            _strip(figures),
            _bar(view, owned),
            _quiet(figures, view, viewer),
            _list(page, lines, view, figures, _ends(snoozes), viewer),
            _pages(page, view),
            _snoozes(snoozes, view, viewer) if snoozes else None,
            _digest(digests[0], viewer) if digests else None,
        ]
    return frame(
        viewer,
        channel.state,
        title="Alerts",
        active="alerts",
        content=remember(request, [one for one in content if one is not None]),
        styles=("lists.css", "metric.css", "alerts.css"),
    )


async def alert_picture(request: Request) -> Answer:
    """GET /alerts/{alert_id}/picture: its values with band and marks, and what else of the batch is strange then.

    With ``format`` (svg, png) the picture alone, as a file.
    """
    viewer = viewer_of(request)
    kind = request.query_params.get("format", "")
    named = request.path_params["alert_id"]
    alert_id = int(named) if named.isascii() and named.isdigit() else 0
    owned = await asyncio.to_thread(request.app.state.batches.of, viewer.account_id)
    async with open_page(request) as connection:
        alert = await fetch_async(connection, find_pictured(list(owned), min(alert_id, ID_MAX)))
        if alert is None:
            return await not_found(request, f"No alert with this id in {viewer.account_id}.")
        points = await fetch_async(connection, load_pictured_points(alert))
        also = await fetch_async(
            connection, what_else(alert.batch, alert.metric, alert.opened_ts, alert.last_ts, ALSO_NAMES)
        )
        notices = await fetch_async(connection, list_notices(alert_id))
    unit = owned[alert.batch].batch.settings(alert.metric).unit
    drawn = await asyncio.to_thread(
        lambda: draw_picture(build_picture(alert, points, unit, zone=viewer.zone))
    )
    if kind in FILES:
        content = await asyncio.to_thread(draw_png, drawn) if kind == "png" else drawn
        told = {
            "Content-Disposition": f'attachment; filename="alert-{alert.alert_id}.{kind}"',
            "Cache-Control": "private, no-cache",
        }
        return Response(content, media_type=FILES[kind], headers=told)
    parts = (_also(alert.batch, also), _notices(notices, viewer), _files(alert.alert_id))
    return Div(NotStr(drawn), *parts, cls="pic-in")


def _files(alert_id: int) -> FT:
    """The picture to take along."""
    return P(
        "Download: ",
        A("PNG", href=routes.alert_picture(alert_id, "png"), cls="link", download=True),
        ", ",
        A("SVG", href=routes.alert_picture(alert_id, "svg"), cls="link", download=True),
        cls="small muted",
    )


def _also(batch: str, also: Also) -> FT | None:
    if not also.count:
        return P("Nothing else of the batch was strange in these hours.", cls="small muted")
    rest = also.count - len(also.strongest)
    return Div(
        Span("In the same hours", cls="small muted"),
        *(
            A(mark(one.severity), one.metric, href=routes.metric(batch, one.metric), cls="link")
            for one in also.strongest
        ),
        Span(f"and {form.plural(rest, 'other')}", cls="small muted") if rest else None,
        cls="also",
    )


def _notices(told: Sequence[Notice], viewer: Viewer) -> FT | None:
    """What people were told, and when; of many reminders the first and the last."""
    if not told:
        return None
    shown = [*told[:NOTICES_SHOWN], *told[-1:]] if len(told) > NOTICES_SHOWN + 1 else list(told)
    left = len(told) - len(shown)
    said: list[object] = ["Told: "]
    for number, one in enumerate(shown):
        if left and number == NOTICES_SHOWN:
            said.append(f", {form.plural(left, 'other')}")
        said += [", " if number else "", f"{NOTICE_WORDS[one.kind]} ", *ago(one.at, viewer.now, viewer.zone)]
    return P(*said, ".", cls="small muted told")


def _routes_link() -> FT:
    return A("Where alerts go", href=routes.ALERT_ROUTES, cls="link")


def _strip(figures: AlertFigures) -> FT:
    def figure(title: str, count: int, said: object) -> FT:
        return Div(H2(title), Div(form.format_count(count), cls="fig"), P(said))

    critical = f"{figures.open_critical} critical" if figures.open_critical else "none critical"
    return Section(
        figure("Open", figures.open, critical),
        figure("To review", figures.waiting, "open, told, not answered"),
        figure("Told in 24 h", figures.told, "for the first time"),
        figure(
            "Muted in 24 h",
            figures.muted,
            A("why", href=routes.with_query(routes.ALERTS, view="muted"), cls="link"),
        ),
        cls="strip",
        aria_label="Figures",
    )


def _bar(view: AlertsView, owned: Mapping[str, BatchEntry]) -> FT:
    batches = [Option("any batch", value="", selected=not view.batch)] + [
        Option(name, value=name, selected=name == view.batch) for name in sorted(owned)
    ]
    levels = [Option("any severity", value="", selected=not view.severity)] + [
        Option(
            f"{SEVERITY_WORDS[level]}{'' if level == 4 else ' or above'}",
            value=SEVERITIES[level],
            selected=view.severity == SEVERITIES[level],
        )
        for level in (1, 2, 3, 4)
    ]
    return Div(
        Div(
            *(
                A(word, href=view.address(view=name), aria_current="true" if name == view.view else None)
                for name, word in VIEW_WORDS.items()
            ),
            cls="seg",
        ),
        Form(
            Input(type="hidden", name="view", value=view.view) if view.view else None,
            search_box(view.words, "Metric", "Part of a metric's name"),
            Label(Span("Batch", cls="vh"), Select(*batches, name="batch", cls="input")),
            Label(Span("Severity", cls="vh"), Select(*levels, name="severity", cls="input")),
            Button("Show", cls="btn", type="submit"),
            A("Clear", href=routes.ALERTS, cls="btn bare") if view.is_filtered else None,
            action=routes.ALERTS,
            method="get",
            cls="bar-form",
        ),
        cls="bar",
    )  # fmt: skip


def _quiet(figures: AlertFigures, view: AlertsView, viewer: Viewer) -> FT | None:
    """Quiet is said, with when data last came."""
    if figures.open or view.is_filtered:
        return None
    watched = form.plural(figures.metrics, "metric")
    if figures.newest_ts is None:
        return P(f"No incident is open. {watched} watched; no value has been scored yet.", cls="quiet")
    return P(
        f"No incident is open. {watched} watched, the newest value is of ",
        *ago(figures.newest_ts, viewer.now, viewer.zone),
        ".",
        cls="quiet",
    )


def _list(
    page: Page[Alert], lines: Mapping[int, IncidentLine], view: AlertsView, figures: AlertFigures, ends: Mapping[tuple[str, str | None], datetime],
    viewer: Viewer,
) -> FT:  # fmt: skip
    here = view.address(cursor=view.cursor or None)
    rows = [
        alert_row(
            alert,
            lines.get(alert.alert_id),
            here,
            ends.get((alert.batch, alert.metric)) or ends.get((alert.batch, None)),
            viewer,
        )
        for alert in page.rows
    ] or [_no_row(view, figures)]
    heads = (head_cell("Severity"), head_cell("What"), head_cell("Around it"), head_cell("Is it one?"))
    grid = table("Incidents, open ones first", heads, rows, cls="incidents alerts")
    grid.children[-1].attrs["id"] = "rows"
    return grid


def _no_row(view: AlertsView, figures: AlertFigures) -> FT:
    if view.is_filtered:
        return empty_row(COLUMNS, "No incident matches. ", A("Clear filters", href=routes.ALERTS, cls="link"))
    if not figures.metrics:
        return empty_row(COLUMNS, "No value of a metric has been read yet: each batch runs within a minute.")
    return empty_row(COLUMNS, "No incident of these metrics yet.")


def _pages(page: Page[Alert], view: AlertsView) -> FT | None:
    links = [A("First", href=view.address(), cls="btn")] if view.cursor else []
    if page.cursor is not None:
        links.append(A("More", href=view.address(cursor=page.cursor), cls="btn", rel="next"))
    return Div(*links, cls="pages") if links else None


def _ends(snoozes: Sequence[Snooze]) -> dict[tuple[str, str | None], datetime]:
    return {(one.batch, one.metric): one.until for one in snoozes}


def _snoozes(snoozes: Sequence[Snooze], view: AlertsView, viewer: Viewer) -> FT:
    off = not viewer.may_decide

    def row(one: Snooze) -> FT:
        subject = (
            A(one.metric, href=routes.metric(one.batch, one.metric), cls="name")
            if one.metric
            else "the whole batch"
        )
        end = Form(
            Input(type="hidden", name="csrf", value=viewer.csrf),
            Input(type="hidden", name="next", value=view.address()),
            Input(type="hidden", name="batch", value=one.batch),
            Input(type="hidden", name="metric", value=one.metric or ""),
            Button(
                "End it", cls="btn", name="for", value="end-metric" if one.metric else "end-batch", disabled=off,
                title=no_permission(viewer) if off else None,
            ),
            action=routes.ALERT_SNOOZE,
            method="post",
        )  # fmt: skip
        return Tr(
            cell(subject, Span(f" {one.batch}", cls="muted")),
            cell(moment(one.until, viewer.now, viewer.zone, ticks=False)),
            cell(
                one.reason or form.MISSING,
                Small(f" {one.actor}", cls="muted") if one.actor else None,
                cls="wrap",
            ),
            cell(end),
            role="row",
        )

    heads = (head_cell("Snoozed"), head_cell("Until"), head_cell("Why"), head_cell("End"))
    return Section(
        Div(H2("Snoozes"), Span("nobody is told of these", cls="small muted"), cls="fh"),
        Div(
            table("Snoozes, those that end first", heads, [row(one) for one in snoozes], cls="grid"),
            cls="sheet",
        ),
        cls="s",
    )


def _digest(digest: StoredDigest, viewer: Viewer) -> FT:
    return Section(
        Details(
            Summary(f"Digest of the day to {form.format_moment(digest.until_ts, viewer.zone)}"),
            Pre(digest.text, cls="digest", tabindex="0"),
        ),
        cls="s",
    )


def _none(viewer: Viewer) -> FT:
    return Div(
        P(
            "No metric is watched, so there is nothing to be told of. A small YAML file names the numbers to watch."
        ),
        P(A("How to write the first one", href=routes.METRICS, cls="link")),
        P("To see what a batch would have alerted on, before it counts:"),
        copyable("anomalyze metrics run NAME --dry-run", "the command"),
        cls="empty-m",
    )
