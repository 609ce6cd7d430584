"""What the detector sees of a series: its values after the lag, the differences and the smoothing that its rules ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.preprocess import difference, lag, rolling, smooth

__all__ = ["context_of", "is_transformed", "transform", "transform_runs"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# A zone's clocks have moved by a whole day at once (Pacific/Apia, 2011): so much further back a wall clock's day lies.
CLOCKS_MOVE_S = 86_400.0


def is_transformed(rule: SeriesRules) -> bool:
    """Whether a series is judged by anything but its values as they are."""
    return rule.lag_s > 0 or rule.difference > 0 or rule.smooth > 1 or rule.rolling > 1


def context_of(rules: Sequence[SeriesRules]) -> tuple[int, float]:
    """What must be known before a point: so many points and, from the first of them, so many seconds further back."""
    points = max(rule.difference + rule.smooth + rule.rolling for rule in rules)
    lag_s = max(rule.lag_s for rule in rules)
    return points, lag_s + CLOCKS_MOVE_S if lag_s else 0.0


def transform(rule: SeriesRules, ts_ms: Ints, values: Floats, zone: str) -> Floats:
    """One series from its first value on, in the order of time."""
    if rule.lag_s:
        values = lag(ts_ms, values, rule.lag_s, zone)
    if rule.difference:
        values = difference(values, rule.difference)
    if rule.smooth > 1:
        values = smooth(values, rule.smooth)
    return rolling(values, rule.rolling, rule.rolling_aggregate) if rule.rolling > 1 else values


def transform_runs(
    rules: Sequence[SeriesRules], rule: Ints, place: Ints, ts_ms: Ints, values: Floats, zone: str
) -> Floats:
    """Several series, each from its first value on; a copy.

    Parameters
    ----------
    rules, rule
        Those there are, and which of them each series has, by its place.
    place
        Of the series of each row; the rows of a series stand together.
    """
    result = values.copy()
    edges = np.flatnonzero(np.diff(place, prepend=-1, append=-1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        own = rules[rule[place[start]]]
        if is_transformed(own):
            result[start:end] = transform(own, ts_ms[start:end], result[start:end], zone)
    return result
