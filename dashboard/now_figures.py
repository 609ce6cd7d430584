"""Above the list of Now: figures, hours, what cases have in common."""

from __future__ import annotations

from collections.abc import Sequence

from anomalyze.storage import board
from dashboard import formatters as form
from dashboard import routes
from dashboard.budget_days import BudgetView
from dashboard.case_filter import NowView
from dashboard.components import (
    SEVERITY_WORDS,
    cell,
    empty_row,
    folded_table,
    head_cell,
    mark,
    moment,
    table,
)
from dashboard.element import (
    FT,
    H2,
    A,
    Div,
    Figcaption,
    Figure,
    P,
    Section,
    Small,
    Span,
    Tr,
    ft,
)
from dashboard.hours import HoursView
from dashboard.now_budget import budget_tile
from dashboard.plots import hour_bars, share_bar
from dashboard.security import Viewer
from dashboard.shared_values import SharedValue

__all__ = ["figure_strip", "hours_figure", "shared_table"]


def figure_strip(
    viewer: Viewer, figures: board.QueueFigures, hours: HoursView, budget: BudgetView | None = None
) -> FT:
    """Four figures: how much waits, how bad is this hour, today, and how good were the last decisions."""
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
        _today(hours) if budget is None else budget_tile(budget),
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
            H2("High or above today"),
            Div(form.format_count(hours.today), cls="fig"),
            P("usual after 7 days. ", _set_budget()),
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
        P(f"{low:.0f} to {high:.0f} usual", Span(" by now", cls="w"), ". ", _set_budget()),
    )


def _set_budget() -> FT:
    return A(
        "Set a budget", href=routes.BUDGET, cls="link", title="Say how many cases a day people can look at"
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


def hours_figure(hours: HoursView) -> FT:
    """Anomalies an hour over what is usual for the hour, with its readout and table."""
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
        folded_table(label, heads, rows),
    )


def shared_table(view: NowView, shared: Sequence[SharedValue], waiting: int) -> FT:
    """Values in common, each a filter."""
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
