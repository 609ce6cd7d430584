"""What a digest of metrics is made of, and the digests that were written; each one statement, however many metrics."""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from anomalyze.metrics.incident import OPEN, OVER, PENDING
from anomalyze.storage.array import TextArray
from anomalyze.storage.query import Query

__all__ = [
    "DIGESTS_KEPT",
    "BatchIncidents",
    "BatchRuns",
    "SilentMetrics",
    "StoredDigest",
    "StrongIncident",
    "load_digests",
    "load_failed_runs",
    "load_incidents",
    "load_silent",
    "load_strongest",
    "store_digest",
]

# Digests kept of an account, the newest: a year of daily ones.
DIGESTS_KEPT = 400

# Of a period: what was found in it, what ended in it, and what lasts. What a backfill found is no news.
_OF_PERIOD = (
    f"a.batch = ANY(%(batches)s) AND a.state > {PENDING} AND a.opened_at <= %(until)s "
    f"AND (a.state = {OPEN} OR a.opened_at > %(since)s OR a.resolved_at > %(since)s) "
    "AND a.muted IS DISTINCT FROM 'history'"
)


@dataclass(frozen=True, slots=True)
class BatchIncidents:
    """Incidents of a batch in a period.

    Attributes
    ----------
    found
        Found in the period, by severity 1 to 4; ``muted`` of them nobody was told of.
    still_open, resolved
        Open now, whenever they were found; ended in the period.
    """

    batch: str
    found: tuple[int, int, int, int]
    muted: int
    still_open: int
    resolved: int


@dataclass(frozen=True, slots=True)
class StrongIncident:
    """One of a batch's strongest of a period."""

    batch: str
    alert_id: int
    metric: str
    severity: int
    state: int
    muted: str | None
    sentence: str


@dataclass(frozen=True, slots=True)
class BatchRuns:
    """Runs of a batch in a period that failed, whole or of some metrics; the newest reason."""

    batch: str
    failed: int
    runs: int
    reason: str


@dataclass(frozen=True, slots=True)
class SilentMetrics:
    """Metrics of a batch without a value in a period: how many, the names of a few, and out of how many."""

    batch: str
    silent: int
    metrics: int
    names: list[str]


@dataclass(frozen=True, slots=True)
class StoredDigest:
    """A digest that was written."""

    account_id: str
    since_ts: datetime
    until_ts: datetime
    incidents: int
    still_open: int
    text: str


def load_incidents(
    batches: Sequence[str], since: datetime, until: datetime
) -> Query[dict[str, BatchIncidents]]:
    """Incidents of a period by batch; batches without any are left out."""
    levels = ", ".join(
        f"count(*) FILTER (WHERE a.severity = {level} AND a.opened_at > %(since)s) AS s{level}"
        for level in (1, 2, 3, 4)
    )
    return Query(
        f"SELECT a.batch, {levels}, count(*) FILTER (WHERE a.muted IS NOT NULL AND a.opened_at > %(since)s) AS muted, "
        f"count(*) FILTER (WHERE a.state = {OPEN}) AS still_open, "
        f"count(*) FILTER (WHERE a.state = {OVER} AND a.resolved_at > %(since)s) AS resolved "
        f"FROM metric_alerts a WHERE {_OF_PERIOD} GROUP BY a.batch",
        _period(batches, since, until),
        lambda rows: {
            row["batch"]: BatchIncidents(
                row["batch"],
                (row["s1"], row["s2"], row["s3"], row["s4"]),
                row["muted"],
                row["still_open"],
                row["resolved"],
            )
            for row in rows
        },
    )


def load_strongest(
    batches: Sequence[str], since: datetime, until: datetime, each: int
) -> Query[list[StrongIncident]]:
    """The strongest incidents of a period, ``each`` of a batch; those that were told come first."""
    return Query(
        "SELECT batch, alert_id, metric, severity, state, muted, sentence FROM (SELECT a.*, row_number() OVER ("
        "PARTITION BY a.batch ORDER BY a.muted IS NOT NULL, a.severity DESC, a.opened_at > %(since)s DESC, "
        f"a.peak_strength DESC, a.alert_id) AS place FROM metric_alerts a WHERE {_OF_PERIOD}) s "
        "WHERE place <= %(each)s ORDER BY batch, place",
        {**_period(batches, since, until), "each": each},
        lambda rows: [StrongIncident(**row) for row in rows],
    )


def load_failed_runs(batches: Sequence[str], since: datetime, until: datetime) -> Query[dict[str, BatchRuns]]:
    """Runs of a period that failed, by batch; batches whose runs all went well are left out."""
    return Query(
        "SELECT batch, count(*) FILTER (WHERE failed) AS failed, count(*) AS runs, "
        "(array_agg(coalesce(error, (failures->0->>'metric') || ': ' || (failures->0->>'reason')) "
        "ORDER BY run_id DESC) FILTER (WHERE failed))[1] AS reason FROM (SELECT *, "
        "error IS NOT NULL OR jsonb_array_length(failures) > 0 AS failed FROM metric_runs "
        "WHERE batch = ANY(%(batches)s) AND started_at > %(since)s AND started_at <= %(until)s) r "
        "GROUP BY batch HAVING count(*) FILTER (WHERE failed) > 0",
        _period(batches, since, until),
        lambda rows: {row["batch"]: BatchRuns(**row) for row in rows},
    )


def load_silent(
    batches: Sequence[str], since: datetime, until: datetime, names: int
) -> Query[dict[str, SilentMetrics]]:
    """Metrics without a value since the period began, and for three steps at least; by batch, those with any."""
    silent = (
        "coalesce(s.newest_ts < least(%(since)s, %(until)s - make_interval(secs => 3 * b.period_s)), true)"
    )
    return Query(
        f"SELECT batch, count(*) FILTER (WHERE silent) AS silent, count(*) AS metrics, "
        "(array_agg(metric ORDER BY metric) FILTER (WHERE silent))[:%(names)s] AS names "
        f"FROM (SELECT s.batch, s.metric, {silent} AS silent FROM metric_series s JOIN metric_batches b USING (batch) "
        "WHERE s.batch = ANY(%(batches)s)) m GROUP BY batch HAVING count(*) FILTER (WHERE silent) > 0",
        {**_period(batches, since, until), "names": names},
        lambda rows: {row["batch"]: SilentMetrics(**row) for row in rows},
    )


def store_digest(connection: psycopg.Connection[Any], digest: StoredDigest) -> bool:
    """Keep a digest, and forget the account's oldest; False when one up to that moment was there, which stays."""
    with connection.transaction():
        row = connection.execute(
            "INSERT INTO metric_digests (account_id, since_ts, until_ts, incidents, still_open, text) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING account_id",
            [
                digest.account_id,
                digest.since_ts,
                digest.until_ts,
                digest.incidents,
                digest.still_open,
                digest.text,
            ],
        ).fetchone()
        connection.execute(
            "DELETE FROM metric_digests WHERE account_id = %s AND until_ts <= (SELECT until_ts FROM metric_digests "
            "WHERE account_id = %s ORDER BY until_ts DESC OFFSET %s LIMIT 1)",
            [digest.account_id, digest.account_id, DIGESTS_KEPT],
        )
    return row is not None


def load_digests(account_id: str, limit: int = 1) -> Query[list[StoredDigest]]:
    """An account's newest digests."""
    return Query(
        "SELECT account_id, since_ts, until_ts, incidents, still_open, text FROM metric_digests "
        "WHERE account_id = %(account)s ORDER BY until_ts DESC LIMIT %(limit)s",
        {"account": account_id, "limit": limit},
        lambda rows: [StoredDigest(**row) for row in rows],
    )


def _period(batches: Sequence[str], since: datetime, until: datetime) -> dict[str, Any]:
    return {"batches": TextArray(list(batches)), "since": since, "until": until}
