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
    "strangest": "r.severity DESC, r.strangeness DESC, r.anomalies DESC",
    "anomaly_rate": "r.anomalies::float8 / r.points DESC, r.severity DESC, r.strangeness DESC",
}
# As `anomalyze.metrics.judgement.strangeness`, to a factor.
_STRANGENESS = f"({RARITY_WEIGHT} * q.rarity / (q.rarity + {RARITY_HALF}) + q.novelty)"
# Scores of a series in the period, of the detector that its newest point was judged by.
_OF_SERIES = (
    "FROM metric_scores q WHERE q.batch = p.batch AND q.metric = p.metric "
    "AND q.ts BETWEEN %(since)s AND %(until)s AND q.detector = p.detector AND q.version = p.version"
)


@dataclass(frozen=True, slots=True)
class MetricRank:
    """A metric in a period.

    Attributes
    ----------
    points, anomalies
        Scored in it, and those of them that were strange.
    ts, value, expected, lower, upper, novelty, severity
        Of its strangest point there; no band: it was being learnt.
    alerts
        Incidents that are open now.
    """

    batch: str
    metric: str
    points: int
    anomalies: int
    ts: datetime
    value: float
    expected: float | None
    lower: float | None
    upper: float | None
    novelty: float
    severity: int
    alerts: int


@dataclass(frozen=True, slots=True)
class BatchRank:
    """A batch in a period; its newest run that ended, if there is one.

    Attributes
    ----------
    points, anomalies
        Scored in the period over all metrics, and those that were strange.
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
    """Metrics of these batches that were scored in a period, both ends included, the strangest first.

    Parameters
    ----------
    order
        By their strangest point, or by the share of strange points.
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
        "WITH ranked AS (SELECT p.batch, p.metric, p.detector, p.version, r.* FROM metric_series p "
        "CROSS JOIN LATERAL (SELECT count(*) AS points, count(*) FILTER (WHERE q.severity > 0) AS anomalies, "
        f"max(q.severity) AS severity, max({_STRANGENESS}) AS strangeness {_OF_SERIES}) r "
        "WHERE p.batch = ANY(%(batches)s) AND r.points > 0 "
        "AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(p.metric)) > 0) "
        f"ORDER BY {_ORDERS[order]}, p.batch, p.metric LIMIT %(limit)s) "
        "SELECT p.batch, p.metric, p.points, p.anomalies, t.*, (SELECT count(*) FROM metric_alerts a "
        f"WHERE a.batch = p.batch AND a.metric = p.metric AND a.state = {OPEN}) AS alerts "
        "FROM ranked p CROSS JOIN LATERAL (SELECT q.ts, q.value, q.expected, q.lower, q.upper, q.novelty, q.severity "
        f"{_OF_SERIES} ORDER BY q.severity DESC, {_STRANGENESS} DESC, q.ts DESC LIMIT 1) t "
        f"ORDER BY {_ORDERS[order].replace('r.', 'p.')}, p.batch, p.metric",
        {
            "batches": TextArray(list(batches)),
            "since": since,
            "until": until,
            "text": text,
            "limit": _limit(limit),
        },
        lambda rows: [MetricRank(**row) for row in rows],
    )


def rank_batches(
    batches: Sequence[str], since: datetime, until: datetime, *, limit: int = 20
) -> Query[list[BatchRank]]:
    """These batches, those with the largest share of strange points in a period first; those without points last."""
    return Query(
        "WITH counted AS (SELECT p.batch, count(*) AS metrics, max(p.newest_ts) AS newest_ts, "
        "sum(r.points)::bigint AS points, sum(r.anomalies)::bigint AS anomalies FROM metric_series p "
        "CROSS JOIN LATERAL (SELECT count(*) AS points, count(*) FILTER (WHERE q.severity > 0) AS anomalies "
        f"{_OF_SERIES}) r WHERE p.batch = ANY(%(batches)s) GROUP BY p.batch) "
        "SELECT n.batch, coalesce(c.metrics, 0) AS metrics, c.newest_ts, coalesce(c.points, 0) AS points, "
        "coalesce(c.anomalies, 0) AS anomalies, (SELECT count(*) FROM metric_alerts a WHERE a.batch = n.batch "
        f"AND a.state = {OPEN}) AS alerts, l.started_at AS run_at, l.error AS run_error, "
        "jsonb_array_length(l.failures) AS run_failures FROM unnest(%(batches)s) AS n(batch) "
        "LEFT JOIN counted c USING (batch) LEFT JOIN LATERAL (SELECT * FROM metric_runs r WHERE r.batch = n.batch "
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
