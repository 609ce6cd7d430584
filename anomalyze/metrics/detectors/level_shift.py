"""Level shift: the median of the newest span of values against the medians of the spans before it.

Comparing medians of neighbouring windows, standardised by a robust scale, is the median comparison of Fried (On the
robust detection of edges in time series filtering, CSDA 52, 2007): spikes that fill less than half a span are no shift.
What differs: the newest level is held against the range of many earlier levels, so that weekends, which return, are
none; a span is a day (of daily values a week), so that the day's habit has no part in it. Where the level changed is the
split at which most values of the newest two spans lie on their own side of the middle of both levels (the CUSUM of signs).
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.metrics.detectors.base import ALERT, STRENGTH_MAX, Found, Reach, Stretch, spoken, usable
from anomalyze.metrics.detectors.order import deviation, in_scales, median
from anomalyze.metrics.detectors.setting import LevelShift
from anomalyze.metrics.incident import Incident

__all__ = ["ShiftDetector", "span_points"]

_DAY_S = 86_400.0
# Values of a span that its median is taken of; a longer one is thinned evenly.
SAMPLES_MAX = 288
LEVELS_MIN = 4
# A shift is worth telling of from this share of the noise within a span on, times the threshold.
NOISE_SHARE = 0.25


def span_points(setting: LevelShift, period_s: float) -> int:
    """Values of a span: a day's, at least 8 of them; a week's of daily ones.

    >>> span_points(LevelShift(), 3600.0), span_points(LevelShift(), 86400.0), span_points(LevelShift(points=12), 60.0)
    (24, 7, 12)
    """
    if setting.points is not None:
        return setting.points
    return 7 if period_s >= _DAY_S else max(8, round(_DAY_S / period_s))


class ShiftDetector:
    """As configured; see the module."""

    wants: tuple[str, ...] = ()
    wants_ms = 0
    keeps: tuple[str, ...] = ()

    def __init__(self, kind: str, version: int, setting: LevelShift, period_s: float) -> None:
        self.kind, self.version, self._setting = kind, version, setting
        self._points = span_points(setting, period_s)

    def reach(self, first_ms: int) -> Reach:
        """The rows of all spans."""
        return Reach(first_ms, (self._setting.spans + 2) * self._points)

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        rows = len(stretch.value)
        out, since_ms = np.full((rows, 6), np.nan), stretch.ts_ms.copy()
        levels, noise, is_known = np.empty(rows), np.empty(rows), np.zeros(rows, np.int8)
        shift_scores(
            stretch.ts_ms, usable(stretch.value), first, self._points, self._setting.spans,
            self._setting.threshold, levels, noise, is_known,
            np.empty(max(SAMPLES_MAX + 1, self._setting.spans)), out, since_ms,
        )  # fmt: skip
        return spoken(first, out, since_ms)

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        way = {1: "up", -1: "down"}.get(incident.direction, "away")
        return (
            f"{metric} shifted {way} from a level of about {shown(incident.peak_expected)} to "
            f"{shown(incident.peak_value)} (levels so far: {shown(incident.peak_lower)} to {shown(incident.peak_upper)})"
        )


@njit(cache=True, **COMPILED)
def shift_scores(ts, value, first, points, spans, threshold, levels, noise, is_known, room, out, since_ms):
    """Write the columns of `base.spoken` for rows from ``first`` on, and where each shift began."""
    for row in range(first, len(ts)):
        if not abs(value[row]) >= 0.0:
            continue
        _level(value, row, points, levels, noise, is_known, room)
        level = levels[row]
        count, low, high = 0, math.inf, -math.inf
        for span in range(1, spans + 1):
            place = row - span * points
            if place < 0:
                break
            _level(value, place, points, levels, noise, is_known, room)
            if levels[place] == levels[place]:
                low, high = min(low, levels[place]), max(high, levels[place])
                count += 1
        if count < LEVELS_MIN or math.isnan(level):
            continue
        before = _gather(levels, row, points, spans, room)
        usual = median(room, before)
        scale = deviation(room, before, usual)
        before = _gather(noise, row, points, spans, room)
        scale = max(scale, NOISE_SHARE * median(room, before))
        away = max(level - high, low - level, 0.0)
        measure = in_scales(away, scale, STRENGTH_MAX * threshold)
        out[row, 0] = min(STRENGTH_MAX, ALERT * measure / threshold)
        out[row, 1] = measure
        out[row, 2] = level
        out[row, 3] = usual
        out[row, 4] = low
        out[row, 5] = high
        if away > 0.0:
            since_ms[row] = ts[_split(value, row, points, 0.5 * usual + 0.5 * level, level > usual)]


@njit(**COMPILED)
def _level(value, row, points, levels, noise, is_known, room):
    """The median and the deviation of the span that ends at a row, once; NaN where half of it is missing."""
    if is_known[row]:
        return
    is_known[row] = 1
    levels[row], noise[row] = math.nan, math.nan
    step = (points + SAMPLES_MAX - 1) // SAMPLES_MAX
    count, wanted = 0, (points + step - 1) // step
    for number in range(wanted):
        place = row - number * step
        if place < 0:
            break
        if abs(value[place]) >= 0.0:
            room[count] = value[place]
            count += 1
    if 2 * count > wanted:
        levels[row] = median(room, count)
        noise[row] = deviation(room, count, levels[row])


@njit(**COMPILED)
def _gather(source, row, points, spans, room):
    """What is known of the spans before the newest."""
    count = 0
    for span in range(1, spans + 1):
        place = row - span * points
        if place >= 0 and source[place] == source[place]:
            room[count] = source[place]
            count += 1
    return count


@njit(**COMPILED)
def _split(value, row, points, middle, is_up):
    """The first row of the new level: where the sum of signs, from the newest row back, is largest."""
    best, total, at = 0, 0, row
    for place in range(row, max(-1, row - 2 * points), -1):
        if value[place] > middle:
            total += 1 if is_up else -1
        elif value[place] < middle:
            total += -1 if is_up else 1
        if total >= best:
            best, at = total, place
    return at
