"""Fits the alert budget: the threshold of risk at which an account is shown as many cases a day as was promised.

The rows of the last four weeks are judged by the bundle in force; of each threshold it is known how many cases of
each day it would have shown, formed as ``anomalyze.detection.case`` forms them. The threshold is the lowest one that
shows at most the budget on average. Three guards keep an attack from hiding itself or what comes after it:

- a day counts at most three times the median day, so that a burst moves the average little;
- in one night a threshold rises at most so far that half of the cases are left that the old one showed;
- nothing moves for less than a twentieth of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.detection.budget import RISK_MIN
from anomalyze.detection.policy import Policy
from anomalyze.detection.verdict import Verdicts
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.features.state import Disposition
from anomalyze.learning.case_count import count_cases_by_day

__all__ = [
    "DAYS_MAX",
    "DAYS_MIN",
    "BudgetTrial",
    "Fit",
    "RankedRows",
    "count_cases",
    "fit_threshold",
    "keep_ranked",
    "mean_a_day",
    "try_budget",
]

DAY_MS = 86_400_000
# Four whole weeks, so that each weekday counts as often; a week is the least that has them all.
DAYS_MAX, DAYS_MIN = 28, 7
# A day counts at most so many times the median day.
BURST_FACTOR = 3.0
# In one night at least this share of the cases stays.
KEPT_SHARE_MIN = 0.5
# Share of the budget that a new threshold has to make a difference of.
MOVE_SHARE_MIN = 0.05


@dataclass(frozen=True, slots=True)
class RankedRows:
    """Judged rows that may open or make a case, in the order of their log within each user; arrays ``[n]``.

    Attributes
    ----------
    user
        uint64: first half of the user's key.
    ts_ms
        int64: event time.
    risk
        float64; NaN where a list settled the verdict.
    before
        Severity without the budget, int8.
    """

    user: npt.NDArray[np.uint64]
    ts_ms: npt.NDArray[np.int64]
    risk: npt.NDArray[np.float64]
    before: npt.NDArray[np.int8]

    def at(self, rows: npt.NDArray[np.bool_]) -> RankedRows:
        """Some of the rows."""
        return RankedRows(self.user[rows], self.ts_ms[rows], self.risk[rows], self.before[rows])

    @classmethod
    def join(cls, parts: Sequence[RankedRows]) -> RankedRows:
        """Parts in the order of the log as one, each user's rows together."""
        user = np.concatenate([part.user for part in parts])
        order = np.argsort(user, kind="stable")
        return cls(
            user[order],
            np.concatenate([part.ts_ms for part in parts])[order],
            np.concatenate([part.risk for part in parts])[order],
            np.concatenate([part.before for part in parts])[order],
        )


def keep_ranked(batch: MicroBatch, verdicts: Verdicts) -> RankedRows:
    """The rows of a micro-batch that count for a fit; its bundle has a budget."""
    ranked = verdicts.ranked
    assert ranked is not None, "the policy has no budget"
    wanted = (ranked.before > 0) | (ranked.risk >= RISK_MIN)
    rows = np.flatnonzero(wanted & (verdicts.disposition == Disposition.JUDGE))
    return RankedRows(batch.user_key[rows, 0], batch.ts_ms[rows], ranked.risk[rows], ranked.before[rows])


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted threshold.

    Attributes
    ----------
    threshold
        Of risk.
    expected
        Cases a day that it would have shown, bursts cut.
    before
        The same of the threshold until then; None when there was none.
    limited
        Whether the threshold would have risen further, were a night's step not bounded.
    """

    threshold: float
    expected: float
    before: float | None
    limited: bool

    def moves(self, budget: float) -> bool:
        """Whether the new threshold is worth a new bundle."""
        return self.before is None or abs(self.expected - self.before) > MOVE_SHARE_MIN * budget


def fit_threshold(
    rows: RankedRows, start_ms: int, days: int, policy: Policy, previous: float | None = None
) -> Fit:
    """The lowest threshold that shows at most the budget a day.

    Parameters
    ----------
    rows
        Of the window; rows before it only open cases.
    start_ms, days
        The window: so many days from there.
    policy
        With a budget.
    previous
        The threshold in force.
    """
    assert policy.budget is not None, "the policy has no budget"

    def expected(threshold: float) -> float:
        return mean_a_day(count_cases(rows, start_ms, days, policy, threshold))

    before = None if previous is None else expected(previous)
    wanted = policy.budget.cases_per_day
    target = wanted if before is None else max(wanted, KEPT_SHARE_MIN * before)
    risks = np.unique(rows.risk[rows.risk >= RISK_MIN])
    low, high = 0, len(risks)  # the answer is the first that shows few enough; the last shows nothing
    while low < high:
        middle = (low + high) // 2
        if expected(float(risks[middle])) <= target:
            high = middle
        else:
            low = middle + 1
    threshold = laid_between(risks, low)
    return Fit(threshold, expected(threshold), before, limited=low < len(risks) and target > wanted)


def laid_between(risks: npt.NDArray[np.float64], place: int) -> float:
    """A threshold that admits the risks from ``place`` on: halfway to the next lower one, so that no rounding decides."""
    if place == 0:
        return RISK_MIN
    if place == len(risks):
        return float(np.nextafter(risks[-1], np.inf))
    return float((risks[place - 1] + risks[place]) / 2)


class BudgetTrial(msgspec.Struct, frozen=True):
    """Thresholds of the first half of some days, held against what they show in the second.

    Attributes
    ----------
    promised, delivered
        Cases of all accounts in the second half.
    days
        Of the second half.
    """

    promised: float
    delivered: int
    days: int


def try_budget(
    ranked: Mapping[str, Sequence[RankedRows]], start_ms: int, end_ms: int, policy: Policy
) -> tuple[dict[str, float], BudgetTrial | None]:
    """Thresholds of a bundle that nobody was shown yet, from days that it did not learn from.

    Parameters
    ----------
    ranked
        Its rows of these days by account.

    Returns
    -------
    tuple
        Thresholds by account, and how those of the first half did in the second; nothing with less than a week.
    """
    days = (end_ms - start_ms) // DAY_MS
    if policy.budget is None or days < DAYS_MIN:
        return {}, None
    first = days // 2
    thresholds, delivered = {}, 0
    for account, parts in ranked.items():
        rows = RankedRows.join(parts)
        thresholds[account] = fit_threshold(rows, start_ms, days, policy).threshold
        tried = fit_threshold(rows, start_ms, first, policy).threshold
        delivered += int(count_cases(rows, start_ms, days, policy, tried)[first:].sum())
    promised = policy.budget.cases_per_day * (days - first) * len(ranked)
    return thresholds, BudgetTrial(promised, delivered, days - first)


def mean_a_day(counts: npt.NDArray[np.int64]) -> float:
    """Mean of daily counts, each at most three times the median day (of at least one).

    >>> mean_a_day(np.array([2, 2, 2, 2, 100]))
    2.8
    """
    return float(np.minimum(counts, BURST_FACTOR * max(float(np.median(counts)), 1.0)).mean())


def count_cases(
    rows: RankedRows,
    start_ms: int,
    days: int,
    policy: Policy,
    threshold: float | npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Cases of each day that reach the budget's severity by what is ranked, int64 ``[days]``.

    A case counts on the day of its first such anomaly.

    Parameters
    ----------
    threshold
        Of all rows, or of each.
    """
    assert policy.budget is not None, "the policy has no budget"
    limit = np.broadcast_to(np.asarray(threshold, dtype=np.float64), rows.risk.shape)
    day = (rows.ts_ms - start_ms) // DAY_MS
    out = np.zeros(days, dtype=np.int64)
    level = int(Severity[policy.budget.severity])
    count_cases_by_day(
        rows.user, rows.ts_ms, rows.risk, rows.before, limit, day, level, policy.case_window_ms, out
    )
    return out
