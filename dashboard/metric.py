"""One metric: what is strange, since when, what else then; how it is judged, and how its batch was read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from starlette.requests import Request

from anomalyze.metrics.detectors.setting import PLAIN
from anomalyze.metrics.incident import OPEN
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.setting import MetricSettings
from anomalyze.storage.metrics_alerts import Alert, Snooze, list_snoozes
from anomalyze.storage.metrics_board import Line, load_line
from anomalyze.storage.metrics_runs import load_runs
from anomalyze.storage.metrics_view import MetricRow, page_alerts
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import (
    SEVERITY_WORDS,
    cell,
    facts,
    folded_table,
    head_cell,
    icon,
    mark,
    moment,
)
from dashboard.element import (
    FT,
    H1,
    H2,
    A,
    Aside,
    Details,
    Div,
    Figcaption,
    Figure,
    NotStr,
    P,
    Pre,
    Section,
    Small,
    Span,
    Summary,
    Tr,
    ft,
)
from dashboard.frame import frame, zone_note
from dashboard.metric_actions import snooze_form
from dashboard.metric_filter import DEFAULT_PERIOD, PERIOD_WORDS, PERIODS, parse_period
from dashboard.metric_incidents import decide_panel, incidents_section, runs_section
from dashboard.metric_panel import PanelData, also_list, load_panel, panel, period_end, settings_facts
from dashboard.metric_plots import pieces, series_chart
from dashboard.metric_row import period_links
from dashboard.metric_words import describe_now, format_measure, format_range, muted_word, off_by
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.security import Viewer, viewer_of

__all__ = ["metric_page"]

# Parts of the time of a plot: with three points of each it is as fine as a screen.
PARTS = 240
INCIDENTS_SHOWN = 50
RUNS_SHOWN = 20
TABLE_ROWS = 100
DIGITS = 6
HINT = "Point at the line, or focus the plot and use the arrow keys; drag to zoom, double-click for all."


async def metric_page(request: Request) -> Answer:
    """GET /metrics/{batch}/{metric}; with ``panel`` only what the list shows of it beside itself."""
    viewer = viewer_of(request)
    batch, metric = request.path_params["batch"], request.path_params["metric"]
    metric = metric or request.query_params.get("name", "")
    owned = await asyncio.to_thread(request.app.state.batches.of, viewer.account_id)
    entry = owned.get(batch)
    if entry is None:
        return await not_found(request, f"No batch of this name in {viewer.account_id}.")
    period = parse_period(request.query_params)
    if "panel" in request.query_params:
        async with open_page(request) as connection:
            data = await load_panel(connection, entry, metric, viewer.now, period)
        return panel(data, viewer) if data else await _no_metric(request, entry)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        data = await load_panel(connection, entry, metric, viewer.now, period)
        if data is None:
            return await _no_metric(request, entry)
        until = period_end(data.row, viewer.now, PERIODS[period])
        since = until - PERIODS[period]
        line = await fetch_async(connection, load_line(batch, metric, since, until, PARTS))
        alerts = await fetch_async(connection, page_alerts([batch], metric=metric, limit=INCIDENTS_SHOWN))
        runs = await fetch_async(connection, load_runs(batch, RUNS_SHOWN))
        snoozes = await fetch_async(connection, list_snoozes([batch], viewer.now))
    settings = entry.batch.settings(metric)
    # By when they were; the list of alerts goes by when they were found.
    incidents = sorted(alerts.rows, key=lambda one: (one.state != OPEN, -one.opened_ts.timestamp()))
    asked = None if period == DEFAULT_PERIOD else period
    here = routes.metric(batch, metric, period=asked)
    content = [
        _crumbs(data.row, asked, viewer),
        _lede(data, settings, viewer),
        Div(
            Div(
                _figure(data, line, incidents, settings, period, since, until, viewer),
                incidents_section(
                    incidents, here, settings.unit, viewer, full=len(incidents) == INCIDENTS_SHOWN
                ),
                runs_section(runs, metric, viewer),
                _yaml(entry),
            ),
            _rail(data, settings, snoozes, here, viewer),
            cls="cols",
        ),
    ]
    return frame(
        viewer,
        channel.state,
        title=f"{metric}, {batch}",
        active="metrics",
        content=remember(request, content),
        styles=("anomaly.css", "metric.css"),
        scripts=("series.js",),
        plots=True,
    )


async def _no_metric(request: Request, entry: BatchEntry) -> Answer:
    return await not_found(request, f"No metric of this name in the batch {entry.name}.")


def _crumbs(row: MetricRow, asked: str | None, viewer: Viewer) -> FT:
    return Div(
        A(
            icon("left"),
            "Metrics",
            href=routes.metric_at(row.batch, row.metric, period=asked),
            cls="btn bare",
            data_back=True,
            title="Back (esc)",
        ),
        A(row.batch, href=routes.with_query(routes.METRICS, batch=row.batch), cls="btn bare"),
        Span(zone_note(viewer), cls="end small desk"),
        cls="crumbs",
    )


def _lede(data: PanelData, settings: MetricSettings, viewer: Viewer) -> FT:
    row = data.row
    level = row.alert_severity or row.newest_severity
    off = off_by(row, settings.unit, late=row.alert_kind == "late")
    rate = (
        form.format_percent(row.recent_anomalies / row.recent_points) if row.recent_points else form.MISSING
    )
    return Div(
        Div(
            mark(level) if level else None,
            Span(SEVERITY_WORDS[level], cls=f"sev {form.SEVERITIES[level]}") if level else None,
            Span(row.metric, cls="strong name-of", dir="auto"),
            Span(row.batch, cls="muted"),
            cls="meta",
        ),
        H1(*describe_now(row, settings.unit, viewer.now, viewer.zone)),
        P(
            Span("Last ", ft("b", format_measure(row.value, settings.unit))),
            Span("usual ", ft("b", format_range(row.lower, row.upper, settings.unit))),
            Span("off by " if off.state == "out" else None, ft("b", off.text), title=off.why),
            Span(
                "anomalies ",
                ft("b", rate),
                f", {row.recent_anomalies} of {form.format_count(row.recent_points)} in 7 days",
            ),
            Span(f"nobody was told: {muted_word(row.alert_muted)}") if row.alert_muted else None,
            Span("data of ", moment(row.newest_ts, viewer.now, viewer.zone)) if row.newest_ts else None,
            cls="meta after",
        ),
        cls="lede",
    )


def _figure(
    data: PanelData,
    line: Line,
    alerts: Sequence[Alert],
    settings: MetricSettings,
    period: str,
    since: datetime,
    until: datetime,
    viewer: Viewer,
) -> FT:
    row = data.row
    before = settings.preprocessing
    judged = " after differences" if before.difference else " smoothed" if before.smooth > 1 else ""
    unit = f", {settings.unit}" if settings.unit else ""
    thinned = (
        f"; of {form.format_count(line.points)} points the least, the greatest and the strangest of each stretch"
        if line.points > len(line.ts)
        else ""
    )
    ends = "" if until == viewer.now else f" to {form.format_day(until, viewer.zone)}, where its values end"
    found = [alert for alert in alerts if alert.last_ts >= since and alert.opened_ts <= until]
    label = (
        f"{row.metric}{judged}{unit} over {PERIOD_WORDS[period]}{ends}, with the usual band: "
        f"{form.plural(sum(1 for s in line.severity if s), 'anomaly', 'anomalies')}, {form.plural(len(found), 'incident')}."
    )
    limits = settings.thresholds
    keys = [Span(ft("i", cls="sw"), "usual")]
    if any(one.key not in PLAIN for one in settings.detectors):
        keys.append(
            Span("to the default detector; the picture of an incident has the band of the one that found it")
        )
    keys += [
        Span(ft("i", cls="dash limit-k"), f"{word} limit {format_measure(value, settings.unit)}")
        for word, value in (("upper", limits.upper), ("lower", limits.lower))
        if value is not None
    ]
    if found:
        keys.append(Span(ft("i", cls="sw inc"), "incident"))
    return Section(
        Figure(
            Figcaption(
                H2(f"Values{judged}{unit}"),
                Span(f"{form.plural(line.points, 'point')}{ends}", cls="small muted", title=thinned or None),
                Div(*keys, cls="key desk"),
                Div(
                    period_links(period, lambda key: routes.metric(row.batch, row.metric, period=key)),
                    cls="end",
                ),
                cls="fh",
            ),
            P(HINT, cls="readout", data_default=HINT),
            Div(
                ft("noscript", _still(data, settings, label, viewer)),
                cls="plot plot-tall",
                data_series=_series_data(line, found, settings, since, until, viewer),
                role="img",
                tabindex="0",
                aria_label=label,
            )
            if line.ts
            else P(f"No value in {PERIOD_WORDS[period]}.", cls="empty"),
            _as_table(row, line, settings.unit, viewer),
        ),
        cls="s first",
    )


def _still(data: PanelData, settings: MetricSettings, label: str, viewer: Viewer) -> NotStr:
    """The line as the list's panel draws it, for a browser without scripts."""
    limits = settings.thresholds.lower, settings.thresholds.upper
    return series_chart(data.line, data.since, data.until, label, settings.unit, viewer.zone, limits)


def _series_data(
    line: Line,
    alerts: Sequence[Alert],
    settings: MetricSettings,
    since: datetime,
    until: datetime,
    viewer: Viewer,
) -> str:
    """What the plot draws; a point without a value stands in each gap."""
    columns: dict[str, list[Any]] = {"t": [], "y": [], "lo": [], "hi": [], "s": []}

    def add(ts: float, *values: Any) -> None:
        for name, value in zip(columns, (ts, *values), strict=True):
            columns[name].append(float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value)

    gaps = []
    for number, piece in enumerate(pieces(line)):
        if number:
            first, last = columns["t"][-1], line.ts[piece[0]]
            gaps.append([first, last])
            add((first + last) // 2, None, None, None, 0)
        for index in piece:
            add(
                line.ts[index],
                line.value[index],
                line.lower[index],
                line.upper[index],
                line.severity[index] or 0,
            )
    limits = settings.thresholds
    return json.dumps(
        columns
        | {
            "gaps": gaps,
            "unit": settings.unit,
            "limits": [value for value in (limits.lower, limits.upper) if value is not None],
            "incidents": [
                [
                    round(a.opened_ts.timestamp()),
                    round(a.last_ts.timestamp()),
                    a.severity,
                    int(a.kind == "shift"),
                ]
                for a in alerts
            ],
            "start": round(since.timestamp()),
            "end": round(until.timestamp()),
            "zone": str(viewer.zone),
        },
        separators=(",", ":"),
    )


def _as_table(row: MetricRow, line: Line, unit: str, viewer: Viewer) -> FT:
    indices = range(len(line.ts) - 1, max(-1, len(line.ts) - 1 - TABLE_ROWS), -1)
    body = (
        Tr(
            cell(form.format_moment(datetime.fromtimestamp(line.ts[i], viewer.zone), viewer.zone)),
            cell(format_measure(line.value[i], unit), cls="num"),
            cell(format_range(line.lower[i], line.upper[i], unit), cls="num"),
            cell(SEVERITY_WORDS[line.severity[i] or 0]),
            role="row",
        )
        for i in indices
    )
    heads = (
        head_cell("Time"),
        head_cell("Value", "num"),
        head_cell("Usual", "num"),
        head_cell("Anomaly"),
    )
    return folded_table(f"Values of {row.metric}, newest first", heads, body)


def _rail(
    data: PanelData, settings: MetricSettings, snoozes: Sequence[Snooze], here: str, viewer: Viewer
) -> FT:
    row = data.row
    snooze = next((one for one in snoozes if one.metric in (None, row.metric)), None)
    return Aside(
        decide_panel(data.alert, here, viewer) if data.alert else None,
        Div(H2("Strange in the same hours"), also_list(row.batch, data.also)) if data.also else None,
        Div(H2("Told"), snooze_form(row, here, viewer, snooze), cls="div"),
        Div(H2("How it is judged"), facts(settings_facts(data.entry, settings)), cls="div"),
        cls="rail",
        aria_label="Decision and settings",
    )


def _yaml(entry: BatchEntry) -> FT:
    """The batch's file as it was read."""
    return Section(
        Details(
            Summary(
                icon("right"),
                "The file ",
                Small(str(entry.path.relative_to(entry.config_dir)), cls="mono muted"),
            ),
            Pre(entry.text, cls="raw mono", tabindex="0"),
            P(
                "Defaults and the environment may override it: what holds stands under “How it is judged”.",
                cls="note",
            ),
        ),
        cls="s",
    )
