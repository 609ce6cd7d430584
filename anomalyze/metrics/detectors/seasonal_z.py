"""Robust seasonal z: a value against those of the same time of the day and the week, in the weeks before.

The expectation is the median of the same time on the same weekday, once three weeks of it are known, else of all days.
The deviation is 1.4826 times the median absolute one (Rousseeuw and Croux, JASA 88, 1993) of all days, each against its
weekday's median, a little more while few are known, and not below a sixteenth of their range. Nothing looks ahead.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.metrics.detectors.base import ALERT, STRENGTH_MAX, Found, Reach, Stretch, spoken, usable
from anomalyze.metrics.detectors.order import deviation, first_not_below, in_scales, median
from anomalyze.metrics.detectors.setting import SeasonalZ
from anomalyze.metrics.incident import Incident

__all__ = ["SeasonalDetector"]

_DAY_MS = 86_400_000
# Days and values that are to be known of a time before anything is said of it.
DAYS_MIN, VALUES_MIN, WEEKS_MIN = 7, 10, 3
# What counts as the same time: the neighbours of a point, five minutes at least, half an hour at most.
NEAR_STEPS, NEAR_MS_MIN, NEAR_MS_MAX = 1.25, 300_000, 1_800_000
POOL_MAX = 1_024
# At the threshold of 8 a value lies half their range away, about where they end.
RANGE_SHARE = 0.0625
# The deviation of n values is taken for (1 + 8/n) times as large: that of ten is often far too small.
FEW_VALUES = 8.0


class SeasonalDetector:
    """As configured; see the module."""

    wants: tuple[str, ...] = ()
    wants_ms = 0
    keeps: tuple[str, ...] = ()

    def __init__(self, kind: str, version: int, setting: SeasonalZ, period_s: float) -> None:
        self.kind, self.version, self._setting = kind, version, setting
        self._near_ms = int(min(max(NEAR_STEPS * period_s * 1_000, NEAR_MS_MIN), NEAR_MS_MAX))

    def reach(self, first_ms: int) -> Reach:
        """All rows of the weeks before, and two hours more where clocks are put back."""
        return Reach(first_ms - (7 * self._setting.weeks + 1) * _DAY_MS, 0)

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        out = np.full((len(stretch.value), 6), np.nan)
        seasonal_scores(
            stretch.ts_ms, stretch.offset_ms, usable(stretch.value), first, self._setting.weeks,
            self._near_ms, self._setting.threshold, np.empty((3, POOL_MAX)), out,
        )  # fmt: skip
        return spoken(first, out)

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        way = {1: "above", -1: "below"}.get(incident.direction, "unlike")
        many = incident.peak_strength / ALERT * self._setting.threshold
        return (
            f"{metric} = {shown(incident.peak_value)}, {way} the {shown(incident.peak_lower)} to "
            f"{shown(incident.peak_upper)} of this time of the day and week "
            f"(expected about {shown(incident.peak_expected)}; {many:,.3g} deviations off)"
        )


@njit(cache=True, **COMPILED)
def seasonal_scores(ts, offset, value, first, weeks, near_ms, threshold, room, out):
    """Write the columns of `base.spoken` for rows from ``first`` on."""
    values, weekdays, some = room
    for row in range(first, len(ts)):
        x = value[row]
        if not abs(x) >= 0.0:
            continue
        count, days, weeks_seen = 0, 0, 0
        for day in range(1, 7 * weeks + 1):
            target = ts[row] - day * _DAY_MS
            place = min(first_not_below(ts, row, target), row - 1)
            if place < 0:
                break
            target += offset[row] - offset[place]
            place = first_not_below(ts, row, target - near_ms)
            before = count
            while place < row and ts[place] <= target + near_ms and count < POOL_MAX:
                if abs(value[place]) >= 0.0:
                    values[count], weekdays[count] = value[place], day % 7
                    count += 1
                place += 1
            if count > before:
                days += 1
                weeks_seen += day % 7 == 0
        if days < DAYS_MIN or count < VALUES_MIN:
            continue
        low, high = values[0], values[0]
        for place in range(count):
            low, high = min(low, values[place]), max(high, values[place])
        expected, scale = _usual(values, weekdays, some, count, weeks_seen >= WEEKS_MIN)
        scale = max(scale * (1.0 + FEW_VALUES / count), RANGE_SHARE * (high - low))
        z = in_scales(abs(x - expected), scale, STRENGTH_MAX * threshold)
        out[row, 0] = min(STRENGTH_MAX, ALERT * z / threshold)
        out[row, 1] = z
        out[row, 2] = x
        out[row, 3] = expected
        out[row, 4] = expected - threshold * scale
        out[row, 5] = expected + threshold * scale


@njit(**COMPILED)
def _usual(values, weekdays, some, count, by_weekday):
    """The median of the row's weekday (0), or of all days, and the deviation of all days around their own."""
    if not by_weekday:
        for place in range(count):
            some[place] = values[place]
        expected = median(some, count)
        return expected, deviation(values, count, expected)
    expected = 0.0
    for weekday in range(7):
        found = 0
        for place in range(count):
            if weekdays[place] == weekday:
                some[found] = values[place]
                found += 1
        if found == 0:
            continue
        usual = median(some, found)
        if weekday == 0:
            expected = usual
        for place in range(count):
            if weekdays[place] == weekday:
                values[place] = values[place] - usual
    return expected, deviation(values, count, 0.0)
