"""The alert budget: rows ranked by risk, and a fitted threshold that admits so many cases a day.

``risk`` orders rows. What reaches the budget's severity by the policy alone comes first, the more severe before the
less; all others follow, and within each of these levels it is evidence that counts, in decades of rarity (2 = one in
100). Risk has no unit: its whole part is that severity, 0 below the budget's, and the rest is e / (1 + e) of the
evidence e. With a threshold in the bundle, a row at or above it has at least the budget's severity, and a row below
it at most one level less: *raised* and *capped*. So an account is shown about as many cases as was promised, the most
suspicious ones, and what overflowed can be listed in its order.

The model's rarity counts whole; the amount's and the rules' weights count a quarter, because the model reads the same
features: counted whole, they left a fifth less fraud found on Sparkov in 20 cases a day. Without a model of the
account's own they count whole. Severities below the budget's do not order, which cost as much there.

Lists stand apart: what they block is neither ranked nor counted, what they allow is not ranked. The budget decides
what people see, never what is let through: the action is at least that of the severity before it.

Thresholds are fitted by ``anomalyze.learning.budget`` and travel in the bundle's ``statistics``, one an account. An
account without one is judged as if there were no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.model import LEARNING, ModelJudgement
from anomalyze.detection.policy import Budget
from anomalyze.detection.statistic import NAMES, Judged, TwoQuantile
from anomalyze.detection.verdict import BudgetEffect, Ranked
from anomalyze.events.batch import Severity
from anomalyze.rules.rule import Rule

__all__ = ["RISK_MIN", "BudgetJudge", "load_thresholds", "with_thresholds"]

_PREFIX = "budget_threshold/"
_TWO_QUANTILE = NAMES.index("two_quantile")
# A row without a finding needs evidence of one in ten: a budget is no quota to be filled with ordinary payments.
EVIDENCE_MIN = 1.0
# Of what is known beside a model that reads the same features.
SHARE_BESIDE_MODEL = 0.25
RISK_MIN = EVIDENCE_MIN / (1.0 + EVIDENCE_MIN)
RISK_DECIMALS = 6
# Weights are whole 1,024ths: their sums are exact in whatever order a processor adds them, so that a row's risk is the
# same to the bit whatever is judged beside it.
WEIGHT_UNITS = 1024.0
TAIL_MIN = 1e-12  # no history is so long


def load_thresholds(bundle: Bundle) -> dict[str, float]:
    """Fitted thresholds by account."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in bundle.statistics.items()
        if name.startswith(_PREFIX)
    }


def with_thresholds(bundle: Bundle, thresholds: Mapping[str, float]) -> Bundle:
    """The bundle with these thresholds and no others; the same model, the same rules."""
    statistics = {name: v for name, v in bundle.statistics.items() if not name.startswith(_PREFIX)}
    statistics |= {f"{_PREFIX}{account}": float(thresholds[account]) for account in sorted(thresholds)}
    return replace(bundle, statistics=statistics)


class BudgetJudge:
    """Ranks rows and holds them against the thresholds; made once a bundle.

    Parameters
    ----------
    budget
        Of the policy.
    thresholds
        By account.
    rules
        In the order of the columns of what fired.
    two_quantile
        For the rarity of amounts.
    amount_base_min, own_amount_base_min
        Smaller amounts are no evidence; by account where one has a limit of its own.
    """

    def __init__(
        self,
        budget: Budget,
        thresholds: Mapping[str, float],
        rules: Sequence[Rule],
        two_quantile: TwoQuantile | None,
        amount_base_min: float,
        own_amount_base_min: Mapping[str, float] | None = None,
    ) -> None:
        self.budget = budget
        self.level = int(Severity[budget.severity])
        self._thresholds = dict(thresholds)
        weights = np.array([rule.weight if rule.effect == "flag" else 0.0 for rule in rules])
        self._weights = np.round(weights * WEIGHT_UNITS) / WEIGHT_UNITS
        self._listed = np.array([rule.effect != "flag" for rule in rules], dtype=np.bool_)
        self._two_quantile = two_quantile
        self._amount_min = amount_base_min
        self._own_amount_min = own_amount_base_min or {}

    def rank(
        self,
        fired: npt.NDArray[np.bool_],
        amount_base: npt.NDArray[np.float64],
        judged: Judged,
        model: ModelJudgement,
        severity: npt.NDArray[np.int8],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        unjudged: npt.NDArray[np.bool_] | bool = False,
    ) -> tuple[npt.NDArray[np.int8], Ranked]:
        """Severity of each row with the budget, and how it came about.

        Parameters
        ----------
        fired
            ``[R, n]``: live rules that fired.
        amount_base
            ``[n]``, NaN = NULL.
        judged, model
            What statistics and model said.
        severity
            Without the budget, ``[n]``.
        accounts, account
            Whose rows: ids, and the index of each row into them.
        unjudged
            Rows without a verdict of their own (repeats, changes of status).
        """
        smallest = np.array([self._own_amount_min.get(name, self._amount_min) for name in accounts])[account]
        evidence = self._evidence(fired, amount_base >= smallest, judged, model)
        risk = np.where(severity >= self.level, severity, 0) + compact(evidence)
        risk[fired[self._listed].any(axis=0) | unjudged] = np.nan
        limit = np.array([self._thresholds.get(name, np.nan) for name in accounts])[account]
        above, below = risk >= limit, risk < limit
        effect = np.zeros(len(severity), dtype=np.int8)
        effect[above] = np.where(severity[above] < self.level, BudgetEffect.RAISED, BudgetEffect.KEPT)
        effect[below & (severity >= self.level)] = BudgetEffect.CAPPED
        after = severity.copy()
        after[effect == BudgetEffect.RAISED] = self.level
        after[effect == BudgetEffect.CAPPED] = self.level - 1
        return after, Ranked(risk, severity, effect)

    def _evidence(
        self,
        fired: npt.NDArray[np.bool_],
        counts: npt.NDArray[np.bool_],
        judged: Judged,
        model: ModelJudgement,
    ) -> npt.NDArray[np.float64]:
        """Decades of rarity ``[n]``; ``counts``: rows whose amount does.

        A score that is calibrated on somebody else's history is no evidence.
        """
        own = model.prediction != LEARNING
        if model.by_forest is not None:
            own = own | (model.by_forest & (model.severity > 0))
        own = own & ~np.isnan(model.tail)
        beside = self._weights @ fired
        if self._two_quantile is not None:
            by_amount = self._two_quantile.surprise(judged.values[_TWO_QUANTILE])
            beside = beside + np.where(counts, by_amount, 0.0)
        by_model = -np.log10(np.maximum(model.tail, TAIL_MIN))
        evidence: npt.NDArray[np.float64] = np.where(own, by_model + SHARE_BESIDE_MODEL * beside, beside)
        return evidence

    def tell(self, details: dict[str, Any], ranked: Ranked, row: int) -> dict[str, Any]:
        """Details of an anomaly with the section ``budget`` and a note; as they are where the budget did nothing."""
        effect = BudgetEffect(int(ranked.effect[row]))
        if effect == BudgetEffect.NONE:
            return details
        before = Severity(int(ranked.before[row])).name
        section = {
            "risk": round(float(ranked.risk[row]), RISK_DECIMALS),
            "effect": effect.name.lower(),
            "severity_before": before,
        }
        if effect == BudgetEffect.KEPT:
            return details | {"budget": section}
        room = f"the {self.budget.cases_per_day:g} most suspicious cases a day that the budget has room for"
        level = self.budget.severity
        note = (
            f"Raised from {before} to {level}: among {room}"
            if effect == BudgetEffect.RAISED
            else f"Lowered from {before} to {Severity(self.level - 1).name}: not among {room}"
        )
        return details | {"budget": section, "notes": [*details.get("notes", []), note]}


def compact(evidence: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """e / (1 + e): from [0, ∞) onto [0, 1), rising.

    >>> compact(np.array([0.0, 1.0, 3.0])).tolist()
    [0.0, 0.5, 0.75]
    """
    within: npt.NDArray[np.float64] = evidence / (1.0 + evidence)
    return within
