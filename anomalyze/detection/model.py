"""The bundle's models at work: raw score, calibrated rarity, label, and each group's share in the score.

A bundle may hold two: the isolation forest, which finds what is strange, and a supervised one, which finds what
was fraud before. Both may flag; ``ml_score`` is the supervised one's where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.policy import Policy, TailLevel
from anomalyze.detection.verdict import Prediction
from anomalyze.errors import ContractError
from anomalyze.events.batch import Severity
from anomalyze.features.catalogue import MERCHANT_PROFILE
from anomalyze.models.calibration import Calibration
from anomalyze.models.shapley import compute_shapley

__all__ = ["ModelJudge", "ModelJudgement", "Models", "build_models"]

LEARNING = int(Prediction.LEARNING)


@dataclass(frozen=True, slots=True)
class ModelJudgement:
    """What the model says of rows; arrays ``[n]``.

    Attributes
    ----------
    tail
        Tail probability, float64; NaN without a model.
    score
        ``ml_score``: 1 - tail.
    prediction
        ``Prediction``, int8.
    severity
        What the policy makes of the tail, before caps, int8.
    learning
        Rows of accounts whose score is calibrated on somebody else's history, bool; no row where there are two
        models: ``severity`` is then capped already.
    by_forest
        Rows of which the forest says more than the supervised model, bool; None where there is one model.
    """

    tail: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.int8]
    severity: npt.NDArray[np.int8]
    learning: npt.NDArray[np.bool_]
    by_forest: npt.NDArray[np.bool_] | None = None


class Models(Protocol):
    """What the detector asks of one model or two; ``profiled`` says whether profiles are in force."""

    inputs: tuple[str, ...]

    def judge(
        self,
        features: npt.NDArray[np.float64],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        *,
        profiled: bool = False,
    ) -> ModelJudgement: ...

    def judge_inputs(
        self,
        inputs: npt.NDArray[np.float64],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        *,
        profiled: bool = False,
    ) -> ModelJudgement: ...

    def explain(
        self, features: npt.NDArray[np.float64], by_forest: npt.NDArray[np.bool_] | None = None
    ) -> list[dict[str, float]]: ...


def build_models(
    bundle: Bundle, names: Sequence[str], policy: Policy, own: Mapping[str, Policy] | None = None
) -> Models:
    """The model or models of a bundle.

    Parameters
    ----------
    names
        Features in the order of the matrix' columns.
    own
        Policies of the accounts that have thresholds of their own.
    """
    supervised = bundle.supervised_view()
    own = own or {}
    if supervised is None:
        return ModelJudge(
            bundle, names, policy.model.levels, policy.model.learning_rows_min, forest_limits(own)
        )
    assert bundle.supervised is not None
    proven = frozenset(
        account for account in bundle.supervised.proofs if bundle.supervised.proven_for(account)
    )
    return _Pair(bundle, supervised, names, policy, own, proven)


# An account's own levels, and the most that the model says there.
OwnLimits = Mapping[str, tuple[Sequence[TailLevel], int]]


def forest_limits(own: Mapping[str, Policy]) -> OwnLimits:
    """Levels and cap of the forest by account."""
    return {
        account: (policy.model.levels, int(Severity[policy.caps.model_alone]))
        for account, policy in own.items()
    }


class ModelJudge:
    """Scores features by a bundle's model; silent where the bundle has none.

    Parameters
    ----------
    bundle
        The bundle.
    names
        Feature names in the order of the matrix' columns.
    levels, learning_rows_min
        Thresholds by rarity, and how much history an account needs.
    own
        Levels and cap of the accounts that have their own.

    Attributes
    ----------
    inputs
        Names of the features that the model reads.
    """

    def __init__(
        self,
        bundle: Bundle,
        names: Sequence[str],
        levels: Sequence[TailLevel],
        learning_rows_min: int,
        own: OwnLimits | None = None,
    ) -> None:
        unknown = [i.name for i in bundle.inputs if i.name not in names]
        if unknown:
            raise ContractError(f"bundle {bundle.id}: its model reads {', '.join(unknown)}, no such features")
        self._scorer = bundle.build_scorer()
        self.inputs = tuple(i.name for i in bundle.inputs)
        self._source = np.array([names.index(i.name) for i in bundle.inputs], dtype=np.intp)
        self._reference = np.array(bundle.reference, dtype=np.float32)
        self._groups = tuple(dict.fromkeys(i.group for i in bundle.inputs))
        self._group = np.array([self._groups.index(i.group) for i in bundle.inputs], dtype=np.int64)
        self._calibration = bundle.calibration
        self._own = {
            account: calibration
            for account, calibration in bundle.account_calibrations.items()
            if calibration.rows >= learning_rows_min
        }
        self._starter = bundle.kind == "starter"
        self._levels = steps(levels)
        self._own_limits = {account: (steps(theirs), cap) for account, (theirs, cap) in (own or {}).items()}

    def judge(
        self,
        features: npt.NDArray[np.float64],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        *,
        profiled: bool = False,
    ) -> ModelJudgement:
        """Score rows of features ``[n, F]`` of these accounts (``account`` indexes them)."""
        return self.judge_inputs(features[:, self._source], accounts, account, profiled=profiled)

    def judge_inputs(
        self,
        inputs: npt.NDArray[np.float64],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        *,
        profiled: bool = False,
    ) -> ModelJudgement:
        """Score rows of the model's own inputs ``[n, k]``, in the order of ``self.inputs``."""
        n = len(inputs)
        tail = np.full(n, np.nan)
        prediction = np.full(n, LEARNING, dtype=np.int8)
        learning = self._learning(accounts)[account]
        if self._scorer is not None and self._calibration is not None and n:
            raw = self._scorer.score(inputs.astype(np.float32))
            for calibration, rows in self._calibrated(accounts, account):
                tail[rows] = calibration.compute_tail(raw[rows])
                prediction[rows] = calibration.compute_labels(raw[rows])  # NORMAL is 0, ANOMALY 1
            prediction[learning] = LEARNING
        return ModelJudgement(
            tail=tail,
            score=1.0 - tail,
            prediction=prediction,
            severity=self._severity_of(tail, accounts, account),
            learning=learning,
        )

    def _severity_of(
        self, tail: npt.NDArray[np.float64], accounts: Sequence[str], account: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int8]:
        """Severity by the policy's rarities, none rarer than a calibration can tell (10 / n)."""
        severity = np.zeros(len(tail), dtype=np.int8)
        if self._calibration is None:
            return severity
        p_min = np.array([self._of(name).p_min for name in accounts])[account]
        for limit, level in self._levels:
            severity[tail <= np.maximum(limit, p_min)] = level
        for code, name in enumerate(accounts if self._own_limits else ()):
            if name in self._own_limits:
                levels, cap = self._own_limits[name]
                rows = np.flatnonzero(account == code)
                theirs = np.zeros(len(rows), dtype=np.int8)
                for limit, level in levels:
                    theirs[tail[rows] <= np.maximum(limit, p_min[rows])] = min(level, cap)
                severity[rows] = theirs
        return severity

    def explain(
        self, features: npt.NDArray[np.float64], by_forest: npt.NDArray[np.bool_] | None = None
    ) -> list[dict[str, float]]:
        """Share of each group in what makes each row stranger than the reference; the largest first."""
        if self._scorer is None:
            return [{} for _ in features]
        rows = features[:, self._source].astype(np.float32)
        values = compute_shapley(self._scorer, rows, self._reference, self._group).clip(0.0, None)
        explained = []
        for row in values:
            total = float(row.sum())
            shares = (
                {g: float(v) / total for g, v in zip(self._groups, row, strict=True)} if total > 0 else {}
            )
            explained.append(dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))))
        return explained

    def _of(self, account: str) -> Calibration:
        assert self._calibration is not None
        return self._own.get(account, self._calibration)

    def _learning(self, accounts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which accounts' scores are calibrated on somebody else's history."""
        return np.array([self._starter or name not in self._own for name in accounts], dtype=np.bool_)

    def _calibrated(
        self, accounts: Sequence[str], account: npt.NDArray[np.int32]
    ) -> list[tuple[Calibration, npt.NDArray[np.intp] | slice]]:
        """Calibrations, each with the rows it holds for."""
        if len(accounts) == 1 or not self._own:
            return [(self._of(accounts[0]), slice(None))]
        return [(self._of(name), np.flatnonzero(account == i)) for i, name in enumerate(accounts)]


def steps(levels: Sequence[TailLevel]) -> list[tuple[float, int]]:
    """Thresholds, mildest first."""
    return sorted(((level.tail, int(Severity[level.severity])) for level in levels), reverse=True)


class _Pair:
    """Forest and supervised model side by side; the supervised one gives ``ml_score``.

    Without profiles it is silent if it reads any.
    """

    def __init__(
        self,
        bundle: Bundle,
        supervised: Bundle,
        names: Sequence[str],
        policy: Policy,
        own: Mapping[str, Policy],
        proven: frozenset[str],
    ) -> None:
        rows_min = policy.model.learning_rows_min
        self._forest = ModelJudge(bundle, names, policy.model.levels, rows_min, forest_limits(own))
        limits = {
            account: (
                theirs.supervised.levels,
                int(Severity[theirs.caps.model_proven if account in proven else theirs.caps.model_alone]),
            )
            for account, theirs in own.items()
        }
        self._supervised = ModelJudge(supervised, names, policy.supervised.levels, rows_min, limits)
        self._reads_profiles = not set(MERCHANT_PROFILE).isdisjoint(self._supervised.inputs)
        caps = policy.caps
        learning = int(Severity[caps.model_learning])
        self._forest_caps = (learning, int(Severity[caps.model_alone]))
        self._proven = proven
        self._supervised_caps = (learning, int(Severity[caps.model_alone]), int(Severity[caps.model_proven]))
        self.inputs = tuple(dict.fromkeys([*self._forest.inputs, *self._supervised.inputs]))
        self._of_forest = np.array([self.inputs.index(name) for name in self._forest.inputs], dtype=np.intp)
        self._of_supervised = np.array(
            [self.inputs.index(name) for name in self._supervised.inputs], dtype=np.intp
        )

    def judge(
        self,
        features: npt.NDArray[np.float64],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        *,
        profiled: bool = False,
    ) -> ModelJudgement:
        """Score rows of features ``[n, F]`` of these accounts (``account`` indexes them)."""
        forest = self._forest.judge(features, accounts, account)
        if self._reads_profiles and not profiled:
            return self._alone(forest)
        return self._join(forest, self._supervised.judge(features, accounts, account), accounts, account)

    def judge_inputs(
        self,
        inputs: npt.NDArray[np.float64],
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        *,
        profiled: bool = False,
    ) -> ModelJudgement:
        """Score rows of both models' inputs ``[n, k]``, in the order of ``self.inputs``."""
        forest = self._forest.judge_inputs(inputs[:, self._of_forest], accounts, account)
        if self._reads_profiles and not profiled:
            return self._alone(forest)
        supervised = self._supervised.judge_inputs(inputs[:, self._of_supervised], accounts, account)
        return self._join(forest, supervised, accounts, account)

    def _alone(self, forest: ModelJudgement) -> ModelJudgement:
        """What the forest says where no profiles are in force: the other one would take them for good news."""
        capped = np.minimum(forest.severity, np.where(forest.learning, *self._forest_caps))
        return replace(
            forest,
            severity=capped.astype(np.int8),
            learning=np.zeros(len(capped), dtype=np.bool_),
            by_forest=np.ones(len(capped), dtype=np.bool_),
        )

    def _join(
        self,
        forest: ModelJudgement,
        supervised: ModelJudgement,
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
    ) -> ModelJudgement:
        learning, alone, proven = self._supervised_caps
        known = np.array([proven if name in self._proven else alone for name in accounts])[account]
        strange = np.minimum(forest.severity, np.where(forest.learning, *self._forest_caps))
        fraud = np.minimum(supervised.severity, np.where(supervised.learning, learning, known))
        by_forest = strange > fraud
        return ModelJudgement(
            tail=np.where(by_forest, forest.tail, supervised.tail),
            score=supervised.score,
            prediction=supervised.prediction,
            severity=np.maximum(strange, fraud).astype(np.int8),
            learning=np.zeros(len(by_forest), dtype=np.bool_),
            by_forest=by_forest,
        )

    def explain(
        self, features: npt.NDArray[np.float64], by_forest: npt.NDArray[np.bool_] | None = None
    ) -> list[dict[str, float]]:
        """Share of each group in the score of the model that says more of a row."""
        assert by_forest is not None
        told: list[dict[str, float]] = [{} for _ in features]
        for model, rows in (
            (self._forest, np.flatnonzero(by_forest)),
            (self._supervised, np.flatnonzero(~by_forest)),
        ):
            for row, shares in zip(rows.tolist(), model.explain(features[rows]), strict=True):
                told[row] = shares
        return told
