"""Statistics of the amount against the user's own history: what works without labels and from the first day.

Robust z and interquartile range come ready from the features. The *two-quantile maximum* is
``max(lr / q(lr), amount / q(amount))`` with lr = ln((amount + 1) / (m + 1)), m the user's shrunk median, and
q the 99.5 % quantile in the training history; its rarity is read from that history too. On labelled card
fraud it is the best single statistic that needs no label (average precision .21, an isolation forest .23).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from anomalyze.detection.policy import Level, Policy, TailLevel
from anomalyze.events.batch import Severity

__all__ = ["COLUMNS", "NAMES", "AmountJudge", "Judged", "TwoQuantile", "fit_two_quantile"]

Column = npt.NDArray[np.float64]

NAMES = ("robust_z", "iqr", "two_quantile")
# Features that they read.
COLUMNS = (
    "amount_base",
    "user_amount_lr",
    "user_amount_rz",
    "user_amount_iqr_low",
    "user_amount_iqr_high",
    "user_amount_median",
)
QUANTILE = 0.995
# Rarities whose scores a bundle keeps; policies name one between the first and the last.
TAILS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001, 0.00005, 0.00002, 0.00001)
ROWS_BEYOND_MIN = 10  # with fewer rows of history beyond it, a threshold is set by chance
IQR_SHARE_MIN = 0.1  # of the median: a user who always pays 9.99 has an interquartile range of nothing


@dataclass(frozen=True, slots=True)
class TwoQuantile:
    """A fitted two-quantile maximum.

    Attributes
    ----------
    lr_scale, amount_scale
        The quantiles; infinite where that half is not to be used.
    tails, scores
        Rarities (falling) and the score (rising) that this share of the history exceeds.
    """

    lr_scale: float
    amount_scale: float
    tails: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def score(self, lr: Column, amount_base: Column) -> Column:
        """The larger of the two ratios; NaN where both are unknown."""
        scores: Column = np.fmax(lr / self.lr_scale, amount_base / self.amount_scale)
        return scores

    def threshold(self, tail: float) -> float:
        """Score that this share of the history exceeds; infinite where the history is too short to say."""
        if not len(self.tails) or tail < self.tails[-1]:
            return float("inf")
        return float(np.interp(-np.log(tail), -np.log(self.tails), self.scores))

    def rarity(self, score: float) -> float:
        """Share of the history with a higher score, within what the bundle keeps."""
        if not len(self.tails):
            return 1.0
        return float(np.exp(-np.interp(score, self.scores, -np.log(self.tails))))

    def surprise(self, score: Column) -> Column:
        """Rarity of scores in decades, -log10, without steps: 0 for nothing and NaN, rising beyond all history."""
        if not len(self.tails) or not self.scores[0] > 0:
            return np.zeros(len(score))
        known = np.nan_to_num(score, nan=0.0)
        decades = np.interp(known, np.append(0.0, self.scores), np.append(0.0, -np.log10(self.tails)))
        beyond: Column = decades + np.maximum(known / self.scores[-1] - 1.0, 0.0)
        return beyond

    def to_statistics(self) -> dict[str, float]:
        """As the bundle's plain numbers; ``from_statistics`` reads them to the bit."""
        scales = {"user_amount_lr": self.lr_scale}
        if np.isfinite(self.amount_scale):
            scales["amount_base"] = self.amount_scale
        points = zip(self.tails.tolist(), self.scores.tolist(), strict=True)
        return scales | {f"two_quantile_{tail!r}": score for tail, score in points}

    @classmethod
    def from_statistics(cls, values: Mapping[str, float]) -> TwoQuantile | None:
        """What ``to_statistics`` wrote; None when the history had no amounts to compare."""
        if "user_amount_lr" not in values:
            return None
        known = [tail for tail in TAILS if f"two_quantile_{tail!r}" in values]
        return cls(
            lr_scale=values["user_amount_lr"],
            amount_scale=values.get("amount_base", float("inf")),
            tails=np.array(known),
            scores=np.array([values[f"two_quantile_{tail!r}"] for tail in known]),
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
    fitted = TwoQuantile(lr_scale, amount_scale, np.empty(0), np.empty(0))
    scores = fitted.score(lr, amount_base)
    scores = scores[~np.isnan(scores)]
    tails = np.array([tail for tail in TAILS if tail * len(scores) >= ROWS_BEYOND_MIN])
    return TwoQuantile(lr_scale, amount_scale, tails, np.quantile(scores, 1.0 - tails))


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


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of one policy: value and severity by statistic, the smallest amount, the most they say.

    The platform's own cap is the decision's business; here stands what an account lowers it to.
    """

    steps: tuple[list[tuple[float, int]], ...]
    amount_min: float
    cap: int = int(Severity.CRITICAL)

    @classmethod
    def of(cls, policy: Policy, two_quantile: TwoQuantile | None) -> Limits:
        """Those of a policy."""
        said = policy.statistics
        steps = (plain(said.robust_z), plain(said.iqr), rare(said.two_quantile, two_quantile))
        return cls(steps, said.amount_base_min)

    @classmethod
    def of_account(cls, policy: Policy, two_quantile: TwoQuantile | None) -> Limits:
        """Those of an account's policy, its cap among them."""
        return replace(cls.of(policy, two_quantile), cap=int(Severity[policy.caps.statistics_alone]))

    def severities(self, values: npt.NDArray[np.float64], amount: Column) -> npt.NDArray[np.int8]:
        """Severity by statistic and row, int8 ``[3, n]``."""
        severities = np.zeros(values.shape, dtype=np.int8)
        for value, severity, limits in zip(values, severities, self.steps, strict=True):
            for over, level in limits:
                severity[value > over] = level
        severities[:, ~(amount >= self.amount_min)] = 0
        return np.minimum(severities, np.int8(self.cap))


class AmountJudge:
    """Holds amounts against a policy's thresholds; made once a bundle.

    Parameters
    ----------
    policy
        The thresholds.
    two_quantile
        The bundle's fitted statistic; None when its history had no amounts to compare.
    own
        Policies of the accounts that have thresholds of their own.
    """

    def __init__(
        self, policy: Policy, two_quantile: TwoQuantile | None, own: Mapping[str, Policy] | None = None
    ) -> None:
        self._two_quantile = two_quantile
        self._limits = Limits.of(policy, two_quantile)
        self._own = {
            account: Limits.of_account(theirs, two_quantile) for account, theirs in (own or {}).items()
        }

    def judge(
        self,
        columns: Mapping[str, Column],
        n: int,
        accounts: Sequence[str] = (),
        account: npt.NDArray[np.int32] | None = None,
    ) -> Judged:
        """Hold each row's amount against its account's thresholds.

        Parameters
        ----------
        columns
            At least those of ``COLUMNS`` that are declared, ``[n]``, NaN = NULL; a statistic whose features
            are not declared is silent.
        accounts, account
            Account ids, and each row's index into them; without them the thresholds are everybody's.
        """
        nothing = np.full(n, np.nan)
        amount, lr, rz, low, high, median = (columns.get(name, nothing) for name in COLUMNS)
        values = np.empty((len(NAMES), n))
        values[0] = rz
        values[1] = quartile_distance(amount, low, high, median)
        values[2] = nothing if self._two_quantile is None else self._two_quantile.score(lr, amount)
        severities = self._limits.severities(values, amount)
        if self._own and account is not None:
            for code, name in enumerate(accounts):
                if name in self._own:
                    rows = np.flatnonzero(account == code)
                    severities[:, rows] = self._own[name].severities(values[:, rows], amount[rows])
        return Judged(severities.max(axis=0), values, severities)


def quartile_distance(amount: Column, low: Column, high: Column, median: Column) -> Column:
    """How many interquartile ranges an amount lies above the upper quartile; from Tukey's fences."""
    spread = (high - low) / 4  # the fences are the quartiles -+ 1.5 ranges
    upper = high - 1.5 * spread
    distance: Column = (amount - upper) / np.maximum(np.maximum(spread, IQR_SHARE_MIN * median), 1.0)
    return distance


def plain(levels: Sequence[Level]) -> list[tuple[float, int]]:
    """Thresholds as written, mildest first."""
    return sorted((level.over, int(Severity[level.severity])) for level in levels)


def rare(levels: Sequence[TailLevel], fitted: TwoQuantile | None) -> list[tuple[float, int]]:
    """Score thresholds of rarities, mildest first."""
    if fitted is None:
        return []
    ordered = sorted(levels, key=lambda level: -level.tail)
    return [(fitted.threshold(level.tail), int(Severity[level.severity])) for level in ordered]
