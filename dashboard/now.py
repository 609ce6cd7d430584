"""Now: how bad is it, one attack or many, what first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from fastcore.xml import (
    FT,
    H2,
    A,
    Div,
    Figcaption,
    Figure,
    Form,
    Input,
    P,
    Section,
    Small,
    Span,
    Tbody,
    Tr,
    ft,
)
from starlette.requests import Request

from anomalyze.storage import board
from dashboard import formatters as form
from dashboard import routes
from dashboard.case_filter import NowView, parse_view
from dashboard.case_row import case_row, decided_banner, no_permission
from dashboard.components import (
    SEVERITY_WORDS,
    cell,
    copyable,
    empty_row,
    head_cell,
    icon,
    key_cap,
    mark,
    moment,
    table,
)
from dashboard.frame import frame, page_head, zone_note
from dashboard.hours import HISTORY_DAYS, HoursView, build_hours
from dashboard.page import Answer, open_page, remember
from dashboard.plots import hour_bars, share_bar
from dashboard.security import Viewer, viewer_of
from dashboard.shared_values import SharedValue, load_shared
from dashboard.slot import slot_body
from dashboard.stream import StreamState

__all__ = ["now_page"]

COLUMNS = 8


async def now_page(request: Request) -> Answer:
    """GET /now."""
    viewer, view = viewer_of(request), parse_view(request.query_params)
    hub = request.app.state.hub
    channel = await hub.refresh(viewer.account_id, age_max_s=0.0)
    since = request.app.state.stamp()
    this_hour = viewer.now.replace(minute=0, second=0, microsecond=0)
    async with open_page(request) as connection:
        cases = await board.load_cases(connection, viewer.account_id, view.filter, limit=board.PAGE_ROWS + 1)
        figures = await board.load_queue_figures(connection, viewer.account_id)
        hourly = await board.load_hourly(
            connection,
            viewer.account_id,
            this_hour - timedelta(days=HISTORY_DAYS + 1),
            this_hour + timedelta(hours=1),
        )
        before = request.query_params.get("decided", "")
        decided = (
            await board.load_case(connection, viewer.account_id, before)
            if before and "\x00" not in before
            else None
        )
        shared = await load_shared(connection, viewer, figures.open, hourly)
    hours = build_hours(hourly, viewer.now, viewer.zone)
    state = channel.state
    assert state is not None
    assert state.stream is not None
    content = [
        decided_banner(decided, viewer, routes.anomaly(decided.headline_anomaly_id)) if decided else None,
        page_head("Now", right=_head_right(viewer, state.stream)),
        _silent(state.stream),
        _strip(viewer, figures, hours),
        Div(_hours_figure(hours), _shared(view, shared, figures.open), cls="two"),
        _filter_bar(view, figures),
        _list(viewer, view, cases, figures, state.stream, channel, since),
        _footer(viewer, view, cases),
    ]
    return frame(
        viewer,
        state,
        title=f"{form.format_count(figures.open)} to review, Now",
        active="now",
        content=remember(request, [part for part in content if part is not None]),
        styles=("now.css",),
    )


def _head_right(viewer: Viewer, stream: StreamState) -> tuple[Any, ...]:
    if stream.last_at is None:
        return (zone_note(viewer),)
    judged = (
        f", judged in {form.format_value(stream.p99_ms)}\u00a0ms (p99)" if stream.p99_ms is not None else ""
    )
    return (
        "Last transaction ",
        moment(stream.last_at, viewer.now, viewer.zone),
        Span(" ago", cls="ago"),
        f"{judged}. {zone_note(viewer)}",
    )


def _silent(stream: StreamState) -> FT | None:
    return P(icon_state("late"), stream.silent, cls="banner") if stream.silent else None


def icon_state(sign: str) -> FT:
    """The sign of a state (ok, late, down)."""
    return ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=f"sign {sign}")


def _strip(viewer: Viewer, figures: board.QueueFigures, hours: HoursView) -> FT:
    oldest = (
        Small("oldest waits ", moment(figures.oldest_at, viewer.now, viewer.zone), cls="w")
        if figures.oldest_at
        else None
    )
    marks = [
        Span(
            mark(level),
            form.format_count(figures.waiting.get(level, 0)),
            ft("i", f" {SEVERITY_WORDS[level].lower()}"),
        )
        for level in (4, 3, 2, 1)
    ]
    return Section(
        Div(
            H2("To review"),
            Div(form.format_count(figures.open), " ", oldest, cls="fig"),
            P(*marks, cls="marks"),
        ),
        Div(H2("This hour"), Div(form.format_count(hours.this_hour), cls="fig"), _beside_usual(hours)),
        _today(hours),
        _confirmed(figures),
        cls="strip",
        aria_label="Figures",
    )


def _beside_usual(hours: HoursView) -> FT:
    if hours.usual_now is None:
        return P(f"usual after 7 days; there are {hours.days}")
    low, high = hours.usual_now
    word = "Above usual" if hours.this_hour > high else "Below usual" if hours.this_hour < low else "As usual"
    return P(ft("b", word, cls="wm"), f", {low:.0f} to {high:.0f}", Span(" by now", cls="w"))


def _today(hours: HoursView) -> FT:
    if hours.today_usual is None:
        return Div(
            H2("High or above today"), Div(form.format_count(hours.today), cls="fig"), P("usual after 7 days")
        )
    low, high = hours.today_usual
    top = max(high * 1.4, hours.today, 1.0)
    return Div(
        H2("High or above today"),
        Div(
            Div(form.format_count(hours.today), cls="fig"),
            share_bar(hours.today / top, (low + high) / 2 / top),
            cls="figrow",
        ),
        P(f"{low:.0f} to {high:.0f} usual", Span(" by now", cls="w")),
    )


def _confirmed(figures: board.QueueFigures) -> FT:
    confirmed, reviewed = figures.decided
    if not reviewed:
        return Div(
            H2("Confirmed, 7 days"),
            Div(form.MISSING, cls="fig", title="nothing reviewed yet"),
            P("0 reviewed"),
        )
    before = (
        f"; was {form.format_percent(figures.decided_before[0] / figures.decided_before[1], 0)}"
        if figures.decided_before[1]
        else ""
    )
    return Div(
        H2("Confirmed, 7 days"),
        Div(form.format_percent(confirmed / reviewed, 0), cls="fig"),
        P(f"{form.format_count(confirmed)} of {form.format_count(reviewed)} reviewed{before}"),
    )


def _hours_figure(hours: HoursView) -> FT:
    usual = f", usual {hours.usual_now[0]:.0f} to {hours.usual_now[1]:.0f} by now" if hours.usual_now else ""
    label = f"Anomalies per hour over 24 hours. This hour {hours.this_hour}{usual}; the hour before {sum(hours.columns[-2].counts)}."
    short = f"This hour {hours.this_hour}{usual}"
    keys = [Span(mark(level), SEVERITY_WORDS[level]) for level in (4, 3, 2, 1)]
    if any(column.usual for column in hours.columns):
        keys.append(Span(ft("i", cls="sw"), "usual for the hour"))
    rows = (
        Tr(
            ft("th", column.readout.partition(": ")[0], scope="row", role="rowheader"),
            *(cell(form.format_count(count), cls="num") for count in reversed(column.counts)),
            cell(
                f"{column.usual[0]:.0f} to {column.usual[1]:.0f}" if column.usual else form.MISSING, cls="num"
            ),
            role="row",
        )
        for column in hours.columns
    )
    heads = [
        head_cell("Hour"),
        *(head_cell(SEVERITY_WORDS[level], "num") for level in (4, 3, 2, 1)),
        head_cell("Usual", "num"),
    ]
    return Figure(
        Figcaption(
            H2("Anomalies per hour"),
            Span("24 hours", cls="small muted"),
            Div(*keys, cls="key desk"),
            cls="fh",
        ),
        P(short, cls="readout", data_default=short),
        Div(
            hour_bars(hours.columns, 808, 148, label), cls="desk plot-hours", data_columns=True, tabindex="0"
        ),
        Div(
            hour_bars(hours.columns, 348, 92, label, label_every=6),
            cls="phone plot-hours",
            data_columns=True,
            tabindex="0",
        ),
        ft(
            "details",
            ft("summary", "Show as table", cls="link small"),
            table(label, heads, rows, cls="as-table"),
        ),
    )


def _shared(view: NowView, shared: Sequence[SharedValue], waiting: int) -> FT:
    rows = [
        Tr(
            ft("th", value.kind, scope="row", role="rowheader"),
            cell(
                A(value.label, href=view.url(state=None, **{value.kind: value.value}), cls="name"), cls="fv"
            ),
            cell(share_bar(value.cases / max(waiting, 1)), cls="fb"),
            cell(form.format_count(value.cases), cls="num wm"),
            cell(
                form.format_percent(value.share) if value.share is not None else form.MISSING, cls="num muted"
            ),
            role="row",
        )
        for value in shared
    ] or [empty_row(5, "Nothing that two cases to review have in common.")]
    heads = [
        ft("td", role="cell", colspan="3"),
        head_cell(f"of {form.format_count(waiting)}", "num"),
        head_cell(
            "of all",
            "num",
            title="Rules and hours: of all transactions in 24 hours; others: of the newest 2,000",
        ),
    ]
    return Section(
        Div(H2("Shared", Span(" by those to review", cls="w")), cls="fh"),
        table("Values that cases to review have in common", heads, rows, cls="shared"),
        cls="shared-b",
    )


def _filter_bar(view: NowView, figures: board.QueueFigures) -> FT:
    wanted = view.filter
    states = (
        ("open", "To review", figures.open),
        ("confirmed", "Confirmed", figures.confirmed),
        ("dismissed", "Dismissed", figures.dismissed),
        ("all", "All", None),
    )
    hidden = [Input(type="hidden", name=n, value=v) for n, v in view.parameters().items() if n != "q" and v]
    return Div(
        Div(
            *(
                A(
                    name if count is None else f"{name} {form.format_count(count)}",
                    href=view.url(state=None if key == "open" else key),
                    aria_current="true" if wanted.state == key else None,
                )
                for key, name, count in states
            ),
            cls="seg",
            role="group",
            aria_label="Review state",
        ),
        Div(
            *(
                A(
                    mark(level),
                    Span(SEVERITY_WORDS[level], cls="desk"),
                    Span(SEVERITY_WORDS[level], cls="vh phone"),
                    href=view.toggled(level),
                    aria_current="true" if level in wanted.severities else None,
                )
                for level in (4, 3, 2, 1)
            ),
            cls="seg",
            role="group",
            aria_label="Severity",
        ),
        Form(
            *hidden,
            Input(
                type="search",
                name="q",
                value=wanted.words,
                placeholder="User, merchant, rule or words",
                aria_label="Filter cases",
                cls="input",
                data_search=True,
            ),
            action=routes.NOW,
            method="get",
        ),
        Div(
            A(
                "Worst first" if wanted.worst_first else "Newest first",
                href=view.url(sort=None if wanted.worst_first else "worst"),
                cls="btn bare",
                title="Change the order",
            ),
            A(
                f"Follow: {'on' if view.follow else 'off'}",
                href=view.url(follow=None if view.follow else "1"),
                cls="btn bare",
                id="follow",
                title="Show new ones as they come (f)",
            ),
            cls="end desk",
        ),
        _chips(view),
        cls="bar",
    )


def _chips(view: NowView) -> FT | None:
    wanted = view.filter
    chosen = [
        (k, getattr(wanted, k))
        for k in ("rule", "merchant", "country", "device", "user")
        if getattr(wanted, k)
    ]
    if wanted.hour:
        chosen.append(("hour", f"{wanted.hour:%d %b %H:%M} UTC"))
    if not chosen:
        return None
    return Div(
        *(
            A(
                Span(kind, cls="faint"),
                f" {value} ",
                icon("x"),
                href=view.url(**{kind: None}),
                cls="chip",
                aria_label=f"Remove filter {kind} {value}",
            )
            for kind, value in chosen
        ),
        cls="chips",
    )


def _list(
    viewer: Viewer,
    view: NowView,
    cases: Sequence[board.Case],
    figures: board.QueueFigures,
    stream: StreamState,
    channel: Any,
    since: int,
) -> FT:
    heads = (
        head_cell("Severity", "c-sev", sort="descending" if view.filter.worst_first else None),
        head_cell("What happened", "c-what"),
        head_cell("Last 20 amounts", "c-micro", title="Bars from zero; the judged ones carry the severity"),
        head_cell("Amount", "num c-amt"),
        head_cell("User", "c-user"),
        head_cell("Score", "num c-score"),
        head_cell("Age", "num c-age", sort=None if view.filter.worst_first else "ascending"),
        head_cell(Span("Decide", cls="vh"), "c-act"),
    )
    rows = [case_row(case, viewer) for case in cases[: board.PAGE_ROWS]]
    order = "worst first" if view.filter.worst_first else "newest first"
    return Div(
        ft(
            "table",
            ft("caption", f"Cases, {order}", cls="vh"),
            ft("thead", Tr(*heads, role="row"), role="rowgroup"),
            slot_body(channel.slot(view, since), view, since, viewer),
            Tbody(*(rows or [_none(viewer, view, figures, stream)]), role="rowgroup", cls="rows", id="rows"),
            role="table",
        ),
        cls="list",
    )


def _none(viewer: Viewer, view: NowView, figures: board.QueueFigures, stream: StreamState) -> FT:
    """Why the list is empty; quiet never looks like broken."""
    content: tuple[Any, ...]
    if stream.last_at is None:
        content = _first_steps(viewer)
    elif view.narrowed or view.filter.before:
        total = {"open": figures.open, "confirmed": figures.confirmed, "dismissed": figures.dismissed}.get(
            view.filter.state, figures.open + figures.confirmed + figures.dismissed
        )
        clear = NowView(board.CaseFilter(state=view.filter.state))
        content = (
            f"None of {form.format_count(total)} match. ",
            A("Clear filters", href=clear.url(), cls="link"),
        )
    elif view.filter.state in ("open", "all"):
        content = (
            f"Nothing to review. {form.plural(stream.judged_day, 'transaction')} judged in 24\u00a0h, the last ",
            moment(stream.last_at, viewer.now, viewer.zone),
            Span(" ago.", cls="ago"),
        )
    else:
        content = (f"Nothing {view.filter.state} yet.",)
    row = empty_row(COLUMNS, *content)
    row.attrs["id"] = "empty"
    return row


def _first_steps(viewer: Viewer) -> tuple[Any, ...]:
    body = '{"user_id": "user_99", "tx_id": "tx_1", "amount": 120.00, "currency": "USD", "location": "NY"}'
    return (
        P("No transaction yet. Send one:"),
        copyable(
            f"curl -X POST http://127.0.0.1:{viewer.api_port}/v1/transactions -H 'Authorization: Bearer YOUR_KEY' "
            f"-H 'Content-Type: application/json' -d '{body}'",
            "the curl command",
        ),
        copyable("anomalyze simulate --rate 50 --seconds 60 --seed 1", "the simulate command"),
    )


def _footer(viewer: Viewer, view: NowView, cases: Sequence[board.Case]) -> FT:
    hints = [
        ("j", "k", "move"),
        ("enter", "open"),
        ("c", "confirm"),
        ("d", "dismiss"),
        ("u", "undo"),
        ("n", "show new"),
        ("/", "search"),
        ("?", "all keys"),
    ]
    more = (
        A("Older", href=view.rows_after(cases[board.PAGE_ROWS - 1]), cls="btn", rel="next")
        if len(cases) > board.PAGE_ROWS
        else None
    )
    first = A("Newest", href=view.url(), cls="btn") if view.filter.before else None
    return Div(
        P(no_permission(viewer), cls="small muted") if not viewer.may_decide else None,
        Div(first, more, cls="pages") if more or first else None,
        Div(
            *(Span(*(key_cap(k) for k in hint[:-1]), hint[-1]) for hint in hints),
            cls="keys",
            aria_hidden="true",
        ),
    )
