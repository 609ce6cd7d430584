"""A series as a table: each row a value with those before it. And what is learned of such a table by PyOD's detectors.

PyOD trains; nothing is kept. The same table and seed give the same scores, so a detector is trained again wherever it is
needed. ECOD and COPOD count the rows of a call in; here each row is judged alone, against the training rows.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Learned", "lag_table", "learn"]

Floats = npt.NDArray[np.float64]
NORMAL_DECILES = 2.56  # from the 10th to the 90th percentile of a normal distribution, in deviations
DEVIATIONS_MAX = 30.0  # one wild value does not shape everything
# Bits of a score that count: a library may add in another order when it is given other rows beside.
SCORE_BITS = 33

# By name: PyOD's module, class, and what is not its default.
_CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "iforest": ("iforest", "IForest", {"n_jobs": 1}),
    "hbos": ("hbos", "HBOS", {}),
    "pca": ("pca", "PCA", {}),
    "knn": ("knn", "KNN", {"n_jobs": 1}),
    "lof": ("lof", "LOF", {"n_jobs": 1}),
    "mcd": ("mcd", "MCD", {}),
    "ocsvm": ("ocsvm", "OCSVM", {}),
    "kde": ("kde", "KDE", {}),
    "gmm": ("gmm", "GMM", {}),
}
_SEEDED = frozenset({"iforest", "pca", "mcd", "gmm"})


@dataclass(frozen=True, slots=True)
class Learned:
    """A detector that was trained on a table.

    Attributes
    ----------
    score
        From float64 ``[n, k]`` rows to ``[n]``, higher = stranger; a row's score does not depend on the others.
    usual, limit
        The median of the training rows' scores, and the quantile that was asked for, farther out where they are too few
        for it.
    """

    score: Callable[[Floats], Floats]
    usual: float
    limit: float


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

    def scaled(rows: Floats) -> Floats:
        return np.clip((rows - centre) / scale, -DEVIATIONS_MAX, DEVIATIONS_MAX)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, of_training = _train(name, scaled(table), seed)
    usual, limit = np.quantile(_rounded(of_training), [0.5, quantile])
    # Of a thousand rows one lies there; of fewer it is the largest, and an exponential tail says how much farther.
    limit = usual + (limit - usual) * max(1.0, math.log(1.0 - quantile) / -math.log(len(table)))

    def score(rows: Floats) -> Floats:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rounded(raw(scaled(rows)))

    return Learned(score, float(usual), float(limit))


def _train(name: str, table: Floats, seed: int) -> tuple[Callable[[Floats], Floats], Floats]:
    """Its score, and the training rows' own scores."""
    if name == "default":
        from anomalyze.metrics.table import fit_table

        found = fit_table(table, seed)
        return found.score, found.score(table)
    if name in ("ecod", "copod"):
        tails = _tails(name, table)
        return tails, tails(table)
    module, class_name, options = _CLASSES[name]
    if name in _SEEDED:
        options = options | {"random_state": seed}
    detector = getattr(importlib.import_module(f"pyod.models.{module}"), class_name)(**options)
    detector.fit(table)
    # Of detectors that look for neighbours: without itself among them.
    return detector.decision_function, np.asarray(detector.decision_scores_, np.float64)


def _tails(name: str, table: Floats) -> Callable[[Floats], Floats]:
    """ECOD (Li et al., TKDE 2022) and COPOD (Li et al., ICDM 2020) of a row judged alone, as PyOD adds them."""
    from scipy.stats import skew

    columns, count = np.sort(table, axis=0), len(table)
    lean = np.sign(np.nan_to_num(skew(table, axis=0)))

    def score(rows: Floats) -> Floats:
        total = np.zeros(len(rows))
        for place, learned in enumerate(columns.T):
            value = rows[:, place]
            left = -np.log((1 + np.searchsorted(learned, value, side="right")) / (count + 1))
            right = -np.log((1 + count - np.searchsorted(learned, value, side="left")) / (count + 1))
            towards = left * -np.sign(lean[place] - 1) + right * np.sign(lean[place] + 1)
            both = np.maximum(left, right) if name == "ecod" else (left + right) / 2
            total += np.maximum(towards, both)
        return total

    return score


def _rounded(scores: Floats) -> Floats:
    mantissa, exponent = np.frexp(np.asarray(scores, np.float64))
    return np.ldexp(np.round(mantissa * 2.0**SCORE_BITS) / 2.0**SCORE_BITS, exponent)
