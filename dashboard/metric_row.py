"""Rows of the list of metrics: a batch's head, a metric with its line, what is folded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from anomalyze.config import Problem
from anomalyze.metrics.library import BatchEntry
from anomalyze.storage.metrics_board import BatchRun, BoardBatch, BoardRow
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import SEVERITY_WORDS, ago, cell, mark, missing
from dashboard.element import FT, A, Div, Small, Span, Tr, ft
from dashboard.metric_filter import DEFAULT_PERIOD, PERIOD_LINKS, PERIOD_WORDS, PERIODS, MetricsView
from dashboard.metric_plots import sparkline
from dashboard.metric_words import describe_step, format_measure, off_by, source_word
from dashboard.security import Viewer

__all__ = ["COLUMNS", "batch_head", "fold_row", "metric_row", "mistake_words", "period_links", "state_sign"]

COLUMNS = 7
ERROR_LENGTH_MAX = 300
DAY = timedelta(days=1)


def batch_head(
    entry: BatchEntry,
    batch: BoardBatch | None,
    run: BatchRun | None,
    mistakes: tuple[Problem, ...] | None,
    view: MetricsView,
    viewer: Viewer,
) -> FT:
    """A batch: where its numbers come from, how its last run ended, how many of its metrics are strange."""
    now = batch.now if batch else 0
    metrics = batch.metrics if batch else 0
    late = f", {form.format_count(batch.late)} late" if batch and batch.late else ""
    strange = (
        f"{form.format_count(now)} of {form.format_count(metrics)} strange now" if now else "none strange now"
    )
    said = [*_run_words(entry, run, mistakes, viewer)]
    return Tr(
        ft(
            "th",
            Div(
                A(
                    entry.name,
                    href=view.url(batch=entry.name),
                    cls="name bn",
                    title=entry.batch.description or None,
                ),
                Span(f"{source_word(entry.batch)}, {describe_step(entry.batch.step)}", cls="muted"),
                *_run_state(entry, run, mistakes, viewer),
                Span(f"{strange}{late}" if metrics else "no metric yet", cls="bx"),
            ),
            *said,
            scope="rowgroup",
            role="rowheader",
            colspan=str(COLUMNS),
        ),
        role="row",
        cls="bh",
    )


def state_sign(sign: str, *words: object) -> FT:
    """A sign with its words: ok, late, down."""
    return Span(
        ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=f"sign {sign}"),
        Span(*words),
        cls=f"st {sign}",
    )


def _run_state(
    entry: BatchEntry, run: BatchRun | None, mistakes: tuple[Problem, ...] | None, viewer: Viewer
) -> list[FT]:
    states = []
    if not entry.batch.enabled:
        states.append(state_sign("late", "off: its file says enabled: false"))
    elif run is None:
        states.append(state_sign("late", "not run yet"))
    elif run.error is not None:
        states.append(state_sign("down", "failed ", *ago(run.finished_at, viewer.now, viewer.zone)))
    elif run.failures:
        count = len(run.failures)
        states.append(
            state_sign(
                "late",
                f"{form.plural(count, 'metric')} failed ",
                *ago(run.finished_at, viewer.now, viewer.zone),
            )
        )
    else:
        states.append(state_sign("ok", *ago(run.finished_at, viewer.now, viewer.zone)))
    if mistakes is not None:
        states.append(state_sign("late", "its file has a mistake"))
    return states


def _run_words(
    entry: BatchEntry, run: BatchRun | None, mistakes: tuple[Problem, ...] | None, viewer: Viewer
) -> list[FT]:
    """Why a run failed, and what is wrong with a file."""
    words = []
    if run is not None and run.error is not None:
        since = run.failing_since
        before = (
            f" Failing since {form.format_age(since, viewer.now, viewer.zone)}{' ago' if viewer.now - since < DAY else ''}."
            if since is not None and since < run.finished_at
            else ""
        )
        words.append(Small(shorten(run.error), before, cls="why-not"))
    elif run is not None and run.failures:
        first = run.failures[0]
        words.append(Small(f"{first.get('metric', '')}: {shorten(first.get('reason', ''))}", cls="why-not"))
    if mistakes is not None:
        told = "; ".join(map(mistake_words, mistakes[:2]))
        words.append(Small(f"It runs as it was before the mistake. {told}", cls="why-not"))
    return words


def metric_row(row: BoardRow, unit: str, number: int, view: MetricsView, viewer: Viewer) -> FT:
    """A metric: its line, newest value, how far off, its share of anomalies, how old its data are."""
    level = row.alert_severity or row.newest_severity
    is_at = view.at == (row.batch, row.metric)
    off = off_by(row, unit, late=row.late)
    total = row.line.points
    return Tr(
        cell(
            *((mark(level), Span(SEVERITY_WORDS[level], cls="vh")) if level and row.is_now else ()),
            cls="m-s",
        ),
        ft(
            "th",
            A(
                row.metric,
                href=routes.metric(row.batch, row.metric, period=view.period_query),
                cls="name",
                title=row.metric,
                dir="auto",
            ),
            _snoozed(row, viewer),
            scope="row",
            role="rowheader",
            cls="m-n",
        ),
        cell(sparkline(row.line, *_edges(row, viewer.now, PERIODS[view.period]), late=row.late), cls="m-sp"),
        cell(*_value(row, unit), cls="num wm m-v"),
        cell(off.text, cls=f"num m-d off-{off.state}", title=off.why),
        cell(
            Span(form.format_percent(row.anomalies / total), cls="wm"),
            Span(f"{form.format_count(row.anomalies)} of {form.format_count(total)}", cls="cur"),
            cls="num m-r",
            title=f"{row.anomalies:,} of {total:,}",
        )
        if total
        else cell(missing(f"no point in {PERIOD_WORDS[view.period]}"), cls="num m-r"),
        cell(_age(row, viewer), cls="num muted m-l"),
        role="row",
        id=f"metric-{number}",
        cls="sel" if is_at else None,
        aria_current="true" if is_at else None,
    )


def fold_row(text: str, href: str) -> FT:
    """What is not shown, and where it is."""
    return Tr(
        cell(cls="m-s"),
        cell(A(text, href=href, cls="link"), colspan=str(COLUMNS - 1)),
        role="row",
        cls="more",
    )


def period_links(chosen: str, address: Callable[[str | None], str]) -> FT:
    """The periods to choose from; ``address`` gives the page with one, None: the usual."""
    return Div(
        *(
            A(
                PERIOD_LINKS[key],
                href=address(None if key == DEFAULT_PERIOD else key),
                aria_current="true" if key == chosen else None,
            )
            for key in PERIODS
        ),
        cls="seg",
        role="group",
        aria_label="Period",
    )


def _snoozed(row: BoardRow, viewer: Viewer) -> FT | None:
    until = row.snoozed_until
    if until is None or until <= viewer.now:
        return None
    return Span("snoozed", cls="cur", title=f"nobody is told until {form.format_moment(until, viewer.zone)}")


def _age(row: BoardRow, viewer: Viewer) -> FT:
    """How old the newest value is, in its largest unit; after a day the day."""
    if row.newest_ts is None:
        return missing("nothing was scored yet")
    is_old = viewer.now - row.newest_ts >= DAY
    age = form.format_age(row.newest_ts, viewer.now, viewer.zone).partition(", " if is_old else " ")[0]
    return Span(age, title=form.format_moment(row.newest_ts, viewer.zone))


def _value(row: BoardRow, unit: str) -> tuple[object, ...]:
    if row.value is None:
        why = "the newest value is known to be missing" if row.newest_ts else "nothing was scored yet"
        return (missing(why),)
    text = format_measure(row.value, "%" if unit == "%" else "")
    exact = Span(text, title=f"{row.value:,.10g}") if abs(row.value) >= 10_000 else text
    return (exact, Span(unit, cls="cur")) if unit not in ("", "%") else (exact,)


def _edges(row: BoardRow, now: datetime, period: timedelta) -> tuple[float, float]:
    """Of the sparkline: the period, or as long before the newest point of a series that ended earlier."""
    end = now.astimezone(UTC)
    if row.newest_ts is not None and row.newest_ts < end - period:
        end = row.newest_ts
    return (end - period).timestamp(), end.timestamp()


def mistake_words(problem: Problem) -> str:
    """A mistake of a file: where, what, and what was probably meant."""
    path = f"{problem.path}: " if problem.path else ""
    meant = f" Did you mean {problem.suggestion}?" if problem.suggestion else ""
    return f"line {problem.line}: {path}{shorten(problem.message)}{meant}"


def shorten(text: str) -> str:
    """What was expected and what came stand at either end."""
    if len(text) <= ERROR_LENGTH_MAX:
        return text
    half = ERROR_LENGTH_MAX // 2
    return f"{text[:half].rstrip()} … {text[-half:].lstrip()}"
