"""The isolation forest: trained by scikit-learn, folded into plain trees.

Its preparation of inputs (``models.preparation``) folds exactly into the trees: a split under the clip always
goes right and is pruned, every other split decides ``max(x, lower) <= t`` as ``x <= t``, and NaN follows the
median's way.

The raw score is ``-E[h(x)] / c(psi)``, log2 of the anomaly score of Liu, Ting, Zhou, "Isolation-based
anomaly detection", TKDD 2012, eq. 2. Higher = stranger; it is additive over trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anomalyze.models.preparation import Preparation, fit_preparation
from anomalyze.models.tree import TreeEnsemble, round_down

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

__all__ = ["AMOUNT_INPUTS", "DEFAULT_INPUTS", "GROUPS", "Forest", "ModelInput", "fold_forest", "train_forest"]

GROUPS = ("amount", "speed", "place", "device", "merchant", "time")
TREES = 100
# On weeks before the test weeks trees of 512 rows ranked as well as those of 4,096 on FDH (average precision .336
# and .329), far better on Sparkov (.52 and .45), and are shallower.
SAMPLES_MAX = 512


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A feature that the model reads.

    Attributes
    ----------
    name
        Feature name, as in ``features.yaml``.
    group
        What it belongs to in an explanation: one of ``GROUPS``.
    one_sided
        Whether only values above the median can be strange.
    """

    name: str
    group: str
    one_sided: bool = True


# Own-history ratios of the amount.
AMOUNT_INPUTS = (
    ModelInput("user_amount_lr", "amount"),
    ModelInput("user_amount_z90", "amount"),
    ModelInput("user_amount_excess_3d", "amount"),
    ModelInput("amount_base", "amount"),
)
# With what gives the score, and its explanation, the other groups. Chosen on weeks before the test weeks
# (docs/detection.md): money spent in an hour says more than the number of payments in it.
DEFAULT_INPUTS = (
    *AMOUNT_INPUTS,
    ModelInput("user_amount_sum_1h", "speed"),
    ModelInput("user_spend_24h_ratio", "speed"),
    ModelInput("travel_kmh", "place"),
    ModelInput("is_new_device", "device"),
    ModelInput("hour_rarity", "time"),
)


@dataclass(frozen=True, slots=True)
class Forest:
    """A trained isolation forest with its preparation of inputs.

    Attributes
    ----------
    estimator
        scikit-learn's forest over prepared rows.
    preparation
        What its rows went through.
    """

    estimator: IsolationForest
    preparation: Preparation

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Raw scores ``[n]`` by scikit-learn itself: the reference of the parity gate."""
        return np.log2(-self.estimator.score_samples(self.preparation.apply(rows)))


def train_forest(
    rows: npt.NDArray[np.float32],
    one_sided: Sequence[bool],
    *,
    seed: int,
    trees: int = TREES,
    samples_max: int = SAMPLES_MAX,
) -> Forest:
    """Fit on float32 ``[n, k]`` rows in the order of their log; NaN = missing.

    Raises
    ------
    ContractError
        On fewer than two rows, infinite values, or an input without a single value.
    """
    preparation = fit_preparation(rows, one_sided)
    # Only who trains pays for it: 100 MB and a second.
    from sklearn.ensemble import IsolationForest

    estimator = IsolationForest(
        n_estimators=trees, max_samples=min(samples_max, len(rows)), random_state=seed
    )
    estimator.fit(preparation.apply(rows))
    return Forest(estimator, preparation)


def fold_forest(forest: Forest) -> TreeEnsemble:
    """The forest as trees that take raw float32 inputs and whose sum is the raw score.

    Leaf weights are rounded to a multiple of a power of two, small enough that float32 sums of them are
    exact in any order: every engine and every cut of rows into calls gives the same bits. The rounding
    moves the anomaly score by less than 5e-6.
    """
    members = forest.estimator.estimators_
    scale = len(members) * _average_path(np.array([forest.estimator.max_samples_]))[0]
    trees = [_fold_tree(member.tree_, forest, scale) for member in members]
    bound = sum(float(-t["weight"].min()) for t in trees)
    unit = 2.0 ** (np.ceil(np.log2(bound)) - 24) if bound > 0 else 1.0
    feature_count = len(forest.preparation.fill)
    parts: list[dict[str, npt.NDArray[Any]]] = []
    roots, start = [], 0
    for tree in trees:
        tree["weight"] = (np.round(tree["weight"] / unit) * unit).astype(np.float32)
        part = _simplify(tree)
        part["true_child"] += start
        part["false_child"] += start
        parts.append(part)
        roots.append(start)
        start += len(part["feature"])
    columns: dict[str, Any] = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return TreeEnsemble(feature_count=feature_count, roots=np.array(roots, dtype=np.int32), **columns)


def _average_path(samples: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """c(n): mean path of an unsuccessful search among n (Liu et al. eq. 1), as scikit-learn has it.

    >>> _average_path(np.array([1, 2, 256])).round(3).tolist()
    [0.0, 1.0, 10.245]
    """
    n = np.maximum(samples.astype(np.float64), 1.0)
    with np.errstate(divide="ignore"):
        beyond_two = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, beyond_two))


def _fold_tree(tree: Any, forest: Forest, scale: float) -> dict[str, npt.NDArray[Any]]:
    """One scikit-learn tree with float32 thresholds, ways for NaN, and weights ``-(depth + c(n)) / scale``."""
    fill, lower = forest.preparation.fill, forest.preparation.lower
    branch = tree.children_left >= 0
    feature = np.where(branch, tree.feature, -1)
    threshold = np.where(branch, round_down(tree.threshold), np.float32(0)).astype(np.float32)
    depth = np.zeros(tree.node_count)
    for node in np.flatnonzero(branch):  # parents come before their children
        depth[tree.children_left[node]] = depth[tree.children_right[node]] = depth[node] + 1
    path = depth + _average_path(tree.n_node_samples)
    return {
        "feature": feature.astype(np.int32),
        "threshold": threshold,
        "true_child": tree.children_left.astype(np.int32),
        "false_child": tree.children_right.astype(np.int32),
        "missing_true": branch & (np.maximum(fill, lower)[feature] <= threshold),
        "always_false": branch & (lower[feature] > threshold),
        "weight": np.where(branch, 0.0, -path / scale),
    }


def _simplify(tree: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The same function with fewer nodes: no split under the clip, none between two equal leaves."""
    feature, weight = tree["feature"].copy(), tree["weight"].copy()
    left, right = tree["true_child"].copy(), tree["false_child"].copy()
    stands_for = np.arange(len(feature), dtype=np.int32)
    for node in np.flatnonzero(feature >= 0)[::-1]:
        left[node], right[node] = stands_for[left[node]], stands_for[right[node]]
        a, b = left[node], right[node]
        if tree["always_false"][node]:
            stands_for[node] = b
        elif feature[a] < 0 and feature[b] < 0 and weight[a] == weight[b]:
            feature[node], weight[node] = -1, weight[a]
    kept: list[int] = []
    stack = [int(stands_for[0])]
    while stack:
        node = stack.pop()
        kept.append(node)
        if feature[node] >= 0:
            stack += [int(right[node]), int(left[node])]
    place = np.zeros(len(feature), dtype=np.int32)
    place[kept] = np.arange(len(kept))
    branch = feature[kept] >= 0
    return {
        "feature": feature[kept],
        "threshold": np.where(branch, tree["threshold"][kept], np.float32(0)).astype(np.float32),
        "true_child": np.where(branch, place[left[kept]], 0).astype(np.int32),
        "false_child": np.where(branch, place[right[kept]], 0).astype(np.int32),
        "missing_true": branch & tree["missing_true"][kept],
        "weight": np.where(branch, np.float32(0), weight[kept]).astype(np.float32),
    }
