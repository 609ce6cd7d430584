"""A tree ensemble to ONNX and back: ONE ``TreeEnsembleRegressor``.

One node answers a row in about 0.01 ms; a converter's general graph of the same forest has thousands of
nodes and needs a hundred times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from anomalyze.errors import ContractError
from anomalyze.models.tree import NODES_MAX, TreeEnsemble

__all__ = ["INPUT_NAME", "MODEL_BYTES_MAX", "ensemble_from_onnx", "ensemble_to_onnx"]

INPUT_NAME = "inputs"
MODEL_BYTES_MAX = 256 << 20
OPSET = 21
OPSET_ML = 3
# IR 10 came with opset 21; a newer one would shut out runtimes that could read the graph.
IR_VERSION = 10
_UNDERSTOOD = frozenset(
    {
        "nodes_treeids",
        "nodes_nodeids",
        "nodes_featureids",
        "nodes_values",
        "nodes_modes",
        "nodes_truenodeids",
        "nodes_falsenodeids",
        "nodes_missing_value_tracks_true",
        "nodes_hitrates",
        "target_treeids",
        "target_nodeids",
        "target_ids",
        "target_weights",
        "n_targets",
        "aggregate_function",
        "post_transform",
        "base_values",
    }
)


def ensemble_to_onnx(ensemble: TreeEnsemble) -> bytes:
    """Serialise as an ONNX model with the float32 input ``inputs [n, k]`` and the output ``score [n, 1]``.

    The same ensemble gives the same bytes.
    """
    ensemble.compute_depth()
    tree, local = _number_nodes(ensemble)
    order = np.lexsort((local, tree))
    branch = ensemble.feature[order] >= 0
    leaves = order[~branch]
    true_id = np.where(branch, local[np.where(branch, ensemble.true_child[order], 0)], 0)
    false_id = np.where(branch, local[np.where(branch, ensemble.false_child[order], 0)], 0)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT_NAME],
        ["score"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="AVERAGE" if ensemble.average else "SUM",
        post_transform="NONE",
        nodes_treeids=tree[order].tolist(),
        nodes_nodeids=local[order].tolist(),
        nodes_featureids=np.where(branch, ensemble.feature[order], 0).tolist(),
        nodes_values=np.where(branch, ensemble.threshold[order], np.float32(0)).tolist(),
        nodes_modes=["BRANCH_LEQ" if is_branch else "LEAF" for is_branch in branch.tolist()],
        nodes_truenodeids=true_id.tolist(),
        nodes_falsenodeids=false_id.tolist(),
        nodes_missing_value_tracks_true=(branch & ensemble.missing_true[order]).astype(int).tolist(),
        target_treeids=tree[leaves].tolist(),
        target_nodeids=local[leaves].tolist(),
        target_ids=[0] * len(leaves),
        target_weights=ensemble.weight[leaves].tolist(),
        **({"base_values": [ensemble.base]} if ensemble.base else {}),
    )
    graph = helper.make_graph(
        [node],
        "anomalyze",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, ensemble.feature_count])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(
        graph,
        producer_name="anomalyze",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)],
    )
    return model.SerializeToString(deterministic=True)


def ensemble_from_onnx(data: bytes) -> TreeEnsemble | None:
    """Read an ONNX model that is one ``TreeEnsembleRegressor`` of float32 with ``BRANCH_LEQ`` and leaves.

    Returns
    -------
    TreeEnsemble or None
        None when the model is something else, which ONNX Runtime may well serve.

    Raises
    ------
    ContractError
        When the bytes are no ONNX model, or the ensemble in them is inconsistent.
    """
    if len(data) > MODEL_BYTES_MAX:
        raise ContractError(f"model: expected at most {MODEL_BYTES_MAX} bytes, got {len(data)}")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ContractError(
            f"model: expected an ONNX model, got {len(data)} bytes that are none: {error}"
        ) from error
    graph = model.graph
    if len(graph.node) != 1 or len(graph.input) != 1 or graph.initializer:
        return None
    node, tensor = graph.node[0], graph.input[0].type.tensor_type
    if node.op_type != "TreeEnsembleRegressor" or node.domain != "ai.onnx.ml":
        return None
    if (
        tensor.elem_type != TensorProto.FLOAT
        or len(tensor.shape.dim) != 2
        or tensor.shape.dim[1].dim_value < 1
    ):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if not _is_plain(attributes):
        return None
    return _read_ensemble(attributes, tensor.shape.dim[1].dim_value)


def _is_plain(attributes: dict[str, Any]) -> bool:
    """Whether the node says nothing that the arrays of a ``TreeEnsemble`` cannot hold."""
    return (
        set(attributes) <= _UNDERSTOOD
        and attributes.get("n_targets") == 1
        and attributes.get("aggregate_function", b"SUM") in (b"SUM", b"AVERAGE")
        and attributes.get("post_transform", b"NONE") == b"NONE"
        and len(attributes.get("base_values", ())) <= 1
        and set(attributes.get("nodes_modes", ())) <= {b"BRANCH_LEQ", b"LEAF"}
    )


def _read_ensemble(attributes: dict[str, Any], feature_count: int) -> TreeEnsemble:
    def ints(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(attributes.get(name, ()), dtype=np.int64)

    tree, local = ints("nodes_treeids"), ints("nodes_nodeids")
    count = len(tree)
    modes = attributes.get("nodes_modes", ())
    missing = (
        ints("nodes_missing_value_tracks_true") if "nodes_missing_value_tracks_true" in attributes else None
    )
    columns = [local, ints("nodes_featureids"), ints("nodes_truenodeids"), ints("nodes_falsenodeids"), modes]
    columns += [attributes.get("nodes_values", ())] + ([] if missing is None else [missing])
    targets = [ints("target_treeids"), ints("target_nodeids"), ints("target_ids")]
    weights = np.asarray(attributes.get("target_weights", ()), dtype=np.float32)
    if not 0 < count <= NODES_MAX or any(len(c) != count for c in columns):
        raise ContractError(
            f"model: the node attributes of its {count} nodes differ in length, or are too many"
        )
    if any(len(t) != len(weights) for t in targets) or targets[2].any():
        raise ContractError("model: the target attributes differ in length or name another target than 0")
    # One sorted key per (tree, node) finds children and targets without a Python object a node.
    span = 1 << 31
    if min(tree.min(), local.min()) < 0 or max(tree.max(), local.max()) >= span:
        raise ContractError("model: tree and node ids must be non-negative 31-bit integers")
    keys = tree * span + local
    by_key = np.argsort(keys, kind="stable")
    ordered = keys[by_key]

    def find(wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        place = np.minimum(np.searchsorted(ordered, wanted), count - 1)
        if not np.array_equal(ordered[place], wanted):
            raise ContractError("model: a child or a target names a node that does not exist")
        return by_key[place].astype(np.int32)

    if len(np.unique(ordered)) != count:
        raise ContractError("model: two nodes of one tree have the same id")
    branch = np.fromiter((m == b"BRANCH_LEQ" for m in modes), dtype=np.bool_, count=count)
    true_child, false_child = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    true_child[branch] = find(tree[branch] * span + columns[2][branch])
    false_child[branch] = find(tree[branch] * span + columns[3][branch])
    leaves = find(targets[0] * span + targets[1])
    if branch[leaves].any() or len(np.unique(leaves)) != len(leaves):
        raise ContractError(
            "model: a weight belongs to a node that is no leaf, or to one that has a weight already"
        )
    weight = np.zeros(count, dtype=np.float32)
    weight[leaves] = weights
    is_root = np.ones(count, dtype=np.bool_)
    is_root[true_child[branch]] = False
    is_root[false_child[branch]] = False
    roots = np.flatnonzero(is_root)
    roots = roots[np.argsort(tree[roots], kind="stable")]
    if not np.array_equal(tree[roots], np.unique(tree)):
        raise ContractError("model: a tree has no root or several")
    base = attributes.get("base_values", (0.0,))
    ensemble = TreeEnsemble(
        feature_count=feature_count,
        roots=roots.astype(np.int32),
        feature=np.where(branch, columns[1], -1).astype(np.int32),
        threshold=np.asarray(attributes["nodes_values"], dtype=np.float32),
        true_child=true_child,
        false_child=false_child,
        missing_true=np.zeros(count, dtype=np.bool_) if missing is None else missing.astype(np.bool_),
        weight=weight,
        average=attributes.get("aggregate_function", b"SUM") == b"AVERAGE",
        base=float(base[0]) if len(base) else 0.0,
    )
    ensemble.compute_depth()
    return ensemble


def _number_nodes(ensemble: TreeEnsemble) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tree of each node and its number within the tree, breadth first (the root is 0)."""
    tree = np.zeros(ensemble.node_count, dtype=np.int64)
    local = np.zeros(ensemble.node_count, dtype=np.int64)
    for index, root in enumerate(ensemble.roots):
        level, number = np.array([root]), 0
        while len(level):
            tree[level] = index
            local[level] = np.arange(number, number + len(level))
            number += len(level)
            parents = level[ensemble.feature[level] >= 0]
            level = np.column_stack([ensemble.true_child[parents], ensemble.false_child[parents]]).ravel()
    return tree, local
