"""Metrics: what is strange, since when, what else then? Batches by their share of anomalies, metrics within each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, timedelta

from starlette.requests import Request

from anomalyze.config import Problem
from anomalyze.metrics.library import BatchEntry
from anomalyze.storage.metrics_board import BatchRun, BoardBatch, load_board, load_last_runs
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, copyable, empty_row, head_cell, search_box, table
from dashboard.element import FT, A, Button, Div, Form, Input, Label, Option, P, Select, Small, Span, ft
from dashboard.frame import frame, page_head, zone_note
from dashboard.metric_filter import FAILED, PERIOD_WORDS, PERIODS, MetricsView, parse_metrics_view
from dashboard.metric_panel import empty_panel, load_panel, panel
from dashboard.metric_row import (
    COLUMNS,
    batch_head,
    fold_row,
    metric_row,
    mistake_words,
    period_links,
    state_sign,
)
from dashboard.page import Answer, open_page, remember
from dashboard.security import Viewer, viewer_of

__all__ = ["metrics_page"]

# Lines on a page; of several batches each has its part of them, and not fewer than some.
ROWS = 48
ROWS_A_BATCH_MIN = 4
# Heads on a page; what comes behind them is found by searching.
HEADS_MAX = 60
# What is shown with every metric of its batches.
WHOLE = ("all", FAILED)

# Files that cannot be read.
UNREAD_MAX = 5
# Batches, tags and owners to choose from.
CHOICES_MAX = 200

_SHOWN = (
    ("all", "All"),
    ("strange", "Strange in {period}"),
    ("now", "Strange now"),
    ("late", "Late"),
    ("snoozed", "Snoozed"),
    (FAILED, "Failed batches"),
)
# Shown where there is one.
_RARE = ("snoozed", FAILED)
_FIRST_BATCH = """\
description: Visits of our site, by hour
account: {account}
source: {{kind: push}}
direction: down
"""


async def metrics_page(request: Request) -> Answer:
    """GET /metrics."""
    viewer, view = viewer_of(request), parse_metrics_view(request.query_params)
    batches = request.app.state.batches
    owned = await asyncio.to_thread(batches.of, viewer.account_id)
    mistakes = await asyncio.to_thread(batches.mistakes, viewer.account_id)
    unread = await asyncio.to_thread(batches.unread, viewer.account_id)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    chosen = view.choose(owned)
    async with open_page(request) as connection:
        runs = await fetch_async(connection, load_last_runs(list(chosen)))
        failed = [name for name, run in runs.items() if run.error is not None]
        if view.shown == FAILED:
            chosen = {name: entry for name, entry in chosen.items() if name in failed}
        one = len(chosen) == 1
        board = await fetch_async(
            connection,
            load_board(
                list(chosen),
                viewer.now,
                window=PERIODS[view.period],
                patterns=view.patterns(chosen),
                shown=view.shown,
                per_batch=ROWS if one else max(ROWS_A_BATCH_MIN, ROWS // max(len(chosen), 1)),
                skip=(view.page - 1) * ROWS if one else 0,
                rows=ROWS,
            ),
        )
        heads = _heads(board, chosen, view)
        at = view.at if view.at is not None and view.at[0] in owned else _first(heads)
        shown = await load_panel(connection, owned[at[0]], at[1], viewer.now, view.period) if at else None
    marked = replace(view, at=at if shown else None)
    strange = sum(batch.now for batch in board)
    content = [
        _head(board, chosen, viewer),
        _unread(unread) if unread else None,
        _bar(view, board, owned, len(failed)) if owned else None,
        _quiet(board, viewer) if not view.narrowed else None,
        Div(
            Div(_list(heads, owned, runs, mistakes, marked, one, viewer), cls="sheet-m"),
            panel(shown, viewer) if shown else empty_panel(),
            cls="split",
        )
        if owned
        else _none(viewer),
    ]
    return frame(
        viewer,
        channel.state,
        title=f"{form.format_count(strange)} strange now, Metrics" if strange else "Metrics",
        active="metrics",
        content=remember(request, [part for part in content if part is not None]),
        styles=("metric.css", "metrics.css"),
        scripts=("metrics.js",),
    )


def _heads(
    board: Sequence[BoardBatch], chosen: Mapping[str, BatchEntry], view: MetricsView
) -> list[tuple[str, BoardBatch | None]]:
    """Batches in the order of the page: those with something to show, then those without a metric yet."""
    found: list[tuple[str, BoardBatch | None]] = [
        (batch.name, batch) for batch in board if batch.kept or (not view.words and view.shown in WHOLE)
    ]
    if not view.words and view.shown in WHOLE:
        known = {batch.name for batch in board}
        found += [(name, None) for name in chosen if name not in known]
    return found


def _first(heads: Sequence[tuple[str, BoardBatch | None]]) -> tuple[str, str] | None:
    return next(((row.batch, row.metric) for _, batch in heads if batch for row in batch.rows), None)


def _head(board: Sequence[BoardBatch], chosen: Mapping[str, BatchEntry], viewer: Viewer) -> FT:
    metrics = sum(batch.metrics for batch in board)
    return page_head(
        "Metrics",
        Span(
            f"{form.format_count(metrics)} in {form.plural(len(chosen), 'batch', 'batches')}",
            cls="muted small",
        ),
        right=("Highest anomaly rate first. ", zone_note(viewer)),
    )


def _unread(problems: Sequence[Problem]) -> FT:
    """Batches that nobody would miss here otherwise: their files cannot be read, and no earlier form is known."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.file, problem)
    told = [
        Small(ft("b", name), f" {mistake_words(one)}", cls="why-not")
        for name, one in list(first.items())[:UNREAD_MAX]
    ]
    if len(first) > UNREAD_MAX:
        told.append(Small(f"and {form.plural(len(first) - UNREAD_MAX, 'more file')}", cls="why-not"))
    what = (
        "A file cannot be read: its batch does not run and is not shown"
        if len(first) == 1
        else f"{len(first)} files cannot be read: their batches do not run and are not shown"
    )
    return Div(P(state_sign("down", what)), *told, cls="quiet", role="alert")


def _bar(view: MetricsView, board: Sequence[BoardBatch], owned: Mapping[str, BatchEntry], failed: int) -> FT:
    counts = {
        "all": sum(batch.metrics for batch in board),
        "strange": sum(batch.strange for batch in board),
        "now": sum(batch.now for batch in board),
        "late": sum(batch.late for batch in board),
        "snoozed": sum(batch.snoozed for batch in board),
        FAILED: failed,
    }
    batches = [entry.batch for entry in owned.values()]
    return Div(
        Div(
            *(
                A(
                    f"{word.format(period=PERIOD_WORDS[view.period])} {form.format_count(counts[key])}",
                    href=view.url(show=None if key == "all" else key),
                    aria_current="true" if view.shown == key else None,
                )
                for key, word in _SHOWN
                if key not in _RARE or counts[key] or view.shown == key
            ),
            cls="seg",
            role="group",
            aria_label="Show",
        ),
        period_links(view.period, lambda key: view.url(period=key)),
        Form(
            *(
                Input(type="hidden", name=name, value=str(value))
                for name, value in view.query.items()
                if value and name in ("show", "period")
            ),
            search_box(view.words, "Name, or p95_*", "Filter metrics"),
            _choice("batch", "any batch", list(owned), view.batch),
            _choice("tag", "any tag", [tag for batch in batches for tag in batch.tags or [""]], view.tag),
            _choice("owner", "any owner", [batch.owner for batch in batches], view.owner),
            Button("Show", cls="btn", type="submit"),
            A("Clear", href=routes.with_query(routes.METRICS, period=view.period_query), cls="btn bare")
            if view.narrowed
            else None,
            action=routes.METRICS,
            method="get",
            cls="bar-form",
        ),
        cls="bar",
    )


def _choice(name: str, any_word: str, values: Sequence[str], chosen: str) -> FT | None:
    """A filter by one of some values, where there is something to choose."""
    if len(set(values)) < 2 and not chosen:
        return None
    known = sorted({value for value in values if value})[:CHOICES_MAX]
    if chosen and chosen not in known:
        known.append(chosen)
    return Label(
        Span(name.capitalize(), cls="vh"),
        Select(
            Option(any_word, value="", selected=not chosen),
            *(Option(value, value=value, selected=value == chosen) for value in known),
            name=name,
            cls="input",
        ),
    )


def _list(
    heads: Sequence[tuple[str, BoardBatch | None]],
    owned: Mapping[str, BatchEntry],
    runs: Mapping[str, BatchRun],
    mistakes: Mapping[str, tuple[Problem, ...]],
    view: MetricsView,
    one: bool,
    viewer: Viewer,
) -> FT:
    rows: list[FT] = []
    number = 0
    for name, batch in heads[:HEADS_MAX]:
        entry = owned[name]
        rows.append(batch_head(entry, batch, runs.get(name), mistakes.get(name), view, viewer))
        for row in batch.rows if batch else ():
            rows.append(metric_row(row, entry.batch.settings(row.metric).unit, number, view, viewer))
            number += 1
        if batch:
            rows += _folded(batch, view, one)
    if len(heads) > HEADS_MAX:
        more = form.plural(len(heads) - HEADS_MAX, "more batch", "more batches")
        rows.append(
            empty_row(COLUMNS, f"{more}, with lower rates. Words, a tag or what is strange bring them here.")
        )
    period = PERIOD_WORDS[view.period]
    captions = (
        ft("td", role="cell", cls="m-s"),
        head_cell("Metric", "m-n"),
        head_cell(f"{period}, expected band", "m-sp"),
        head_cell("Last", "num m-v"),
        head_cell("Off by", "num m-d", title="how far beyond what is usual"),
        head_cell("Anomaly rate", "num m-r", sort="descending", title=f"of the points of the last {period}"),
        head_cell("Data of", "num m-l", title="when the newest value is of"),
    )
    found = table(
        f"Metrics by batch, highest anomaly rate first, {period}",
        captions,
        rows or [_no_match(view)],
        cls="mt",
    )
    found.children[-1].attrs["id"] = "rows"
    return found


def _folded(batch: BoardBatch, view: MetricsView, one: bool) -> list[FT]:
    """What of a batch is not shown: how many, and how many of them were strange; pages of a batch alone."""
    skipped = (view.page - 1) * ROWS if one else 0
    rest = batch.kept - skipped - len(batch.rows)
    found = []
    if skipped:
        found.append(
            fold_row(
                f"{form.format_count(skipped)} before, with higher rates",
                view.url(page=view.page - 1 or None),
            )
        )
    if rest > 0:
        strange = batch.strange - sum(1 for row in batch.rows if row.anomalies) if not skipped else 0
        period = PERIOD_WORDS[view.period]
        words = f", {form.format_count(strange)} of them strange in {period}" if strange > 0 else ""
        if not skipped and strange <= 0 and view.shown == "all":
            words = f", none strange in {period}"
        more = view.url(batch=batch.name, page=view.page + 1 if one else None)
        found.append(fold_row(f"{form.format_count(rest)} more{words}", more))
    return found


def _no_match(view: MetricsView) -> FT:
    return empty_row(
        COLUMNS,
        "None match. ",
        A("Clear filters", href=routes.with_query(routes.METRICS, period=view.period_query), cls="link"),
    )


def _quiet(board: Sequence[BoardBatch], viewer: Viewer) -> FT | None:
    """Quiet is said, with when data last came."""
    newest = max((batch.newest_ts for batch in board if batch.newest_ts), default=None)
    if newest is None or any(batch.now for batch in board):
        return None
    metrics = sum(batch.metrics for batch in board)
    return P(
        f"Nothing is strange. {form.plural(metrics, 'metric')} watched, the newest value is of ",
        *ago(newest, viewer.now, viewer.zone),
        ".",
        cls="quiet",
    )


def _none(viewer: Viewer) -> FT:
    """No batch of this account: how to write the first one."""
    yaml = _FIRST_BATCH.format(account=viewer.account_id)
    hour = viewer.now.astimezone(UTC) - timedelta(hours=1)
    values = (
        f"curl -X POST http://127.0.0.1:{viewer.api_port}/v1/metrics/visits -H 'Authorization: Bearer YOUR_KEY' "
        f"""-H 'Content-Type: application/json' -d '{{"metric": "visits", "timestamp": "{hour:%Y-%m-%dT%H}:00:00Z", "value": 1204}}'"""
    )
    return Div(
        P(
            "No metric yet. A small YAML file names the numbers to watch. Write this to metrics_config/metrics/visits.yaml:"
        ),
        copyable(yaml, "the file"),
        P("Then see that it is right, and send a value:"),
        copyable("anomalyze check", "the check command"),
        copyable(values, "the request"),
        P(
            "Numbers of your own databases are read on a schedule: give the batch a source and its SQL, as docs/metrics.md shows."
        ),
        cls="empty-m",
    )
