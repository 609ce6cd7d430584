"""Detectors by PyOD's names: what is served is what PyOD trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ContractError
from anomalyze.models.calibration import fit_calibration
from anomalyze.models.detector import DETECTORS, FOREST, check_detector
from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import DEFAULT_INPUTS
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.preparation import Preparation
from anomalyze.models.runtime import OnnxScorer, load_scorer
from anomalyze.models.shapley import compute_shapley
from anomalyze.models.steps import Steps, fold_steps, measure_steps
from anomalyze.models.training import TrainedModel, check_named_parity, train_bundle_model
from anomalyze.models.unsupervised import Named, fold_named, train_named
from tests.test_models.frames import NAMES, make_frame

Rows = npt.NDArray[np.float32]
WINDOW = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
NAMED = [name for name in DETECTORS if name != FOREST]
ONE_SIDED = [i.one_sided for i in DEFAULT_INPUTS]


@pytest.fixture(scope="module", params=NAMED)
def named(request: pytest.FixtureRequest, rows: Rows) -> Named:
    return train_named(rows, ONE_SIDED, request.param, seed=3)


@pytest.fixture(scope="module")
def model(named: Named) -> TrainedModel:
    frame = make_frame(6_000, seed=1)
    return train_bundle_model(frame, NAMES, window=WINDOW, seed=3, detector=named.name)


def strangers(count: int) -> Rows:
    """Rows that no training saw: wider, with more gaps."""
    return (make_frame(count, seed=77, missing=0.2) * 4).astype(np.float32)


def test_scores_of_unseen_rows_are_pyods(named: Named, model: TrainedModel) -> None:
    rows = strangers(60)
    np.testing.assert_allclose(load_scorer(model.onnx).score(rows), named.score(rows), rtol=1e-5, atol=1e-5)
    assert model.detector == named.name
    assert model.metrics["parity_difference_max"] <= 1e-5


def test_training_again_gives_the_same_model(model: TrainedModel) -> None:
    again = train_bundle_model(
        make_frame(6_000, seed=1), NAMES, window=WINDOW, seed=3, detector=model.detector
    )
    assert again.onnx == model.onnx


def test_a_score_does_not_depend_on_the_rows_beside_it(model: TrainedModel) -> None:
    scorer, rows = load_scorer(model.onnx), strangers(203)
    whole = scorer.score(rows)
    for cut in (1, 7, 64, 100):
        parts = [scorer.score(rows[i : i + cut]) for i in range(0, len(rows), cut)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_allclose(OnnxScorer(model.onnx).score(rows), whole, rtol=1e-6)


def test_explanations_sum_to_the_difference_of_the_scores(model: TrainedModel) -> None:
    scorer, rows = load_scorer(model.onnx), strangers(3)
    values = compute_shapley(scorer, rows, model.reference, np.array([0, 0, 0, 0, 1, 1, 2, 3, 4]))
    difference = scorer.score(rows).astype(float) - float(scorer.score(model.reference[None])[0])
    np.testing.assert_allclose(values.sum(axis=1), difference, rtol=1e-5, atol=1e-5)


def test_a_model_that_scores_otherwise_is_refused(named: Named, rows: Rows, model: TrainedModel) -> None:
    higher = np.nanquantile(rows, 0.9, axis=0).astype(np.float32)
    other = dataclasses.replace(named, preparation=dataclasses.replace(named.preparation, lower=higher))
    with pytest.raises(ContractError, match=f"leave PyOD's {named.name}"):
        check_named_parity(other, model.onnx, rows[:9], model.calibration, rows[:500])


def test_a_label_that_flips_is_refused(rows: Rows) -> None:
    named = train_named(rows, ONE_SIDED, "hbos", seed=0)
    model = ensemble_to_onnx(fold_named(named))
    trained, served = named.score(rows), load_scorer(model).score(rows).astype(np.float64)
    row = int(np.argmax(np.abs(trained - served)))
    on_the_edge = dataclasses.replace(
        fit_calibration(served.astype(np.float32)), cut=float((trained[row] + served[row]) / 2)
    )
    with pytest.raises(ContractError, match=r"of 6000 labels of the exported hbos"):
        check_named_parity(named, model, rows[:0], on_the_edge, rows)


def test_an_input_that_never_varies_says_nothing(named: Named) -> None:
    frame = make_frame(1_000, seed=5)
    frame[:, 7] = 0.0
    model = train_bundle_model(frame, NAMES, window=WINDOW, seed=3, detector=named.name)
    scores = load_scorer(model.onnx).score(frame.astype(np.float32))
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 50


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("knn", "training rows"),
        ("lof", "training rows"),
        ("auto_encoder", "network"),
        ("suod", "other detectors"),
        ("gmm", "no sum"),
        ("hbso", r"did you mean hbos\?"),
        ("nothing", "expected a detector"),
    ],
)
def test_what_cannot_serve_is_refused_with_the_reason_and_the_choice(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        check_detector(name)
    assert all(one in str(caught.value) for one in DETECTORS)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12),
    st.lists(st.integers(-99, 99), min_size=13, max_size=13),
    st.floats(-60, 60, width=32) | st.just(-np.inf),
    st.floats(-60, 60, width=32),
)
def test_steps_come_back_from_the_trees_as_they_were(
    at: list[float], heights: list[int], lower: float, fill: float
) -> None:
    edges = np.unique(np.array(at, dtype=np.float32) + np.float32(0)).astype(np.float64)
    height = np.array(heights, dtype=np.float64)[: len(edges) + 1]

    def score(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return height[np.searchsorted(edges, values, side="left")]

    steps = measure_steps(score, edges, lower)
    preparation = Preparation(np.array([fill], dtype=np.float32), np.array([lower], dtype=np.float32))
    kernel = TreeKernel(fold_steps([steps], preparation))
    near = edges.astype(np.float32)
    rows = np.concatenate(
        [near, np.nextafter(near, np.float32(-99)), np.nextafter(near, np.float32(99)), [np.nan, -99, 99]]
    )
    expected = score(preparation.apply(rows[:, None].astype(np.float32))[:, 0].astype(np.float64))
    np.testing.assert_allclose(kernel.score(rows[:, None]), expected, atol=1e-5)


def test_a_column_without_a_step_is_one_leaf() -> None:
    preparation = Preparation(np.zeros(2, np.float32), np.zeros(2, np.float32))
    flat = Steps(np.empty(0, np.float32), np.array([2.0]))
    ensemble = fold_steps([flat, flat], preparation)
    assert ensemble.node_count == 2
    assert load_scorer(ensemble_to_onnx(ensemble)).score(np.zeros((1, 2), np.float32)).tolist() == [4.0]
