"""Which metrics and batches are the strangest of a period, and how their runs went; one statement each."""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal

from anomalyze.metrics.incident import OPEN
from anomalyze.metrics.judgement import RARITY_HALF, RARITY_WEIGHT
from anomalyze.storage.array import TextArray
from anomalyze.storage.cursor import FilterError, check_text
from anomalyze.storage.metrics_runs import Run
from anomalyze.storage.query import Query

__all__ = [
    "RANKED_MAX",
    "BatchRank",
    "MetricRank",
    "Order",
    "rank_batches",
    "rank_metrics",
    "recent_runs",
]

RANKED_MAX = 1_000
Order = Literal["strangest", "anomaly_rate"]
_ORDERS: dict[Order, str] = {
    "strangest": "severity DESC, strangeness DESC, anomalies DESC, batch, metric",
    "anomaly_rate": "anomalies::float8 / greatest(points, 1) DESC, severity DESC NULLS LAST, "
    "strangeness DESC NULLS LAST, batch, metric",
}
# As `anomalyze.metrics.judgement.strangeness`, to a factor.
_STRANGENESS = f"({RARITY_WEIGHT} * rarity / (rarity + {RARITY_HALF}) + novelty)"
# Strange points are found by an index that holds nothing else, and held against the points that the batch's step makes
# possible: to count the points of a week by the minute takes seconds. Of the detector that judged the newest point.
_COUNTED = f"""
WITH strange AS MATERIALIZED (
    SELECT batch, metric, detector, version, count(*) AS anomalies, max(severity) AS severity,
        max({_STRANGENESS}) AS strangeness
    FROM metric_scores WHERE batch = ANY(%(batches)s) AND severity > 0 AND ts BETWEEN %(since)s AND %(until)s
    GROUP BY 1, 2, 3, 4
), counted AS (
    SELECT p.batch, p.metric, p.detector, p.version, p.newest_ts, r.severity, r.strangeness,
        coalesce(r.anomalies, 0) AS anomalies, CASE WHEN p.newest_ts < %(since)s THEN 0 ELSE greatest(r.anomalies, 0,
            least(p.points, 1 + floor(extract(epoch FROM least(p.newest_ts, %(until)s) - %(since)s)
                / greatest(b.period_s, 0.001))))::bigint END AS points
    FROM metric_series p JOIN metric_batches b USING (batch)
    LEFT JOIN strange r USING (batch, metric, detector, version) WHERE p.batch = ANY(%(batches)s)
)
"""


@dataclass(frozen=True, slots=True)
class MetricRank:
    """A metric in a period.

    Attributes
    ----------
    points, anomalies
        Points that the batch's step makes possible in it, and those that were strange.
    ts, value, expected, lower, upper, novelty, severity
        Of its strangest point there, None without one; no band: it was being learnt.
    alerts
        Incidents that are open now.
    """

    batch: str
    metric: str
    points: int
    anomalies: int
    ts: datetime | None
    value: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    novelty: float | None
    severity: int | None
    alerts: int


@dataclass(frozen=True, slots=True)
class BatchRank:
    """A batch in a period; its newest run that ended, if there is one.

    Attributes
    ----------
    points, anomalies
        As of `MetricRank`, over all metrics.
    alerts
        Incidents that are open now.
    """

    batch: str
    metrics: int
    newest_ts: datetime | None
    points: int
    anomalies: int
    alerts: int
    run_at: datetime | None
    run_error: str | None
    run_failures: int | None


def rank_metrics(
    batches: Sequence[str],
    since: datetime,
    until: datetime,
    *,
    order: Order = "strangest",
    text: str | None = None,
    limit: int = 20,
) -> Query[list[MetricRank]]:
    """Metrics of these batches with points in a period, both ends included, the strangest first.

    Parameters
    ----------
    order
        By their strangest point, without those that had none; or by the share of strange points.
    text
        Only metrics with it in their names, in any case.

    Raises
    ------
    FilterError
        A limit above `RANKED_MAX`, or a text that cannot be in a name.
    """
    if text is not None:
        check_text("text", text)
    return Query(
        f"{_COUNTED} SELECT c.batch, c.metric, c.points, c.anomalies, t.*, (SELECT count(*) FROM metric_alerts a "
        f"WHERE a.batch = c.batch AND a.metric = c.metric AND a.state = {OPEN}) AS alerts "
        "FROM (SELECT *, row_number() OVER () AS place FROM (SELECT * FROM counted WHERE points > 0 "
        "AND (anomalies > 0 OR NOT %(strange_only)s) "
        "AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(metric)) > 0) "
        f"ORDER BY {_ORDERS[order]} LIMIT %(limit)s) o) c LEFT JOIN LATERAL (SELECT q.ts, q.value, q.expected, q.lower, "
        "q.upper, q.novelty, q.severity FROM metric_scores q WHERE q.batch = c.batch AND q.metric = c.metric "
        "AND q.detector = c.detector AND q.version = c.version AND q.severity > 0 "
        f"AND q.ts BETWEEN %(since)s AND %(until)s ORDER BY q.severity DESC, {_STRANGENESS} DESC, q.ts DESC LIMIT 1) t "
        "ON true ORDER BY c.place",
        {
            "batches": TextArray(list(batches)),
            "since": since,
            "until": until,
            "text": text,
            "strange_only": order == "strangest",
            "limit": _limit(limit),
        },
        lambda rows: [MetricRank(**row) for row in rows],
    )


def rank_batches(
    batches: Sequence[str], since: datetime, until: datetime, *, limit: int = 20
) -> Query[list[BatchRank]]:
    """These batches, those with the largest share of strange points in a period first; those without points last."""
    return Query(
        f"{_COUNTED}, summed AS (SELECT batch, count(*) AS metrics, max(newest_ts) AS newest_ts, "
        "sum(points)::bigint AS points, sum(anomalies)::bigint AS anomalies FROM counted GROUP BY batch) "
        "SELECT n.batch, coalesce(c.metrics, 0) AS metrics, c.newest_ts, coalesce(c.points, 0) AS points, "
        "coalesce(c.anomalies, 0) AS anomalies, (SELECT count(*) FROM metric_alerts a WHERE a.batch = n.batch "
        f"AND a.state = {OPEN}) AS alerts, l.started_at AS run_at, l.error AS run_error, "
        "jsonb_array_length(l.failures) AS run_failures FROM unnest(%(batches)s) AS n(batch) "
        "LEFT JOIN summed c USING (batch) LEFT JOIN LATERAL (SELECT * FROM metric_runs r WHERE r.batch = n.batch "
        "AND r.kind <> 'score' AND r.finished_at IS NOT NULL ORDER BY r.run_id DESC LIMIT 1) l ON true "
        "ORDER BY c.anomalies::float8 / nullif(c.points, 0) DESC NULLS LAST, n.batch LIMIT %(limit)s",
        {"batches": TextArray(list(batches)), "since": since, "until": until, "limit": _limit(limit)},
        lambda rows: [BatchRank(**row) for row in rows],
    )


def recent_runs(batches: Sequence[str], *, failed: bool = False, limit: int = 20) -> Query[list[Run]]:
    """The newest runs of these batches together, the newest first; only those that failed, whole or in part."""
    names = ", ".join(f"r.{field.name}" for field in fields(Run))
    return Query(
        f"SELECT {names} FROM unnest(%(batches)s) AS n(batch) CROSS JOIN LATERAL (SELECT * FROM metric_runs m "
        "WHERE m.batch = n.batch AND (NOT %(failed)s OR m.error IS NOT NULL OR m.failures <> '[]') "
        "ORDER BY m.run_id DESC LIMIT %(limit)s) r ORDER BY r.run_id DESC LIMIT %(limit)s",
        {"batches": TextArray(list(batches)), "failed": failed, "limit": _limit(limit)},
        lambda rows: [Run(**row) for row in rows],
    )


def _limit(limit: int) -> int:
    if not 1 <= limit <= RANKED_MAX:
        raise FilterError("limit", f"1 to {RANKED_MAX}", str(limit))
    return limit
