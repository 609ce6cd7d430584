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
from onnx import AttributeProto, TensorProto, helper

from anomalyze.errors import ContractError
from anomalyze.models.tree import NODES_MAX, TreeEnsemble

__all__ = ["INPUT_NAME", "MODEL_BYTES_MAX", "ensemble_from_onnx", "ensemble_to_onnx"]

INPUT_NAME = "inputs"
MODEL_BYTES_MAX = 256 << 20
OPSET = 21
OPSET_ML = 3
# IR 10 came with opset 21; a newer one would shut out runtimes that could read the graph.
IR_VERSION = 10
# Attributes of the operator that the arrays of a TreeEnsemble hold, with their type and its field.
_INTS = (AttributeProto.INTS, "ints")
_FLOATS = (AttributeProto.FLOATS, "floats")
_KNOWN = {
    "n_targets": (AttributeProto.INT, "i"),
    "aggregate_function": (AttributeProto.STRING, "s"),
    "post_transform": (AttributeProto.STRING, "s"),
    "base_values": _FLOATS,
    "nodes_modes": (AttributeProto.STRINGS, "strings"),
    "nodes_treeids": _INTS,
    "nodes_nodeids": _INTS,
    "nodes_featureids": _INTS,
    "nodes_values": _FLOATS,
    "nodes_truenodeids": _INTS,
    "nodes_falsenodeids": _INTS,
    "nodes_missing_value_tracks_true": _INTS,
    "nodes_hitrates": _FLOATS,
    "target_treeids": _INTS,
    "target_nodeids": _INTS,
    "target_ids": _INTS,
    "target_weights": _FLOATS,
}


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
    if not {attribute.name for attribute in node.attribute} <= set(_KNOWN):
        return None
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        kind, of_kind = _KNOWN[attribute.name]
        if attribute.type != kind or attribute.name in attributes:
            raise ContractError(
                f"model: attribute {attribute.name} has another type than the operator's, or comes twice"
            )
        attributes[attribute.name] = getattr(attribute, of_kind)
    if not _is_plain(attributes):
        return None
    return _read_ensemble(attributes, tensor.shape.dim[1].dim_value)


def _is_plain(attributes: dict[str, Any]) -> bool:
    """Whether the node says nothing that the arrays of a ``TreeEnsemble`` cannot hold."""
    return (
        attributes.get("n_targets") == 1
        and attributes.get("aggregate_function", b"SUM") in (b"SUM", b"AVERAGE")
        and attributes.get("post_transform", b"NONE") == b"NONE"
        and len(attributes.get("base_values", ())) <= 1
        and set(attributes.get("nodes_modes", ())) <= {b"BRANCH_LEQ", b"LEAF"}
    )


class _Nodes:
    """Finds nodes by (tree, id), without a Python object a node."""

    def __init__(self, tree: npt.NDArray[np.int64], local: npt.NDArray[np.int64]) -> None:
        self._keys = self._key(tree, local)
        self._order = np.argsort(self._keys, kind="stable")
        if len(np.unique(self._keys)) != len(self._keys):
            raise ContractError("model: two nodes of one tree have the same id")

    @staticmethod
    def _key(tree: npt.NDArray[np.int64], local: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        for ids in (tree, local):
            if ids.min(initial=0) < 0 or ids.max(initial=0) >= 1 << 31:
                raise ContractError("model: tree and node ids must be non-negative 31-bit integers")
        return (tree << 31) | local

    def find(self, tree: npt.NDArray[np.int64], local: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Indices of nodes, all of which must exist."""
        wanted = self._key(tree, local)
        place = np.searchsorted(self._keys, wanted, sorter=self._order)
        found = self._order[np.minimum(place, len(self._keys) - 1)]
        if not np.array_equal(self._keys[found], wanted):
            raise ContractError("model: a child or a target names a node that does not exist")
        return found.astype(np.int32)


def _read_ensemble(attributes: dict[str, Any], feature_count: int) -> TreeEnsemble:
    """Arrays from attributes of known types, every reference among them checked."""

    def ints(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(attributes.get(name, ()), dtype=np.int64)

    tree, local, feature = ints("nodes_treeids"), ints("nodes_nodeids"), ints("nodes_featureids")
    true_id, false_id = ints("nodes_truenodeids"), ints("nodes_falsenodeids")
    branch = np.array([mode == b"BRANCH_LEQ" for mode in attributes.get("nodes_modes", ())], dtype=np.bool_)
    threshold = np.asarray(attributes.get("nodes_values", ()), dtype=np.float32)
    missing = ints("nodes_missing_value_tracks_true").astype(np.bool_)
    target_tree, target_node = ints("target_treeids"), ints("target_nodeids")
    target_weight = np.asarray(attributes.get("target_weights", ()), dtype=np.float32)
    count = len(tree)
    if missing.size == 0:
        missing = np.zeros(count, dtype=np.bool_)
    columns = (local, feature, true_id, false_id, branch, threshold, missing)
    if not 0 < count <= NODES_MAX or any(len(column) != count for column in columns):
        raise ContractError(f"model: the attributes of its {count} nodes differ in length, or are too many")
    if not len(target_tree) == len(target_node) == len(target_weight) or ints("target_ids").any():
        raise ContractError("model: the target attributes differ in length or name another target than 0")
    if branch.any() and not 0 <= feature[branch].min() <= feature[branch].max() < feature_count:
        raise ContractError(f"model: a node compares a feature beyond the {feature_count} inputs")
    nodes = _Nodes(tree, local)
    true_child, false_child = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    true_child[branch] = nodes.find(tree[branch], true_id[branch])
    false_child[branch] = nodes.find(tree[branch], false_id[branch])
    leaves = nodes.find(target_tree, target_node)
    if branch[leaves].any() or len(np.unique(leaves)) != len(leaves):
        raise ContractError("model: a weight belongs to a node that is no leaf, or that has one already")
    weight = np.zeros(count, dtype=np.float32)
    weight[leaves] = target_weight
    is_root = np.ones(count, dtype=np.bool_)
    is_root[true_child[branch]] = False
    is_root[false_child[branch]] = False
    roots = np.flatnonzero(is_root)
    roots = roots[np.argsort(tree[roots], kind="stable")]
    if not np.array_equal(tree[roots], np.unique(tree)):
        raise ContractError("model: a tree has no root or several")
    base = attributes.get("base_values", ())
    ensemble = TreeEnsemble(
        feature_count=feature_count,
        roots=roots.astype(np.int32),
        feature=np.where(branch, feature, -1).astype(np.int32),
        threshold=threshold,
        true_child=true_child,
        false_child=false_child,
        missing_true=missing & branch,
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
