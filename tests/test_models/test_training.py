"""A model is refused when what is served would not be what was trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from anomalyze.errors import ContractError
from anomalyze.models.calibration import fit_calibration
from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import Forest
from anomalyze.models.runtime import OnnxScorer, load_scorer
from anomalyze.models.training import TrainedModel, check_parity, train_bundle_model
from anomalyze.models.tree import TreeEnsemble
from anomalyze.models.warm import warm
from tests.test_models.frames import NAMES, make_frame

Rows = npt.NDArray[np.float32]
WINDOW = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train_bundle_model(make_frame(8_000, seed=20), NAMES, window=WINDOW, seed=7, trees=20)


def test_what_a_bundle_needs_comes_out(trained: TrainedModel) -> None:
    frame = make_frame(8_000, seed=20)
    scores = load_scorer(trained.onnx).score(frame.astype(np.float32))
    assert [i.name for i in trained.inputs] == list(NAMES)
    assert trained.window == WINDOW
    assert trained.metrics["parity_difference_max"] <= 1e-5
    assert 0.0040 < trained.metrics["labelled_share"] <= 0.005
    assert load_scorer(trained.onnx).score(trained.reference[None])[0] == scores.min()
    np.testing.assert_array_equal(
        trained.calibration.compute_tail(scores), fit_calibration(scores).compute_tail(scores)
    )


def test_training_again_gives_the_same_model(trained: TrainedModel) -> None:
    again = train_bundle_model(make_frame(8_000, seed=20), NAMES, window=WINDOW, seed=7, trees=20)
    assert again.onnx == trained.onnx
    assert again.calibration.to_bytes() == trained.calibration.to_bytes()
    assert dict(again.metrics) == dict(trained.metrics)


def test_columns_are_found_by_name_and_empty_ones_left_out() -> None:
    frame = make_frame(3_000, seed=21)
    frame[:, NAMES.index("travel_kmh")] = np.nan
    shuffled = np.random.default_rng(0).permutation(9)
    names = [NAMES[i] for i in shuffled]
    model = train_bundle_model(frame[:, shuffled], names, window=WINDOW, trees=5)
    assert [i.name for i in model.inputs] == [n for n in NAMES if n != "travel_kmh"]
    straight = train_bundle_model(frame, NAMES, window=WINDOW, trees=5)
    assert straight.onnx == model.onnx


def test_a_misspelt_feature_is_named_with_the_one_that_was_meant() -> None:
    names = [n.replace("user_amount_lr", "user_amount_ln") for n in NAMES]
    with pytest.raises(
        ContractError, match="'user_amount_lr' is not among the features; did you mean 'user_amount_ln'"
    ):
        train_bundle_model(make_frame(100, seed=1), names, window=WINDOW)


def test_a_frame_without_values_is_refused() -> None:
    with pytest.raises(ContractError, match="no input has a single value"):
        train_bundle_model(np.full((50, 9), np.nan), NAMES, window=WINDOW)
    with pytest.raises(ContractError, match=r"expected \[n, 9\] features"):
        train_bundle_model(np.zeros((50, 7)), NAMES, window=WINDOW)


def test_parity_holds_for_what_was_exported(forest: Forest, ensemble: TreeEnsemble, rows: Rows) -> None:
    model = ensemble_to_onnx(ensemble)
    calibration = fit_calibration(OnnxScorer(model).score(rows))
    assert 0 < check_parity(forest, ensemble, model, calibration, rows) < 1e-5


def test_scores_off_by_more_than_the_gate_are_refused(
    forest: Forest, ensemble: TreeEnsemble, rows: Rows
) -> None:
    off = dataclasses.replace(ensemble, weight=(ensemble.weight * np.float32(1.0001)).astype(np.float32))
    model = ensemble_to_onnx(off)
    calibration = fit_calibration(OnnxScorer(model).score(rows))
    with pytest.raises(ContractError, match="exported scores leave the trained ones"):
        check_parity(forest, off, model, calibration, rows)


def test_one_threshold_rounded_up_is_refused(forest: Forest, ensemble: TreeEnsemble, rows: Rows) -> None:
    # Every threshold a single step higher: no row of training need notice, the probes beside them do.
    branch = ensemble.feature >= 0
    up = np.where(branch, np.nextafter(ensemble.threshold, np.float32(np.inf)), np.float32(0))
    shifted = dataclasses.replace(ensemble, threshold=up)
    model = ensemble_to_onnx(shifted)
    calibration = fit_calibration(OnnxScorer(model).score(rows))
    with pytest.raises(ContractError, match="exported scores leave the trained ones"):
        check_parity(forest, shifted, model, calibration, rows)


def test_one_label_that_flips_is_refused(forest: Forest, ensemble: TreeEnsemble, rows: Rows) -> None:
    model = ensemble_to_onnx(ensemble)
    exported = OnnxScorer(model).score(rows)
    trained = forest.score(rows)
    flips = np.flatnonzero(exported != trained)
    between = float((exported[flips[0]].astype(np.float64) + trained[flips[0]]) / 2)
    on_the_edge = dataclasses.replace(fit_calibration(exported), cut=between)
    with pytest.raises(ContractError, match=r"\d+ of 6000 labels"):
        check_parity(forest, ensemble, model, on_the_edge, rows)


def test_warming_up_needs_nothing() -> None:
    warm()
