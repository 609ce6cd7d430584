"""What a series usually shows, for detectors that judge whole shapes: the band that their sentence and their pages speak
of, and which way a row of values leaves it.

A table of lags knows no up or down. So of the values that such a detector looks at, the one that lies farthest from what is
usual tells the way: a row behind a spike is still strange for the spike. Usual is the median of earlier values, of those of
the same hour of the day where hours differ, and three deviations (1.4826 times the median absolute one) around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.detectors.base import Found
from anomalyze.metrics.detectors.order import DEVIATIONS

__all__ = ["HOURS", "Leaning", "lean", "learn_usual", "write_leaning"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HOURS = 24
_HOUR_MS = 3_600_000
BAND_DEVIATIONS = 3.0
VALUES_MIN, DAYS_MIN = 30, 7
# Hours count as different where they take so much of the deviation away.
SEASON_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Leaning:
    """Of rows: what is usual at their time, and to which side what was looked at leaves it (-1, 0, 1)."""

    expected: Floats
    lower: Floats
    upper: Floats
    direction: Ints


def learn_usual(ts_ms: Ints, offset_ms: Ints, value: Floats) -> Floats:
    """Of each local hour of the day what is expected, and half the width of its band, float64 ``[24, 2]``; NaN: unknown.

    Examples
    --------
    >>> ts_ms = np.arange(24 * 10) * 3_600_000
    >>> usual = learn_usual(ts_ms, np.zeros_like(ts_ms), ts_ms // 3_600_000 % 24 * 1.0)
    >>> usual[[0, 13], 0].tolist()
    [0.0, 13.0]
    """
    known = ~np.isnan(value)
    usual = np.full((HOURS, 2), np.nan)
    some = value[known]
    if len(some) < VALUES_MIN:
        return usual
    middle = float(np.median(some))
    wide = DEVIATIONS * float(np.median(np.abs(some - middle)))
    usual[:] = middle, BAND_DEVIATIONS * wide
    hour = (ts_ms[known] + offset_ms[known]) // _HOUR_MS % HOURS
    if ts_ms[known][-1] - ts_ms[known][0] < (DAYS_MIN * HOURS - 1) * _HOUR_MS:
        return usual
    seen = np.unique(hour)
    medians = np.full(HOURS, middle)
    for one in seen.tolist():
        medians[one] = np.median(some[hour == one])
    narrow = DEVIATIONS * float(np.median(np.abs(some - medians[hour])))
    if len(seen) > 1 and narrow < SEASON_SHARE * wide:
        usual[:, 0], usual[:, 1] = medians, BAND_DEVIATIONS * narrow
    return usual


def lean(usual: Floats, ts_ms: Ints, offset_ms: Ints, value: Floats, first: int, looked_at: int) -> Leaning:
    """Of the rows from ``first`` on.

    Parameters
    ----------
    usual
        As of `learn_usual`.
    looked_at
        Values of a row, the newest of which is its own.
    """
    begin = max(0, first - looked_at + 1)
    hour = (ts_ms[begin:] + offset_ms[begin:]) // _HOUR_MS % HOURS
    expected, half = usual[hour, 0], usual[hour, 1]
    away = value[begin:] - expected
    # Hours differ in what is expected and not in width.
    padded = np.concatenate([np.full(looked_at - 1 - (first - begin), np.nan), away])
    rows = np.nan_to_num(np.lib.stride_tricks.sliding_window_view(padded, looked_at))
    # Of equally far ones the newest.
    place = looked_at - 1 - np.abs(rows[:, ::-1]).argmax(axis=1)
    direction = np.sign(rows[np.arange(len(rows)), place]).astype(np.int64)
    own = slice(first - begin, None)
    return Leaning(expected[own], expected[own] - half[own], expected[own] + half[own], direction)


def write_leaning(found: Found, places: Ints, leaning: Leaning) -> None:
    """Write it to some of the rows of what was found, which has room for directions."""
    found.expected[places], found.lower[places], found.upper[places] = (
        leaning.expected, leaning.lower, leaning.upper,
    )  # fmt: skip
    assert found.direction is not None
    found.direction[places] = leaning.direction
