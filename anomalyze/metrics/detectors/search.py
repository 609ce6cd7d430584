"""Which table of lags suits a series, found without labels: anomalies are injected, and what ranks them best is taken.

One of the surrogates of Goswami et al. (Unsupervised Model Selection for Time-series Anomaly Detection, ICLR 2023): average
precision on a copy of the training values in which some short stretches were spoiled. It prefers what finds *those*
anomalies (spikes, noise, cut-offs, other scales), which is not to say all. The same values and seed give the same answer.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.detectors.lag_table import lag_table, learn
from anomalyze.metrics.detectors.setting import Pyod, Search

__all__ = ["Candidate", "find_best", "inject"]

Floats = npt.NDArray[np.float64]
# Lags, and whether differences are looked at.
Candidate = tuple[int, bool]
LAGS = (0, 1, 2, 3, 5, 8, 12, 16, 24, 36)
# Injected stretches are so long, and one of so many values is spoiled at most.
LENGTHS = (1, 1, 3, 6)
SPOILED_EVERY = 40
TABLE_ROWS_MIN = 60


def find_best(setting: Pyod, search: Search, value: Floats) -> Candidate:
    """The candidate that ranks injected anomalies best; the first, as configured, where several do.

    Raises
    ------
    ValueError
        The trials take longer than their timeout. It ends the training and never changes its result.
    """
    from sklearn.metrics import average_precision_score

    until_s = time.monotonic() + search.timeout.total_seconds()
    random = np.random.default_rng(setting.seed)
    every = [(lags, differences) for lags in LAGS for differences in (False, True)]
    first = (setting.lags, setting.differences)
    others = [every[place] for place in random.permutation(len(every)) if every[place] != first]
    spoiled, label = inject(value, random)
    best, best_score = first, -1.0
    for trial, candidate in enumerate([first, *others][: search.trials]):
        if time.monotonic() > until_s:
            raise ValueError(
                f"{search.trials} trials within {search.timeout.total_seconds():.0f} s were expected, "
                f"got {trial}: ask for fewer, or for a longer timeout"
            )
        clean, table = lag_table(value, *candidate), lag_table(spoiled, *candidate)
        training, known = clean[~np.isnan(clean[:, 0])], ~np.isnan(table[:, 0])
        if len(training) < TABLE_ROWS_MIN or not label[known].any():
            continue
        learned = learn(setting.name, training, setting.seed, setting.quantile)
        if learned is None:
            continue
        score = float(average_precision_score(label[known], learned.score(table[known])))
        if score > best_score:
            best, best_score = candidate, score
    return best


def inject(value: Floats, random: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A copy with spoiled stretches, and where they are.

    Examples
    --------
    >>> spoiled, label = inject(np.sin(np.arange(400.0)), np.random.default_rng(0))
    >>> bool((spoiled[~label] == np.sin(np.arange(400.0))[~label]).all()), int(label.sum()) > 10
    (True, True)
    """
    spoiled, label = value.copy(), np.zeros(len(value), bool)
    low, high = np.nanquantile(value, [0.1, 0.9]) if (~np.isnan(value)).any() else (0.0, 0.0)
    spread = (high - low) / 2.56 or float(np.nanstd(value)) or 1.0
    for number, at in enumerate(range(SPOILED_EVERY // 2, len(value) - max(LENGTHS), SPOILED_EVERY)):
        kind = number % len(LENGTHS)
        part = slice(at, at + LENGTHS[kind])
        sign = random.choice([-1.0, 1.0])
        if kind == 0:  # a spike
            spoiled[part] += sign * spread * random.uniform(2, 5)
        elif kind == 1:  # a value at the wrong time
            spoiled[part] = random.uniform(low, high)
        elif kind == 2:  # noise
            spoiled[part] += random.normal(0, 2 * spread, LENGTHS[kind])
        else:  # another level
            spoiled[part] += sign * spread * random.uniform(1, 3)
        label[part] = True
    return spoiled, label
