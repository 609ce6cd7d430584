"""The alert budget: promised against delivered, and the cases there was no room for, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request

from anomalyze.storage.board import Connection
from anomalyze.storage.budget import (
    OVERFLOW_MAX,
    Overflow,
    load_budget_days,
    load_delivered,
    load_overflow,
    load_ranked_days,
)
from anomalyze.storage.period import load_period_end
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.budget_days import SHOWN_DAYS, BudgetColumn, BudgetView, build_budget, first_day
from dashboard.components import (
    SEVERITY_WORDS,
    cell,
    copyable,
    empty_row,
    folded_table,
    head_cell,
    moment,
    sentence,
    severity,
    table,
    user_link,
)
from dashboard.element import FT, H2, A, Div, Figcaption, Figure, P, Section, Span, Tr, ft
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, open_page, remember
from dashboard.plots import promise_bars, share_bar
from dashboard.security import Viewer, viewer_of

__all__ = ["budget_page", "budget_tile", "load_budget"]

OVERFLOW_DAYS = 7
COLUMNS = 6
EXAMPLE = "budget: {cases_per_day: 20, severity: HIGH}"
STATES = {"open": "To review", "confirmed": "Confirmed", "dismissed": "Dismissed"}


async def load_budget(
    connection: Connection, viewer: Viewer, end: datetime | None = None
) -> BudgetView | None:
    """The account's budget; None without one.

    Parameters
    ----------
    end
        Where the days shown end, if not now.
    """
    last = viewer.now if end is None or end >= viewer.now else end - timedelta(microseconds=1)
    since = first_day(last)
    nights = await load_budget_days(connection, viewer.account_id, since.date())
    if not nights or nights[-1].cases_per_day is None:
        return None
    delivered = await load_delivered(connection, viewer.account_id, since, nights[-1].severity)
    past = last < viewer.now
    ranked = await load_ranked_days(connection, viewer.account_id, since) if past else None
    return build_budget(nights, delivered, last, ranked)


def budget_tile(budget: BudgetView) -> FT:
    """Today's cases against the promise, in the strip of Now."""
    today, level = budget.today, SEVERITY_WORDS[budget.newest.severity]
    promised = budget.newest.cases_per_day or 0.0
    top = max(promised * 1.4, today.delivered, 1.0)
    return Div(
        H2(f"{level} or above today"),
        Div(
            Div(
                form.format_count(today.delivered),
                Span(f" of {promised:g}", cls="muted small"),
                cls="fig",
            ),
            share_bar(today.delivered / top, promised / top),
            cls="figrow",
        ),
        P(A(_kept(budget), href=routes.BUDGET, cls="link"), title="The alert budget: promised and delivered"),
    )


def _kept(budget: BudgetView) -> str:
    """How well the promise was kept, in a few words."""
    if budget.newest.threshold is None:
        return "budget waits for history"
    if not budget.whole_days:
        return "budget since today"
    days = form.plural(budget.whole_days, "day")
    return f"{days}: {form.format_count(budget.delivered)} of {budget.promised:g} promised"


async def budget_page(request: Request) -> Answer:
    """GET /budget."""
    viewer = viewer_of(request)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    overflow: Sequence[Overflow] = ()
    async with open_page(request) as connection:
        end = await fetch_async(connection, load_period_end(viewer.account_id, viewer.now))
        budget = await load_budget(connection, viewer, end)
        if budget is not None:
            since = end - timedelta(days=OVERFLOW_DAYS)
            overflow = await load_overflow(connection, viewer.account_id, since, budget.newest.severity)
    content = [page_head("Budget", right=("Days are in UTC. ", zone_note(viewer)))]
    if budget is None:
        content.append(_how_to())
    else:
        # Of transactions that came long after they happened no day is today.
        past = "" if end >= viewer.now else f"{budget.today.day:%-d %b %Y}"
        content += [
            P(*_words(budget, past), cls="lead"),
            _figure(budget, past),
            _overflow(budget, overflow, viewer, past),
        ]
    return frame(
        viewer,
        channel.state,
        title="Budget",
        active="now",
        content=remember(request, content),
        styles=("lists.css", "now.css"),
    )


def _how_to() -> FT:
    return Section(
        H2("No budget yet"),
        P(
            "Say in policy.yaml how many cases a day your people can look at, and from which severity on they count:"
        ),
        copyable(EXAMPLE, "the example"),
        P(
            "Restart, and each night at 00:45 UTC thresholds are fitted to the last 28 days, at least 7; the job "
            "refit_budget in Dagster does so at once. The most "
            "suspicious cases then have that severity, about so many on average; what there is no room for is listed "
            "here in its order. Block lists are not counted, and nothing that would be blocked is let through."
        ),
        cls="teach",
    )


def _words(budget: BudgetView, past: str) -> tuple[Any, ...]:
    newest, level = budget.newest, SEVERITY_WORDS[budget.newest.severity]
    promise = f"{newest.cases_per_day:g} cases a day at {level} or above"
    if newest.threshold is None:
        return (ft("b", promise), f", from the first fit on. {newest.says}")
    fitted = f" Last fit {newest.day:%d %b}, over {form.plural(newest.days, 'day')}."
    if not budget.whole_days and past:
        return (ft("b", promise), f", in force for what comes next: it ranked nothing until {past}.{fitted}")
    if not budget.whole_days:
        return (ft("b", promise), f", in force since today.{fitted}")
    share = form.format_percent(budget.delivered / budget.promised, 0)
    days = form.plural(budget.whole_days, "whole day")
    when = f"On {days} until {past}, where the newest transaction is," if past else f"In the last {days}"
    kept = (
        f". {when} {form.format_count(budget.delivered)} were shown, "
        f"{budget.promised:g} promised: {share}.{fitted}"
    )
    return ft("b", promise), kept


def _readout(column: BudgetColumn) -> str:
    promised = "no threshold in force" if column.promised is None else f"promised {column.promised:g}"
    return f"{column.day:%d %b}: {form.plural(column.delivered, 'case')}, {promised}"


def _figure(budget: BudgetView, past: str) -> FT:
    """Delivered a day over what was promised, with its readout and table."""
    level = SEVERITY_WORDS[budget.newest.severity]
    today = f"{past or 'Today so far'}: {form.plural(budget.today.delivered, 'case')}"
    stretch = f"{SHOWN_DAYS} days{f' to {past}' if past else ''}"
    label = f"Cases a day at {level} or above over {stretch}, block lists apart. {today}."
    columns = [(f"{c.day:%d %b}", c.delivered, c.promised, _readout(c)) for c in budget.columns]
    rows = (
        Tr(
            ft("th", f"{c.day:%d %b}", scope="row", role="rowheader"),
            cell(form.format_count(c.delivered), cls="num"),
            cell(form.MISSING if c.promised is None else f"{c.promised:g}", cls="num"),
            role="row",
        )
        for c in budget.columns
    )
    heads = [head_cell("Day"), head_cell("Delivered", "num"), head_cell("Promised", "num")]
    return Figure(
        Figcaption(
            H2("Cases a day"),
            Span(
                f"to {past}".replace(" ", form.NO_BREAK) if past else f"{SHOWN_DAYS} days", cls="small muted"
            ),
            Div(Span(ft("i", cls="sw-line"), "promised"), cls="key"),
            cls="fh",
        ),
        P(today, cls="readout", data_default=today),
        Div(
            promise_bars(columns, 1152, 160, label, label_every=3),
            cls="desk plot-hours",
            data_columns=True,
            tabindex="0",
        ),
        Div(
            promise_bars(columns, 348, 110, label, label_every=7),
            cls="phone plot-hours",
            data_columns=True,
            tabindex="0",
        ),
        folded_table(label, heads, rows),
        cls="budget-figure",
    )


def _overflow(budget: BudgetView, overflow: Sequence[Overflow], viewer: Viewer, past: str) -> FT:
    stretch = f"{OVERFLOW_DAYS} days{f' to {past}' if past else ''}"
    heads = (
        head_cell("Would be"),
        head_cell("What happened", "c-said"),
        head_cell("User"),
        head_cell("Risk", "num mid", sort="descending", title="Its order among all; it has no unit"),
        head_cell("Review", "mid"),
        head_cell("Age", "num"),
    )
    rows = [_overflow_row(one, viewer) for one in overflow] or [
        empty_row(COLUMNS, f"Nothing overflowed in {stretch}: there was room for all.")
    ]
    grid = table(
        f"Cases that the budget had no room for, {stretch}, riskiest first",
        heads,
        rows,
        cls="grid",
    )
    grid.children[-1].attrs["id"] = "rows"
    count = f"the first {OVERFLOW_MAX}" if len(overflow) == OVERFLOW_MAX else form.format_count(len(overflow))
    return Section(
        Div(
            H2("Overflow"),
            Span(f"{stretch}, riskiest first: {count}", cls="small muted"),
            cls="fh",
        ),
        Div(grid, cls="sheet"),
        cls="after",
    )


def _overflow_row(one: Overflow, viewer: Viewer) -> FT:
    level = form.SEVERITIES.index(one.severity_before.lower())
    return Tr(
        cell(severity(level)),
        cell(A(*sentence(one.explanation), href=routes.anomaly(one.anomaly_id), cls="name"), cls="c-said"),
        cell(user_link(one.user_id), cls="c-id"),
        cell(f"{one.risk:.3f}", cls="num mid"),
        cell(STATES.get(one.state, one.state), cls="muted mid"),
        cell(moment(one.ts, viewer.now, viewer.zone), cls="num muted"),
        role="row",
        id=f"overflow-{one.case_id}",
    )
