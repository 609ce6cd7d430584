"""Sums of step functions of one input each, as plain trees: one balanced tree an input.

Histogram and distribution-function detectors (HBOS, ECOD, COPOD) are such sums. A tree of 8,000 steps is 13 levels
deep, so one of them costs the kernel less than a forest does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.models.preparation import Preparation
from anomalyze.models.tree import TreeEnsemble, round_down

__all__ = ["Steps", "fold_steps", "measure_steps"]

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Steps:
    """A function of one float32 input that changes at thresholds only.

    Attributes
    ----------
    threshold
        float32 ``[m]``, ascending.
    value
        float64 ``[m + 1]``: up to and with the first threshold, up to and with the second, …, beyond the last.
    """

    threshold: npt.NDArray[np.float32]
    value: npt.NDArray[np.float64]


def measure_steps(
    score: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    near: npt.NDArray[np.float64],
    lower: float = -np.inf,
) -> Steps:
    """Find where a function of one number steps, for float32 values from ``lower`` on.

    Parameters
    ----------
    score
        The function, for float64 ``[p]``; it steps nowhere but at numbers of ``near``, on either side.
    near
        float64: they may be off by the rounding of float32.

    >>> steps = measure_steps(lambda x: 1.0 * (x >= 2), np.array([1.0, 2.0]))
    >>> [float(t) for t in steps.threshold.round(3)], steps.value.tolist()
    ([2.0], [0.0, 1.0])
    """
    cut = np.unique(round_down(near))
    with np.errstate(over="ignore"):
        cut = np.unique(
            np.concatenate(
                [np.nextafter(cut, np.float32(-np.inf)), cut, np.nextafter(cut, np.float32(np.inf))]
            )
        )
    # A threshold under the clip decides nothing.
    cut = cut[(cut >= lower) & (np.abs(cut) < _LARGEST)]
    value = score(np.append(cut, _LARGEST).astype(np.float64))
    last = np.flatnonzero(np.diff(value) != 0)
    return Steps(cut[last], value[np.append(last, len(value) - 1)])


def fold_steps(columns: Sequence[Steps], preparation: Preparation) -> TreeEnsemble:
    """One tree an input, which takes it as it comes; their sum is the raw score.

    Leaf weights are rounded to a multiple of a power of two, small enough that float32 sums of them are exact in any
    order: every engine and every cut of rows into calls gives the same bits.
    """
    bound = sum(float(np.abs(one.value).max()) for one in columns)
    unit = 2.0 ** (np.ceil(np.log2(bound)) - 24) if bound > 0 else 1.0
    missing = np.maximum(preparation.fill, preparation.lower)
    parts = []
    roots, start = [], 0
    for feature, one in enumerate(columns):
        part = _balance(one, start)
        branch = part.pop("branch")
        part["feature"] = np.where(branch, feature, -1).astype(np.int32)
        part["missing_true"] = branch & (missing[feature] <= part["threshold"])
        part["weight"] = (np.round(part["weight"] / unit) * unit).astype(np.float32)
        parts.append(part)
        roots.append(start)
        start += len(branch)
    joined: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return TreeEnsemble(feature_count=len(columns), roots=np.array(roots, dtype=np.int32), **joined)


def _balance(steps: Steps, start: int) -> dict[str, npt.NDArray[Any]]:
    """Nodes of the tree that halves the intervals until one is left; children count from ``start``."""
    nodes: list[list[float]] = []  # threshold, true child, false child, weight; a leaf has no child
    waiting = [(0, len(steps.threshold), -1, 0)]
    while waiting:
        low, high, parent, side = waiting.pop()
        place = len(nodes)
        if parent >= 0:
            nodes[parent][side] = start + place
        if low == high:
            nodes.append([0.0, 0, 0, steps.value[low]])
            continue
        middle = (low + high) // 2
        nodes.append([steps.threshold[middle], 0, 0, 0.0])
        waiting += [(middle + 1, high, place, 2), (low, middle, place, 1)]
    table = np.array(nodes)
    return {
        "branch": table[:, 1] > 0,
        "threshold": table[:, 0].astype(np.float32),
        "true_child": table[:, 1].astype(np.int32),
        "false_child": table[:, 2].astype(np.int32),
        "weight": table[:, 3],
    }
