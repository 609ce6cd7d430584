"""A series as a table: each row a value with those before it. And what is learned of such a table by PyOD's detectors.

What is learned is a function of the table, a name and a seed; it is plain arrays (`forms`), so that it may be kept.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.detectors.forms import Arrays, learn_form, score_form

__all__ = ["Learned", "lag_table", "learn"]

Floats = npt.NDArray[np.float64]
NORMAL_DECILES = 2.56  # from the 10th to the 90th percentile of a normal distribution, in deviations
DEVIATIONS_MAX = 30.0  # one wild value does not shape everything
# Bits of a score that count: a library may add in another order when it is given other rows beside.
SCORE_BITS = 33


@dataclass(frozen=True, slots=True)
class Learned:
    """A detector that was trained on a table.

    Attributes
    ----------
    name
        One of `setting.PYOD_NAMES`.
    form
        As `forms.learn_form` gives it.
    centre, scale
        What values are scaled by before they are scored.
    usual, limit
        The median of the training rows' scores, and the quantile that was asked for, farther out where they are too few
        for it.
    past
        The training rows' scores, ascending.
    """

    name: str
    form: Arrays
    centre: float
    scale: float
    usual: float
    limit: float
    past: Floats

    def score(self, rows: Floats) -> Floats:
        """From float64 ``[n, k]`` rows to ``[n]``, higher = stranger; a row's score does not depend on the others."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rounded(score_form(self.name, self.form, _scaled(rows, self.centre, self.scale)))

    def tail(self, scores: Floats) -> Floats:
        """The share of training rows with such a score or a higher one, an equal one for half; never 0."""
        places = (np.searchsorted(self.past, scores, side) for side in ("left", "right"))
        return (len(self.past) + 0.5 - 0.5 * sum(places, np.zeros(len(scores)))) / (len(self.past) + 1)


def lag_table(value: Floats, lags: int, differences: bool) -> Floats:
    """Of each row its value and those before it, newest last, float64 ``[N, lags + 1]``; NaN where one is missing.

    >>> lag_table(np.array([1.0, 2.0, 4.0]), 1, False).tolist()
    [[nan, nan], [1.0, 2.0], [2.0, 4.0]]
    >>> lag_table(np.array([1.0, 2.0, 4.0]), 0, True).tolist()
    [[nan], [1.0], [2.0]]
    """
    if differences:
        value = np.diff(value, prepend=np.nan)
    padded = np.concatenate([np.full(lags, np.nan), value])
    table = np.lib.stride_tricks.sliding_window_view(padded, lags + 1).copy()
    table[np.isnan(table).any(axis=1)] = np.nan
    return table


def learn(name: str, table: Floats, seed: int, quantile: float) -> Learned | None:
    """Train a detector on rows without NaN; None when all values are one, of which nothing can be learned.

    Parameters
    ----------
    name
        One of `setting.PYOD_NAMES`.
    """
    low, centre, high = np.quantile(table, [0.1, 0.5, 0.9])
    scale = (high - low) / NORMAL_DECILES or float(table.std())
    if not scale > 0.0:
        return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        form, of_training = learn_form(name, _scaled(table, centre, scale), seed)
    past = np.sort(_rounded(of_training))
    usual, limit = np.quantile(past, [0.5, quantile])
    # Of a thousand rows one lies there; of fewer it is the largest, and an exponential tail says how much farther.
    limit = usual + (limit - usual) * max(1.0, math.log(1.0 - quantile) / -math.log(len(table)))
    return Learned(name, form, float(centre), float(scale), float(usual), float(limit), past)


def _scaled(rows: Floats, centre: float, scale: float) -> Floats:
    return np.clip((rows - centre) / scale, -DEVIATIONS_MAX, DEVIATIONS_MAX)


def _rounded(scores: Floats) -> Floats:
    mantissa, exponent = np.frexp(np.asarray(scores, np.float64))
    return np.ldexp(np.round(mantissa * 2.0**SCORE_BITS) / 2.0**SCORE_BITS, exponent)
