"""How metrics read: values with their unit, how far off, which kind of incident, one sentence for how it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from anomalyze.metrics.batch import Batch
from anomalyze.storage.metrics_board import BoardRow
from anomalyze.storage.metrics_view import MetricRow
from dashboard import formatters as form
from dashboard.element import FT, ft

__all__ = [
    "OffBy",
    "describe_now",
    "describe_step",
    "format_measure",
    "format_range",
    "in_zone",
    "kind_word",
    "muted_word",
    "off_by",
    "said",
    "source_word",
]

_KINDS = {
    "unusual": "Unusual",
    "upper": "Above its limit",
    "lower": "Below its limit",
    "change": "Sudden change",
    "flat": "Does not change",
    "late": "No data",
    "shift": "Level shift",
    "seasonal_z": "Unusual for its time",
    "knn_shape": "Unusual shape",
    "ensemble": "Strange to several detectors",
}
# Why nobody was told, for people.
_MUTED = {
    "history": "it was over before it was known",
    "learning": "the series is still too short",
    "severity": "below the severity that is told",
    "disabled": "alerts of this metric are off",
    "maintenance": "in a maintenance window",
    "snoozed": "snoozed",
    "cooldown": "so soon after the last one",
    "dismissed": "one like it was dismissed",
}
_SOURCES = {
    "anomalyze": "Our own tables",
    "postgres": "PostgreSQL",
    "sqlite": "SQLite",
    "duckdb": "DuckDB",
    "mysql": "MySQL",
    "clickhouse": "ClickHouse",
    "bigquery": "BigQuery",
    "snowflake": "Snowflake",
    "prometheus": "Prometheus",
    "http": "HTTP",
    "push": "Pushed",
}
# As an incident's sentence says it, which is stored in UTC.
_MOMENT = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d) UTC\b", re.ASCII)
_STEPS = {
    timedelta(minutes=1): "every minute",
    timedelta(hours=1): "every hour",
    timedelta(days=1): "every day",
}


def kind_word(kind: str) -> str:
    """A kind of incident for people; one that is not known here reads as it is called.

    >>> kind_word("unusual"), kind_word("slow_drift"), kind_word("pyod_iforest")
    ('Unusual', 'Slow drift', 'Strange to PyOD (iforest)')
    """
    if kind.startswith("pyod_"):
        return f"Strange to PyOD ({kind.removeprefix('pyod_')})"
    return _KINDS.get(kind, kind.replace("_", " ").capitalize())


def muted_word(muted: str) -> str:
    """Why nobody was told, for people."""
    return _MUTED.get(muted, muted)


def source_word(batch: Batch) -> str:
    """Where a batch's numbers come from."""
    if batch.python is not None:
        return "Python function"
    kind = batch.source.kind if batch.source else ""
    return _SOURCES.get(kind, kind)


def describe_step(step: timedelta) -> str:
    """From one point to the next.

    >>> describe_step(timedelta(hours=1)), describe_step(timedelta(minutes=15))
    ('every hour', 'every 15\\xa0min')
    """
    return _STEPS.get(step) or f"every {form.format_duration(step.total_seconds())}"


def format_measure(value: float | None, unit: str = "") -> str:
    """A value to four digits with its unit; from 10,000 on with k or M.

    >>> format_measure(91.82, "%"), format_measure(18_400.0, "EUR"), format_measure(None)
    ('91.8%', '18.4\\xa0k\\xa0EUR', '–')
    """
    if value is None:
        return form.MISSING
    text = form.format_count(value) if abs(value) >= 10_000 else form.format_value(value)
    return f"{text}{unit}" if unit == "%" else f"{text}{form.NO_BREAK}{unit}" if unit else text


def format_range(lower: float | None, upper: float | None, unit: str = "") -> str:
    """A band.

    >>> format_range(95.7, 97.3, "%")
    '95.7 to 97.3%'
    """
    if lower is None or upper is None:
        return form.MISSING
    return f"{format_measure(lower)} to {format_measure(upper, unit)}"


@dataclass(frozen=True, slots=True)
class OffBy:
    """How far the newest value lies beyond its band; ``state``: out, in, late, learning or missing."""

    text: str
    state: str
    why: str


def off_by(row: BoardRow | MetricRow, unit: str, *, late: bool = False) -> OffBy:
    """From the nearer edge of the band: in points of a percentage, else in per cent of the edge.

    Where the edge is near zero beside the band's width a share of it would say nothing: then in the metric's own unit.
    """
    if late:
        return OffBy("late", "late", "no value has come for longer than its limit")
    if row.newest_ts is None:
        return OffBy(form.MISSING, "missing", "nothing was scored yet")
    judged = row.judged
    if judged is None:
        return OffBy(form.MISSING, "missing", "the newest value is known to be missing")
    if row.lower is None or row.upper is None:
        return OffBy("learning", "learning", "what is usual is still being learnt")
    band = f"usual are {format_range(row.lower, row.upper, unit)}"
    if row.lower <= judged <= row.upper:
        return OffBy("in range", "in", band)
    edge = row.upper if judged > row.upper else row.lower
    distance = judged - edge
    sign = "+" if distance > 0 else form.MINUS
    if unit == "%":
        text = f"{sign}{form.format_value(abs(distance))}{form.NO_BREAK}pts"
    elif abs(edge) > 0.1 * (row.upper - row.lower):
        text = (
            f"{sign}{form.format_percent(abs(distance / edge), 0 if abs(distance) >= abs(edge) / 10 else 1)}"
        )
    else:
        text = f"{sign}{format_measure(abs(distance), unit)}"
    return OffBy(text, "out", f"from the nearer edge: {band}")


def in_zone(sentence: str, now: datetime, zone: ZoneInfo) -> str:
    """An incident's sentence with its times by the reader's clock, which all others of a page are by.

    >>> now = datetime(2026, 11, 21, tzinfo=UTC)
    >>> in_zone("visits = 3, since 2026-11-20 23:00 UTC (2 points)", now, ZoneInfo("Europe/Berlin"))
    'visits = 3, since 21\\xa0Nov, 00:00 (2 points)'
    >>> in_zone("visits = 3, at 2025-02-31 23:00 UTC", now, ZoneInfo("Europe/Berlin"))
    'visits = 3, at 2025-02-31 23:00 UTC'
    """

    def local(found: re.Match[str]) -> str:
        try:
            at = datetime.strptime(found[1], "%Y-%m-%d %H:%M").replace(tzinfo=UTC).astimezone(zone)
        except (ValueError, OverflowError):
            return found[0]
        year = f" {at.year}" if at.year != now.astimezone(zone).year else ""
        return f"{form.format_day(at, zone)}{year}, {form.format_clock(at, zone)}"

    return _MOMENT.sub(local, sentence)


def said(sentence: str, metric: str, now: datetime, zone: ZoneInfo) -> tuple[FT | str, str]:
    """An incident's sentence for a page: times as of `in_zone`, and the name that it begins with kept to itself.

    Without that a name written from right to left would turn the value behind it around.
    """
    text = in_zone(sentence, now, zone)
    if text.startswith(metric):
        return ft("bdi", metric), text.removeprefix(metric)
    return "", text


def describe_now(row: MetricRow, unit: str, now: datetime, zone: ZoneInfo) -> tuple[FT | str, str]:
    """How a metric stands, in a sentence: its open incident's, else its newest value beside its band."""
    if row.alert_sentence:
        return said(row.alert_sentence, row.metric, now, zone)
    return "", _describe_newest(row, unit, zone)


def _describe_newest(row: MetricRow, unit: str, zone: ZoneInfo) -> str:
    if row.newest_ts is None:
        return "No value was scored yet."
    at = f"{form.format_day(row.newest_ts, zone)}, {form.format_clock(row.newest_ts, zone)}"
    judged = row.judged
    if judged is None:
        return f"The newest value, of {at}, is known to be missing."
    value = format_measure(judged, unit)
    if row.lower is None or row.upper is None:
        points = form.plural(row.points, "point")
        return f"{value} on {at}. What is usual is being learnt: {points} so far."
    band = format_range(row.lower, row.upper, unit)
    if row.lower <= judged <= row.upper:
        return f"{value} on {at}, within the usual {band}."
    way = "above" if judged > row.upper else "below"
    return f"{value} on {at}, {way} the usual {band}; no incident is open."
