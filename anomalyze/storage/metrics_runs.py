"""Runs of metric batches: when, how many rows, and what failed of which metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from anomalyze.storage.query import Query

__all__ = [
    "FAILURES_MAX",
    "RUNS_KEPT",
    "Failure",
    "ReadBefore",
    "Run",
    "begin_run",
    "finish_run",
    "load_runs",
    "note_reading",
]

# Runs kept of a batch, the newest: a year of hourly ones.
RUNS_KEPT = 10_000
# Failures kept of a run.
FAILURES_MAX = 100


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be taken of a metric: its neighbours go on."""

    metric: str
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `metric_runs`; without ``finished_at`` it goes on, or was killed."""

    run_id: int
    batch: str
    kind: str
    started_at: datetime
    finished_at: datetime | None
    rows_read: int
    rows_new: int
    rows_corrected: int
    scored: int
    rebuilt: int
    alerts: int
    failures: list[dict[str, str]]
    error: str | None


def begin_run(connection: psycopg.Connection[Any], batch: str, kind: str) -> int:
    """Note that a run (``ingest`` or ``score``) begins; its number."""
    row = connection.execute(
        "INSERT INTO metric_runs (batch, kind) VALUES (%s, %s) RETURNING run_id", [batch, kind]
    ).fetchone()
    assert row is not None
    return int(row[0])


def finish_run(
    connection: psycopg.Connection[Any],
    run_id: int,
    *,
    rows_read: int = 0,
    rows_new: int = 0,
    rows_corrected: int = 0,
    scored: int = 0,
    rebuilt: int = 0,
    alerts: int = 0,
    failures: Sequence[Failure] = (),
    error: str | None = None,
) -> None:
    """Note how a run ended, and forget the batch's oldest."""
    with connection.transaction():
        connection.execute(
            "UPDATE metric_runs SET finished_at = now(), rows_read = %s, rows_new = %s, rows_corrected = %s, "
            "scored = %s, rebuilt = %s, alerts = %s, failures = %s, error = %s WHERE run_id = %s",
            [
                rows_read,
                rows_new,
                rows_corrected,
                scored,
                rebuilt,
                alerts,
                Jsonb([{"metric": f.metric, "reason": f.reason} for f in failures[:FAILURES_MAX]]),
                None if error is None else error[:1000].replace("\0", "\ufffd"),
                run_id,
            ],
        )
        connection.execute(
            "DELETE FROM metric_runs r USING (SELECT batch, run_id FROM metric_runs WHERE batch = "
            "(SELECT batch FROM metric_runs WHERE run_id = %s) ORDER BY run_id DESC OFFSET %s LIMIT 1) old "
            "WHERE r.batch = old.batch AND r.run_id <= old.run_id",
            [run_id, RUNS_KEPT],
        )


@dataclass(frozen=True, slots=True)
class ReadBefore:
    """Values before a time were read by something else than those since; ``is_new``: since this run."""

    before: datetime
    is_new: bool


def note_reading(
    connection: psycopg.Connection[Any], batch: str, mark: int, since: datetime, until: datetime, *, is_of_now: bool
) -> ReadBefore | None:  # fmt: skip
    """Note by what a batch was read from one time to another; what is stored that something else read, if there is any.

    Parameters
    ----------
    mark
        As `anomalyze.metrics.mark.mark_of_reading`.
    is_of_now
        Its source tells of now alone: the past cannot be read again.
    """
    with connection.transaction():
        row = connection.execute(
            "SELECT read_by, read_since FROM metric_batches WHERE batch = %s FOR UPDATE", [batch]
        ).fetchone()
        if row is None:
            return None
        read_by, before = row
        is_new = read_by not in (0, mark)
        if is_new:
            before = None if is_of_now else since
        elif before is not None and since < before <= until:
            before = since
        if before is not None:
            older = connection.execute(
                "SELECT EXISTS (SELECT FROM metric_values WHERE batch = %s AND ts < %s)", [batch, before]
            ).fetchone()
            before = before if older == (True,) else None
        connection.execute(
            "UPDATE metric_batches SET read_by = %s, read_since = %s WHERE batch = %s", [mark, before, batch]
        )
    return None if before is None else ReadBefore(before, is_new)


def load_runs(batch: str, limit: int = 50) -> Query[list[Run]]:
    """A batch's newest runs."""
    return Query(
        "SELECT run_id, batch, kind, started_at, finished_at, rows_read, rows_new, rows_corrected, scored, rebuilt, "
        "alerts, failures, error FROM metric_runs WHERE batch = %(batch)s ORDER BY run_id DESC LIMIT %(limit)s",
        {"batch": batch, "limit": limit},
        lambda rows: [Run(**row) for row in rows],
    )
