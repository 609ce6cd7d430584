"""A tree ensemble as flat arrays: the neutral form between scikit-learn, ONNX and the compiled kernel.

Inputs are float32, converted once. A node sends a row to ``true_child`` when ``x <= threshold`` (both
float32), or, for a missing value (NaN), when ``missing_true`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError

__all__ = ["FEATURES_MAX", "NODES_MAX", "TREES_MAX", "TreeEnsemble", "round_down"]

# A child index has 24 bits in the kernel's nodes, a feature 8.
NODES_MAX = 1 << 24
TREES_MAX = 10_000
FEATURES_MAX = 256
# The kernel walks every row through as many levels as the deepest tree has.
DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class TreeEnsemble:
    """Binary regression trees whose leaf weights are summed (or averaged).

    Attributes
    ----------
    feature_count
        Width of an input row.
    roots
        int32 ``[trees]``: node index of each root.
    feature
        int32 ``[nodes]``: feature compared, -1 at a leaf.
    threshold
        float32 ``[nodes]``.
    true_child, false_child
        int32 ``[nodes]``; of no meaning at a leaf.
    missing_true
        bool ``[nodes]``: where NaN goes.
    weight
        float32 ``[nodes]``: output of a leaf.
    average
        Whether the sum is divided by the number of trees.
    base
        Added at the end.
    """

    feature_count: int
    roots: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    true_child: npt.NDArray[np.int32]
    false_child: npt.NDArray[np.int32]
    missing_true: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]
    average: bool = False
    base: float = 0.0

    @property
    def node_count(self) -> int:
        """Nodes of all trees, leaves included."""
        return len(self.feature)

    def compute_depth(self) -> int:
        """Levels of the deepest tree, checking on the way that every node hangs in exactly one tree.

        Raises
        ------
        ContractError
            On children out of range, shared or cyclic nodes, features out of range, values that are not
            finite, or an ensemble beyond the limits.
        """
        nodes, trees = self.node_count, len(self.roots)
        if (
            not 0 < trees <= TREES_MAX
            or not 0 < nodes <= NODES_MAX
            or not 0 < self.feature_count <= FEATURES_MAX
        ):
            raise ContractError(
                f"tree ensemble: expected 1 to {TREES_MAX} trees, {NODES_MAX} nodes and {FEATURES_MAX} features,"
                f" got {trees}, {nodes} and {self.feature_count}"
            )
        branch = self.feature >= 0
        if self.feature.min() < -1 or self.feature.max() >= self.feature_count:
            raise ContractError(
                f"tree ensemble: a node compares a feature beyond the {self.feature_count} inputs"
            )
        if np.isnan(self.threshold[branch]).any() or not np.isfinite(self.weight[~branch]).all():
            raise ContractError("tree ensemble: a threshold or a leaf weight is not a finite number")
        if not np.isfinite(self.base):
            raise ContractError(f"tree ensemble: expected a finite base value, got {self.base}")
        seen = np.zeros(nodes, dtype=np.bool_)
        level, depth = self.roots, -1
        while len(level):
            if (
                level.min() < 0
                or level.max() >= nodes
                or seen[level].any()
                or len(np.unique(level)) != len(level)
            ):
                raise ContractError("tree ensemble: a node has two parents, none, or lies outside the file")
            seen[level] = True
            depth += 1
            if depth > DEPTH_MAX:
                raise ContractError(f"tree ensemble: deeper than {DEPTH_MAX} levels")
            parents = level[branch[level]]
            level = np.concatenate([self.true_child[parents], self.false_child[parents]])
        if not seen.all():
            raise ContractError(f"tree ensemble: {nodes - int(seen.sum())} nodes belong to no tree")
        return depth


def round_down(thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Largest float32 not above each threshold, so that for float32 x: ``x <= t`` decides as before.

    >>> float(round_down(np.array([0.1]))[0]) <= 0.1 < float(np.nextafter(round_down(np.array([0.1])), np.float32(1))[0])
    True
    """
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and then rounded to the largest
        rounded = thresholds.astype(np.float32)
    above = rounded.astype(np.float64) > thresholds
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded
