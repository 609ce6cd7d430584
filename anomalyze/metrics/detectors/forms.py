"""What each of PyOD's detectors learns of a table, as plain arrays: they are kept in a file, and they alone score.

So what was kept says of a row what it said when it was learned, to the bit, and no object of a library is stored. Formulas
are those of the versions of PyOD and scikit-learn that trained; tests hold each against PyOD's own scores. Where PyOD
asks a tree for neighbours, a row is held here against all training rows; what is learned by sorting, counting and distances
alone (ECOD, COPOD, HBOS, KDE, KNN, LOF) is learned here, without loading PyOD. ECOD and COPOD count the rows of a call in; here
each row is judged alone, against the training rows.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "learn_form", "score_form"]

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]
# Distances that are reckoned with at once: 40 MB.
DISTANCES_AT_ONCE = 5_000_000
# PyOD's defaults.
HBOS_BINS, HBOS_FLOOR, HBOS_TOLERANCE = 10, 0.1, 0.5
KNN_NEIGHBOURS, LOF_NEIGHBOURS = 5, 20


def learn_form(name: str, table: Floats, seed: int) -> tuple[Arrays, Floats]:
    """Train on a table; its arrays, and the training rows' own scores: of detectors that look for neighbours, without
    the row itself among them.

    Parameters
    ----------
    name
        One of `setting.PYOD_NAMES`.
    table
        float64 ``[N, k]``, finite.
    """
    learn = _FORMS[name][0]
    return learn(table, seed)


def score_form(name: str, arrays: Arrays, rows: Floats) -> Floats:
    """How strange rows ``[n, k]`` are, ``[n]``, higher = stranger; a row's score does not depend on the others."""
    return _FORMS[name][1](arrays, rows)


def _trained(name: str, class_name: str, table: Floats, **options: Any) -> Any:
    module = importlib.import_module(f"pyod.models.{name}")
    return getattr(module, class_name)(**options).fit(table)


def _learn_forest(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    """Nodes of all trees one behind the other, each tree from its root down, the lower branch first.

    A value is cut to float32 and goes to the lower branch up to the threshold, which is therefore rounded towards minus
    infinity. Of a leaf (feature -1), ``right`` is the number of training rows that reached it.
    """
    model = _trained("iforest", "IForest", table, random_state=seed, n_jobs=1)
    feature, threshold, right, roots = list[Any](), list[Any](), list[Any](), [0]
    for member in model.estimators_:
        tree = member.tree_
        branch = tree.children_left >= 0
        if (tree.children_left[branch] != np.flatnonzero(branch) + 1).any():
            raise ValueError("trees whose lower branch comes first were expected of scikit-learn, got others")
        near = tree.threshold.astype(np.float32)
        down = np.where(near > tree.threshold, np.nextafter(near, np.float32(-np.inf)), near)
        feature.append(np.where(branch, tree.feature, -1).astype(np.int8))
        threshold.append(down.astype(np.float32))
        right.append(np.where(branch, tree.children_right, tree.n_node_samples).astype(np.int16))
        roots.append(roots[-1] + tree.node_count)
    depth = max(member.tree_.max_depth for member in model.estimators_)
    numbers = np.array(
        [depth, len(model.estimators_) * _path_length(np.array([model.max_samples_]))[0], model.offset_]
    )
    arrays = {
        "feature": np.concatenate(feature),
        "threshold": np.concatenate(threshold),
        "right": np.concatenate(right),
        "roots": np.array(roots[:-1], np.int32),
        "numbers": numbers,
    }
    return arrays, np.asarray(model.decision_scores_, np.float64)


def _score_forest(arrays: Arrays, rows: Floats) -> Floats:
    feature, threshold, right, roots = (arrays[name] for name in ("feature", "threshold", "right", "roots"))
    depth, longest, offset = arrays["numbers"].tolist()
    cut, place = rows.astype(np.float32), np.arange(len(rows))[:, None]
    node = np.broadcast_to(roots, (len(rows), len(roots))).astype(np.int64)
    length = np.zeros(node.shape)
    for _ in range(int(depth)):
        column = feature[node]
        is_branch = column >= 0
        lower = cut[place, np.maximum(column, 0)] <= threshold[node]
        node = np.where(is_branch, np.where(lower, node + 1, roots + right[node]), node)
        length += is_branch
    length += _path_length(right[node])
    return np.asarray(2.0 ** (-length.sum(axis=1) / longest) + offset)


def _path_length(rows: npt.NDArray[Any]) -> Floats:
    """Steps of an unsuccessful search in a tree of so many rows (Liu, Ting and Zhou, ICDM 2008, equation 1)."""
    count = np.maximum(rows.astype(np.float64), 3.0)
    many = 2.0 * (np.log(count - 1.0) + np.euler_gamma) - 2.0 * (count - 1.0) / count
    return np.where(rows <= 1, 0.0, np.where(rows == 2, 1.0, many))


def _learn_pca(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    model = _trained("pca", "PCA", table, random_state=seed)
    arrays = {
        "mean": model.scaler_.mean_,
        "scale": model.scaler_.scale_,
        "axes": model.selected_components_,
        "weight": model.selected_w_components_,
    }
    return arrays, np.asarray(model.decision_scores_, np.float64)


def _score_pca(arrays: Arrays, rows: Floats) -> Floats:
    from scipy.spatial.distance import cdist

    scaled = (rows - arrays["mean"]) / arrays["scale"]
    return np.asarray((cdist(scaled, arrays["axes"]) / arrays["weight"]).sum(axis=1))


def _learn_mcd(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    model = _trained("mcd", "MCD", table, random_state=seed)
    return {"mean": model.location_, "precision": model.precision_}, np.asarray(
        model.decision_scores_, np.float64
    )


def _score_mcd(arrays: Arrays, rows: Floats) -> Floats:
    away = rows - arrays["mean"]
    return np.asarray(np.einsum("ij,jk,ik->i", away, arrays["precision"], away))


def _learn_gmm(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    """Of one component, which is PyOD's default."""
    model = _trained("gmm", "GMM", table, random_state=seed)
    arrays = {"mean": model.means_[0], "root": model.precisions_cholesky_[0]}
    return arrays, np.asarray(model.decision_scores_, np.float64)


def _score_gmm(arrays: Arrays, rows: Floats) -> Floats:
    root = arrays["root"]
    away = np.einsum("ij,jk->ik", rows - arrays["mean"], root)
    constant = 0.5 * len(root) * math.log(2.0 * math.pi) - float(np.log(np.diagonal(root)).sum())
    return np.asarray(0.5 * np.einsum("ij,ij->i", away, away) + constant)


def _learn_ocsvm(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    model = _trained("ocsvm", "OCSVM", table)
    arrays = {
        "table": model.support_vectors_,
        "weight": model.dual_coef_[0],
        "numbers": np.array([model.intercept_[0], 1.0 / table.shape[1]]),
    }
    return arrays, np.asarray(model.decision_scores_, np.float64)


def _score_ocsvm(arrays: Arrays, rows: Floats) -> Floats:
    intercept, gamma = arrays["numbers"].tolist()
    parts = (np.exp(-gamma * square) for _, square in _distances(rows, arrays["table"], "sqeuclidean"))
    return -np.concatenate([(near * arrays["weight"]).sum(axis=1) for near in parts]) - intercept


def _learn_kde(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    arrays = {"table": table}
    return arrays, _score_kde(arrays, table)


def _score_kde(arrays: Arrays, rows: Floats) -> Floats:
    """Gaussian, of bandwidth 1 as PyOD's."""
    table = arrays["table"]
    constant = math.log(len(table)) + 0.5 * table.shape[1] * math.log(2.0 * math.pi)
    found = []
    for _, square in _distances(rows, table, "sqeuclidean"):
        nearest = square.min(axis=1)
        found.append(0.5 * nearest - np.log(np.exp(-0.5 * (square - nearest[:, None])).sum(axis=1)))
    return np.concatenate(found) + constant


def _learn_knn(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    return {"table": table}, _own_neighbours(table, KNN_NEIGHBOURS)[0][:, -1]


def _score_knn(arrays: Arrays, rows: Floats) -> Floats:
    return _neighbours(rows, arrays["table"], KNN_NEIGHBOURS)[0][:, -1]


def _learn_lof(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    near, which = _own_neighbours(table, LOF_NEIGHBOURS)
    reach = near[:, -1]
    density = _density(near, reach[which])
    return {"table": table, "reach": reach, "density": density}, (density[which] / density[:, None]).mean(
        axis=1
    )


def _score_lof(arrays: Arrays, rows: Floats) -> Floats:
    near, which = _neighbours(rows, arrays["table"], LOF_NEIGHBOURS)
    density = _density(near, arrays["reach"][which])
    return np.asarray((arrays["density"][which] / density[:, None]).mean(axis=1))


def _density(near: Floats, reach: Floats) -> Floats:
    """Of local reachability, as scikit-learn has it."""
    return np.asarray(1.0 / (np.maximum(near, reach).mean(axis=1) + 1e-10))


def _learn_tails(table: Floats) -> Arrays:
    from scipy.stats import skew

    return {"table": np.sort(table, axis=0), "lean": np.sign(np.nan_to_num(skew(table, axis=0)))}


def _tails(combine: Callable[[Floats, Floats], Floats], arrays: Arrays, rows: Floats) -> Floats:
    """ECOD (Li et al., TKDE 2022) and COPOD (Li et al., ICDM 2020) of a row judged alone, as PyOD adds them."""
    total, table, lean = np.zeros(len(rows)), arrays["table"], arrays["lean"]
    count = len(table)
    for place in range(table.shape[1]):
        learned, value = np.ascontiguousarray(table[:, place]), rows[:, place]
        left = -np.log((1 + np.searchsorted(learned, value, side="right")) / (count + 1))
        right = -np.log((1 + count - np.searchsorted(learned, value, side="left")) / (count + 1))
        towards = left * -np.sign(lean[place] - 1) + right * np.sign(lean[place] + 1)
        total += np.maximum(towards, combine(left, right))
    return total


def _score_ecod(arrays: Arrays, rows: Floats) -> Floats:
    return _tails(np.maximum, arrays, rows)


def _score_copod(arrays: Arrays, rows: Floats) -> Floats:
    return _tails(lambda left, right: (left + right) / 2, arrays, rows)


def _learn_ecod(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    arrays = _learn_tails(table)
    return arrays, _score_ecod(arrays, table)


def _learn_copod(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    arrays = _learn_tails(table)
    return arrays, _score_copod(arrays, table)


def _learn_hbos(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    parts = [np.histogram(column, bins=HBOS_BINS, density=True) for column in table.T]
    arrays = {
        "density": np.array([part[0] for part in parts]),
        "edges": np.array([part[1] for part in parts]),
    }
    return arrays, _score_hbos(arrays, table)


def _score_hbos(arrays: Arrays, rows: Floats) -> Floats:
    total = np.zeros(len(rows))
    for value, density, edges in zip(rows.T, arrays["density"], arrays["edges"], strict=True):
        told = np.log2(density + HBOS_FLOOR)
        place = np.digitize(value, edges, right=True)
        # Just outside counts as the outermost bin; farther out as the rarest.
        beyond = np.where(
            place == 0,
            edges[0] - value > HBOS_TOLERANCE * (edges[1] - edges[0]),
            (place > HBOS_BINS) & (value - edges[-1] > HBOS_TOLERANCE * (edges[-1] - edges[-2])),
        )
        total -= np.where(beyond, told.min(), told[np.clip(place - 1, 0, HBOS_BINS - 1)])
    return total


def _learn_default(table: Floats, seed: int) -> tuple[Arrays, Floats]:
    from anomalyze.metrics.table import fit_table

    found = fit_table(table, seed)
    return found.arrays(), found.score(table)


def _score_default(arrays: Arrays, rows: Floats) -> Floats:
    from anomalyze.metrics.table import TableDetector

    return TableDetector.of(arrays).score(rows)


def _own_neighbours(table: Floats, wanted: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Of each row of a table the distances to its nearest others, the nearest first, and which they are."""
    from sklearn.neighbors import NearestNeighbors

    near, which = NearestNeighbors(n_neighbors=wanted, n_jobs=1).fit(table).kneighbors()
    return near, which


def _neighbours(rows: Floats, table: Floats, wanted: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distances to the nearest rows of a table, the nearest first, and which they are."""
    near, which = np.empty((len(rows), wanted)), np.empty((len(rows), wanted), np.int64)
    for first, distance in _distances(rows, table, "euclidean"):
        part = slice(first, first + len(distance))
        some = np.argpartition(distance, wanted - 1, axis=1)[:, :wanted]
        order = np.argsort(np.take_along_axis(distance, some, 1), axis=1, kind="stable")
        which[part] = np.take_along_axis(some, order, 1)
        near[part] = np.take_along_axis(distance, which[part], 1)
    return near, which


def _distances(rows: Floats, table: Floats, metric: Any) -> Iterator[tuple[int, Floats]]:
    """To all rows of a table, some rows at a time; each pair by itself, whatever stands beside it."""
    from scipy.spatial.distance import cdist

    step = max(1, DISTANCES_AT_ONCE // len(table))
    for first in range(0, len(rows), step):
        yield first, cdist(rows[first : first + step], table, metric)


_FORMS: dict[
    str, tuple[Callable[[Floats, int], tuple[Arrays, Floats]], Callable[[Arrays, Floats], Floats]]
] = {
    "default": (_learn_default, _score_default),
    "iforest": (_learn_forest, _score_forest),
    "ecod": (_learn_ecod, _score_ecod),
    "copod": (_learn_copod, _score_copod),
    "hbos": (_learn_hbos, _score_hbos),
    "pca": (_learn_pca, _score_pca),
    "knn": (_learn_knn, _score_knn),
    "lof": (_learn_lof, _score_lof),
    "mcd": (_learn_mcd, _score_mcd),
    "ocsvm": (_learn_ocsvm, _score_ocsvm),
    "kde": (_learn_kde, _score_kde),
    "gmm": (_learn_gmm, _score_gmm),
}
