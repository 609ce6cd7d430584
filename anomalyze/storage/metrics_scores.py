"""What is to be scored of a batch, and its scores: stored once by (batch, metric, time, detector, version).

A turn of scoring is one transaction: scores, where each series stands, alerts, and the number up to which the values
are scored. Numbers of series stand for names on the way, so that rows are copied and not built one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.storage.array import BigintArray, TextArray
from anomalyze.storage.binary import copy_in, copy_out, to_ms, to_postgres_us

__all__ = [
    "BatchState",
    "Points",
    "ScoreRows",
    "SeriesState",
    "claim_batch",
    "delete_other_detectors",
    "delete_scores",
    "finish_turn",
    "load_batch",
    "load_pending",
    "load_points",
    "load_series",
    "load_tail",
    "store_scores",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Changes that one turn takes at most, beyond those of its first number.
ROWS_A_TURN = 200_000

_POINTS = "s.series_id, v.ts, coalesce(v.value, 'NaN'), v.revision::bigint"
_JOINED = "FROM metric_values v JOIN metric_series s USING (batch, metric)"

_STAGED = (
    "series_id bigint, ts timestamptz, value double precision, novelty double precision, surprise double precision, "
    "rarity double precision, expected double precision, lower double precision, upper double precision, "
    "severity bigint, flags bigint"
)
_COLUMNS = "value, novelty, surprise, rarity, expected, lower, upper, severity, flags"
_UPSERT = f"""
INSERT INTO metric_scores AS m (batch, metric, ts, detector, version, {_COLUMNS})
SELECT s.batch, s.metric, g.ts, %(detector)s, %(version)s, g.value, g.novelty::real, g.surprise::real, g.rarity::real,
    nullif(g.expected, 'NaN'), nullif(g.lower, 'NaN'), nullif(g.upper, 'NaN'), g.severity::smallint, g.flags::smallint
FROM metric_score_staging g JOIN metric_series s USING (series_id)
ON CONFLICT (batch, metric, ts, detector, version) DO UPDATE SET
    ({_COLUMNS}) = ({", ".join(f"excluded.{name}" for name in _COLUMNS.split(", "))})
WHERE ({", ".join(f"m.{name}" for name in _COLUMNS.split(", "))})
    IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _COLUMNS.split(", "))})
"""  # noqa: S608 - constants
_UPDATE_SERIES = """
UPDATE metric_series s SET detector = %(detector)s, version = %(version)s, points = g.points, newest_ts = g.ts,
    newest_value = nullif(g.value, 'NaN'), newest_novelty = g.novelty::real, newest_severity = g.severity::smallint,
    flat_points = g.flat, flat_points_max = g.flat_max, judged_by = g.judged_by, shaped_by = g.shaped_by
FROM metric_series_staging g WHERE s.series_id = g.series_id
"""


@dataclass(frozen=True, slots=True)
class BatchState:
    """How far a batch's values were changed (``ingest``) and scored, and how many turns that took."""

    ingest: int
    scored_ingest: int
    turn: int
    period_s: float | None
    snoozed_until: datetime | None


@dataclass(frozen=True, slots=True)
class SeriesState:
    """All series of a batch in the order of their numbers, as parallel columns; times in ms, 0 before the first.

    Attributes
    ----------
    series_id
        int64 ``[S]``, ascending: a series keeps its place, new ones come behind.
    points, newest_ms, newest_value
        What was scored, with the version asked for: 0 where another one scored last.
    flat_points, flat_points_max
        How long the newest value has not changed, and the longest such time so far, in points.
    is_of_other
        Another detector or version scored last.
    judged_by, shaped_by
        What its scores and its values before them were made by (`anomalyze.metrics.mark`); 0: not known.
    """

    names: list[str]
    series_id: Ints
    points: Ints
    newest_ms: Ints
    newest_value: Floats
    flat_points: Ints
    flat_points_max: Ints
    snoozed_until: list[datetime | None]
    is_of_other: npt.NDArray[np.bool_]
    judged_by: Ints
    shaped_by: Ints


@dataclass(frozen=True, slots=True)
class Points:
    """Stored values in the order of series and time: number of the series, time (ms), value (NaN: missing)."""

    series_id: Ints
    ts_ms: Ints
    value: Floats
    revision: Ints

    def __len__(self) -> int:
        return len(self.series_id)


@dataclass(frozen=True, slots=True)
class ScoreRows:
    """Scores to store, parallel columns ``[N]``; NaN in the last three of the band stands for none."""

    series_id: Ints
    ts_ms: Ints
    value: Floats
    novelty: Floats
    surprise: Floats
    rarity: Floats
    expected: Floats
    lower: Floats
    upper: Floats
    severity: Ints
    flags: Ints


@contextmanager
def claim_batch(connection: psycopg.Connection[Any], batch: str) -> Iterator[bool]:
    """Whether nobody else scores this batch; held for the ``with`` block, and no longer than the connection."""
    row = connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended('metrics ' || %s, 0))", [batch]
    ).fetchone()
    is_ours = row == (True,)
    try:
        yield is_ours
    finally:
        if is_ours and not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended('metrics ' || %s, 0))", [batch])


def load_batch(connection: psycopg.Connection[Any], batch: str) -> BatchState | None:
    """Where a batch stands; None before its first value."""
    row = connection.execute(
        "SELECT ingest, scored_ingest, turn, period_s, snoozed_until FROM metric_batches WHERE batch = %s",
        [batch],
    ).fetchone()
    return None if row is None else BatchState(*row)


def load_series(connection: psycopg.Connection[Any], batch: str, detector: str, version: int) -> SeriesState:
    """All series of a batch; those that another detector or version scored last stand at their beginning."""
    rows = connection.execute(
        "SELECT metric, series_id, CASE WHEN ours THEN points ELSE 0 END, "
        "CASE WHEN ours AND newest_ts IS NOT NULL THEN (extract(epoch FROM newest_ts) * 1000)::bigint ELSE 0 END, "
        "CASE WHEN ours THEN coalesce(newest_value, 'NaN') ELSE 'NaN' END, "
        "CASE WHEN ours THEN flat_points ELSE 0 END, CASE WHEN ours THEN flat_points_max ELSE 0 END, snoozed_until, "
        "NOT ours AND detector <> '', judged_by, shaped_by "
        "FROM (SELECT *, detector = %s AND version = %s AS ours FROM metric_series WHERE batch = %s) s "
        "ORDER BY series_id",
        [detector, version, batch],
    ).fetchall()
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * 11
    return SeriesState(
        list(columns[0]),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.int64),
        np.array(columns[3], np.int64),
        np.array(columns[4], np.float64),
        np.array(columns[5], np.int64),
        np.array(columns[6], np.int64),
        list(columns[7]),
        np.array(columns[8], np.bool_),
        np.array(columns[9], np.int64),
        np.array(columns[10], np.int64),
    )


def load_pending(connection: psycopg.Connection[Any], batch: str, state: BatchState) -> tuple[Points, int]:
    """What changed and was not scored yet, the oldest changes first; and the number up to which that is."""
    row = connection.execute(
        "SELECT ingest FROM metric_values WHERE batch = %s AND ingest > %s AND ingest <= %s "
        "ORDER BY ingest OFFSET %s LIMIT 1",
        [batch, state.scored_ingest, state.ingest, ROWS_A_TURN],
    ).fetchone()
    # The number at the limit may go on behind it: it is left for the next turn, unless it is the first.
    upto = state.ingest if row is None else max(state.scored_ingest + 1, int(row[0]) - 1)
    points = _copy_points(
        connection,
        "",
        [batch, state.scored_ingest, upto],
        # OFFSET 0 has the values found first. Of tables that were never analysed, as a new database's are, all values of
        # the batch would be gone through for each of its series: a first backfill of 100 metrics never ended.
        "FROM (SELECT o.batch, o.metric, o.ts, o.value, o.revision FROM metric_values o "
        "WHERE o.batch = %s AND o.ingest > %s AND o.ingest <= %s OFFSET 0) v JOIN metric_series s USING (batch, metric)",
    )
    return points, upto


def load_points(
    connection: psycopg.Connection[Any], batch: str, series_id: Sequence[int], upto: int
) -> Points:
    """All stored values of some series as they are now, except what changed after a number."""
    return _copy_points(
        connection,
        "WHERE v.batch = %s AND s.series_id = ANY(%s::bigint[]) AND v.ingest <= %s",
        [batch, list(series_id), upto],
    )


def load_tail(
    connection: psycopg.Connection[Any],
    series_id: Sequence[int],
    before_ms: Ints,
    points: int,
    further_s: float,
) -> Points:
    """The newest so many values of each series before a time of its own, and those so long before the first of them."""
    return _copy_points(
        connection,
        "",
        [list(series_id), before_ms.tolist(), points, further_s],
        "FROM unnest(%s::bigint[], %s::bigint[]) AS w (series_id, before_ms) JOIN metric_series s USING (series_id) "
        "CROSS JOIN LATERAL (SELECT to_timestamp(w.before_ms / 1000.0) AS ts) b "
        "CROSS JOIN LATERAL (SELECT coalesce(min(n.ts), b.ts) AS ts FROM (SELECT o.ts FROM metric_values o "
        "WHERE o.batch = s.batch AND o.metric = s.metric AND o.ts < b.ts ORDER BY o.ts DESC LIMIT %s) n) f "
        "CROSS JOIN LATERAL (SELECT o.ts, o.value, o.revision FROM metric_values o WHERE o.batch = s.batch "
        "AND o.metric = s.metric AND o.ts < b.ts AND o.ts >= f.ts - make_interval(secs => %s)) v",
    )


def store_scores(connection: psycopg.Connection[Any], detector: str, version: int, rows: ScoreRows) -> int:
    """Store scores; how many were new or are others now. Within the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS metric_score_staging ({_STAGED}) ON COMMIT DROP")
        cursor.execute("TRUNCATE metric_score_staging")
        copy_in(
            cursor,
            "metric_score_staging",
            [
                rows.series_id, to_postgres_us(rows.ts_ms), rows.value, rows.novelty, rows.surprise, rows.rarity,
                rows.expected, rows.lower, rows.upper, rows.severity, rows.flags,
            ],
        )  # fmt: skip
        return cursor.execute(_UPSERT, {"detector": detector, "version": version}).rowcount


def finish_turn(
    connection: psycopg.Connection[Any],
    batch: str,
    detector: str,
    version: int,
    *,
    upto: int,
    turn: int,
    period_s: float,
    series: Sequence[npt.NDArray[Any]],
) -> None:
    """Note where series stand and how far the batch is scored; the last statement of a turn.

    Parameters
    ----------
    series
        Columns of series_id, newest time (ms), points, value, novelty, severity, flat points and their longest, and the
        two marks of what they were made by.
    """
    with connection.cursor() as cursor:
        if series:
            series_id, ts_ms, *others = series
            cursor.execute(
                "CREATE TEMP TABLE metric_series_staging (series_id bigint, ts timestamptz, points bigint, "
                "value double precision, novelty double precision, severity bigint, flat bigint, flat_max bigint, "
                "judged_by bigint, shaped_by bigint) ON COMMIT DROP"
            )
            copy_in(cursor, "metric_series_staging", [series_id, to_postgres_us(ts_ms), *others])
            cursor.execute(_UPDATE_SERIES, {"detector": detector, "version": version})
        cursor.execute(
            "UPDATE metric_batches SET scored_ingest = %s, turn = %s, period_s = %s WHERE batch = %s",
            [upto, turn, period_s, batch],
        )


def delete_scores(connection: psycopg.Connection[Any], points: Points) -> None:
    """Forget the scores of points whose value went."""
    if len(points):
        connection.execute(
            "DELETE FROM metric_scores m USING metric_series s, unnest(%s::bigint[], %s::bigint[]) AS g (series_id, ts_ms) "
            "WHERE s.series_id = g.series_id AND m.batch = s.batch AND m.metric = s.metric "
            "AND m.ts = to_timestamp(g.ts_ms / 1000.0)",
            [BigintArray(points.series_id.tolist()), BigintArray(points.ts_ms.tolist())],
        )


def delete_other_detectors(
    connection: psycopg.Connection[Any],
    series_id: Sequence[int],
    kept: Sequence[tuple[int, str, int]],
    default: str,
) -> None:
    """Forget what detectors by name said of series whose settings ask for them no more, or for another version.

    Parameters
    ----------
    kept
        Series, detector and version each that are asked for.
    default
        The detector that scores every value: its versions stay.
    """
    if series_id:
        numbers, detectors, versions = zip(*kept, strict=True) if kept else ((), (), ())
        connection.execute(
            "DELETE FROM metric_scores m USING metric_series s WHERE s.series_id = ANY(%s::bigint[]) "
            "AND m.batch = s.batch AND m.metric = s.metric AND m.detector <> %s AND NOT EXISTS (SELECT "
            "FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS k (series_id, detector, version) "
            "WHERE k.series_id = s.series_id AND k.detector = m.detector AND k.version = m.version)",
            [
                BigintArray(series_id), default, BigintArray(numbers), TextArray(detectors), BigintArray(versions),
            ],
        )  # fmt: skip


def _copy_points(
    connection: psycopg.Connection[Any], where: str, parameters: Sequence[Any], source: str = _JOINED
) -> Points:
    with connection.cursor() as cursor:
        series_id, ts_us, value, revision = copy_out(
            cursor,
            f"SELECT {_POINTS} {source} {where} ORDER BY s.series_id, v.ts",
            parameters,
            "iifi",
        )
    return Points(series_id, to_ms(ts_us), value, revision)
