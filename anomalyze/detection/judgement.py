"""Rules, statistics and models side by side on the columns of a micro-batch, then policy and alert budget.

Whoever has columns asks here: the verdicts of a micro-batch, a challenger's, and what would have changed a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomalyze.detection.account_overlay import account_policies
from anomalyze.detection.budget import BudgetJudge, load_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.column import Columns
from anomalyze.detection.decision import compile_decision
from anomalyze.detection.model import ModelJudgement, build_models
from anomalyze.detection.policy import Policy
from anomalyze.detection.state import PartitionState
from anomalyze.detection.statistic import COLUMNS, AmountJudge, Judged, TwoQuantile
from anomalyze.detection.verdict import Ranked
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import Disposition
from anomalyze.rules import ColumnTypes, RuleMode, RuleSet, compile_rules

__all__ = ["Decided", "Judgement"]

# As plain numbers: on the way of every call, looking up a member of an enumeration is not free.
JUDGE, NONE = int(Disposition.JUDGE), int(Severity.NONE)
LIVE, SHADOW = int(RuleMode.LIVE), int(RuleMode.SHADOW)


class Decided(NamedTuple):
    """What features of a micro-batch come to; ``fired`` and ``shadow`` are ``[R, n]``."""

    columns: Columns
    fired: npt.NDArray[np.bool_]
    shadow: npt.NDArray[np.bool_]
    statistics: Judged
    model: ModelJudgement
    severity: npt.NDArray[np.int8]


class Judgement:
    """What a bundle makes of columns; made once a bundle, never changed.

    Attributes
    ----------
    policy, rules
        What the bundle holds, parsed.
    columns
        Names of all columns that are read.
    two_quantile
        The day-one statistic; None when it was fitted to nothing.
    model, decision, budget
        The models at work, the compiled policy, and what ranks and limits where the policy has a budget.
    """

    def __init__(self, bundle: Bundle, policy: Policy, spec: FeatureSpec, rule_set: RuleSet) -> None:
        known = ColumnTypes.of_features(spec.kinds)
        self.policy = policy
        self.rules = compile_rules(rule_set, known)
        self.decision = compile_decision(
            policy,
            self.rules.rules,
            starter=bundle.kind == "starter",
            proven=bundle.supervised is not None and bundle.supervised.proven,
        )
        self.two_quantile = TwoQuantile.from_statistics(bundle.statistics)
        policies = account_policies(bundle, policy)
        self._amounts = AmountJudge(policy, self.two_quantile, policies)
        self.model = build_models(bundle, spec.names, policy, policies)
        self.budget = self._build_budget(bundle, policies)
        self._places = {name: i for i, name in enumerate(spec.names)}
        self._rule_columns = tuple(sorted(self.rules.columns))
        self.columns = tuple(
            name
            for name in dict.fromkeys([*self._rule_columns, *COLUMNS, *self.model.inputs])
            if name in known
        )

    def _build_budget(self, bundle: Bundle, policies: Mapping[str, Policy]) -> BudgetJudge | None:
        """What ranks and limits, where the policy has a budget; ``policies`` are those of single accounts."""
        budget = self.policy.budget
        if budget is None:
            return None
        return BudgetJudge(
            budget,
            load_thresholds(bundle),
            self.rules.rules,
            self.two_quantile,
            self.policy.statistics.amount_base_min,
            {account: own.statistics.amount_base_min for account, own in policies.items()},
        )

    def decide(
        self,
        batch: MicroBatch,
        features: npt.NDArray[np.float64],
        states: Mapping[int, PartitionState],
        *,
        profiled: bool,
    ) -> Decided:
        """Rules, statistics and model side by side, then the policy; ``states`` are only read."""
        columns = Columns(batch, self._places, features)
        fired, shadow = self._evaluate(batch, columns, states)
        judged = self._amounts.judge(columns, batch.n, batch.accounts, batch.account)
        model = self.model.judge(features, batch.accounts, batch.account, profiled=profiled)
        severity = self.decision.decide(fired, judged.severity, model.severity, model.learning)
        return Decided(columns, fired, shadow, judged, model, severity)

    def _evaluate(
        self, batch: MicroBatch, columns: Columns, states: Mapping[int, PartitionState]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Live and shadow rules that fired, each ``[R, n]``."""
        if any(len(states[partition].lists) for partition, _, _ in batch.groups):
            parts = []
            for partition, first, end in batch.groups:
                part = columns.between(self._rule_columns, first, end)
                parts.append(
                    self.rules.evaluate(
                        part,
                        end - first,
                        states[partition].lists,
                        accounts=batch.accounts,
                        account=batch.account[first:end],
                        ts_ms=batch.append_ms[first:end],
                    ).T
                )
            fired = np.concatenate(parts, axis=1)
        else:
            fired = self.rules.evaluate(
                columns, batch.n, None, accounts=batch.accounts, account=batch.account
            ).T
        modes = self.rules.modes(batch.accounts, batch.account).T
        return fired & (modes == LIVE), fired & (modes == SHADOW)

    def within_budget(
        self, batch: MicroBatch, decided: Decided, disposition: npt.NDArray[np.int8]
    ) -> tuple[npt.NDArray[np.int8], Ranked | None]:
        """Severity of each row with the alert budget, and how it came about; as it was without one."""
        severity, unjudged = decided.severity, disposition != JUDGE
        severity[unjudged] = NONE
        if self.budget is None:
            return severity, None
        return self._rank(
            decided.fired,
            decided.columns,
            decided.statistics,
            decided.model,
            severity,
            batch.accounts,
            batch.account,
            unjudged,
        )

    def _rank(
        self,
        fired: npt.NDArray[np.bool_],
        columns: Mapping[str, npt.NDArray[Any]],
        judged: Judged,
        model: ModelJudgement,
        severity: npt.NDArray[np.int8],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        unjudged: npt.NDArray[np.bool_] | bool = False,
    ) -> tuple[npt.NDArray[np.int8], Ranked]:
        """Severity with the alert budget; only for a policy that has one."""
        assert self.budget is not None
        amount = columns.get("amount_base", np.full(len(severity), np.nan))
        return self.budget.rank(fired, amount, judged, model, severity, accounts, account, unjudged)

    def decide_changed(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        changed: Mapping[str, npt.NDArray[Any]],
        rows: npt.NDArray[np.intp],
        *,
        profiled: bool,
    ) -> npt.NDArray[np.int8]:
        """Severities that rows of a micro-batch would have with these columns; ``rows`` are those they were made from."""
        account = batch.account[rows]
        fired = self._live(batch, states, changed, rows, account)
        inputs = np.column_stack([changed[name] for name in self.model.inputs] or [np.empty((len(rows), 0))])
        model = self.model.judge_inputs(inputs, batch.accounts, account, profiled=profiled)
        statistics = self._amounts.judge(changed, len(rows), batch.accounts, account)
        severity = self.decision.decide(fired, statistics.severity, model.severity, model.learning)
        if self.budget is not None:
            severity, _ = self._rank(fired, changed, statistics, model, severity, batch.accounts, account)
        return severity

    def _live(
        self,
        batch: MicroBatch,
        states: Mapping[int, PartitionState],
        columns: Mapping[str, npt.NDArray[Any]],
        rows: npt.NDArray[np.intp],
        account: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.bool_]:
        """Live rules that fire on these columns, ``[R, n]``; ``rows`` are those they were made from."""
        fired = np.empty((len(self.rules), len(rows)), dtype=np.bool_)
        partitions = batch.partition[rows]
        for partition, _, _ in batch.groups:
            here = np.flatnonzero(partitions == partition)
            if len(here):
                fired[:, here] = self.rules.evaluate(
                    {name: columns[name][here] for name in self._rule_columns},
                    len(here),
                    states[partition].lists,
                    accounts=batch.accounts,
                    account=account[here],
                    ts_ms=batch.append_ms[rows[here]],
                ).T
        live: npt.NDArray[np.bool_] = fired & (self.rules.modes(batch.accounts, account).T == LIVE)
        return live
