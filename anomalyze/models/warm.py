"""Compiles the package's kernels before the first transaction waits for them."""

from __future__ import annotations

import numpy as np

from anomalyze.models.calibration import fit_calibration
from anomalyze.models.dense import DenseKernel, Distances, Projections
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.shapley import compute_shapley
from anomalyze.models.tree import TreeEnsemble

__all__ = ["warm"]


def warm() -> None:
    """Compile, or load from the cache beside the sources, every kernel of scoring and explaining."""
    ensemble = TreeEnsemble(
        feature_count=1,
        roots=np.array([0], dtype=np.int32),
        feature=np.array([0, -1, -1], dtype=np.int32),
        threshold=np.zeros(3, dtype=np.float32),
        true_child=np.array([1, 0, 0], dtype=np.int32),
        false_child=np.array([2, 0, 0], dtype=np.int32),
        missing_true=np.ones(3, dtype=np.bool_),
        weight=np.array([0, 0, 1], dtype=np.float32),
    )
    kernel = TreeKernel(ensemble)
    scores = kernel.score(np.array([[-1.0], [1.0]], dtype=np.float32))
    fit_calibration(scores).compute_tail(scores)
    one, single = np.ones(1), np.ones(1, np.float32)
    for dense in (
        Distances(single, single, one, one, one[:, None], one),
        Projections(single, single, one, one, one[:, None], one[:, None], one[:, None], one),
    ):
        DenseKernel(dense).score(single[:, None])
    compute_shapley(kernel, np.ones((1, 1), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int64))
