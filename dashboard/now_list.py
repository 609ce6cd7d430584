"""The list of Now: its filters, its rows or why there are none, its foot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anomalyze.storage import board
from dashboard import formatters as form
from dashboard import routes
from dashboard.case_filter import NowView
from dashboard.case_row import case_row, no_permission
from dashboard.components import (
    SEVERITY_WORDS,
    ago,
    copyable,
    empty_row,
    head_cell,
    icon,
    key_cap,
    mark,
    search_box,
)
from dashboard.element import (
    FT,
    A,
    Div,
    Form,
    Input,
    P,
    Span,
    Tbody,
    Tr,
    ft,
)
from dashboard.live import Channel
from dashboard.security import Viewer
from dashboard.slot import slot_body
from dashboard.stream import StreamState

__all__ = ["case_list", "filter_bar", "list_footer"]

COLUMNS = 8


def filter_bar(view: NowView, figures: board.QueueFigures, upload_name: str = "") -> FT:
    """Review state, severities, words, order, follow: all of them links or one form.

    Parameters
    ----------
    upload_name
        Of the file that the list is filtered to, if it is.
    """
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
            search_box(wanted.words, "User, merchant, rule or words", "Filter cases"),
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
        _chips(view, upload_name),
        cls="bar",
    )


def _chips(view: NowView, upload_name: str) -> FT | None:
    wanted = view.filter
    chosen = [
        (k, getattr(wanted, k))
        for k in ("rule", "merchant", "country", "device", "user")
        if getattr(wanted, k)
    ]
    if wanted.hour:
        chosen.append(("hour", f"{wanted.hour:%d %b %H:%M} UTC"))
    if wanted.upload:
        chosen.append(("upload", upload_name or wanted.upload))
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


def case_list(
    viewer: Viewer,
    view: NowView,
    cases: Sequence[board.Case],
    figures: board.QueueFigures,
    stream: StreamState,
    channel: Channel,
    since: int,
) -> FT:
    """The list with its slot; an empty one says why."""
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
            *ago(stream.last_at, viewer.now, viewer.zone),
            ".",
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
        P("Or ", A("upload a file", href=routes.UPLOADS, cls="link"), " of them: CSV or parquet."),
    )


def list_footer(viewer: Viewer, view: NowView, cases: Sequence[board.Case]) -> FT:
    """Older rows, who may decide, and the keys."""
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
