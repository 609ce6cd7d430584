"""Statistics of the amount against the user's own history: what works without labels and from the first day.

Robust z and interquartile range come ready from the features. The *two-quantile maximum* is
``max(lr / q(lr), amount / q(amount))`` with lr = ln((amount + 1) / (m + 1)), m the user's shrunk median, and
q the 99.5 % quantile in the training history; its rarity is read from that history too. On labelled card
fraud it is the best single statistic that needs no label (average precision .21, an isolation forest .23).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.detection.policy import Level, Statistics, TailLevel
from anomalyze.errors import ContractError
from anomalyze.events.batch import Severity

__all__ = ["NAMES", "Judged", "TwoQuantile", "fit_two_quantile", "judge_amounts"]

Column = npt.NDArray[np.float64]

NAMES = ("robust_z", "iqr", "two_quantile")
QUANTILE = 0.995
TAIL_KEPT = 2_000  # scores of the history's tail that a bundle keeps: rarities down to 1 in its length
IQR_SHARE_MIN = 0.1  # of the median: a user who always pays 9.99 has an interquartile range of nothing


@dataclass(frozen=True, slots=True)
class TwoQuantile:
    """A fitted two-quantile maximum.

    Attributes
    ----------
    lr_scale, amount_scale
        The quantiles; infinite where that half is not to be used.
    rows
        Length of the training history.
    tail
        Its highest scores, ascending, float64.
    """

    lr_scale: float
    amount_scale: float
    rows: int
    tail: npt.NDArray[np.float64]

    def score(self, lr: Column, amount_base: Column) -> Column:
        """The larger of the two ratios; NaN where both are unknown."""
        scores: Column = np.fmax(lr / self.lr_scale, amount_base / self.amount_scale)
        return scores

    def threshold(self, tail: float) -> float:
        """Scores above this have a tail probability (1 + #{s_i >= s}) / (n + 1) of at most ``tail``.

        Infinite where the history is too short to say: no threshold below 10 / n.
        """
        if tail < 10 / max(self.rows, 1):
            return float("inf")
        above = int(tail * (self.rows + 1)) - 1  # scores of the history that may be as high
        if above >= len(self.tail):
            raise ContractError(
                f"two_quantile: tail {tail} needs {above} scores, the bundle keeps {len(self.tail)}; "
                "name a smaller tail in policy.yaml"
            )
        return float(self.tail[-above - 1])

    def rarity(self, score: float) -> float:
        """Tail probability of a score: 0.002 is one in 500 of the history; not below 1 / (n + 1)."""
        above = len(self.tail) - int(np.searchsorted(self.tail, score, side="left"))
        return (1 + above) / (self.rows + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them to the bit."""
        return {
            "lr_scale": self.lr_scale,
            "amount_scale": self.amount_scale if np.isfinite(self.amount_scale) else None,
            "rows": self.rows,
            "tail": self.tail.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TwoQuantile:
        """What ``to_json`` wrote."""
        amount = values["amount_scale"]
        return cls(
            lr_scale=float(values["lr_scale"]),
            amount_scale=float("inf") if amount is None else float(amount),
            rows=int(values["rows"]),
            tail=np.array(values["tail"], dtype=np.float64),
        )


def fit_two_quantile(lr: Column, amount_base: Column, *, use_amount: bool = True) -> TwoQuantile | None:
    """Fit to a training history; None when it has no amounts to compare.

    ``use_amount=False`` (simulated history) keeps to the ratio: absolute amounts of another world mean
    nothing here.
    """
    known = ~np.isnan(lr)
    if not known.any():
        return None
    lr_scale = float(np.quantile(lr[known], QUANTILE))
    amount_scale = float(np.nanquantile(amount_base, QUANTILE)) if use_amount else float("inf")
    if not (lr_scale > 0 and amount_scale > 0):
        return None
    fitted = TwoQuantile(lr_scale, amount_scale, 0, np.empty(0))
    scores = fitted.score(lr, amount_base)
    scores = np.sort(scores[~np.isnan(scores)])
    return TwoQuantile(lr_scale, amount_scale, len(scores), scores[-TAIL_KEPT:].copy())


@dataclass(frozen=True, slots=True)
class Judged:
    """What the statistics say of each row.

    Attributes
    ----------
    severity
        Highest of the three, int8 ``[n]``.
    values
        float64 ``[3, n]``: value of each of ``NAMES``; NaN where there is too little history.
    severities
        int8 ``[3, n]``.
    """

    severity: npt.NDArray[np.int8]
    values: npt.NDArray[np.float64]
    severities: npt.NDArray[np.int8]


def judge_amounts(
    policy: Statistics, two_quantile: TwoQuantile | None, columns: Mapping[str, Column], n: int
) -> Judged:
    """Hold each row's amount against the thresholds.

    Parameters
    ----------
    columns
        Features by name, ``[n]``, NaN = NULL; a statistic whose features are not declared is silent.
    """
    nothing = np.full(n, np.nan)
    amount = columns.get("amount_base", nothing)
    lr = columns.get("user_amount_lr", nothing)
    values = np.empty((len(NAMES), n))
    values[0] = columns.get("user_amount_rz", nothing)
    values[1] = quartile_distance(
        amount,
        columns.get("user_amount_iqr_low", nothing),
        columns.get("user_amount_iqr_high", nothing),
        columns.get("user_amount_median", nothing),
    )
    values[2] = nothing if two_quantile is None else two_quantile.score(lr, amount)
    severities = np.zeros((len(NAMES), n), dtype=np.int8)
    for i, limits in enumerate((plain(policy.robust_z), plain(policy.iqr), rare(policy, two_quantile))):
        for over, severity in limits:
            severities[i][values[i] > over] = severity
    severities[:, ~(amount >= policy.amount_base_min)] = 0
    return Judged(severities.max(axis=0), values, severities)


def quartile_distance(amount: Column, low: Column, high: Column, median: Column) -> Column:
    """How many interquartile ranges an amount lies above the upper quartile; from Tukey's fences."""
    spread = (high - low) / 4  # the fences are the quartiles -+ 1.5 ranges
    upper = high - 1.5 * spread
    distance: Column = (amount - upper) / np.maximum(np.maximum(spread, IQR_SHARE_MIN * median), 1.0)
    return distance


def plain(levels: Sequence[Level]) -> list[tuple[float, Severity]]:
    """Thresholds as written, mildest first."""
    return sorted((level.over, Severity[level.severity]) for level in levels)


def rare(policy: Statistics, fitted: TwoQuantile | None) -> list[tuple[float, Severity]]:
    """Thresholds of the two-quantile maximum, mildest first."""
    return [] if fitted is None else thresholds(policy.two_quantile, fitted)


def thresholds(levels: Sequence[TailLevel], fitted: TwoQuantile) -> list[tuple[float, Severity]]:
    """Score thresholds of rarities, mildest first."""
    ordered = sorted(levels, key=lambda level: -level.tail)
    return [(fitted.threshold(level.tail), Severity[level.severity]) for level in ordered]
