"""The panel beside the list of metrics: one metric's sentence, line, what else was strange, what people say of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from anomalyze.metrics.detectors.setting import DetectorSetting
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.setting import MetricSettings
from anomalyze.storage.cursor import FilterError
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.metrics_also import Also, what_else
from anomalyze.storage.metrics_board import Line, load_line
from anomalyze.storage.metrics_view import MetricRow, load_metric, page_alerts
from anomalyze.storage.query import fetch_async
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import facts, mark, missing
from dashboard.element import FT, H2, H3, A, Aside, Dd, Div, Dl, Dt, Kbd, P, Section, Span
from dashboard.metric_actions import feedback_form, snooze_form
from dashboard.metric_filter import DEFAULT_PERIOD, PERIOD_WORDS, PERIODS
from dashboard.metric_plots import series_chart
from dashboard.metric_words import describe_now, format_measure, format_range, kind_word, muted_word
from dashboard.security import Viewer

__all__ = ["PanelData", "also_list", "empty_panel", "load_panel", "panel", "period_end", "settings_facts"]

PARTS = 84
NAMES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class PanelData:
    """What the panel shows of a metric."""

    entry: BatchEntry
    row: MetricRow
    line: Line
    period: str
    since: datetime
    until: datetime
    alert: Alert | None
    also: Also | None


async def load_panel(
    connection: psycopg.AsyncConnection[Any], entry: BatchEntry, metric: str, now: datetime, period: str
) -> PanelData | None:
    """A metric of a batch over one of `PERIODS`; None when there is none of that name."""
    try:
        row = await fetch_async(connection, load_metric(entry.name, metric, now))
    except FilterError:
        return None
    if row is None:
        return None
    until = period_end(row, now, PERIODS[period])
    since = until - PERIODS[period]
    line = await fetch_async(connection, load_line(entry.name, metric, since, until, PARTS))
    alerts = await fetch_async(connection, page_alerts([entry.name], metric=metric, state="open", limit=20))
    alert = max(alerts.rows, key=lambda one: (one.severity, one.alert_id), default=None)
    also = (
        await fetch_async(
            connection, what_else(entry.name, metric, alert.opened_ts, alert.last_ts, NAMES_SHOWN)
        )
        if alert is not None
        else None
    )
    return PanelData(entry, row, line, period, since, until, alert, also)


def period_end(row: MetricRow, now: datetime, period: timedelta) -> datetime:
    """Now, or where the values of a series end that ended before the period."""
    return row.newest_ts if row.newest_ts is not None and row.newest_ts < now - period else now


def panel(data: PanelData, viewer: Viewer) -> FT:
    """The panel."""
    row, settings = data.row, data.entry.batch.settings(data.row.metric)
    level = row.alert_severity or row.newest_severity
    name, rest = describe_now(row, settings.unit, viewer.now, viewer.zone)
    asked = None if data.period == DEFAULT_PERIOD else data.period
    here = routes.metric_at(row.batch, row.metric, period=asked)
    strange = sum(1 for severity in data.line.severity if severity)
    period = PERIOD_WORDS[data.period]
    label = f"{row.metric} over {period} with the usual band; {form.plural(strange, 'anomaly', 'anomalies')}. {row.metric if name else ''}{rest}"
    return Aside(
        Div(
            mark(level) if level else None,
            H2(row.metric, title=row.metric, dir="auto"),
            Span(row.batch, cls="muted small"),
            Span(
                A("Open ", Kbd("enter"), href=routes.metric(row.batch, row.metric, period=asked), cls="btn bare", title="Open (enter)"),
                cls="end",
            ),
            cls="t",
        ),
        P(name, rest, cls="say"),
        P(f"Nobody was told: {muted_word(row.alert_muted)}.", cls="muted small") if row.alert_muted else None,
        _readings(row, settings, viewer),
        series_chart(
            data.line, data.since, data.until, label, settings.unit, viewer.zone,
            (settings.thresholds.lower, settings.thresholds.upper),
        )
        if data.line.ts
        else P(f"No value in {period}.", cls="muted small"),
        Section(H3("Strange in the same hours"), also_list(row.batch, data.also), cls="sec")
        if data.also
        else None,
        Section(
            Div(
                feedback_form(data.alert, here, viewer) if data.alert else None,
                snooze_form(row, here, viewer),
                cls="acts",
            ),
            cls="sec",
        ),
        Section(facts(settings_facts(data.entry, settings)[:4]), cls="sec"),
        cls="one",
        id="one",
        aria_label=row.metric,
    )  # fmt: skip


def empty_panel() -> FT:
    """The panel before anything is chosen."""
    return Aside(P("Select a metric to see it here.", cls="muted"), cls="one", id="one", aria_label="Metric")


def also_list(batch: str, also: Also) -> FT:
    """Links to what else was strange."""
    if not also.count:
        return P("Nothing else of this batch.", cls="muted small")
    more = also.count - len(also.strongest)
    return Div(
        *(
            A(
                mark(one.severity),
                one.metric,
                href=routes.metric(batch, one.metric),
                cls="link",
                title=kind_word(one.kind),
            )
            for one in also.strongest
        ),
        Span(f"and {form.format_count(more)} more", cls="muted small") if more else None,
        cls="also",
    )


def settings_facts(entry: BatchEntry, settings: MetricSettings) -> list[tuple[str, Any]]:
    """How a metric is judged, as its file and all above and below it say."""
    batch, limits, before = entry.batch, settings.thresholds, settings.preprocessing
    told = settings.alerts
    detectors = ", ".join(map(_detector_word, settings.detectors)) or "none: only thresholds judge"
    ways = {"up": "up is bad", "down": "down is bad", "both": "both ways are bad"}
    prepared = ", ".join(
        f"{name} {_plain(value)}"
        for name, value in before.model_dump(mode="json", exclude_defaults=True).items()
    )
    fixed = ", ".join(
        f"{name.replace('_', ' ')} {_plain(value)}"
        for name, value in limits.model_dump(mode="json", exclude_defaults=True).items()
    )
    alerts = ", ".join(
        f"{name.replace('_', ' ')} {_plain(value)}"
        for name, value in told.model_dump(mode="json", exclude_defaults=True).items()
    )
    return [
        ("Detectors", detectors),
        ("Direction", ways[settings.direction]),
        ("About", batch.description),
        ("Declared in", Span(str(entry.path.relative_to(entry.config_dir)), cls="mono")),
        ("Owner", batch.owner),
        ("Thresholds", fixed or "none"),
        ("Before that", prepared or "values as they are"),
        ("Alerts", alerts or "all incidents, into the log"),
        ("Read", f"{batch.schedule} ({batch.timezone}), {_plain(batch.window)} back"),
        ("Tags", ", ".join(batch.tags)),
        ("Priority", str(batch.priority)),
    ]


def _readings(row: MetricRow, settings: MetricSettings, viewer: Viewer) -> FT:
    unit = settings.unit
    novelty = "–" if row.newest_novelty is None else form.format_score(row.newest_novelty)
    pairs = (
        ("Time", form.format_age(row.newest_ts, viewer.now, viewer.zone) if row.newest_ts else missing("nothing was scored yet")),
        ("Value", format_measure(row.value, unit)),
        ("Usual", format_range(row.lower, row.upper, unit)),
        ("Novelty", novelty),
    )  # fmt: skip
    return Dl(*(Div(Dt(name), Dd(value)) for name, value in pairs), cls="read")


def _detector_word(detector: DetectorSetting) -> str:
    keys = _plain(getattr(detector, detector.key).model_dump(mode="json", exclude_none=True))
    return f"{detector.key} ({keys})" if keys else detector.key


def _plain(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, timedelta):
        return form.format_duration(value.total_seconds())
    return f"{value:g}" if isinstance(value, float) else str(value)
