"""Exact Shapley values of groups of features: which part of a payment made its score.

At most six groups, so all coalitions (64) are scored, in one call of the engine: features of the groups in
a coalition have the row's values, the others those of a reference row. The values sum to the difference of
the two rows' scores (Shapley 1953; as an explanation: Lundberg and Lee, "A unified approach to interpreting
model predictions", NeurIPS 2017, with one reference row).
"""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError

if TYPE_CHECKING:
    from anomalyze.models.runtime import Scorer

__all__ = ["GROUPS_MAX", "compute_shapley"]

GROUPS_MAX = 6
# 16 rows in one call are 1,024 coalitions; more would only take memory.
_ROWS_A_CALL = 16


def compute_shapley(
    scorer: Scorer,
    rows: npt.NDArray[np.float32],
    references: npt.NDArray[np.float32],
    group: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Shapley values of each group for each row.

    Parameters
    ----------
    rows
        float32 ``[n, k]``: what is explained.
    references
        float32 ``[n, k]`` or ``[k]``: an ordinary row to hold each against.
    group
        int64 ``[k]``: the group of each feature, 0 to g - 1, g at most 6.

    Returns
    -------
    ndarray
        float64 ``[n, g]``: share of ``score(row) - score(reference)``, in the raw score's unit. A row's
        values do not depend on the rows beside it.

    Raises
    ------
    ContractError
        On more than six groups, or arrays that do not fit each other.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    group = np.asarray(group, dtype=np.int64)
    if rows.ndim != 2 or group.shape != (rows.shape[1],) or group.min(initial=0) < 0:
        raise ContractError(
            f"shapley: expected rows [n, k] and a group for each of k, got {rows.shape}, {group.shape}"
        )
    group_count = int(group.max(initial=-1)) + 1
    if not 0 < group_count <= GROUPS_MAX:
        raise ContractError(f"shapley: expected 1 to {GROUPS_MAX} groups, got {group_count}")
    references = np.broadcast_to(np.asarray(references, dtype=np.float32), rows.shape)
    coalitions = 1 << group_count
    member = ((np.arange(coalitions)[:, None] >> group) & 1).astype(np.bool_)
    weights = np.array([1.0 / (group_count * _choose(group_count - 1, size)) for size in range(group_count)])
    out = np.empty((len(rows), group_count))
    for start in range(0, len(rows), _ROWS_A_CALL):
        part = slice(start, start + _ROWS_A_CALL)
        mixed = np.where(member, rows[part, None, :], references[part, None, :])
        scores = scorer.score(mixed.reshape(-1, rows.shape[1])).astype(np.float64)
        _values(scores.reshape(-1, coalitions), weights, out[part])
    return out


def _choose(n: int, k: int) -> int:
    return factorial(n) // (factorial(k) * factorial(n - k))


@numba.njit(cache=True, nogil=True)
def _values(scores, weights, out):  # type: ignore[no-untyped-def]
    """``out[r, g]`` = sum over coalitions S without g of ``weights[|S|] * (score(S + g) - score(S))``."""
    for r in range(out.shape[0]):
        for g in range(out.shape[1]):
            total = 0.0
            for coalition in range(scores.shape[1]):
                if (coalition >> g) & 1:
                    continue
                size = 0
                for other in range(out.shape[1]):
                    size += (coalition >> other) & 1
                total += weights[size] * (scores[r, coalition | (1 << g)] - scores[r, coalition])
            out[r, g] = total
