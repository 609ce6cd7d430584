"""Models of a few small arrays, as ONNX and as a compiled kernel: distances to directions, histograms of projections.

PyOD's PCA (after Shyu et al., 2003) and LODA (Pevny, "Loda: lightweight on-line detector of anomalies", 2016) are such.
The ONNX file is the model. The kernel reads its arrays and adds in one fixed order in float64, so that a score never
depends on the rows it came with, nor on the machine; ONNX Runtime's matrix products promise neither, and take
hundreds of times as long for one row. ONNX Runtime remains the reference of the parity gate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from anomalyze.errors import ContractError
from anomalyze.models.export import INPUT_NAME, IR_VERSION, MODEL_BYTES_MAX, OPSET
from anomalyze.models.tree import FEATURES_MAX

__all__ = ["Dense", "DenseKernel", "Distances", "Projections", "dense_from_onnx", "dense_to_onnx"]

# An infinite value times a direction that leaves it out would be no number.
_LARGEST = np.float32(np.finfo(np.float32).max)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    """``z = (prepared - mean) * factor``, held against directions.

    Attributes
    ----------
    fill, lower
        float32 ``[k]``: as of ``Preparation``.
    mean, factor
        float64 ``[k]``; a factor of zero leaves an input out.
    direction
        float64 ``[c, k]``.
    """

    fill: npt.NDArray[np.float32]
    lower: npt.NDArray[np.float32]
    mean: Values
    factor: Values
    direction: Values


@dataclass(frozen=True, slots=True, eq=False)
class Distances(_Scaled):
    """``score = sum over j of |z - direction_j| / weight_j``.

    Attributes
    ----------
    weight
        float64 ``[c]``.
    """

    weight: Values


@dataclass(frozen=True, slots=True, eq=False)
class Projections(_Scaled):
    """``score = sum over j of base_j + (sum of jump_ji over i with direction_j . z > edge_ji)``.

    Attributes
    ----------
    edge, jump
        float64 ``[c, b]``; edges ascend.
    base
        float64 ``[c]``.
    """

    edge: Values
    jump: Values
    base: Values


Dense = Distances | Projections


def dense_to_onnx(model: Dense) -> bytes:
    """Serialise as an ONNX model with the float32 input ``inputs [n, k]`` and the output ``score [n, 1]``.

    The same model gives the same bytes.
    """
    nodes = [
        helper.make_node("IsNaN", [INPUT_NAME], ["gap"]),
        helper.make_node("Where", ["gap", "fill", INPUT_NAME], ["filled"]),
        helper.make_node("Max", ["filled", "lower"], ["raised"]),
        helper.make_node("Min", ["raised", "largest"], ["prepared"]),
        helper.make_node("Cast", ["prepared"], ["exact"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["exact", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "factor"], ["z"]),
    ]
    arrays = {field.name: getattr(model, field.name) for field in fields(model)}
    arrays |= {"largest": _LARGEST, "last": np.array([2]), "each": np.array([1])}
    if isinstance(model, Distances):
        nodes += [
            helper.make_node("Unsqueeze", ["z", "each"], ["row"]),
            helper.make_node("Sub", ["row", "direction"], ["away"]),
            helper.make_node("Mul", ["away", "away"], ["squares"]),
            helper.make_node("ReduceSum", ["squares", "last"], ["square"], keepdims=0),
            helper.make_node("Sqrt", ["square"], ["distance"]),
            helper.make_node("Div", ["distance", "weight"], ["parts"]),
        ]
    else:
        arrays["direction"] = np.ascontiguousarray(model.direction.T)
        nodes += [
            helper.make_node("MatMul", ["z", "direction"], ["projected"]),
            helper.make_node("Unsqueeze", ["projected", "last"], ["place"]),
            helper.make_node("Greater", ["place", "edge"], ["passed"]),
            helper.make_node("Cast", ["passed"], ["counted"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["counted", "jump"], ["jumps"]),
            helper.make_node("ReduceSum", ["jumps", "last"], ["height"], keepdims=0),
            helper.make_node("Add", ["height", "base"], ["parts"]),
        ]
    nodes += [
        helper.make_node("ReduceSum", ["parts", "each"], ["total"], keepdims=1),
        helper.make_node("Cast", ["total"], ["score"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "anomalyze",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, len(model.fill)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    made = helper.make_model(
        graph,
        producer_name="anomalyze",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    return made.SerializeToString(deterministic=True)


def dense_from_onnx(data: bytes) -> Dense | None:
    """Read what ``dense_to_onnx`` wrote; None when the model is something else.

    Raises
    ------
    ContractError
        When the bytes are no ONNX model, or its arrays are of values that are not finite.
    """
    if len(data) > MODEL_BYTES_MAX:
        raise ContractError(f"model: expected at most {MODEL_BYTES_MAX} bytes, got {len(data)}")
    try:
        graph = onnx.load_model_from_string(data).graph
        arrays: dict[str, Any] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    except (DecodeError, ValueError, TypeError) as error:
        raise ContractError(
            f"model: expected an ONNX model, got {len(data)} bytes that are none: {error!r:.200}"
        ) from error
    kind: type[Dense] = Distances if "weight" in arrays else Projections
    names = [field.name for field in fields(kind)]
    if not arrays.keys() >= set(names) or not _fit(kind, arrays):
        return None
    if kind is Projections:
        arrays["direction"] = np.ascontiguousarray(arrays["direction"].T)
    model = kind(**{name: arrays[name] for name in names})
    # Whatever else the file says, this kernel would not do.
    if dense_to_onnx(model) != data:
        return None
    if not all(np.isfinite(getattr(model, name)).all() for name in names):
        raise ContractError("model: expected finite values in its arrays")
    return model


def _fit(kind: type[Dense], arrays: dict[str, Any]) -> bool:
    """Whether types and shapes are as the kernel indexes them."""
    singles = [arrays[name] for name in ("fill", "lower")]
    doubles = [arrays[field.name] for field in fields(kind) if field.name not in ("fill", "lower")]
    if any(a.dtype != np.float32 for a in singles) or any(a.dtype != np.float64 for a in doubles):
        return False
    width, direction = arrays["fill"].shape, arrays["direction"]
    if len(width) != 1 or not 0 < width[0] <= FEATURES_MAX or direction.ndim != 2:
        return False
    if any(arrays[name].shape != width for name in ("lower", "mean", "factor")):
        return False
    if kind is Distances:
        return bool(direction.shape == (*arrays["weight"].shape, *width))
    edge = arrays["edge"]
    return bool(
        direction.shape == (*width, *arrays["base"].shape)
        and edge.ndim == 2
        and edge.shape[0] == direction.shape[1]
        and arrays["jump"].shape == edge.shape
    )


class DenseKernel:
    """Scores rows of float32 features by such a model."""

    def __init__(self, model: Dense) -> None:
        self.feature_count = len(model.fill)
        self._model = model
        if isinstance(model, Projections):
            self._height = model.base[:, None] + np.concatenate(
                [np.zeros((len(model.base), 1)), np.cumsum(model.jump, axis=1)], axis=1
            )

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scores float32 ``[n]`` of float32 ``[n, feature_count]`` rows, NaN = missing; higher = stranger."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.feature_count:
            raise ContractError(
                f"model input: expected [n, {self.feature_count}] values, got shape {rows.shape}"
            )
        model = self._model
        out = np.empty(len(rows), dtype=np.float32)
        prepared = (rows, model.fill, model.lower, model.mean, model.factor)
        if isinstance(model, Distances):
            _distances(*prepared, model.direction, model.weight, out)
        else:
            _projections(*prepared, model.direction, model.edge, self._height, out)
        return out


@numba.njit(cache=True, nogil=True)
def _standardise(row, fill, lower, mean, factor, z):  # type: ignore[no-untyped-def]
    for j in range(row.shape[0]):
        value = fill[j] if np.isnan(row[j]) else row[j]
        value = min(max(value, lower[j]), _LARGEST)
        z[j] = (np.float64(value) - mean[j]) * factor[j]


@numba.njit(cache=True, nogil=True)
def _distances(rows, fill, lower, mean, factor, direction, weight, out):  # type: ignore[no-untyped-def]
    z = np.empty(rows.shape[1], np.float64)
    for i in range(rows.shape[0]):
        _standardise(rows[i], fill, lower, mean, factor, z)
        total = 0.0
        for c in range(direction.shape[0]):
            square = 0.0
            for j in range(z.shape[0]):
                away = z[j] - direction[c, j]
                square += away * away
            total += np.sqrt(square) / weight[c]
        out[i] = np.float32(total)


@numba.njit(cache=True, nogil=True)
def _projections(rows, fill, lower, mean, factor, direction, edge, height, out):  # type: ignore[no-untyped-def]
    z = np.empty(rows.shape[1], np.float64)
    for i in range(rows.shape[0]):
        _standardise(rows[i], fill, lower, mean, factor, z)
        total = 0.0
        for c in range(direction.shape[0]):
            place = 0.0
            for j in range(z.shape[0]):
                place += direction[c, j] * z[j]
            passed = 0
            while passed < edge.shape[1] and place > edge[c, passed]:
                passed += 1
            total += height[c, passed]
        out[i] = np.float32(total)
