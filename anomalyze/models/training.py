"""From a frame of features to a model that can be served: detector, ONNX, calibration, and the parity gate.

Everything downstream of the frame is a function of its rows in their order and the seed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError
from anomalyze.models.calibration import Calibration, fit_calibration
from anomalyze.models.dense import dense_to_onnx
from anomalyze.models.detector import FOREST
from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import (
    DEFAULT_INPUTS,
    SAMPLES_MAX,
    TREES,
    Forest,
    ModelInput,
    fold_forest,
    train_forest,
)
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.runtime import OnnxScorer, load_scorer
from anomalyze.models.tree import TreeEnsemble
from anomalyze.models.unsupervised import ALONE_ROWS_MAX, Named, fold_named, train_named

__all__ = [
    "PARITY_MAX",
    "TrainedModel",
    "check_named_parity",
    "check_parity",
    "select_inputs",
    "threshold_probes",
    "train_bundle_model",
]

PARITY_MAX = 1e-5
_PROBES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a bundle takes from a training run.

    Attributes
    ----------
    onnx
        The model's file.
    inputs
        Its inputs in their order; those without a value in training are left out.
    reference
        float32 ``[k]``: the most ordinary real row of training, to explain others against.
    calibration
        Of raw scores over all rows of training.
    window
        First and last instant of training, as given.
    metrics
        Figures of the run.
    detector
        What it is, of ``detector.DETECTORS``; of no meaning for a supervised model.
    """

    onnx: bytes
    inputs: tuple[ModelInput, ...]
    reference: npt.NDArray[np.float32]
    calibration: Calibration
    window: tuple[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    detector: str = FOREST


def train_bundle_model(
    features: npt.NDArray[np.float64],
    names: Sequence[str],
    *,
    window: tuple[str, str],
    seed: int = 0,
    inputs: Sequence[ModelInput] = DEFAULT_INPUTS,
    label_p: float = 0.005,
    trees: int = TREES,
    samples_max: int = SAMPLES_MAX,
    detector: str = FOREST,
) -> TrainedModel:
    """Train, export, calibrate, and refuse what does not serve as it was trained.

    Parameters
    ----------
    features
        float64 ``[n, F]``, NaN = NULL, rows in the order of their log.
    names
        Feature names of the columns.
    window
        First and last instant of the rows, RFC 3339.
    label_p
        Share of history beyond the label ANOMALY.
    trees, samples_max
        Size of the isolation forest.
    detector
        One of ``detector.DETECTORS``.

    Raises
    ------
    ContractError
        On unknown inputs, too little data, or when the exported scores leave the trained model's by more
        than 1e-5, or one label.
    """
    used, rows = select_inputs(features, names, inputs)
    one_sided = [i.one_sided for i in used]
    if detector == FOREST:
        made = _export_forest(rows, one_sided, seed, trees, samples_max)
    else:
        made = _export_named(rows, one_sided, seed, detector)
    scores = load_scorer(made.onnx).score(rows)
    calibration = fit_calibration(scores, label_p)
    difference = made.check(calibration)
    return TrainedModel(
        onnx=made.onnx,
        inputs=used,
        reference=rows[int(np.argmin(scores))].copy(),
        calibration=calibration,
        window=window,
        metrics={
            "rows": float(len(rows)),
            "inputs": float(len(used)),
            **made.figures,
            "seed": float(seed),
            "parity_difference_max": difference,
            "labelled_share": float(calibration.compute_labels(scores).mean()),
        },
        detector=detector,
    )


@dataclass(frozen=True, slots=True)
class _Exported:
    """A trained model's file, figures of its size, and its parity gate, which wants the calibration."""

    onnx: bytes
    figures: Mapping[str, float]
    check: Callable[[Calibration], float]


def _export_forest(
    rows: npt.NDArray[np.float32], one_sided: Sequence[bool], seed: int, trees: int, samples_max: int
) -> _Exported:
    forest = train_forest(rows, one_sided, seed=seed, trees=trees, samples_max=samples_max)
    ensemble = fold_forest(forest)
    onnx = ensemble_to_onnx(ensemble)
    return _Exported(
        onnx, _size(ensemble), lambda calibration: check_parity(forest, ensemble, onnx, calibration, rows)
    )


def _export_named(
    rows: npt.NDArray[np.float32], one_sided: Sequence[bool], seed: int, detector: str
) -> _Exported:
    named = train_named(rows, one_sided, detector, seed=seed)
    made = fold_named(named)
    if isinstance(made, TreeEnsemble):
        onnx, probes, figures = ensemble_to_onnx(made), threshold_probes(made, rows), _size(made)
    else:
        onnx, probes, figures = dense_to_onnx(made), rows[:0], {}
    return _Exported(
        onnx, figures, lambda calibration: check_named_parity(named, onnx, probes, calibration, rows)
    )


def _size(ensemble: TreeEnsemble) -> dict[str, float]:
    return {"trees": float(len(ensemble.roots)), "nodes": float(ensemble.node_count)}


def select_inputs(
    features: npt.NDArray[np.float64], names: Sequence[str], inputs: Sequence[ModelInput]
) -> tuple[tuple[ModelInput, ...], npt.NDArray[np.float32]]:
    """The inputs that have a value at all, and their columns, float32 ``[n, k]``.

    Raises
    ------
    ContractError
        An input is not among the features, or none has a value.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] != len(names):
        raise ContractError(f"training: expected [n, {len(names)}] features, got shape {features.shape}")
    columns = {name: index for index, name in enumerate(names)}
    for wanted in (i.name for i in inputs):
        if wanted not in columns:
            near = difflib.get_close_matches(wanted, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ContractError(f"training: input {wanted!r} is not among the features{hint}")
    used = tuple(i for i in inputs if not np.isnan(features[:, columns[i.name]]).all())
    if not used:
        raise ContractError(
            "training: no input has a single value; the frame is empty or from another source"
        )
    return used, features[:, [columns[i.name] for i in used]].astype(np.float32)


def check_parity(
    forest: Forest,
    ensemble: TreeEnsemble,
    onnx: bytes,
    calibration: Calibration,
    rows: npt.NDArray[np.float32],
) -> float:
    """Largest distance between the trained model's anomaly scores and the exported one's.

    Held over all rows of training and over probes that lie on and beside the splits' thresholds; both
    engines answer.

    Raises
    ------
    ContractError
        When it exceeds 1e-5, a label differs, or the two engines do.
    """
    held = np.concatenate([rows, threshold_probes(ensemble, rows)])
    trained = forest.score(held)
    exported = OnnxScorer(onnx).score(held)
    difference = float(np.abs(np.exp2(trained) - np.exp2(exported.astype(np.float64))).max())
    if not difference <= PARITY_MAX:
        raise ContractError(
            f"parity: exported scores leave the trained ones by {difference:.2e}, allowed {PARITY_MAX}"
        )
    if not np.array_equal(exported, TreeKernel.from_onnx(onnx).score(held)):
        raise ContractError("parity: ONNX Runtime and the compiled kernel score the same model differently")
    # Only the cut's distance from real rows was chosen; a probe may lie on it by chance.
    labels = calibration.compute_labels(exported[: len(rows)])
    flipped = int((labels != (trained[: len(rows)] > calibration.cut)).sum())
    if flipped:
        raise ContractError(
            f"parity: {flipped} of {len(rows)} labels of the exported model differ from the trained"
        )
    return difference


def check_named_parity(
    named: Named,
    onnx: bytes,
    probes: npt.NDArray[np.float32],
    calibration: Calibration,
    rows: npt.NDArray[np.float32],
) -> float:
    """Largest distance between PyOD's scores and those of the engine that serves, relative to PyOD's.

    A score near zero counts as one standard deviation of the scores.

    Held over all rows of training, the probes, and rows with one value missing; where PyOD has to be asked for each row
    alone, over evenly spaced ones of each.

    Raises
    ------
    ContractError
        When it exceeds 1e-5, a label differs, or ONNX Runtime does.
    """
    if named.is_alone:
        rows, probes = (part[:: -(-len(part) // ALONE_ROWS_MAX) or 1] for part in (rows, probes))
    gaps = rows[: rows.shape[1]].copy()
    gaps[np.arange(len(gaps)), np.arange(len(gaps))] = np.nan
    held = np.concatenate([rows, probes, gaps])
    trained = named.score(held)
    served = load_scorer(onnx).score(held)
    unit = np.maximum(np.abs(trained), float(trained.std()) or 1.0)
    difference = float((np.abs(served - trained) / unit).max())
    if not difference <= PARITY_MAX:
        raise ContractError(
            f"parity: exported scores leave PyOD's {named.name} by {difference:.2e}, allowed {PARITY_MAX}"
        )
    part = slice(-_PROBES_MAX, None)
    runtime = float((np.abs(OnnxScorer(onnx).score(held[part]) - served[part]) / unit[part]).max())
    if not runtime <= PARITY_MAX:
        raise ContractError(
            f"parity: ONNX Runtime and the compiled kernel differ by {runtime:.2e}, allowed {PARITY_MAX}"
        )
    labels = calibration.compute_labels(served[: len(rows)])
    flipped = int((labels != (trained[: len(rows)] > calibration.cut)).sum())
    if flipped:
        raise ContractError(
            f"parity: {flipped} of {len(rows)} labels of the exported {named.name} differ from PyOD's"
        )
    return difference


def threshold_probes(ensemble: TreeEnsemble, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of training with one value replaced by a threshold or one of its float32 neighbours."""
    branches = np.flatnonzero(ensemble.feature >= 0)
    if not len(branches):
        return rows[:0]
    picked = branches[np.linspace(0, len(branches) - 1, min(len(branches), _PROBES_MAX)).astype(np.int64)]
    probes = rows[np.arange(len(picked)) % len(rows)].copy()
    threshold = ensemble.threshold[picked]
    with np.errstate(over="ignore"):  # the neighbour of the largest float32 is infinite
        above = np.nextafter(threshold, np.float32(np.inf))
    neighbours = np.stack([threshold, above, np.nextafter(threshold, np.float32(-np.inf))])
    probes[np.arange(len(picked)), ensemble.feature[picked]] = neighbours[
        np.arange(len(picked)) % 3, np.arange(len(picked))
    ]
    return probes
