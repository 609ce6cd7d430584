"""Verdicts of a micro-batch: columns for every row, and words for the few that are shown to somebody."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.events.batch import DeadLetter
from anomalyze.features.spec import FeatureSpec

__all__ = ["Anomaly", "BudgetEffect", "Challenged", "Prediction", "Ranked", "Verdicts"]


class Prediction(IntEnum):
    """What the model says, as ``analysis.ml_prediction`` names it.

    LEARNING: there is no model yet, or its score compares with somebody else's history: the account has too
    little of its own in training, or the bundle is a starter one.
    """

    NORMAL = 0
    ANOMALY = 1
    LEARNING = 2


class BudgetEffect(IntEnum):
    """What the budget did with a row. KEPT: its severity is the one it had, and it counts."""

    NONE = 0
    KEPT = 1
    RAISED = 2
    CAPPED = 3


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows of a micro-batch as the budget sees them; arrays ``[n]``.

    Attributes
    ----------
    risk
        float64; NaN for rows that a list settled or that are not judged.
    before
        Severity without the budget, int8.
    effect
        ``BudgetEffect``, int8; NONE wherever the account has no threshold.
    """

    risk: npt.NDArray[np.float64]
    before: npt.NDArray[np.int8]
    effect: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What is told of a verdict above NONE.

    Attributes
    ----------
    id, case_id
        Names that the same log gives again.
    case_anomalies
        How many anomalies the case has with this one.
    late
        Older than the policy's limit when judged: nobody is told.
    explanation
        What happened, in one sentence.
    details
        JSON values for ``analysis``: rules, statistics, model, counterfactuals, notes.
    """

    id: str
    case_id: str
    case_anomalies: int
    late: bool
    explanation: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Challenged:
    """What the challenger would have said of a micro-batch; arrays are ``[n]`` unless stated, in its row order.

    Attributes
    ----------
    bundle
        Id of the challenger.
    rule_ids
        Its rules: the columns of ``fired``.
    said
        Rows that it judged, bool.
    severity
        int8, as in ``Verdicts``.
    ml_score
        float64; NaN without a model.
    fired
        bool ``[n, R]``: its live rules that fired.
    """

    bundle: str
    rule_ids: tuple[str, ...]
    said: npt.NDArray[np.bool_]
    severity: npt.NDArray[np.int8]
    ml_score: npt.NDArray[np.float64]
    fired: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Verdicts:
    """What a detector says of a micro-batch; arrays are ``[n]`` unless stated, in its row order.

    Attributes
    ----------
    bundle, spec
        Id of the bundle that judged, and its features: the meaning of the columns of ``features``.
    disposition
        ``anomalyze.features.state.Disposition``, int8. Only JUDGE rows have a verdict; a REPEAT keeps its
        first one, a STATUS_UPDATE changes a status, a CONFLICT is in ``dead``.
    features
        float64 ``[n, F]``, NaN = NULL, columns as ``spec.names``.
    history
        ``HistoryFlag`` bits.
    fired, shadow
        bool ``[n, R]``: live rules, and rules in shadow, that fired; columns in the order of ``rule_ids``.
    ml_score
        float64, 1 - tail probability; NaN without a model.
    prediction
        ``Prediction``, int8.
    severity, action
        int8; NONE and ALLOW where the row is not judged.
    anomalies
        By row, for every judged row above NONE.
    dead
        Dead letters of this micro-batch (conflicts).
    profiles
        Id of the newest snapshot of what labels say that judging could see; None without one.
    daily_profiles
        The same of the profiles of whole days.
    challenger
        What another bundle would have said; None where none is shadowed.
    ranked
        Rows as the alert budget sees them; None without one.
    """

    n: int
    bundle: str
    spec: FeatureSpec
    disposition: npt.NDArray[np.int8]
    features: npt.NDArray[np.float64]
    history: npt.NDArray[np.uint8]
    rule_ids: tuple[str, ...]
    fired: npt.NDArray[np.bool_]
    shadow: npt.NDArray[np.bool_]
    ml_score: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.int8]
    severity: npt.NDArray[np.int8]
    action: npt.NDArray[np.int8]
    anomalies: dict[int, Anomaly] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    profiles: str | None = None
    daily_profiles: str | None = None
    challenger: Challenged | None = None
    ranked: Ranked | None = None
