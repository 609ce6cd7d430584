"""PyOD's detectors by their names: how they are trained, and how they are exported.

Beside the isolation forest those serve that can be written as few cheap nodes of ONNX: HBOS
(Goldstein and Dengel, 2012), COPOD (Li et al., ICDM 2020) and ECOD (Li et al., TKDE 2022) are sums of step functions
of one input each; PCA is a sum of distances, LODA one of histograms of projections (``models.dense``). PyOD trains; nothing
of PyOD's serves. No row of training travels; of ECOD and COPOD each input's values do, sorted.

ECOD and COPOD have no fixed training set in PyOD: each call counts its own rows in. The exported score is PyOD's for a
row that is judged alone, ``-log((1 + #{x_i <= x}) / (n + 1))`` and its mirror image of each input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.models.dense import Dense, Distances, Projections
from anomalyze.models.preparation import Preparation, fit_preparation
from anomalyze.models.steps import Steps, fold_steps, measure_steps
from anomalyze.models.tree import TreeEnsemble

__all__ = ["Named", "fold_named", "train_named"]

_BY_TAIL, _SCALED = ("ecod", "copod"), ("pca", "loda")
# Distribution functions of so many rows, evenly spaced in the log: each row is a step of every input.
ECDF_ROWS_MAX = 1_024
# PyOD counts every row of a call in, so a row has to be judged alone: a few ms each.
ALONE_ROWS_MAX = 64

# Of a histogram's width: far above the rounding of a sum, far below what tells payments apart.
_EDGE_SHIFT = 1e-9


@dataclass(frozen=True, slots=True)
class Named:
    """A detector that PyOD trained.

    Attributes
    ----------
    name
        One of ``detector.DETECTORS``, not the forest.
    estimator
        PyOD's, over prepared rows.
    preparation
        What its rows went through.
    learned
        float64 ``[m, k]``: the prepared rows that it was fitted on.
    mean, factor
        float64 ``[k]``: subtracted from those, and multiplied; a factor of zero leaves an input out.
    """

    name: str
    estimator: Any
    preparation: Preparation
    learned: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    factor: npt.NDArray[np.float64]

    @property
    def is_alone(self) -> bool:
        """Whether PyOD's score of a row depends on the rows judged with it."""
        return self.name in _BY_TAIL

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Raw scores ``[n]`` by PyOD itself: the reference of the parity gate."""
        prepared = _standardise(self.preparation.apply(rows).astype(np.float64), self.mean, self.factor)
        if not self.is_alone:
            return np.asarray(self.estimator.decision_function(prepared), dtype=np.float64)
        return np.array([self.estimator.decision_function(row[None])[0] for row in prepared])


def train_named(rows: npt.NDArray[np.float32], one_sided: Sequence[bool], name: str, *, seed: int) -> Named:
    """Fit one of PyOD's detectors on float32 ``[n, k]`` rows in the order of their log; NaN = missing.

    Raises
    ------
    ContractError
        As of ``fit_preparation``.
    """
    preparation = fit_preparation(rows, one_sided)
    learned = preparation.apply(rows).astype(np.float64)
    mean, factor = np.zeros(learned.shape[1]), np.ones(learned.shape[1])
    if name in _BY_TAIL:
        learned = learned[np.linspace(0, len(learned) - 1, min(len(learned), ECDF_ROWS_MAX)).astype(np.intp)]
    if name in _SCALED:
        # Directions mix inputs of different units. One that never varies has no scale: it is left out.
        mean, spread = learned.mean(axis=0), learned.std(axis=0)
        factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    estimator = _build(name, seed)
    estimator.fit(_standardise(learned, mean, factor))
    if name == "loda":
        # The first edge is the smallest projection, which all ordinary rows share once they are clipped: whether they
        # lie beyond it would hang on the order in which a library adds.
        estimator.limits_ += _EDGE_SHIFT * np.ptp(estimator.limits_, axis=1, keepdims=True)
    return Named(name, estimator, preparation, learned, mean, factor)


def _standardise(
    rows: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], factor: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What PyOD is given of prepared rows ``[n, k]``: the inputs that it reads."""
    return ((rows - mean) * factor)[:, factor > 0]


def _build(name: str, seed: int) -> Any:
    """PyOD's detector of that name. Only who trains pays for the import: a second and 200 MB."""
    if name == "hbos":
        from pyod.models.hbos import HBOS

        return HBOS(n_bins=HBOS_BINS)
    if name == "ecod":
        from pyod.models.ecod import ECOD

        return ECOD()
    if name == "copod":
        from pyod.models.copod import COPOD

        return COPOD()
    if name == "pca":
        from pyod.models.pca import PCA

        return PCA(standardization=False, random_state=seed)
    from pyod.models.loda import LODA

    return LODA(random_state=seed)


HBOS_BINS = 10


def fold_named(named: Named) -> TreeEnsemble | Dense:
    """The detector as a model that takes raw float32 inputs: trees whose sum is the raw score, or arrays."""
    if named.name == "pca":
        return _fold_pca(named)
    if named.name == "loda":
        return _fold_loda(named)
    measure = _measure_hbos if named.name == "hbos" else _measure_ecdf
    return fold_steps([measure(named, i) for i in range(named.learned.shape[1])], named.preparation)


def _measure_hbos(named: Named, column: int) -> Steps:
    """The histogram of one input: PyOD's own, by itself."""
    one = copy(named.estimator)
    one.bin_edges_, one.hist_ = one.bin_edges_[:, [column]], one.hist_[:, [column]]

    def score(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(one.decision_function(values[:, None]), dtype=np.float64)

    edges = one.bin_edges_
    ends = edges[0] - one.tol * (edges[1] - edges[0]), edges[-1] + one.tol * (edges[-1] - edges[-2])
    return measure_steps(score, np.concatenate([edges[:, 0], *ends]), float(named.preparation.lower[column]))


def _measure_ecdf(named: Named, column: int) -> Steps:
    """Minus the logarithm of the smaller tail (ECOD), or of the tail towards the skew (COPOD)."""
    from scipy.stats import skew

    learned = np.sort(named.learned[:, column])
    count = len(learned)
    lean = float(np.sign(np.nan_to_num(skew(learned)))) if learned[0] < learned[-1] else 0.0
    middle: Callable[..., npt.NDArray[np.float64]] = np.maximum if named.name == "ecod" else _mean

    def score(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        left = -np.log((1 + np.searchsorted(learned, values, side="right")) / (count + 1))
        right = -np.log((1 + count - np.searchsorted(learned, values, side="left")) / (count + 1))
        towards = left * -np.sign(lean - 1) + right * np.sign(lean + 1)
        return np.maximum(towards, middle(left, right))

    return measure_steps(score, np.unique(learned), float(named.preparation.lower[column]))


def _mean(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (a + b) / 2


def _fold_pca(named: Named) -> Distances:
    """Distances to the components, each over its share of the variance, as PyOD adds them."""
    one = named.estimator
    return Distances(
        *_folded(named),
        direction=_widened(named, one.selected_components_),
        weight=one.selected_w_components_,
    )


def _fold_loda(named: Named) -> Projections:
    """Minus the logarithm of each projection's histogram; PyOD compares with all edges but the last two."""
    one = named.estimator
    height = -np.log(one.histograms_) * one.weights[:, None] / one.n_random_cuts
    return Projections(
        *_folded(named),
        direction=_widened(named, one.projections_),
        edge=one.limits_[:, : one.n_bins - 1],
        jump=np.diff(height, axis=1),
        base=height[:, 0],
    )


def _folded(named: Named) -> tuple[Any, Any, Any, Any]:
    return named.preparation.fill, named.preparation.lower, named.mean, named.factor


def _widened(named: Named, directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Directions over all inputs, those left out too."""
    wide = np.zeros((len(directions), len(named.factor)))
    wide[:, named.factor > 0] = directions
    return wide
