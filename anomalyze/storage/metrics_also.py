"""What else of a batch is strange in the same hours."""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg

from anomalyze.metrics.incident import PENDING
from anomalyze.storage.query import Query

__all__ = ["Also", "AlsoStrange", "Span", "load_also", "what_else"]

# Incidents of a batch that one look takes in, the strongest: a batch has 20,000 metrics at most.
INCIDENTS_MAX = 20_000
NAMES = 3

# An incident that begins a step later is of the same hours. What nobody wants to hear of is left out.
_AROUND = (
    "SELECT a.metric, a.alert_id, a.kind, a.severity, a.opened_ts, a.last_ts FROM metric_alerts a "
    "JOIN metric_batches b USING (batch) WHERE a.batch = %(batch)s "
    f"AND a.state > {PENDING} AND a.opened_ts <= %(until)s + make_interval(secs => coalesce(b.period_s, 0)) "
    "AND a.last_ts >= %(since)s - make_interval(secs => coalesce(b.period_s, 0)) "
    "AND (a.muted IS NULL OR a.muted NOT IN ('dismissed', 'disabled')) "
    "AND (%(metric)s::text IS NULL OR a.metric <> %(metric)s) "
    "ORDER BY a.severity DESC, a.peak_strength DESC, a.alert_id LIMIT %(limit)s"
)


@dataclass(frozen=True, slots=True)
class AlsoStrange:
    """The strongest incident of another metric in those hours."""

    metric: str
    alert_id: int
    kind: str
    severity: int
    opened_ts: datetime
    last_ts: datetime


@dataclass(frozen=True, slots=True)
class Also:
    """Other metrics of the batch that are strange in the same hours: how many, and the strongest of them."""

    count: int
    strongest: tuple[AlsoStrange, ...]

    @property
    def names(self) -> list[str]:
        """Of the strongest."""
        return [one.metric for one in self.strongest]


@dataclass(frozen=True, slots=True)
class Span:
    """Hours of one metric, in ms."""

    metric: str
    since_ms: int
    until_ms: int


def what_else(
    batch: str, metric: str | None, since: datetime, until: datetime, names: int = NAMES
) -> Query[Also]:
    """Other metrics of a batch with an incident between two times, a step around them included; ``names`` are named.

    Parameters
    ----------
    metric
        The one that is asked about; None: all count.
    """

    def build(rows: list[dict[str, Any]]) -> Also:
        strongest: dict[str, AlsoStrange] = {}
        for row in rows:
            strongest.setdefault(row["metric"], AlsoStrange(**row))
        return Also(len(strongest), tuple(strongest.values())[:names])

    return Query(
        _AROUND,
        {"batch": batch, "metric": metric, "since": since, "until": until, "limit": INCIDENTS_MAX},
        build,
    )


def load_also(
    connection: psycopg.Connection[Any],
    batch: str,
    spans: Sequence[Span],
    period_s: float,
    names: int = NAMES,
) -> list[Also]:
    """`what_else` for many spans of a batch, by one statement."""
    if not spans:
        return []
    rows = connection.execute(
        _AROUND,
        {
            "batch": batch,
            "metric": None,
            "since": _time(min(span.since_ms for span in spans)),
            "until": _time(max(span.until_ms for span in spans)),
            "limit": INCIDENTS_MAX,
        },
    ).fetchall()
    found = [AlsoStrange(*row) for row in rows]
    codes: dict[str, int] = {}
    code = np.array([codes.setdefault(one.metric, len(codes)) for one in found], np.int64)
    opened = np.array([one.opened_ts.timestamp() for one in found])
    last = np.array([one.last_ts.timestamp() for one in found])
    answers = []
    for span in spans:
        near = (opened <= span.until_ms / 1000 + period_s) & (last >= span.since_ms / 1000 - period_s)
        near &= code != codes.get(span.metric, -1)
        at = np.flatnonzero(near)
        # Rows are in the order of strength: a metric's first one is its strongest.
        first = np.sort(np.unique(code[at], return_index=True)[1])
        answers.append(Also(len(first), tuple(found[place] for place in at[first[:names]])))
    return answers


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
