"""Whether today's transactions still look like those that the model learned from.

Two measures together, because each alone cries wolf: the population stability index says whether a change is
large, the two-sample Kolmogorov-Smirnov test whether it is more than chance. Many features are tested at once,
so the tests' p-values are adjusted by Benjamini and Hochberg (1995), which bounds the share of false alarms
among all. Rows of one user depend on each other, which makes p-values too small: the index has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "NULL_CHANGE_MAX",
    "PSI_MAX",
    "P_MAX",
    "FeatureDrift",
    "RuleDrift",
    "adjust_p_values",
    "compare_features",
    "compare_rules",
    "compute_psi",
]

# The customary reading of the index: below .1 nothing, .1 to .25 some, above .25 a shift to act upon.
PSI_MAX = 0.25
P_MAX = 0.01
# A column that goes missing for a tenth of the rows has lost a source.
NULL_CHANGE_MAX = 0.10
RULE_FACTOR_MAX = 3.0
BINS = 10


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature or score, before and now.

    Attributes
    ----------
    psi
        Population stability index, NULL as a bin of its own.
    distance, p
        Kolmogorov-Smirnov distance of the values, and its adjusted p-value; NaN where a side has too few.
    nulls_before, nulls_now
        Shares of NULL.
    """

    name: str
    psi: float
    distance: float
    p: float
    nulls_before: float
    nulls_now: float

    @property
    def shifted(self) -> bool:
        """The change is large, and more than chance."""
        return self.psi > PSI_MAX and self.p < P_MAX

    @property
    def lost(self) -> bool:
        """NULL much more often than before."""
        return self.nulls_now - self.nulls_before > NULL_CHANGE_MAX


@dataclass(frozen=True, slots=True)
class RuleDrift:
    """How often a rule fires, as shares of transactions, and the adjusted p-value of the difference."""

    rule_id: str
    before: float
    now: float
    p: float

    @property
    def shifted(self) -> bool:
        """Three times as often or as seldom, and more than chance."""
        low, high = sorted((self.before, self.now))
        return self.p < P_MAX and high > RULE_FACTOR_MAX * low


def compute_psi(before: npt.NDArray[np.float64], now: npt.NDArray[np.float64], bins: int = BINS) -> float:
    """Population stability index of two samples, NaN counted as a bin of its own.

    sum((a - b) ln(a / b)) over bins with shares b before and a now; the bins hold equal shares of the sample
    before. Half a row is added to each bin, so that an empty one is no infinity.

    >>> values = np.arange(1000.0)
    >>> round(compute_psi(values, values), 4), compute_psi(values, values + 500) > PSI_MAX
    (0.0, True)
    """
    known = before[~np.isnan(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.empty(0)
    shares = []
    for sample in (before, now):
        values = sample[~np.isnan(sample)]
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        filled = np.append(counts, len(sample) - len(values)) + 0.5
        shares.append(filled / filled.sum())
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def adjust_p_values(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values ``[n]`` adjusted by Benjamini and Hochberg; NaN stays and does not count.

    >>> adjust_p_values(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    ranked = p[order] * len(order) / np.arange(1, len(order) + 1)
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out


def compare_features(
    names: Sequence[str], before: npt.NDArray[np.float64], now: npt.NDArray[np.float64]
) -> list[FeatureDrift]:
    """Compare columns ``[n, F]`` and ``[m, F]`` of two samples, NaN = NULL."""
    from scipy.stats import ks_2samp

    distance, p = np.full(len(names), np.nan), np.full(len(names), np.nan)
    for i in range(len(names)):
        sides = [sample[:, i][~np.isnan(sample[:, i])] for sample in (before, now)]
        if min(map(len, sides)) > 1:
            tested = ks_2samp(*sides, method="asymp")
            distance[i], p[i] = tested.statistic, tested.pvalue
    adjusted = adjust_p_values(p)
    return [
        FeatureDrift(
            name,
            compute_psi(before[:, i], now[:, i]),
            float(distance[i]),
            float(adjusted[i]),
            float(np.isnan(before[:, i]).mean()),
            float(np.isnan(now[:, i]).mean()),
        )
        for i, name in enumerate(names)
    ]


def compare_rules(
    hits_before: dict[str, int], rows_before: int, hits_now: dict[str, int], rows_now: int
) -> list[RuleDrift]:
    """Compare how often rules fired in two stretches of so many rows, by the exact test of Fisher (1922)."""
    from scipy.stats import fisher_exact

    rules = sorted(hits_before.keys() | hits_now.keys())
    counts = [(min(hits_before.get(r, 0), rows_before), min(hits_now.get(r, 0), rows_now)) for r in rules]
    p = np.array([fisher_exact([[b, rows_before - b], [n, rows_now - n]]).pvalue for b, n in counts])
    return [
        RuleDrift(rule, b / max(rows_before, 1), n / max(rows_now, 1), float(adjusted))
        for rule, (b, n), adjusted in zip(rules, counts, adjust_p_values(p), strict=True)
    ]
