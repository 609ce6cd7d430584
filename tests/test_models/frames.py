"""Frames of features like those of ordinary payments, and a slow, obvious way to walk a tree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyze.models.forest import DEFAULT_INPUTS
from anomalyze.models.tree import TreeEnsemble

NAMES = tuple(i.name for i in DEFAULT_INPUTS)


def make_frame(rows: int, seed: int, missing: float = 0.05) -> npt.NDArray[np.float64]:
    """float64 ``[rows, 9]`` in the order of ``DEFAULT_INPUTS``, with ties, heavy tails and gaps."""
    rng = np.random.default_rng(seed)
    frame = np.column_stack(
        [
            rng.normal(0, 0.6, rows),
            rng.normal(0, 1.2, rows) + 8 * (rng.random(rows) < 0.01),
            np.maximum(0, rng.normal(-0.5, 0.6, rows)),
            rng.lognormal(3.5, 1.1, rows).round(2),
            rng.lognormal(3.7, 1.0, rows).round(2),
            rng.exponential(1.0, rows),
            rng.exponential(10, rows),
            1.0 * (rng.random(rows) < 0.02),
            rng.exponential(1.0, rows),
        ]
    )
    frame[rng.random(frame.shape) < missing] = np.nan
    return frame


def walk(ensemble: TreeEnsemble, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Sum of leaf weights, one comparison at a time."""
    out = []
    for row in rows:
        total = 0.0
        for root in ensemble.roots:
            node = int(root)
            while ensemble.feature[node] >= 0:
                value = row[ensemble.feature[node]]
                goes_true = (
                    ensemble.missing_true[node] if np.isnan(value) else value <= ensemble.threshold[node]
                )
                node = int(ensemble.true_child[node] if goes_true else ensemble.false_child[node])
            total += float(ensemble.weight[node])
        out.append(total)
    return np.array(out)


def beside_thresholds(
    ensemble: TreeEnsemble, rows: npt.NDArray[np.float32], seed: int
) -> npt.NDArray[np.float32]:
    """The rows with half of their values moved onto a threshold of that feature, or one step beside it."""
    rng = np.random.default_rng(seed)
    out = rows.copy()
    for feature in range(ensemble.feature_count):
        thresholds = ensemble.threshold[ensemble.feature == feature]
        if len(thresholds):
            chosen = rng.choice(thresholds, len(rows))
            step = rng.choice(np.array([-np.inf, 0, np.inf], dtype=np.float32), len(rows))
            moved = np.where(step == 0, chosen, np.nextafter(chosen, step)).astype(np.float32)
            out[:, feature] = np.where(rng.random(len(rows)) < 0.5, moved, out[:, feature])
    return out
