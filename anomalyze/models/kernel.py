"""Compiled evaluation of a tree ensemble, read from its ONNX file; ONNX Runtime is its reference.

float32 values become int32 keys of the same order, once a row, so that a node is eight bytes: its key, its
feature and the place of its first child (the second lies next to it). A leaf is its own child: all rows
walk the same number of levels without a branch that could be mispredicted. Eight walks are interleaved,
to hide the latency of each: of eight rows through one tree, or, for the last few rows of a call, of one
row through eight trees. Either way a row's leaf weights are added in float64 in the order of the trees,
so that its score never depends on the rows it came with.
"""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError, ModelError
from anomalyze.models.export import ensemble_from_onnx
from anomalyze.models.tree import FEATURES_MAX, TreeEnsemble

__all__ = ["TreeKernel"]

_LANES = 8
# The keys of 64 rows and one tree (5 KB) fit the first-level cache together.
_BLOCK_ROWS = 64
_KEY_MAX = np.int32(2**31 - 1)
_KEY_MIN = np.int32(-(2**31))


class TreeKernel:
    """Scores rows of float32 features through a tree ensemble.

    Parameters
    ----------
    ensemble
        The trees.

    Raises
    ------
    ModelError
        When it would need more than 256 columns (an input whose missing values go both ways needs two); ONNX
        Runtime serves such a model.
    """

    def __init__(self, ensemble: TreeEnsemble) -> None:
        self.feature_count = ensemble.feature_count
        ensemble, self._source = _split_inputs(ensemble)
        self._depth = ensemble.compute_depth()
        self._missing = _missing_keys(ensemble)
        self._nodes, self._weights, self._roots = _pack(ensemble)
        self._divisor = np.float32(len(ensemble.roots) if ensemble.average else 1)
        self._base = np.float32(ensemble.base)

    @classmethod
    def from_onnx(cls, data: bytes) -> TreeKernel:
        """Read an ONNX model that is one ``TreeEnsembleRegressor``.

        Raises
        ------
        ModelError
            When the model is another kind: it needs ONNX Runtime.
        ContractError
            When it is no ONNX model or contradicts itself.
        """
        ensemble = ensemble_from_onnx(data)
        if ensemble is None:
            raise ModelError(
                "model: expected one TreeEnsembleRegressor with BRANCH_LEQ nodes, got another graph"
            )
        return cls(ensemble)

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Score rows; higher = stranger for our forests.

        Parameters
        ----------
        rows
            float32 ``[n, feature_count]``; NaN = missing. float64 is converted, to nearest.

        Returns
        -------
        ndarray
            float32 ``[n]``: the ensemble's output.
        """
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.feature_count:
            raise ContractError(
                f"model input: expected [n, {self.feature_count}] values, got shape {rows.shape}"
            )
        if self._source is not None:
            rows = np.ascontiguousarray(rows[:, self._source])
        out = np.empty(len(rows), dtype=np.float32)
        _score(
            rows.view(np.int32), self._missing, self._nodes, self._weights, self._roots, self._depth,
            self._divisor, self._base, out,
        )  # fmt: skip
        return out


def _ordered_keys(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """int32 keys of thresholds, which compare as the floats do; -0.0 is 0.0."""
    bits = (values + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & _KEY_MAX)


def _split_inputs(ensemble: TreeEnsemble) -> tuple[TreeEnsemble, npt.NDArray[np.intp] | None]:
    """The ensemble over columns whose missing values each have one substitute, and the input of each column.

    Boosted trees choose for each split where NaN goes. An input for which no value goes all these ways stands in
    two columns: in one NaN is below every threshold, in the other above.
    """
    feature = ensemble.feature.copy()
    source = list(range(ensemble.feature_count))
    for column in range(ensemble.feature_count):
        goes_true, goes_false = _ways(ensemble, column)
        if not goes_true.any() or not goes_false.any():
            continue
        if ensemble.threshold[goes_false].max() >= ensemble.threshold[goes_true].min():
            feature[goes_true] = len(source)
            source.append(column)
    if len(source) == ensemble.feature_count:
        return ensemble, None
    if len(source) > FEATURES_MAX:
        raise ModelError(f"model: expected at most {FEATURES_MAX} columns, it needs {len(source)}")
    return replace(ensemble, feature=feature, feature_count=len(source)), np.array(source, dtype=np.intp)


def _ways(ensemble: TreeEnsemble, column: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Splits of a column that send NaN the true way, and those that send it the other."""
    of_column = ensemble.feature == column
    return of_column & ensemble.missing_true, of_column & ~ensemble.missing_true


def _missing_keys(ensemble: TreeEnsemble) -> npt.NDArray[np.int32]:
    """For each column the key that stands for NaN: it goes left where NaN does, right where NaN does."""
    substitutes = np.full(ensemble.feature_count, _KEY_MAX, dtype=np.int32)
    for column in range(ensemble.feature_count):
        goes_true, goes_false = _ways(ensemble, column)
        if not goes_true.any():
            continue
        if not goes_false.any():
            substitutes[column] = _KEY_MIN
            continue
        substitutes[column] = _ordered_keys(ensemble.threshold[goes_true].min()[None])[0]
    return substitutes


def _pack(
    ensemble: TreeEnsemble,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Nodes as ``key << 32 | first child << 8 | feature``, siblings adjacent, breadth first by tree."""
    order: list[npt.NDArray[np.int32]] = []
    roots, start = [], 0
    for root in ensemble.roots:
        roots.append(start)
        level = np.array([root], dtype=np.int32)
        while len(level):
            order.append(level)
            start += len(level)
            parents = level[ensemble.feature[level] >= 0]
            level = np.column_stack([ensemble.true_child[parents], ensemble.false_child[parents]]).ravel()
    source = np.concatenate(order)
    place = np.empty(len(source), dtype=np.int64)
    place[source] = np.arange(len(source))
    branch = ensemble.feature[source] >= 0
    child = np.where(branch, place[ensemble.true_child[source]], np.arange(len(source)))
    keys = np.where(branch, _ordered_keys(ensemble.threshold[source]), _KEY_MAX).astype(np.int64)
    nodes = (keys << 32) | (child << 8) | np.where(branch, ensemble.feature[source], 0)
    weights = np.where(branch, np.float32(0), ensemble.weight[source]).astype(np.float32)
    # Trees come in eights: the rest are single leaves of weight zero.
    padding = -len(roots) % _LANES
    if padding:
        place_of_zero = len(nodes)
        nodes = np.append(nodes, (np.int64(_KEY_MAX) << 32) | (place_of_zero << 8))
        weights = np.append(weights, np.float32(0))
        roots += [place_of_zero] * padding
    return nodes, weights, np.array(roots, dtype=np.int64)


@numba.njit(cache=True, nogil=True, inline="always")
def _step(nodes, keys, row, place):  # type: ignore[no-untyped-def]
    node = nodes[place]
    right = keys[row, np.uint64(node & 0xFF)] > (node >> 32)
    return np.uint64(((node >> 8) & 0xFFFFFF) + right)


@numba.njit(cache=True, nogil=True)
def _score(bits, missing, nodes, weights, roots, depth, divisor, base, out):  # type: ignore[no-untyped-def]
    """Fill ``out[n]`` with the ensemble's output for ``bits`` int32 ``[n, k]`` (float32 by their bits)."""
    row_count, feature_count = bits.shape
    keys = np.empty((_BLOCK_ROWS, feature_count), np.int32)
    sums = np.empty(_BLOCK_ROWS, np.float64)
    for start in range(0, row_count, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, row_count - start)
        for r in range(count):
            sums[r] = 0.0
            for f in range(feature_count):
                value = bits[start + r, f]
                if (value & 0x7FFFFFFF) > 0x7F800000:
                    keys[r, f] = missing[f]
                else:  # -0.0 becomes -1, which no threshold can be: it decides as 0.0 does
                    keys[r, f] = value if value >= 0 else value ^ _KEY_MAX
        eights = count - count % _LANES
        _walk_rows(keys, eights, nodes, weights, roots, depth, sums)
        for r in range(eights, count):
            sums[r] = _walk_trees(keys, r, nodes, weights, roots, depth)
        for r in range(count):
            out[start + r] = np.float32(sums[r]) / divisor + base


@numba.njit(cache=True, nogil=True)
def _walk_rows(keys, count, nodes, weights, roots, depth, sums):  # type: ignore[no-untyped-def]
    """Add every tree's leaf weights to ``sums`` of the first ``count`` rows, eight rows at a time."""
    for t in range(roots.shape[0]):
        root = np.uint64(roots[t])
        for r in range(0, count, _LANES):
            a = b = c = d = e = f = g = h = root
            for _ in range(depth):
                a = _step(nodes, keys, r, a)
                b = _step(nodes, keys, r + 1, b)
                c = _step(nodes, keys, r + 2, c)
                d = _step(nodes, keys, r + 3, d)
                e = _step(nodes, keys, r + 4, e)
                f = _step(nodes, keys, r + 5, f)
                g = _step(nodes, keys, r + 6, g)
                h = _step(nodes, keys, r + 7, h)
            sums[r] += weights[a]
            sums[r + 1] += weights[b]
            sums[r + 2] += weights[c]
            sums[r + 3] += weights[d]
            sums[r + 4] += weights[e]
            sums[r + 5] += weights[f]
            sums[r + 6] += weights[g]
            sums[r + 7] += weights[h]


@numba.njit(cache=True, nogil=True)
def _walk_trees(keys, row, nodes, weights, roots, depth):  # type: ignore[no-untyped-def]
    """Sum of one row's leaf weights, eight trees at a time."""
    total = 0.0
    for t in range(0, roots.shape[0], _LANES):
        a = np.uint64(roots[t])
        b = np.uint64(roots[t + 1])
        c = np.uint64(roots[t + 2])
        d = np.uint64(roots[t + 3])
        e = np.uint64(roots[t + 4])
        f = np.uint64(roots[t + 5])
        g = np.uint64(roots[t + 6])
        h = np.uint64(roots[t + 7])
        for _ in range(depth):
            a = _step(nodes, keys, row, a)
            b = _step(nodes, keys, row, b)
            c = _step(nodes, keys, row, c)
            d = _step(nodes, keys, row, d)
            e = _step(nodes, keys, row, e)
            f = _step(nodes, keys, row, f)
            g = _step(nodes, keys, row, g)
            h = _step(nodes, keys, row, h)
        total += weights[a]
        total += weights[b]
        total += weights[c]
        total += weights[d]
        total += weights[e]
        total += weights[f]
        total += weights[g]
        total += weights[h]
    return total
