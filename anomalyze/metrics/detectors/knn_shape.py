"""Shape: how far the newest values, as one vector of lags, lie from the nearest earlier ones of the same series.

The distance is Euclidean, to the k-th nearest of a bounded number of earlier vectors that share no value with it
(Ramaswamy, Rastogi and Shim, SIGMOD 2000, on lag vectors), and is held against the distances of the rows before.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.metrics.detectors.base import (
    ALERT,
    STRENGTH_MAX,
    Found,
    Reach,
    Stretch,
    band_told,
    spoken,
    times_as_far,
    usable,
)
from anomalyze.metrics.detectors.order import median, quantile
from anomalyze.metrics.detectors.setting import KnnShape
from anomalyze.metrics.detectors.usual import lean, learn_usual, write_leaning
from anomalyze.metrics.incident import Incident

__all__ = ["ShapeDetector"]

# Distances that a new one is held against, and how many are to be known before anything is said.
PAST, PAST_MIN = 1_000, 200
SHAPES_MIN = 100
_DAY_MS = 86_400_000


class ShapeDetector:
    """As configured; see the module."""

    wants: tuple[str, ...] = ()
    wants_ms = 0
    keeps: tuple[str, ...] = ()

    def __init__(self, kind: str, version: int, setting: KnnShape) -> None:
        self.kind, self.version, self._setting = kind, version, setting

    def reach(self, first_ms: int) -> Reach:
        """The rows of all vectors that the past distances looked among, and what was usual before the day began."""
        return Reach(first_ms // _DAY_MS * _DAY_MS, PAST + self._setting.memory + 2 * self._setting.lags)

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        rows, setting = len(stretch.value), self._setting
        out = np.full((rows, 6), np.nan)
        shape_scores(
            usable(stretch.value), first, setting.lags, setting.memory, setting.neighbours, setting.quantile,
            np.zeros(rows, np.int64), np.full(rows, np.nan), np.empty(setting.neighbours), np.empty(PAST), out,
        )  # fmt: skip
        found = replace(spoken(first, out), direction=np.zeros(rows - first, np.int64))
        self._lean(found, stretch, first)
        return found

    def _lean(self, found: Found, stretch: Stretch, first: int) -> None:
        """By what was usual among the values that it looks at, before each row's day began."""
        ts_ms, offset_ms, value = stretch.ts_ms, stretch.offset_ms, usable(stretch.value)
        days = ts_ms[first:] // _DAY_MS
        starts = first + np.flatnonzero(np.diff(days, prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(ts_ms)]):
            before = int(np.searchsorted(ts_ms, ts_ms[start] // _DAY_MS * _DAY_MS))
            part = slice(max(0, before - self._setting.memory), before)
            usual = learn_usual(ts_ms[part], offset_ms[part], value[part])
            leaning = lean(usual, ts_ms[:end], offset_ms[:end], value[:end], start, self._setting.lags)
            write_leaning(found, np.arange(start, end) - first, leaning)

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        return (
            f"{metric} = {shown(incident.peak_value)}{band_told(incident, shown)}: the shape of its last {self._setting.lags} values is farther from "
            f"any before than {100 * self._setting.quantile:.4g} % were{times_as_far(incident.peak_strength)}"
        )


@njit(cache=True, **COMPILED)
def shape_scores(value, first, lags, memory, neighbours, share, run, distances, nearest, room, out):
    """Write the columns of `base.spoken` for rows from ``first`` on.

    Parameters
    ----------
    run, distances, nearest, room
        Room to work in; ``distances`` NaN.
    """
    length = 0
    for row in range(len(value)):
        length = length + 1 if abs(value[row]) >= 0.0 else 0
        run[row] = length
        if row < first - PAST:
            continue
        if length < lags:
            continue
        distances[row] = _distance(value, row, lags, memory, neighbours, run, nearest)
        if row < first or not distances[row] >= 0.0:
            continue
        count = 0
        for place in range(max(0, row - PAST), row):
            if distances[place] >= 0.0:
                room[count] = distances[place]
                count += 1
        if count < PAST_MIN:
            continue
        usual = median(room, count)
        limit = quantile(room, count, share)
        above = distances[row] - usual
        strength = 0.0
        if above > 0.0:
            strength = STRENGTH_MAX
            if limit > usual:
                strength = min(strength, ALERT * above / (limit - usual))
        out[row, 0] = strength
        out[row, 1] = distances[row]
        out[row, 2] = value[row]


@njit(**COMPILED)
def _distance(value, row, lags, memory, neighbours, run, nearest):
    """To the so-many-th nearest earlier vector; NaN where too few are whole."""
    seen = 0
    nearest[:] = math.inf
    for other in range(row - lags, max(-1, row - lags - memory), -1):
        if run[other] < lags:
            continue
        seen += 1
        total, limit = 0.0, nearest[neighbours - 1]
        for lag in range(lags):
            away = value[row - lag] - value[other - lag]
            total += away * away
            if total >= limit:
                break
        if total < limit:
            place = neighbours - 1
            while place > 0 and nearest[place - 1] > total:
                nearest[place] = nearest[place - 1]
                place -= 1
            nearest[place] = total
    return math.sqrt(nearest[neighbours - 1]) if seen >= max(SHAPES_MIN, neighbours) else math.nan
