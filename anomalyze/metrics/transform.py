"""What the detector sees of a series: its values after the differences and the smoothing that its rules ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.preprocess import difference, smooth

__all__ = ["is_transformed", "transform", "transform_runs"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def is_transformed(rule: SeriesRules) -> bool:
    """Whether a series is judged by anything but its values as they are."""
    return rule.difference > 0 or rule.smooth > 1


def transform(rule: SeriesRules, values: Floats) -> Floats:
    """One series from its first value on, in the order of time."""
    if rule.difference:
        values = difference(values, rule.difference)
    return smooth(values, rule.smooth) if rule.smooth > 1 else values


def transform_runs(rules: Sequence[SeriesRules], rule: Ints, place: Ints, values: Floats) -> Floats:
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
            result[start:end] = transform(own, result[start:end])
    return result
