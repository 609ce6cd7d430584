"""The compiled kernel equals ONNX Runtime to the bit, and the rows beside a row never change it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from anomalyze.errors import ContractError, ModelError
from anomalyze.models.export import ensemble_from_onnx, ensemble_to_onnx
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.runtime import OnnxScorer, load_scorer
from anomalyze.models.tree import TreeEnsemble
from tests.test_models.frames import beside_thresholds, make_frame, walk

Rows = npt.NDArray[np.float32]
# Values that meet: both zeros, infinities, neighbours, the smallest subnormal.
AWKWARD = [0.0, -0.0, 1.0, -1.0, 1.0000001, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf]


@st.composite
def ensembles(draw: st.DrawFn) -> TreeEnsemble:
    """Trees of any shape over three features; NaN goes always right, always left, as 0 does, or any way."""
    missing = draw(st.tuples(*[st.sampled_from(["right", "left", "as zero", "any"])] * 3))
    columns: list[tuple[int, float, int, int, bool, float]] = []

    def grow(depth: int) -> int:
        index = len(columns)
        if depth == 0 or draw(st.integers(0, 3)) == 0:
            columns.append((-1, 0.0, 0, 0, False, draw(st.integers(-64, 64)) / 8))
            return index
        columns.append((0, 0.0, 0, 0, False, 0.0))
        feature, threshold = draw(st.integers(0, 2)), draw(st.sampled_from(AWKWARD))
        any_way = draw(st.booleans())
        tracks = {"right": False, "left": True, "as zero": threshold >= 0, "any": any_way}[missing[feature]]
        columns[index] = (feature, threshold, grow(depth - 1), grow(depth - 1), tracks, 0.0)
        return index

    roots = [grow(draw(st.integers(0, 5))) for _ in range(draw(st.integers(1, 12)))]
    feature, threshold, true_child, false_child, missing_true, weight = zip(*columns, strict=True)
    return TreeEnsemble(
        feature_count=3,
        roots=np.array(roots, dtype=np.int32),
        feature=np.array(feature, dtype=np.int32),
        threshold=np.array(threshold, dtype=np.float32),
        true_child=np.array(true_child, dtype=np.int32),
        false_child=np.array(false_child, dtype=np.int32),
        missing_true=np.array(missing_true, dtype=np.bool_),
        weight=np.array(weight, dtype=np.float32),
        average=draw(st.booleans()),
        base=draw(st.sampled_from([0.0, 1.5])),
    )


@settings(max_examples=150, deadline=None)
@given(
    ensembles(),
    st.lists(st.tuples(*[st.sampled_from([*AWKWARD, float("nan")])] * 3), min_size=1, max_size=20),
)
def test_any_ensemble_scores_as_onnx_runtime_and_as_a_plain_walk(
    ensemble: TreeEnsemble, values: list[tuple[float, ...]]
) -> None:
    rows = np.array(values, dtype=np.float32)
    model = ensemble_to_onnx(ensemble)
    scores = TreeKernel.from_onnx(model).score(rows)
    np.testing.assert_array_equal(scores, OnnxScorer(model).score(rows))
    plain = walk(ensemble, rows).astype(np.float32)
    plain = plain / np.float32(len(ensemble.roots)) if ensemble.average else plain
    np.testing.assert_array_equal(scores, plain + np.float32(ensemble.base))
    assert ensemble_to_onnx(ensemble_from_onnx(model)) == model  # type: ignore[arg-type]


def test_a_forest_scores_as_onnx_runtime_to_the_bit(ensemble: TreeEnsemble) -> None:
    model = ensemble_to_onnx(ensemble)
    fresh = make_frame(1_500, seed=9, missing=0.2).astype(np.float32)
    held = np.concatenate([fresh, beside_thresholds(ensemble, fresh, seed=10)])
    np.testing.assert_array_equal(TreeKernel.from_onnx(model).score(held), OnnxScorer(model).score(held))


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=12))
@pytest.mark.parametrize("engine", [TreeKernel.from_onnx, OnnxScorer])
def test_no_cut_into_calls_changes_a_bit(
    ensemble: TreeEnsemble, rows: Rows, engine: object, cuts: list[int]
) -> None:
    # Weights that no float sums exactly: the order of addition must not depend on the call.
    uneven = dataclasses.replace(ensemble, weight=(ensemble.weight * np.float32(1 / 3)).astype(np.float32))
    scorer = engine(ensemble_to_onnx(uneven if engine == TreeKernel.from_onnx else ensemble))  # type: ignore[operator]
    whole = scorer.score(rows[:300])
    edges = [0, *sorted(cuts), 300]
    parts = [scorer.score(rows[a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_float64_rows_are_converted_to_nearest(ensemble: TreeEnsemble) -> None:
    kernel = TreeKernel(ensemble)
    frame = make_frame(100, seed=11)
    np.testing.assert_array_equal(kernel.score(frame), kernel.score(frame.astype(np.float32)))  # type: ignore[arg-type]


def test_missing_values_go_every_way_that_a_tree_says(ensemble: TreeEnsemble) -> None:
    odd = dataclasses.replace(ensemble, missing_true=~ensemble.missing_true & (ensemble.feature >= 0))
    odd = dataclasses.replace(
        odd, missing_true=odd.missing_true | ((ensemble.feature >= 0) & (ensemble.threshold < 1))
    )
    model = ensemble_to_onnx(odd)
    fresh = make_frame(500, seed=13, missing=0.3).astype(np.float32)
    scorer = load_scorer(model)
    assert isinstance(scorer, TreeKernel)
    np.testing.assert_array_equal(scorer.score(fresh), OnnxScorer(model).score(fresh))
    assert not np.array_equal(scorer.score(fresh), TreeKernel(ensemble).score(fresh))


def test_an_ensemble_of_too_many_columns_goes_to_onnx_runtime() -> None:
    n = 200
    both = TreeEnsemble(
        feature_count=n,
        roots=np.arange(0, 6 * n, 3, dtype=np.int32),
        feature=np.array([[f, -1, -1] for f in [*range(n), *range(n)]], dtype=np.int32).ravel(),
        threshold=np.zeros(6 * n, dtype=np.float32),
        true_child=np.array([[3 * t + 1, 0, 0] for t in range(2 * n)], dtype=np.int32).ravel(),
        false_child=np.array([[3 * t + 2, 0, 0] for t in range(2 * n)], dtype=np.int32).ravel(),
        missing_true=np.array([[t < n, False, False] for t in range(2 * n)]).ravel(),
        weight=np.array([[0, 1, 2] for _ in range(2 * n)], dtype=np.float32).ravel(),
    )
    with pytest.raises(ModelError, match="at most 256 columns"):
        TreeKernel(both)
    assert isinstance(load_scorer(ensemble_to_onnx(both)), OnnxScorer)


def test_other_models_are_served_by_onnx_runtime() -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    ).SerializeToString()
    scorer = load_scorer(model)
    assert isinstance(scorer, OnnxScorer)
    rows = np.arange(600, dtype=np.float32).reshape(200, 3)
    np.testing.assert_array_equal(scorer.score(rows), rows.sum(axis=1))
    with pytest.raises(ContractError, match=r"expected \[n, 3\]"):
        scorer.score(rows[:, :2])


def _damage(name: str, change: object) -> bytes:
    model = onnx.load_model_from_string(ensemble_to_onnx(_stump()))
    attribute = next(a for a in model.graph.node[0].attribute if a.name == name)
    values = attribute.floats if attribute.floats else attribute.ints
    changed = change(list(values))  # type: ignore[operator]
    del values[:]
    values.extend(changed)
    return model.SerializeToString()


def _stump() -> TreeEnsemble:
    return TreeEnsemble(
        feature_count=2,
        roots=np.array([0], dtype=np.int32),
        feature=np.array([0, 1, -1, -1, -1], dtype=np.int32),
        threshold=np.zeros(5, dtype=np.float32),
        true_child=np.array([1, 3, 0, 0, 0], dtype=np.int32),
        false_child=np.array([2, 4, 0, 0, 0], dtype=np.int32),
        missing_true=np.zeros(5, dtype=np.bool_),
        weight=np.array([0, 0, 1, 2, 3], dtype=np.float32),
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nodes_truenodeids", lambda v: [0, *v[1:]], "belong to no tree|no root"),
        ("nodes_truenodeids", lambda v: [99, *v[1:]], "does not exist"),
        ("nodes_falsenodeids", lambda v: [v[0], 2, *v[2:]], "belong|root"),
        ("nodes_featureids", lambda v: [7, *v[1:]], "beyond the 2 inputs"),
        ("nodes_featureids", lambda v: [-1, *v[1:]], "beyond the 2 inputs"),
        ("nodes_featureids", lambda v: [1 << 32, *v[1:]], "beyond the 2 inputs"),
        ("nodes_falsenodeids", lambda v: [1 << 31, *v[1:]], "31-bit"),
        ("nodes_values", lambda v: [float("nan"), *v[1:]], "not a finite"),
        ("nodes_values", lambda v: v[1:], "differ in length"),
        ("target_weights", lambda v: [float("inf"), *v[1:]], "not a finite"),
        ("target_weights", lambda v: v[1:], "target attributes"),
        ("target_nodeids", lambda v: [0, *v[1:]], "no leaf"),
        ("nodes_nodeids", lambda v: [1, *v[1:]], "same id"),
        ("nodes_treeids", lambda v: [-1, *v[1:]], "non-negative"),
    ],
)
def test_contradictions_are_refused(name: str, change: object, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        load_scorer(_damage(name, change))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_score(data: st.DataObject) -> None:
    model = bytearray(ensemble_to_onnx(_stump()))
    for _ in range(data.draw(st.integers(1, 3))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(model[: data.draw(st.integers(0, len(model)))])
    for damaged in (bytes(model), cut):
        try:
            ensemble = ensemble_from_onnx(damaged)
        except ContractError:
            continue
        if ensemble is not None:
            assert len(walk(ensemble, np.zeros((1, ensemble.feature_count), np.float32))) == 1


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ContractError, match="expected an ONNX model"):
        load_scorer(b"\xff\xff not a model")
