"""From findings to one severity a row: the policy, compiled to arrays and applied by one kernel.

The order of steps, for each row:

1. Rules: the highest severity within each rule group.
2. Statistics count in their own group, at most at their cap; the model at most at its cap (lower still while
   it is LEARNING or of a starter bundle). The model is no group: it reads the same features as the rules.
3. The verdict is the highest of all; where enough groups agree, one level more.
4. Lists: a block sets at least its severity, an allow sets its own; block beats allow, allow beats rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.detection.policy import Policy
from anomalyze.events.batch import Severity

__all__ = ["Decision", "compile_decision"]

CRITICAL = int(Severity.CRITICAL)


@dataclass(frozen=True, slots=True)
class Decision:
    """A policy bound to a rule set.

    Attributes
    ----------
    severities, groups
        Severity (int8) and group number (int64) of each rule, ``[R]``, in the order of its columns.
    group_names
        Names of the groups; the statistics' group is among them.
    actions
        ``Action`` by severity, int8 ``[5]``.
    """

    severities: npt.NDArray[np.int8]
    groups: npt.NDArray[np.int64]
    group_names: tuple[str, ...]
    actions: npt.NDArray[np.int8]
    _limits: npt.NDArray[np.int64]

    def decide(
        self,
        fired: npt.NDArray[np.bool_],
        statistic: npt.NDArray[np.int8],
        model: npt.NDArray[np.int8],
        learning: npt.NDArray[np.bool_],
        listed: npt.NDArray[np.int8],
    ) -> npt.NDArray[np.int8]:
        """Severity of each row, int8 ``[n]``.

        Parameters
        ----------
        fired
            ``[n, R]``: live rules that fired.
        statistic, model
            Severity that the statistics and the model propose, ``[n]``.
        learning
            Whether the model is still learning this row's account.
        listed
            1 where something of the row is on a block list, 2 where on an allow list only, else 0.
        """
        out = np.empty(len(fired), dtype=np.int8)
        _decide(
            np.ascontiguousarray(fired),
            self.severities,
            self.groups,
            len(self.group_names),
            statistic,
            model,
            learning,
            listed,
            self._limits,
            out,
        )
        return out


def compile_decision(
    policy: Policy, rule_groups: Sequence[str], rule_severities: Sequence[Severity], *, starter: bool
) -> Decision:
    """Bind a policy to rules; ``starter`` caps the model as if every account were learning."""
    names = tuple(dict.fromkeys([*rule_groups, policy.statistics.group]))
    learning_cap = Severity[policy.caps.model_learning]
    limits = [
        names.index(policy.statistics.group),
        Severity[policy.caps.statistics_alone],
        learning_cap if starter else Severity[policy.caps.model_alone],
        learning_cap,
        policy.raised.groups,
        Severity[policy.raised.at],
        Severity[policy.lists.block],
        Severity[policy.lists.allow],
    ]
    return Decision(
        severities=np.array([int(s) for s in rule_severities], dtype=np.int8),
        groups=np.array([names.index(g) for g in rule_groups], dtype=np.int64),
        group_names=names,
        actions=np.array([int(policy.action(s)) for s in Severity], dtype=np.int8),
        _limits=np.array([int(value) for value in limits], dtype=np.int64),
    )


@njit(cache=True, nogil=True)
def _decide(  # type: ignore[no-untyped-def]
    fired, severities, groups, group_count, statistic, model, learning, listed, limits, out
):
    statistic_group, statistic_cap, model_cap, learning_cap = limits[0], limits[1], limits[2], limits[3]
    raise_groups, raise_at, block, allow = limits[4], limits[5], limits[6], limits[7]
    highest = np.zeros(group_count, dtype=np.int64)
    for row in range(len(out)):
        highest[:] = 0
        for rule in range(len(severities)):
            if fired[row, rule] and severities[rule] > highest[groups[rule]]:
                highest[groups[rule]] = severities[rule]
        by_statistic = min(np.int64(statistic[row]), statistic_cap)
        highest[statistic_group] = max(highest[statistic_group], by_statistic)
        severity = min(np.int64(model[row]), learning_cap if learning[row] else model_cap)
        agreeing = 0
        for group in range(group_count):
            severity = max(severity, highest[group])
            if highest[group] >= raise_at:
                agreeing += 1
        if agreeing >= raise_groups and severity < CRITICAL:
            severity += 1
        if listed[row] == 1:
            severity = max(severity, block)
        elif listed[row] == 2:
            severity = allow
        out[row] = severity
