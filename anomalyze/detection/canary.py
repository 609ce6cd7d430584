"""Whether what a model learns from tells of the future: labels drawn by lot must not be found again.

All labels of a history are dealt out anew among its rows, each with its delay. Whatever is computed from labels is then
computed from these, a model learns from the older rows, and is asked for the newer ones. Nothing that was known
before a payment says what it drew, so its ROC AUC is 1/2 up to chance. Only a value that holds a payment's own label,
or one that became known later, finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import numpy.typing as npt

from anomalyze.detection.learning import FRAUD, Delay, LearningFrame, learned_rows, window_end
from anomalyze.models.boosting import FRAUDS_MIN, SUPERVISED_INPUTS, train_boosting
from anomalyze.models.training import select_inputs

__all__ = ["TOLERANCE_DEVIATIONS", "Canary", "release_canary"]

# Standard deviations of the AUC of a model that knows nothing (Mann and Whitney, 1947): one false alarm in 700.
TOLERANCE_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Canary:
    """What became of labels drawn by lot.

    Attributes
    ----------
    rows, frauds
        Newer rows that the model was asked for, and how many of them drew fraud.
    auc
        ROC AUC there; 0.5 = chance.
    allowed
        The most that chance explains.
    """

    rows: int
    frauds: int
    auc: float
    allowed: float

    @property
    def sings(self) -> bool:
        """Whether nothing of the future was found."""
        return self.auc <= self.allowed


def release_canary(
    frame: LearningFrame,
    as_of_ms: int,
    delay_ms: Delay,
    join: Callable[[LearningFrame], LearningFrame],
    *,
    seed: int = 0,
) -> Canary | None:
    """Deal the labels out anew, learn, and ask for later rows; None with too few labels to tell anything.

    Parameters
    ----------
    frame
        As training has it, with rows after ``as_of_ms``.
    as_of_ms, delay_ms
        As in ``fit_supervised``.
    join
        Computes anew what a frame's features take from its labels: what training calls too.
    """
    random = np.random.default_rng(seed)
    dealt = random.permutation(len(frame.ts_ms))
    waited = (frame.known_ms - frame.ts_ms)[dealt]
    frame = join(replace(frame, fraud=frame.fraud[dealt], known_ms=frame.ts_ms + waited))
    learned, label = learned_rows(frame, as_of_ms, delay_ms)
    drew = frame.fraud == FRAUD
    later = frame.ts_ms >= window_end(frame, as_of_ms, delay_ms)
    if min(int((label[learned] == FRAUD).sum()), int(drew[later].sum())) < FRAUDS_MIN:
        return None
    used, rows = select_inputs(frame.features[learned], frame.names, SUPERVISED_INPUTS)
    booster, _ = train_boosting(rows, label[learned] == FRAUD, seed=seed)
    columns = [frame.names.index(one.name) for one in used]
    score = np.asarray(booster.predict(frame.features[later][:, columns], raw_score=True, num_threads=1))
    return compute_canary(score, drew[later])


def compute_canary(score: npt.NDArray[np.float64], drew: npt.NDArray[np.bool_]) -> Canary:
    """The area under the ROC curve by ranks, ties at their middle, and what chance explains of it.

    >>> compute_canary(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])).auc
    0.875
    """
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    frauds, others = int(drew.sum()), int((~drew).sum())
    auc = (float(rank[drew].sum()) - frauds * (frauds + 1) / 2) / (frauds * others)
    deviation = sqrt((frauds + others + 1) / (12 * frauds * others))
    return Canary(len(score), frauds, auc, 0.5 + TOLERANCE_DEVIATIONS * deviation)
