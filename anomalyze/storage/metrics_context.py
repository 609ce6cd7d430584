"""What detectors by name look back on: stored values before a turn's, and how far each detector has scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.storage.array import BigintArray
from anomalyze.storage.binary import copy_out, to_ms

__all__ = ["Context", "Said", "load_context", "load_said", "load_unscored"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# By series, the newest time that the default detector scored, and whether this one scored it too.
_UNSCORED = """
SELECT s.series_id FROM unnest(%(series)s::bigint[], %(newest_ms)s::bigint[]) AS w (series_id, newest_ms)
JOIN metric_series s USING (series_id)
LEFT JOIN LATERAL (
    SELECT d.ts FROM metric_scores d WHERE d.batch = s.batch AND d.metric = s.metric
    AND d.ts <= to_timestamp(w.newest_ms / 1000.0)
    AND d.detector = %(default)s AND d.version = %(default_version)s ORDER BY d.ts DESC LIMIT 1
) n ON true
WHERE n.ts IS NULL OR NOT EXISTS (
    SELECT FROM metric_scores m WHERE m.batch = s.batch AND m.metric = s.metric AND m.ts = n.ts
    AND m.detector = %(detector)s AND m.version = %(version)s
)
"""


@dataclass(frozen=True, slots=True)
class Context:
    """Stored values in the order of series and time; NaN: missing."""

    series_id: Ints
    ts_ms: Ints
    value: Floats


@dataclass(frozen=True, slots=True)
class Said:
    """Stored scores of one detector, in the order of series and time."""

    series_id: Ints
    ts_ms: Ints
    novelty: Floats
    rarity: Floats
    expected: Floats
    lower: Floats
    upper: Floats


def load_context(
    connection: psycopg.Connection[Any],
    series_id: Sequence[int],
    before_ms: Sequence[int],
    since_ms: Sequence[int],
    points: Sequence[int],
    further_s: Sequence[float],
) -> Context:
    """The values of each series from ``since_ms`` until before ``before_ms``, so many before the former, and those so
    long before the first of them.
    """
    # A series is one answer row: the client's work a row is many times that of sixteen bytes.
    with connection.cursor(binary=True) as cursor:
        packed = cursor.execute(
            "SELECT s.series_id, string_agg(timestamptz_send(v.ts) || float8send(coalesce(v.value, 'NaN')), '' ORDER BY v.ts) "
            "FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::double precision[]) "
            "AS w (series_id, before_ms, since_ms, points, further_s) JOIN metric_series s USING (series_id) "
            "CROSS JOIN LATERAL (SELECT to_timestamp(w.since_ms / 1000.0) AS ts) b "
            "CROSS JOIN LATERAL (SELECT coalesce(min(n.ts), b.ts) AS ts FROM (SELECT o.ts FROM metric_values o "
            "WHERE o.batch = s.batch AND o.metric = s.metric AND o.ts < b.ts ORDER BY o.ts DESC LIMIT w.points) n) f "
            # OFFSET 0 keeps it a look-up a series: joined at once, every value of the batch is read.
            "CROSS JOIN LATERAL (SELECT o.ts, o.value FROM metric_values o WHERE o.batch = s.batch "
            "AND o.metric = s.metric AND o.ts < to_timestamp(w.before_ms / 1000.0) "
            "AND o.ts >= f.ts - make_interval(secs => w.further_s) OFFSET 0) v GROUP BY s.series_id ORDER BY s.series_id",
            [list(series_id), list(before_ms), list(since_ms), list(points), list(further_s)],
        ).fetchall()
    rows = np.frombuffer(b"".join(part for _, part in packed), [("ts", ">i8"), ("value", ">f8")])
    counts = [len(part) // rows.itemsize for _, part in packed]
    found = np.repeat(np.array([number for number, _ in packed], np.int64), counts)
    return Context(found, to_ms(rows["ts"].astype(np.int64)), rows["value"].astype(np.float64))


def load_said(
    connection: psycopg.Connection[Any],
    series_id: Sequence[int],
    since_ms: Sequence[int],
    detector: str,
    version: int,
) -> Said:
    """What a detector stored of each series from a time on."""
    with connection.cursor() as cursor:
        found, ts_us, *columns = copy_out(
            cursor,
            "SELECT s.series_id, m.ts, m.novelty::double precision, m.rarity::double precision, "
            "coalesce(m.expected, 'NaN')::double precision, coalesce(m.lower, 'NaN')::double precision, "
            "coalesce(m.upper, 'NaN')::double precision "
            "FROM unnest(%s::bigint[], %s::bigint[]) AS w (series_id, since_ms) JOIN metric_series s USING (series_id) "
            "JOIN metric_scores m ON m.batch = s.batch AND m.metric = s.metric "
            "AND m.ts >= to_timestamp(w.since_ms / 1000.0) AND m.detector = %s AND m.version = %s "
            "ORDER BY s.series_id, m.ts",
            [list(series_id), list(since_ms), detector, version],
            "iifffff",
        )
    return Said(found, to_ms(ts_us), *columns)


def load_unscored(
    connection: psycopg.Connection[Any],
    series_id: Sequence[int],
    newest_ms: Sequence[int],
    detector: tuple[str, int],
    default: tuple[str, int],
) -> set[int]:
    """The series whose newest scored value, up to a time, this detector (name and version) has not scored.

    Parameters
    ----------
    newest_ms
        Of each series, where it stood before this turn; 0: nothing was scored.
    default
        The detector that scores every value.
    """
    rows = connection.execute(
        _UNSCORED,
        {
            "series": BigintArray(list(series_id)),
            "newest_ms": BigintArray(list(newest_ms)),
            "detector": detector[0],
            "version": detector[1],
            "default": default[0],
            "default_version": default[1],
        },
    ).fetchall()
    return {int(row[0]) for row in rows}
