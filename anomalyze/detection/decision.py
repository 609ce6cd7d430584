"""From findings to one severity a row: the policy, compiled to arrays and applied by one kernel.

The order of steps, for each row:

1. Rules: the highest severity within each rule group.
2. Statistics count in their own group, at most at their cap; the model at most at its cap (lower still while
   it is LEARNING or of a starter bundle). The model is no group: it reads the same features as the rules.
3. The verdict is the highest of all; where enough groups agree, one level more.
4. Rules with the effect block set at least the policy's severity for it, those with the effect allow set
   theirs (lists): block beats allow, allow beats rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomalyze.detection.policy import Policy
from anomalyze.detection.severity import ALLOW, BLOCK, FLAG, decide_severity
from anomalyze.events.batch import Severity
from anomalyze.rules.rule import Rule

__all__ = ["Decision", "compile_decision"]

EFFECTS = {"flag": FLAG, "allow": ALLOW, "block": BLOCK}


@dataclass(frozen=True, slots=True)
class Decision:
    """A policy bound to a rule set.

    Attributes
    ----------
    severities, groups
        Severity (int8) and group number (int64) of each rule, ``[R]``.
    effects
        Whether each rule flags (0), allows (1) or blocks (2).
    group_names
        Names of the groups; the statistics' group is among them.
    actions
        ``Action`` by severity, int8 ``[5]``.
    """

    severities: npt.NDArray[np.int8]
    groups: npt.NDArray[np.int64]
    effects: npt.NDArray[np.int8]
    group_names: tuple[str, ...]
    actions: npt.NDArray[np.int8]
    _limits: npt.NDArray[np.int64]

    @property
    def model_caps(self) -> tuple[int, int]:
        """The most that the model proposes: for an account that is learning, and for others."""
        return int(self._limits[3]), int(self._limits[2])

    def decide(
        self,
        fired: npt.NDArray[np.bool_],
        statistic: npt.NDArray[np.int8],
        model: npt.NDArray[np.int8],
        learning: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.int8]:
        """Severity of each row, int8 ``[n]``.

        Parameters
        ----------
        fired
            ``[R, n]``: live rules that fired.
        statistic, model
            Severity that the statistics and the model propose, ``[n]``.
        learning
            Whether the model is still learning this row's account.
        """
        out = np.empty(fired.shape[1], dtype=np.int8)
        decide_severity(
            np.ascontiguousarray(fired),
            self.severities,
            self.groups,
            self.effects,
            len(self.group_names),
            statistic,
            model,
            learning,
            self._limits,
            out,
        )
        return out


def compile_decision(
    policy: Policy, rules: Sequence[Rule], *, starter: bool, proven: bool = False
) -> Decision:
    """Bind a policy to rules.

    ``starter`` caps the model as if every account were learning; ``proven`` lets the supervised one say more.
    """
    names = tuple(dict.fromkeys([*(rule.group for rule in rules), policy.statistics.group]))
    learning_cap = Severity[policy.caps.model_learning]
    limits = [
        names.index(policy.statistics.group),
        Severity[policy.caps.statistics_alone],
        learning_cap
        if starter
        else Severity[policy.caps.model_proven if proven else policy.caps.model_alone],
        learning_cap,
        policy.raised.groups,
        Severity[policy.raised.at],
        Severity[policy.lists.block],
        Severity[policy.lists.allow],
    ]
    return Decision(
        severities=np.array([int(rule.severity) for rule in rules], dtype=np.int8),
        groups=np.array([names.index(rule.group) for rule in rules], dtype=np.int64),
        effects=np.array([EFFECTS[rule.effect] for rule in rules], dtype=np.int8),
        group_names=names,
        actions=np.array([int(policy.action(s)) for s in Severity], dtype=np.int8),
        _limits=np.array([int(value) for value in limits], dtype=np.int64),
    )
