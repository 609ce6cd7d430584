"""Models of arrays: the kernel serves what the file says, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from anomalyze.errors import ContractError
from anomalyze.models.dense import Dense, DenseKernel, Distances, Projections, dense_from_onnx, dense_to_onnx
from anomalyze.models.runtime import OnnxScorer, load_scorer

FILL, LOWER = np.array([1, 2], np.float32), np.array([0, -9], np.float32)
MEAN, FACTOR = np.array([1.0, 0.5]), np.array([2.0, 0.0])
MODELS: list[Dense] = [
    Distances(FILL, LOWER, MEAN, FACTOR, np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.8, 0.2])),
    Projections(
        FILL,
        LOWER,
        MEAN,
        FACTOR,
        np.array([[1.0, 0.0], [-1.0, 3.0]]),
        np.array([[0.0, 1.0], [-2.0, 2.0]]),
        np.array([[1.0, 10.0], [0.5, 0.25]]),
        np.array([100.0, 0.0]),
    ),
]


@pytest.fixture(params=MODELS, ids=["distances", "projections"])
def model(request: pytest.FixtureRequest) -> Dense:
    found: Dense = request.param
    return found


def test_scores_are_those_of_the_formula() -> None:
    # The first input is clipped at 0 and stretched twofold around 1; the second is left out.
    rows = np.array([[3, 7], [np.nan, 7], [-5, np.nan]], np.float32)
    z = np.array([4.0, 0.0, -2.0])
    distances = np.abs(z - 1) / 0.8 + np.sqrt(z**2 + 1) / 0.2
    np.testing.assert_allclose(DenseKernel(MODELS[0]).score(rows), distances, rtol=1e-6)
    # Along z: 100, 101 beyond 0, 111 beyond 1. Along -z: 0, .5 beyond -2, .75 beyond 2 (2 itself is not).
    assert DenseKernel(MODELS[1]).score(rows).tolist() == [111.0, 100.5, 100.5]


def test_the_file_gives_the_model_back_and_onnx_runtime_agrees(model: Dense) -> None:
    data = dense_to_onnx(model)
    read = dense_from_onnx(data)
    assert read is not None
    assert dense_to_onnx(read) == data
    scorer = load_scorer(data)
    assert isinstance(scorer, DenseKernel)
    rows = np.random.default_rng(4).normal(0, 3, (300, 2)).astype(np.float32)
    rows[::7, 0] = np.nan
    np.testing.assert_allclose(scorer.score(rows), OnnxScorer(data).score(rows), rtol=1e-6)


def test_an_infinite_value_is_a_number_in_the_score(model: Dense) -> None:
    rows = np.array([[np.inf, -np.inf], [-np.inf, np.inf]], np.float32)
    assert not np.isnan(DenseKernel(model).score(rows)).any()
    assert not np.isnan(OnnxScorer(dense_to_onnx(model)).score(rows)).any()


def test_another_graph_with_such_arrays_is_left_to_onnx_runtime(model: Dense) -> None:
    changed = onnx.load_model_from_string(dense_to_onnx(model))
    changed.graph.node[3].op_type = "Max"
    data = changed.SerializeToString(deterministic=True)
    assert dense_from_onnx(data) is None
    assert isinstance(load_scorer(data), OnnxScorer)


def test_shapes_that_do_not_fit_are_not_indexed(model: Dense) -> None:
    short = dataclasses.replace(model, mean=MEAN[:1])
    assert dense_from_onnx(dense_to_onnx(short)) is None


def test_arrays_without_a_number_are_refused(model: Dense) -> None:
    with pytest.raises(ContractError, match="finite"):
        dense_from_onnx(dense_to_onnx(dataclasses.replace(model, mean=np.array([np.nan, 0.0]))))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ContractError, match="expected an ONNX model"):
        dense_from_onnx(b"\x0a\xff\xff\xff")


def test_rows_of_another_width_are_refused(model: Dense) -> None:
    with pytest.raises(ContractError, match=r"expected \[n, 2\]"):
        DenseKernel(model).score(np.zeros((1, 3), np.float32))
