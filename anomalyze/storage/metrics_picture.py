"""What the picture of an alert shows: its metric's values around the incident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from anomalyze.metrics.incident import PENDING
from anomalyze.metrics.judgement import KINDS
from anomalyze.metrics.picture import Picture, PicturePoint
from anomalyze.storage.array import TextArray
from anomalyze.storage.metrics_view import SeriesPoint, load_series_points
from anomalyze.storage.query import Query

__all__ = ["PICTURE_POINTS_MAX", "PicturedAlert", "build_picture", "find_pictured", "load_pictured_points"]

# Points read for one picture: two weeks of five minutes. A longer incident is shown around its worst point.
PICTURE_POINTS_MAX = 4_000
# Steps shown before an incident and behind it, at least.
AROUND_POINTS = 96


@dataclass(frozen=True, slots=True)
class PicturedAlert:
    """An alert, and what its picture depends on.

    Attributes
    ----------
    turn
        How often its batch was scored: scores are others only when this is.
    """

    alert_id: int
    batch: str
    metric: str
    kind: str
    severity: int
    opened_ts: datetime
    last_ts: datetime
    peak_ts: datetime
    sentence: str
    turn: int
    period_s: float

    @property
    def revision(self) -> str:
        """Another one where the picture may be another."""
        return f"{self.alert_id}-{self.turn}-{self.last_ts.timestamp():.0f}-{self.severity}"

    @property
    def span(self) -> tuple[datetime, datetime]:
        """From when to when it is shown."""
        step = timedelta(seconds=self.period_s)
        longest = step * (PICTURE_POINTS_MAX - 2 * AROUND_POINTS)
        began, ended = self.opened_ts, self.last_ts
        if ended - began > longest:
            began, ended = max(began, self.peak_ts - longest / 2), min(ended, self.peak_ts + longest / 2)
        around = min(max(step * AROUND_POINTS, ended - began), step * (PICTURE_POINTS_MAX // 4))
        return began - around, ended + around


def find_pictured(batches: Sequence[str], alert_id: int) -> Query[PicturedAlert | None]:
    """An alert for its picture; None when there is none in these batches."""
    return Query(
        "SELECT alert_id, batch, metric, kind, severity, opened_ts, last_ts, peak_ts, sentence, turn, "  # noqa: S608 - constants only
        "coalesce(period_s, 3600) AS period_s FROM metric_alerts JOIN metric_batches USING (batch) "
        f"WHERE alert_id = %(alert_id)s AND batch = ANY(%(batches)s) AND state > {PENDING}",
        {"alert_id": alert_id, "batches": TextArray(list(batches))},
        lambda rows: PicturedAlert(**rows[0]) if rows else None,
    )


def load_pictured_points(alert: PicturedAlert) -> Query[list[SeriesPoint]]:
    """The values of an alert's picture, with the band of the detector that found it."""
    since, until = alert.span
    by_name = alert.kind if alert.kind not in KINDS and alert.kind != "late" else None
    return load_series_points(alert.batch, alert.metric, since, until, PICTURE_POINTS_MAX, by_name)


def build_picture(alert: PicturedAlert, points: Sequence[SeriesPoint], unit: str, **more: Any) -> Picture:
    """An alert's picture, to be drawn by `anomalyze.metrics.picture.draw_picture`.

    The line is of what was judged, as the band is: of the values after differences and smoothing.
    """
    is_judged = any(point.judged is not None for point in points)
    return Picture(
        title=f"{alert.metric}, {alert.batch}{f' ({unit})' if unit else ''}",
        unit="",
        points=[
            PicturePoint(
                point.ts,
                point.judged if is_judged else point.value,
                point.lower,
                point.upper,
                point.severity or 0,
            )
            for point in points
        ],
        began=alert.opened_ts,
        ended=alert.last_ts,
        period=timedelta(seconds=alert.period_s),
        said=alert.sentence,
        **more,
    )
