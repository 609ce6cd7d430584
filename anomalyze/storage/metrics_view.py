"""What people see of metrics: lists, one series, alerts. Each is one statement, however many metrics it shows.

Batches are given by name: whose they are is known where their files are (`anomalyze.metrics.ownership`).
"""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from anomalyze.metrics.incident import OPEN, OVER, PENDING
from anomalyze.storage.array import TextArray
from anomalyze.storage.cursor import FilterError, check_text, decode_cursor, encode_cursor
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.query import LIMIT_MAX, Page, Query

__all__ = [
    "METRICS_LIMIT_MAX",
    "POINTS_MAX",
    "RATE_WINDOW",
    "STRANGE",
    "AlertPlace",
    "MetricRow",
    "SeriesPoint",
    "find_alert",
    "list_metrics",
    "load_alert",
    "load_metric",
    "load_series_points",
    "page_alerts",
]

# A page of the list of metrics; it is read as a whole by pages that sort it.
METRICS_LIMIT_MAX = 2_000
# Points of one series in an answer: two weeks of minutes.
POINTS_MAX = 20_000
# Over which time the share of anomalies is taken.
RATE_WINDOW = timedelta(days=7)
STATES = {"open": OPEN, "resolved": OVER}

Moment = Annotated[datetime, msgspec.Meta(tz=True)]

# Anomalies are counted by an index that holds nothing else, and held against the points that the batch's step makes
# possible since then: to count the points of a week by the minute takes seconds. A series that no detector has seen
# has no newest point. Of a metric whose anomalies are all one detector's each row is a point; only where several found
# some, or other versions did, are points told apart, which takes five times as long. ``{series}`` has the metrics with
# the detector and version that judge them now.
STRANGE = """
counted AS MATERIALIZED (
    SELECT batch, metric, count(*) AS anomalies, min(detector) AS detector, min(version) AS version,
        min(detector) <> max(detector) OR min(version) <> max(version) AS several
    FROM metric_scores WHERE batch = ANY(%(batches)s) AND severity > 0 AND ts >= %(since)s
    AND (%(metric)s::text IS NULL OR metric = %(metric)s) GROUP BY 1, 2
), mixed AS MATERIALIZED (
    SELECT c.batch, c.metric, p.detector, p.version FROM counted c JOIN {series} p USING (batch, metric)
    WHERE c.several OR (c.detector = p.detector AND c.version <> p.version)
), told_apart AS (
    SELECT q.batch, q.metric, count(DISTINCT q.ts) AS anomalies FROM metric_scores q
    JOIN mixed m ON m.batch = q.batch AND m.metric = q.metric AND (q.detector <> m.detector OR q.version = m.version)
    WHERE q.batch = ANY(%(batches)s) AND q.severity > 0 AND q.ts >= %(since)s
    AND (%(metric)s::text IS NULL OR q.metric = %(metric)s) AND EXISTS (SELECT FROM mixed) GROUP BY 1, 2
), strange AS (
    SELECT c.batch, c.metric, CASE WHEN m.batch IS NULL THEN c.anomalies ELSE coalesce(t.anomalies, 0) END AS anomalies
    FROM counted c LEFT JOIN mixed m USING (batch, metric) LEFT JOIN told_apart t USING (batch, metric)
)
"""
_METRICS = f"""
WITH page AS MATERIALIZED (
    SELECT batch, metric, points, newest_ts, newest_novelty, newest_severity, detector, version, snoozed_until
    FROM metric_series WHERE batch = ANY(%(batches)s) AND (%(metric)s::text IS NULL OR metric = %(metric)s)
    AND (%(at_batch)s::text IS NULL OR (batch, metric) > (%(at_batch)s, %(at_metric)s))
    ORDER BY batch, metric LIMIT %(limit)s
), {STRANGE.format(series="page")}
SELECT p.batch, p.metric, p.points, p.newest_ts, v.value, s.value AS judged, s.expected, s.lower, s.upper, p.newest_novelty,
    p.newest_severity, coalesce(r.anomalies, 0) AS recent_anomalies, greatest(r.anomalies, 0, least(p.points,
        1 + floor(extract(epoch FROM p.newest_ts - %(since)s) / greatest(b.period_s, 0.001))))::bigint AS recent_points,
    greatest(p.snoozed_until, b.snoozed_until) AS snoozed_until,
    a.alert_id, a.severity AS alert_severity, a.kind AS alert_kind, a.opened_ts AS alert_opened_ts,
    a.sentence AS alert_sentence, a.muted AS alert_muted
FROM page p JOIN metric_batches b USING (batch)
LEFT JOIN metric_values v ON v.batch = p.batch AND v.metric = p.metric AND v.ts = p.newest_ts
LEFT JOIN metric_scores s ON s.batch = p.batch AND s.metric = p.metric AND s.ts = p.newest_ts
    AND s.detector = p.detector AND s.version = p.version
LEFT JOIN strange r ON r.batch = p.batch AND r.metric = p.metric
LEFT JOIN LATERAL (
    SELECT * FROM metric_alerts o WHERE o.batch = p.batch AND o.metric = p.metric AND o.state = {OPEN}
    ORDER BY o.severity DESC, o.alert_id DESC LIMIT 1
) a ON true
ORDER BY p.batch, p.metric
"""


# An alert's columns, and of incidents those that lasted long enough to be one.
_ALERT = (
    f"SELECT {', '.join(field.name for field in fields(Alert) if field.name != 'feedback')}, (SELECT verdict "
    "FROM metric_feedback f WHERE f.alert_id = a.alert_id ORDER BY feedback_id DESC LIMIT 1) AS feedback "
    f"FROM metric_alerts a WHERE state > {PENDING} AND batch = ANY(%(batches)s) "
)


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric as lists show it.

    Attributes
    ----------
    points
        Scored so far.
    newest_ts, value, judged, expected, lower, upper, newest_novelty, newest_severity
        Of the newest point that was scored: as it was stored, and what the detector saw of it. No value: it is known
        to be missing; no band: it is being learnt.
    recent_points, recent_anomalies
        Of the last `RATE_WINDOW`: points of its length that the batch's step makes possible, and its anomalies.
    snoozed_until
        The later of its own snooze and its batch's.
    alert_id, alert_severity, alert_kind, alert_opened_ts, alert_sentence, alert_muted
        The most severe alert that is open.
    """

    batch: str
    metric: str
    points: int
    newest_ts: datetime | None
    value: float | None
    judged: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    newest_novelty: float | None
    newest_severity: int
    recent_points: int
    recent_anomalies: int
    snoozed_until: datetime | None
    alert_id: int | None
    alert_severity: int | None
    alert_kind: str | None
    alert_opened_ts: datetime | None
    alert_sentence: str | None
    alert_muted: str | None


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """A stored value, and its score when it has one.

    Attributes
    ----------
    judged
        What the detector saw: the value after differences and smoothing; the band is of it.
    """

    ts: datetime
    value: float | None
    revision: int
    judged: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    novelty: float | None
    rarity: float | None
    severity: int | None


@dataclass(frozen=True, slots=True)
class AlertPlace:
    """Of which metric an alert is."""

    batch: str
    metric: str


def list_metrics(
    batches: Sequence[str],
    *,
    limit: int = 100,
    cursor: str | None = None,
    now: datetime | None = None,
) -> Query[Page[MetricRow]]:
    """Metrics of these batches in the order of batch and name.

    Raises
    ------
    FilterError, CursorError
        A limit above `METRICS_LIMIT_MAX`, or a cursor of other batches.
    """
    filters = {"batches": sorted(batches)}
    at: tuple[str | None, str | None] = (None, None)
    if cursor is not None:
        at = decode_cursor(cursor, "metrics", filters, tuple[str, str])
    return Query(
        _METRICS,
        _metric_parameters(batches, None, at, _limit(limit, METRICS_LIMIT_MAX), now),
        lambda rows: _page(
            [MetricRow(**row) for row in rows],
            lambda row: encode_cursor("metrics", filters, (row.batch, row.metric)),
        ),
    )


def load_metric(batch: str, metric: str, now: datetime | None = None) -> Query[MetricRow | None]:
    """One metric. Raises ``FilterError`` for a name that cannot be one."""
    check_text("metric", metric)
    return Query(
        _METRICS,
        _metric_parameters([batch], metric, (None, None), 1, now),
        lambda rows: MetricRow(**rows[0]) if rows else None,
    )


def load_series_points(
    batch: str,
    metric: str,
    since: datetime,
    until: datetime,
    limit: int = POINTS_MAX,
    detector: str | None = None,
) -> Query[list[SeriesPoint]]:
    """Points of a series from one time to another, both included, the oldest first; one more than ``limit`` at most.

    Parameters
    ----------
    detector
        The detector by name whose band is shown, and whose severity beside that of the default one.
    """
    own = (
        "s.expected, s.lower, s.upper, s.novelty, s.rarity, s.severity "
        if detector is None
        else "n.expected, n.lower, n.upper, s.novelty, s.rarity, greatest(s.severity, n.severity) AS severity "
    )
    beside = (
        "LEFT JOIN LATERAL (SELECT o.expected, o.lower, o.upper, o.severity FROM metric_scores o "
        "WHERE o.batch = v.batch AND o.metric = v.metric AND o.ts = v.ts AND o.detector = %(detector)s "
        "ORDER BY o.version LIMIT 1) n ON true "
        if detector is not None
        else ""
    )
    return Query(
        f"SELECT v.ts, v.value, v.revision, s.value AS judged, {own}"
        "FROM metric_series m JOIN metric_values v ON v.batch = m.batch AND v.metric = m.metric "
        "LEFT JOIN metric_scores s ON s.batch = v.batch AND s.metric = v.metric AND s.ts = v.ts "
        "AND s.detector = m.detector AND s.version = m.version AND s.ts BETWEEN %(since)s AND %(until)s "
        f"{beside}WHERE m.batch = %(batch)s AND m.metric = %(metric)s AND v.ts BETWEEN %(since)s AND %(until)s "
        "ORDER BY v.ts LIMIT %(limit)s",
        {"batch": batch, "metric": metric, "since": since, "until": until, "limit": limit + 1}
        | ({} if detector is None else {"detector": detector}),
        lambda rows: [SeriesPoint(**row) for row in rows],
    )


def page_alerts(
    batches: Sequence[str],
    *,
    metric: str | None = None,
    state: str | None = None,
    muted: bool | None = None,
    severity_min: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Query[Page[Alert]]:
    """Alerts of these batches, those that were found last first; incidents too short to be one are left out.

    Parameters
    ----------
    state
        ``open``, ``resolved``, or all.
    muted
        Whether nobody was told of it.
    severity_min
        Those of this ``Severity`` and above.
    since, until
        Those that lasted into this period, both ends included.

    Raises
    ------
    FilterError, CursorError
        A filter or cursor that cannot be.
    """
    if metric is not None:
        check_text("metric", metric)
    if state is not None and state not in STATES:
        raise FilterError("state", " or ".join(STATES), state)
    filters: dict[str, Any] = {"batches": sorted(batches), "metric": metric, "state": state, "muted": muted}
    filters |= {"severity_min": severity_min, "since": since, "until": until}
    at: tuple[datetime | None, int | None] = (None, None)
    if cursor is not None:
        at = decode_cursor(cursor, "alerts", filters, tuple[Moment, int])
    return Query(
        f"{_ALERT}"
        "AND (%(metric)s::text IS NULL OR metric = %(metric)s) "
        "AND (%(state)s::smallint IS NULL OR state = %(state)s) "
        "AND (%(muted)s::boolean IS NULL OR (muted IS NOT NULL) = %(muted)s) "
        "AND (%(severity_min)s::smallint IS NULL OR severity >= %(severity_min)s) "
        "AND (%(since)s::timestamptz IS NULL OR last_ts >= %(since)s) "
        "AND (%(until)s::timestamptz IS NULL OR opened_ts <= %(until)s) "
        "AND (%(at)s::timestamptz IS NULL OR (opened_at, alert_id) < (%(at)s, %(at_id)s::bigint)) "
        "ORDER BY opened_at DESC, alert_id DESC LIMIT %(limit)s",
        {
            "batches": TextArray(list(batches)),
            "metric": metric,
            "state": None if state is None else STATES[state],
            "muted": muted,
            "severity_min": severity_min,
            "since": since,
            "until": until,
            "at": at[0],
            "at_id": at[1],
            "limit": _limit(limit, LIMIT_MAX),
        },
        lambda rows: _page(
            [Alert(**row) for row in rows],
            lambda alert: encode_cursor("alerts", filters, (alert.opened_at, alert.alert_id)),
        ),
    )


def load_alert(batches: Sequence[str], alert_id: int) -> Query[Alert | None]:
    """One alert; None when there is none in these batches."""
    return Query(
        f"{_ALERT} AND alert_id = %(alert_id)s",
        {"alert_id": alert_id, "batches": TextArray(list(batches))},
        lambda rows: Alert(**rows[0]) if rows else None,
    )


def find_alert(batches: Sequence[str], alert_id: int) -> Query[AlertPlace | None]:
    """Where an alert belongs; None when there is none in these batches."""
    return Query(
        "SELECT batch, metric FROM metric_alerts WHERE alert_id = %(alert_id)s AND batch = ANY(%(batches)s) "
        f"AND state > {PENDING}",
        {"alert_id": alert_id, "batches": TextArray(list(batches))},
        lambda rows: AlertPlace(**rows[0]) if rows else None,
    )


def _metric_parameters(
    batches: Sequence[str],
    metric: str | None,
    at: tuple[str | None, str | None],
    limit: int,
    now: datetime | None,
) -> dict[str, Any]:
    return {
        "batches": TextArray(list(batches)),
        "metric": metric,
        "at_batch": at[0],
        "at_metric": at[1],
        "limit": limit,
        "since": (now or datetime.now(UTC)) - RATE_WINDOW,
    }


def _page(rows: list[Any], cursor_of: Any) -> Page[Any]:
    return Page(rows, cursor_of(rows[-1]) if rows else None)


def _limit(limit: int, limit_max: int) -> int:
    if not 1 <= limit <= limit_max:
        raise FilterError("limit", f"1 to {limit_max}", str(limit))
    return limit
