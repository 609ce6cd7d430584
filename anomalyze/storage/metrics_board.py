"""What the dashboard's pages of metrics show: the strangest with a line each, and one line in full.

The list is one statement, however many metrics there are: anomalies are counted by an index that holds nothing else,
and points are read for the rows that are shown. Batches are given by name, as in `anomalyze.storage.metrics_view`.
"""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from anomalyze.metrics.incident import OPEN
from anomalyze.storage.array import TextArray
from anomalyze.storage.cursor import check_text
from anomalyze.storage.metrics_view import RATE_WINDOW, STRANGE
from anomalyze.storage.query import Query

__all__ = [
    "ROWS_MAX",
    "SHOWN",
    "BatchRun",
    "BoardBatch",
    "BoardRow",
    "IncidentLine",
    "Line",
    "like_pattern",
    "load_board",
    "load_incident_lines",
    "load_last_runs",
    "load_line",
]

# Rows with a line each on a page.
ROWS_MAX = 100
BATCHES_MAX = 200
# Which metrics: all, anomalies in the window, strange now, no values, snoozed.
SHOWN = ("all", "strange", "now", "late", "snoozed")
# A sparkline has the least, the greatest and the strangest point of so many parts of its time.
SPARK_PARTS = 42
# More points than that in the window are not read one by one: a week by the hour is.
FINE_POINTS = 1_000
# Newest runs of a batch among which one of each kind is found.
RUNS_LOOKED_AT = 20

# The least, the greatest and the strangest point of each part of a line's time: no peak and no mark is lost.
_THINNED = """
SELECT array_agg(extract(epoch FROM ts)::bigint ORDER BY ts) AS at, array_agg(value ORDER BY ts) AS line,
    array_agg(lower ORDER BY ts) AS low, array_agg(upper ORDER BY ts) AS high,
    array_agg(severity ORDER BY ts) AS marks, coalesce(max(points), 0) AS seen
FROM (
    SELECT *, row_number() OVER (PARTITION BY part ORDER BY value) AS least,
        row_number() OVER (PARTITION BY part ORDER BY value DESC NULLS LAST) AS greatest,
        row_number() OVER (PARTITION BY part ORDER BY severity DESC NULLS LAST, ts) AS strangest,
        count(*) OVER () AS points
    FROM ({source}) points_of
) numbered WHERE points <= %(whole)s OR least = 1 OR greatest = 1 OR (strangest = 1 AND severity > 0)
"""
# Values and band are of the default detector; what a detector by name found strange is marked too. Of a series with more
# points than that, one in each half of a part is read, and what was strange: by the minute, 90 days of a page's rows are
# six million points.
_SPARK = """
SELECT q.ts, max(q.value) FILTER (WHERE q.detector = p.detector) AS value,
    max(q.lower) FILTER (WHERE q.detector = p.detector)::real AS lower,
    max(q.upper) FILTER (WHERE q.detector = p.detector)::real AS upper, max(q.severity) AS severity,
    floor(extract(epoch FROM q.ts - begins) / %(part_s)s) AS part
FROM (SELECT CASE WHEN p.newest_ts < %(since)s THEN p.newest_ts - %(window)s ELSE %(since)s END AS begins) w
CROSS JOIN LATERAL (
    SELECT ts, detector, value, lower, upper, severity FROM metric_scores
    WHERE p.possible <= %(fine)s AND batch = p.batch AND metric = p.metric
    AND (detector <> p.detector OR version = p.version) AND ts >= begins
    UNION ALL
    SELECT one.* FROM generate_series(begins, begins + %(window)s, %(half)s) AS at CROSS JOIN LATERAL (
        SELECT ts, detector, value, lower, upper, severity FROM metric_scores
        WHERE batch = p.batch AND metric = p.metric AND detector = p.detector AND version = p.version
        AND ts >= at AND ts < at + %(half)s ORDER BY ts LIMIT 1
    ) one WHERE p.possible > %(fine)s
    UNION ALL
    SELECT ts, p.detector, value, lower, upper, severity FROM marks m
    WHERE p.possible > %(fine)s AND m.batch = p.batch AND m.metric = p.metric
) q
GROUP BY q.ts, begins HAVING bool_or(q.detector = p.detector)
"""

_BOARD = f"""
WITH asked AS MATERIALIZED (
    SELECT batch, ARRAY(SELECT jsonb_array_elements_text(%(patterns)s::jsonb -> batch)) AS patterns
    FROM unnest(%(batches)s) batch
), series AS MATERIALIZED (
    SELECT s.batch, s.metric, s.points, s.newest_ts, s.newest_severity, s.detector, s.version,
        greatest(s.snoozed_until, b.snoozed_until) AS snoozed_until,
        least(s.points, %(window_s)s / greatest(coalesce(b.period_s, 3600), 1)) AS possible
    FROM metric_series s JOIN metric_batches b USING (batch) JOIN asked a USING (batch)
    WHERE CASE WHEN a.patterns = '{{}}' THEN true ELSE s.metric ILIKE ALL(a.patterns) END
), {STRANGE.format(series="series")}, opened AS (
    SELECT DISTINCT ON (batch, metric) batch, metric, severity AS alert_severity, opened_ts AS alert_opened_ts,
        kind AS alert_kind, bool_or(kind = 'late') OVER (PARTITION BY batch, metric) AS is_late
    FROM metric_alerts WHERE batch = ANY(%(batches)s) AND state = {OPEN}
    ORDER BY batch, metric, severity DESC, alert_id DESC
), rated AS (
    SELECT *, coalesce(anomalies, 0) AS found, coalesce(anomalies, 0) / greatest(possible, 1) AS rate,
        alert_severity IS NOT NULL OR newest_severity > 0 AS is_now, coalesce(is_late, false) AS late,
        coalesce(snoozed_until > %(now)s, false) AS snoozed
    FROM series LEFT JOIN strange USING (batch, metric) LEFT JOIN opened USING (batch, metric)
), marked AS MATERIALIZED (
    SELECT *, CASE %(shown)s WHEN 'all' THEN true WHEN 'strange' THEN found > 0 OR is_now WHEN 'now' THEN is_now
        WHEN 'late' THEN late ELSE snoozed END AS is_kept FROM rated
), kept AS (
    SELECT *, row_number() OVER (PARTITION BY batch ORDER BY rate DESC, alert_severity DESC NULLS LAST, metric) AS place
    FROM marked WHERE is_kept
), grouped AS (
    SELECT batch, count(*) AS metrics, count(*) FILTER (WHERE is_now) AS now, count(*) FILTER (WHERE found > 0) AS strange,
        count(*) FILTER (WHERE late) AS late, count(*) FILTER (WHERE snoozed) AS snoozed, max(newest_ts) AS newest_ts, sum(found) / greatest(sum(possible), 1) AS rate,
        count(*) FILTER (WHERE is_kept) AS kept
    FROM marked GROUP BY batch
), page AS (
    SELECT k.* FROM kept k JOIN grouped g USING (batch) WHERE place > %(skip)s AND place <= %(skip)s + %(per_batch)s
    ORDER BY g.rate DESC, batch, place LIMIT %(rows)s
), marks AS MATERIALIZED (
    SELECT p.batch, p.metric, q.ts, max(f.value) AS value, max(f.lower) AS lower, max(f.upper) AS upper, max(q.severity) AS severity
    FROM page p JOIN metric_scores q ON q.batch = p.batch AND q.metric = p.metric
        AND (q.detector <> p.detector OR q.version = p.version)
    JOIN metric_scores f ON f.batch = p.batch AND f.metric = p.metric AND f.ts = q.ts AND f.detector = p.detector
        AND f.version = p.version
    WHERE p.possible > %(fine)s AND q.batch = ANY(%(batches)s) AND q.severity > 0 AND q.ts >= %(since)s GROUP BY 1, 2, 3
)
SELECT g.batch, g.metrics AS batch_metrics, g.now AS batch_now, g.strange AS batch_strange, g.late AS batch_late,
    g.snoozed AS batch_snoozed,
    g.newest_ts AS batch_newest_ts, g.rate::float8 AS batch_rate, g.kept AS batch_kept,
    p.metric, p.points, p.newest_ts, p.newest_severity, p.found AS anomalies, p.is_now, p.late, p.snoozed_until,
    p.alert_severity, p.alert_opened_ts, p.alert_kind, v.value, s.value AS judged, s.expected, s.lower, s.upper, spark.*,
    CASE WHEN p.possible > %(fine)s THEN p.possible::bigint ELSE spark.seen END AS recent
FROM grouped g LEFT JOIN page p USING (batch)
LEFT JOIN metric_values v ON v.batch = p.batch AND v.metric = p.metric AND v.ts = p.newest_ts
LEFT JOIN metric_scores s ON s.batch = p.batch AND s.metric = p.metric AND s.ts = p.newest_ts
    AND s.detector = p.detector AND s.version = p.version
LEFT JOIN LATERAL (
    {_THINNED.format(source=_SPARK)}
) spark ON p.metric IS NOT NULL
ORDER BY g.rate DESC, g.batch, p.place
"""

_LINE = _THINNED.format(
    source="""
SELECT v.ts, coalesce(s.value, v.value) AS value, s.lower, s.upper, s.severity,
    floor(extract(epoch FROM v.ts - %(since)s) / %(part_s)s) AS part
FROM metric_values v LEFT JOIN (
    SELECT q.ts, max(q.value) FILTER (WHERE q.detector = m.detector) AS value,
        max(q.lower) FILTER (WHERE q.detector = m.detector) AS lower,
        max(q.upper) FILTER (WHERE q.detector = m.detector) AS upper, max(q.severity) AS severity
    FROM metric_series m JOIN metric_scores q ON q.batch = m.batch AND q.metric = m.metric
        AND (q.detector <> m.detector OR q.version = m.version)
    WHERE m.batch = %(batch)s AND m.metric = %(metric)s AND q.ts BETWEEN %(since)s AND %(until)s GROUP BY q.ts
) s ON s.ts = v.ts
WHERE v.batch = %(batch)s AND v.metric = %(metric)s AND v.ts BETWEEN %(since)s AND %(until)s
"""
)


# So many steps before an incident and behind it; of a long one its begin.
AROUND, BEHIND, SHOWN_MAX = 60, 12, 240
_INCIDENT_LINES = f"""
SELECT a.alert_id, begins, ends, spark.* FROM metric_alerts a JOIN metric_batches b USING (batch)
JOIN metric_series p USING (batch, metric)
CROSS JOIN LATERAL (SELECT make_interval(secs => coalesce(b.period_s, 3600)) AS step) s
CROSS JOIN LATERAL (
    SELECT a.opened_ts - {AROUND} * step AS begins, least(a.last_ts + {BEHIND} * step, a.opened_ts + {
    SHOWN_MAX
} * step) AS ends
) w
CROSS JOIN LATERAL (
    {
    _THINNED.format(
        source='''
    SELECT q.ts, max(q.value) FILTER (WHERE q.detector = p.detector) AS value,
        max(q.lower) FILTER (WHERE q.detector = p.detector)::real AS lower,
        max(q.upper) FILTER (WHERE q.detector = p.detector)::real AS upper, max(q.severity) AS severity,
        floor(extract(epoch FROM q.ts - begins) * %(parts)s / extract(epoch FROM ends - begins)) AS part
    FROM metric_scores q WHERE q.batch = a.batch AND q.metric = a.metric
        AND (q.detector <> p.detector OR q.version = p.version) AND q.ts BETWEEN begins AND ends
    GROUP BY q.ts HAVING bool_or(q.detector = p.detector)
    '''
    )
}
) spark WHERE a.alert_id = ANY(%(alerts)s) AND a.batch = ANY(%(batches)s)
"""


@dataclass(frozen=True, slots=True)
class Line:
    """Points of a series in the order of time, parallel lists; times in seconds since 1970.

    Attributes
    ----------
    value
        What was judged: the value after differences and smoothing; None is known to be missing.
    lower, upper
        The band; None while it is learnt.
    points
        How many there are in that time, of which these are the least, the greatest and the strangest.
    """

    ts: list[int]
    value: list[float | None]
    lower: list[float | None]
    upper: list[float | None]
    severity: list[int | None]
    points: int


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """An incident's series around it."""

    line: Line
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A metric with its line of the window that was asked for; a late one's ends with its newest point.

    Attributes
    ----------
    value, judged, expected, lower, upper
        Of the newest point that was scored: as it was stored, and as it was judged.
    anomalies
        Of that window; of ``line.points`` points.
    is_now
        Whether the newest point is an anomaly or an alert is open; ``late``: one that no value comes.
    """

    batch: str
    metric: str
    points: int
    newest_ts: datetime | None
    newest_severity: int
    anomalies: int
    is_now: bool
    late: bool
    snoozed_until: datetime | None
    alert_severity: int | None
    alert_opened_ts: datetime | None
    alert_kind: str | None
    value: float | None
    judged: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    line: Line


@dataclass(frozen=True, slots=True)
class BoardBatch:
    """A batch of the list: how many metrics match the words, how many of them what else was asked for, and some rows."""

    name: str
    metrics: int
    now: int
    strange: int
    late: int
    snoozed: int
    kept: int
    rate: float
    newest_ts: datetime | None
    rows: list[BoardRow]


@dataclass(frozen=True, slots=True)
class BatchRun:
    """The newest run of a batch that ended, and since when all of its kind failed."""

    batch: str
    kind: str
    finished_at: datetime
    rows_read: int
    failures: list[dict[str, str]]
    error: str | None
    failing_since: datetime | None


def load_board(
    batches: Sequence[str],
    now: datetime,
    *,
    window: timedelta = RATE_WINDOW,
    patterns: Mapping[str, Sequence[str]] | None = None,
    shown: str = "all",
    per_batch: int = ROWS_MAX,
    skip: int = 0,
    rows: int = ROWS_MAX,
) -> Query[list[BoardBatch]]:
    """Batches by their share of anomalies in a window that ends now, within each its metrics by theirs.

    Parameters
    ----------
    patterns
        By batch, what a metric's name must be like, all of them (`like_pattern`); of a batch that is not named, any.
    shown
        One of `SHOWN`.
    per_batch, skip, rows
        Of each batch so many rows behind the first ``skip``, and ``rows`` of all of them.
    """
    return Query(
        _BOARD,
        {
            "batches": TextArray(list(batches)),
            "metric": None,
            "now": now,
            "since": now - window,
            "window": window,
            "window_s": window.total_seconds(),
            "part_s": window.total_seconds() / SPARK_PARTS,
            "half": window / (2 * SPARK_PARTS),
            "whole": 2 * SPARK_PARTS,
            "fine": FINE_POINTS,
            "patterns": json.dumps(patterns or {}),
            "shown": shown if shown in SHOWN else "all",
            "per_batch": per_batch,
            "skip": skip,
            "rows": rows,
        },
        _board,
    )


def like_pattern(word: str) -> str:
    """A word of a search as an SQL pattern: it is part of the name, or with a star in it all of the name.

    >>> like_pattern("p95_"), like_pattern("tenant_*.p95")
    ('%p95\\\\_%', 'tenant\\\\_%.p95')

    Raises
    ------
    FilterError
        It holds what no stored name does.
    """
    check_text("q", word)
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%") if "*" in word else f"%{escaped}%"


def load_line(batch: str, metric: str, since: datetime, until: datetime, parts: int) -> Query[Line]:
    """A series from one time to another, both included: whole, or at most three points of each of so many parts."""
    return Query(
        _LINE,
        {
            "batch": batch,
            "metric": metric,
            "since": since,
            "until": until,
            "part_s": max((until - since).total_seconds(), 1.0) / parts,
            "whole": 3 * parts,
        },
        lambda rows: _line(rows[0], rows[0]["seen"]),
    )


def load_incident_lines(batches: Sequence[str], alert_ids: Sequence[int]) -> Query[dict[int, IncidentLine]]:
    """The lines of some incidents of these batches, by the alert's number; as many points at most for a long one."""
    return Query(
        _INCIDENT_LINES,
        {
            "batches": TextArray(list(batches)),
            "alerts": list(alert_ids),
            "parts": SPARK_PARTS,
            "whole": 2 * SPARK_PARTS,
        },
        lambda rows: {
            row["alert_id"]: IncidentLine(_line(row, row["seen"]), row["begins"], row["ends"]) for row in rows
        },
    )


def load_last_runs(batches: Sequence[str]) -> Query[dict[str, BatchRun]]:
    """How the newest run of each batch that is over ended: of its kinds (reading, scoring) one that failed before others."""
    return Query(
        "SELECT DISTINCT ON (r.batch) r.*, CASE WHEN r.error IS NOT NULL THEN (SELECT min(f.finished_at) "
        "FROM metric_runs f WHERE f.batch = r.batch AND f.kind = r.kind AND f.run_id > coalesce((SELECT max(g.run_id) "
        "FROM metric_runs g WHERE g.batch = r.batch AND g.kind = r.kind AND g.finished_at IS NOT NULL "
        "AND g.error IS NULL), 0)) END AS failing_since FROM unnest(%(batches)s) AS asked (batch) CROSS JOIN LATERAL "
        "(SELECT DISTINCT ON (kind) batch, kind, finished_at, rows_read, failures, error FROM (SELECT * "
        "FROM metric_runs o WHERE o.batch = asked.batch AND finished_at IS NOT NULL ORDER BY run_id DESC "
        f"LIMIT {RUNS_LOOKED_AT}) newest ORDER BY kind, run_id DESC) r "
        "ORDER BY r.batch, r.error IS NULL, r.failures = '[]', r.finished_at DESC",
        {"batches": TextArray(list(batches))},
        lambda rows: {row["batch"]: BatchRun(**row) for row in rows},
    )


def _board(rows: list[dict[str, Any]]) -> list[BoardBatch]:
    batches: dict[str, BoardBatch] = {}
    for row in rows:
        name = row["batch"]
        if name not in batches:
            batches[name] = BoardBatch(
                name=name,
                metrics=row["batch_metrics"],
                now=row["batch_now"],
                strange=row["batch_strange"],
                late=row["batch_late"],
                snoozed=row["batch_snoozed"],
                kept=row["batch_kept"],
                rate=row["batch_rate"],
                newest_ts=row["batch_newest_ts"],
                rows=[],
            )
        if row["metric"] is not None:
            own = {field: row[field] for field in BoardRow.__slots__ if field != "line"}
            batches[name].rows.append(BoardRow(**own, line=_line(row, row["recent"])))
    return list(batches.values())


def _line(row: dict[str, Any], points: int) -> Line:
    value, lower, upper = ([_finite(value) for value in row[name] or []] for name in ("line", "low", "high"))
    return Line(row["at"] or [], value, lower, upper, row["marks"] or [], points)


def _finite(value: float | None) -> float | None:
    """What can be drawn."""
    return value if value is not None and math.isfinite(value) else None
