"""Whether a model beats rules and statistics: average precision on later days, bootstrapped by user.

Rows of one user are no independent witnesses, so whole users are drawn. The bundle keeps the lower bound of the
lead, and how many known fraud cases it rests on; only then may the model say more than MEDIUM of that account.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyze.detection.supervised import Proof

__all__ = ["average_precision", "compute_lead", "prove"]

ROUNDS = 200
LOWER_SHARE = 0.05


def average_precision(
    score: npt.NDArray[np.float64],
    fraud: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64] | None = None,
) -> float:
    """Σ (R_k − R_k−1) P_k over the distinct scores, highest first; NaN scores rank last.

    >>> average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True]))
    0.8333333333333333
    """
    return _average_precision(*_ranked(score), fraud, weight)


def _ranked(score: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows from the highest score down, and where each distinct score ends."""
    filled = np.where(np.isnan(score), -np.inf, score)
    order = np.argsort(-filled, kind="stable")
    ends = np.append(np.flatnonzero(filled[order][1:] != filled[order][:-1]), len(order) - 1)
    return order, ends


def _average_precision(
    order: npt.NDArray[np.intp],
    ends: npt.NDArray[np.intp],
    fraud: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64] | None,
) -> float:
    weights = np.ones(len(order)) if weight is None else weight[order]
    caught, flagged = np.cumsum(weights * fraud[order])[ends], np.cumsum(weights)[ends]
    if not caught[-1] > 0:
        return float("nan")
    precision = caught / np.maximum(flagged, 1e-300)
    return float((np.diff(caught, prepend=0.0) * precision).sum() / caught[-1])


def compute_lead(
    learned: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    fraud: npt.NDArray[np.bool_],
    user: npt.NDArray[np.uint64],
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> tuple[float, float]:
    """Lead in average precision of one score over another, and its lower 5 % bound.

    Parameters
    ----------
    learned, other
        Scores ``[n]``; higher = more suspicious.
    fraud, user
        ``[n]``: known labels, and whose row each is.
    """
    _, of_user = np.unique(user, return_inverse=True)
    users = int(of_user.max()) + 1 if len(of_user) else 0
    if not fraud.any():
        return 0.0, 0.0
    ranked = [_ranked(score) for score in (learned, other)]
    random = np.random.default_rng(seed)
    leads = []
    for _ in range(rounds):
        drawn = random.multinomial(users, np.full(users, 1.0 / users))[of_user].astype(np.float64)
        if (drawn * fraud).any():
            one, two = (_average_precision(*places, fraud, drawn) for places in ranked)
            leads.append(one - two)
    whole = average_precision(learned, fraud) - average_precision(other, fraud)
    return whole, float(np.quantile(leads, LOWER_SHARE)) if leads else 0.0


def prove(
    learned: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    fraud: npt.NDArray[np.bool_],
    user: npt.NDArray[np.uint64],
    day: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> Proof:
    """What a supervised model achieved on an account's later rows with settled labels, ``[n]`` each.

    Parameters
    ----------
    learned
        Its scores of rows after its window.
    other
        What rules and statistics say of the same rows: higher = more suspicious.
    day
        Days since 1970: frauds of a user on one day are one case.
    """
    lead, low = compute_lead(learned, other, fraud, user, seed=seed)
    cases = len(np.unique(np.column_stack([user[fraud], day[fraud].astype(np.uint64)]), axis=0))
    return Proof(cases, lead, low)
