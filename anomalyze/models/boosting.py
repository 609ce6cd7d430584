"""Boosted trees that learn from labels: trained by LightGBM, folded into plain trees.

The fit was chosen on weeks before the ones it was measured on: small trees, all frauds and a fifth of the
genuine payments at five times the weight, fine bins, since what tells a fraud is at the ends of its inputs.
The raw score is the log odds of fraud; higher = stranger; it is additive over trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError
from anomalyze.models.calibration import fit_calibration
from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import ModelInput
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.runtime import OnnxScorer
from anomalyze.models.training import PARITY_MAX, TrainedModel, select_inputs, threshold_probes
from anomalyze.models.tree import TreeEnsemble, round_down

if TYPE_CHECKING:
    from lightgbm import Booster

__all__ = [
    "DEFAULT_FIT",
    "FRAUDS_MIN",
    "SUPERVISED_INPUTS",
    "Fit",
    "fold_boosting",
    "train_boosting",
    "train_supervised",
]

# With fewer, nothing is learned that a rule would not say better.
FRAUDS_MIN = 50
INFINITE = 1e300
GENUINE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit may vary in: LightGBM's parameters of these names, and how many trees (``rounds``)."""

    learning_rate: float = 0.05
    max_depth: int = 4
    num_leaves: int = 15
    min_child_samples: int = 100
    rounds: int = 100

    @property
    def parameters(self) -> dict[str, Any]:
        """All of LightGBM's parameters."""
        return PARAMETERS | {name: value for name, value in asdict(self).items() if name != "rounds"}


DEFAULT_FIT = Fit()
ROUNDS = DEFAULT_FIT.rounds
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": DEFAULT_FIT.learning_rate,
    "max_depth": DEFAULT_FIT.max_depth,
    "num_leaves": DEFAULT_FIT.num_leaves,
    "min_child_samples": DEFAULT_FIT.min_child_samples,
    "max_bin": 1023,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
# What the amount says against the user's own history, how unusual his last weeks were, what labels said of the
# merchant; then what thieves do elsewhere: bring nothing on FDH, and cost nothing.
SUPERVISED_INPUTS = tuple(
    ModelInput(name, group, one_sided=False)
    for group, names in (
        (
            "amount",
            (
                "amount_base",
                "user_amount_n",
                "user_amount_usual",
                "user_amount_lr",
                "user_amount_z90",
                "user_amount_rank",
                "user_amount_excess_3d",
                "user_amount_excess_14d",
                "user_amount_lr_max_14d",
            ),
        ),
        (
            "merchant",
            (
                "merchant_unexplained_chain_days",
                "merchant_unexplained_age_days",
                "merchant_genuine_since_unexplained",
                "merchant_genuine_since_fraud",
                "merchant_unexplained_recent_7d",
                "merchant_unexplained_share_14d",
                "merchant_fraud_share_30d",
                "is_new_merchant",
            ),
        ),
        (
            "speed",
            (
                "user_tx_count_1h",
                "user_tx_count_24h",
                "user_amount_sum_24h",
                "user_spend_24h_ratio",
                "user_seconds_since_last",
                "user_declined_count_24h",
            ),
        ),
        ("time", ("local_hour", "hour_rarity")),
        ("place", ("travel_kmh", "is_new_country")),
        ("device", ("is_new_device",)),
    )
    for name in names
)


def train_supervised(
    features: npt.NDArray[np.float64],
    names: Sequence[str],
    fraud: npt.NDArray[np.bool_],
    later: npt.NDArray[np.float64],
    *,
    window: tuple[str, str],
    seed: int = 0,
    inputs: Sequence[ModelInput] = SUPERVISED_INPUTS,
    label_p: float = 0.005,
    fit: Fit = DEFAULT_FIT,
) -> TrainedModel:
    """Train on labelled rows, export, calibrate on later ones, and refuse what does not serve as it was trained.

    Parameters
    ----------
    features, names
        float64 ``[n, F]``, NaN = NULL, rows in the order of their time, and the names of the columns.
    fraud
        bool ``[n]``: the label of each row, as it was known when training begins.
    later
        float64 ``[m, F]``: rows after the window, labelled or not. How rare a score is, is read from them: on its own
        training rows a model is too sure of itself.
    window
        First and last instant of the rows, RFC 3339.
    label_p
        Share of history beyond the label ANOMALY.
    fit
        How: the default, or what a search among the rows of training preferred.

    Raises
    ------
    ContractError
        On unknown inputs, fewer than ``FRAUDS_MIN`` frauds, no later rows, or when the exported scores leave
        LightGBM's by more than 1e-5.
    """
    used, rows = select_inputs(features, names, inputs)
    if len(fraud) != len(rows) or int(fraud.sum()) < FRAUDS_MIN:
        raise ContractError(
            f"supervised training: expected {len(rows)} labels with at least {FRAUDS_MIN} frauds among them, "
            f"got {len(fraud)} with {int(fraud.sum())}; wait for more labels"
        )
    if not len(later):
        raise ContractError("supervised training: expected rows after the window to calibrate on, got none")
    booster, trained_on = train_boosting(rows, fraud, seed=seed, fit=fit)
    ensemble = fold_boosting(booster, len(used))
    onnx = ensemble_to_onnx(ensemble)
    difference = check_boosting_parity(booster, ensemble, onnx, rows)
    columns = {name: index for index, name in enumerate(names)}
    scores = TreeKernel.from_onnx(onnx).score(later[:, [columns[i.name] for i in used]].astype(np.float32))
    calibration = fit_calibration(scores, label_p)
    ordinary = TreeKernel.from_onnx(onnx).score(rows)
    return TrainedModel(
        onnx=onnx,
        inputs=used,
        reference=rows[int(np.argmin(ordinary))].copy(),
        calibration=calibration,
        window=window,
        metrics={
            "rows": float(len(rows)),
            "rows_sampled": float(trained_on),
            "frauds": float(fraud.sum()),
            "rows_calibrated": float(len(later)),
            "inputs": float(len(used)),
            "trees": float(len(ensemble.roots)),
            "nodes": float(ensemble.node_count),
            "seed": float(seed),
            "parity_difference_max": difference,
            **{name: float(value) for name, value in asdict(fit).items()},
        },
    )


def train_boosting(
    rows: npt.NDArray[np.float32], fraud: npt.NDArray[np.bool_], *, seed: int, fit: Fit = DEFAULT_FIT
) -> tuple[Booster, int]:
    """Fit on float32 ``[n, k]`` rows, NaN = missing; returns the booster and how many rows it saw.

    The same rows and seed give the same trees.
    """
    # Only who trains pays for it: 60 MB and half a second.
    import lightgbm

    kept = fraud | (np.random.default_rng(seed).random(len(rows)) < GENUINE_SHARE)
    weight = np.where(fraud[kept], 1.0, 1.0 / GENUINE_SHARE)
    data = lightgbm.Dataset(
        rows[kept].astype(np.float64),
        fraud[kept].astype(np.float64),
        weight=weight,
        params={"max_bin": PARAMETERS["max_bin"], "verbosity": -1},
    )
    booster = lightgbm.train(fit.parameters | {"seed": seed}, data, num_boost_round=fit.rounds)
    return booster, int(kept.sum())


def fold_boosting(booster: Booster, feature_count: int) -> TreeEnsemble:
    """LightGBM's trees as ours, for raw float32 inputs.

    Raises
    ------
    ContractError
        A split is no ``<=`` on a number.
    """
    nodes: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    roots = []
    for tree in booster.dump_model()["tree_info"]:
        roots.append(_add_node(tree["tree_structure"], nodes))
    return TreeEnsemble(
        feature_count=feature_count,
        roots=np.array(roots, dtype=np.int32),
        feature=np.array(nodes["feature"], dtype=np.int32),
        threshold=fold_thresholds(np.array(nodes["threshold"], dtype=np.float64)),
        true_child=np.array(nodes["true_child"], dtype=np.int32),
        false_child=np.array(nodes["false_child"], dtype=np.int32),
        missing_true=np.array(nodes["missing_true"], dtype=np.bool_),
        weight=np.array(nodes["weight"], dtype=np.float32),
    )


def fold_thresholds(thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Thresholds for float32 values that decide as LightGBM's do for float64 ones.

    It writes 1e300 where only missing values go elsewhere, and takes an infinite value for 1e300.

    >>> fold_thresholds(np.array([0.1, 1e300])).tolist()
    [0.09999999403953552, inf]
    """
    return np.where(thresholds >= INFINITE, np.float32(np.inf), round_down(thresholds))


_COLUMNS = ("feature", "threshold", "true_child", "false_child", "missing_true", "weight")


def _add_node(node: dict[str, Any], nodes: dict[str, list[Any]]) -> int:
    """Append a node and what hangs on it; its index."""
    place = len(nodes["feature"])
    if "split_feature" not in node:
        row = (-1, 0.0, 0, 0, False, node["leaf_value"])
        for name, value in zip(_COLUMNS, row, strict=True):
            nodes[name].append(value)
        return place
    if node["decision_type"] != "<=" or node["missing_type"] not in ("None", "NaN"):
        raise ContractError(
            f"supervised model: expected splits by <= on numbers, got {node['decision_type']} with "
            f"missing values as {node['missing_type']}"
        )
    # An input that had no gap in training takes NaN for 0, as LightGBM does.
    missing_true = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0
    row = (node["split_feature"], node["threshold"], 0, 0, missing_true, 0.0)
    for name, value in zip(_COLUMNS, row, strict=True):
        nodes[name].append(value)
    nodes["true_child"][place] = _add_node(node["left_child"], nodes)
    nodes["false_child"][place] = _add_node(node["right_child"], nodes)
    return place


def check_boosting_parity(
    booster: Booster, ensemble: TreeEnsemble, onnx: bytes, rows: npt.NDArray[np.float32]
) -> float:
    """Largest distance between LightGBM's raw scores and those of the engine that serves.

    Held over all rows of training, over probes on and beside the splits' thresholds, and over rows with one value
    missing; ONNX Runtime has to agree too.

    Raises
    ------
    ContractError
        When it exceeds 1e-5.
    """
    gaps = rows[: 64 * rows.shape[1]].copy()
    gaps[np.arange(len(gaps)), np.arange(len(gaps)) % rows.shape[1]] = np.nan
    held = np.concatenate([rows, threshold_probes(ensemble, rows), gaps])
    trained = np.asarray(booster.predict(held.astype(np.float64), raw_score=True, num_threads=1))
    served = TreeKernel.from_onnx(onnx).score(held)
    difference = float(np.abs(trained - served).max())
    if not difference <= PARITY_MAX:
        raise ContractError(
            f"parity: exported scores leave LightGBM's by {difference:.2e}, allowed {PARITY_MAX}"
        )
    part = held[-4_096:]
    runtime = float(np.abs(OnnxScorer(onnx).score(part) - served[-len(part) :]).max())
    if not runtime <= PARITY_MAX:
        raise ContractError(
            f"parity: ONNX Runtime and the compiled kernel differ by {runtime:.2e}, allowed {PARITY_MAX}"
        )
    return difference
