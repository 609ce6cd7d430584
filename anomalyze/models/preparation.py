"""What stands before an unsupervised model: missing values filled, one-sided inputs clipped from below.

Inputs are one-sided: each is clipped below at its training median, so that the merely small and the merely
regular are not strange; a missing value counts as the median. An exported model has both folded into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError

__all__ = ["Preparation", "fit_preparation"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How rows are prepared.

    Attributes
    ----------
    fill
        float32 ``[k]``: what stands for a missing value, the training median.
    lower
        float32 ``[k]``: where values are clipped from below; -inf for a two-sided input.
    """

    fill: npt.NDArray[np.float32]
    lower: npt.NDArray[np.float32]

    def apply(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Impute and clip ``[n, k]`` rows."""
        return np.maximum(np.where(np.isnan(rows), self.fill, rows), self.lower)


def fit_preparation(rows: npt.NDArray[np.float32], one_sided: Sequence[bool]) -> Preparation:
    """Medians of float32 ``[n, k]`` rows; NaN = missing.

    Raises
    ------
    ContractError
        On fewer than two rows, infinite values, or an input without a single value.
    """
    if len(rows) < 2:
        raise ContractError(f"training: expected at least 2 rows, got {len(rows)}")
    if np.isinf(rows).any():
        raise ContractError(f"training: input {int(np.isinf(rows).any(axis=0).argmax())} has infinite values")
    if np.isnan(rows).all(axis=0).any():
        raise ContractError(f"training: input {int(np.isnan(rows).all(axis=0).argmax())} has no value at all")
    fill = np.nanmedian(rows.astype(np.float64), axis=0).astype(np.float32)
    lower = np.where(np.asarray(one_sided), fill, np.float32(-np.inf)).astype(np.float32)
    return Preparation(fill, lower)
