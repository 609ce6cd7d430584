"""Which engine serves a model: a compiled kernel for those that training makes, ONNX Runtime for every other."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError, ModelError
from anomalyze.models.dense import DenseKernel, dense_from_onnx
from anomalyze.models.kernel import TreeKernel

__all__ = ["OnnxScorer", "Scorer", "load_scorer"]

# Beyond about a hundred rows ONNX Runtime changes its strategy for trees and halves its speed.
_CALL_ROWS = 96


class Scorer(Protocol):
    """What gives rows of features a raw score; higher = stranger."""

    feature_count: int

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scores float32 ``[n]`` of float32 ``[n, feature_count]`` rows, NaN = missing."""
        ...


class OnnxScorer:
    """ONNX Runtime on one thread: with two, a score's last bits change with the size of the call.

    Raises
    ------
    ContractError
        When ONNX Runtime refuses the model, or its signature is not one float32 ``[n, k]`` input.
    """

    def __init__(self, data: bytes) -> None:
        # Only models that no kernel serves need it, and the parity gate.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class of their own
            raise ContractError(f"model: ONNX Runtime refuses it: {str(error)[:300]}") from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if (
            len(inputs) != 1
            or inputs[0].type != "tensor(float)"
            or len(shape) != 2
            or not isinstance(shape[1], int)
        ):
            raise ContractError(
                "model: expected one float32 input [n, k]; export it with a fixed number of features"
            )
        self.feature_count: int = shape[1]
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name

    def score(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scores float32 ``[n]`` of float32 ``[n, feature_count]`` rows."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.feature_count:
            raise ContractError(
                f"model input: expected [n, {self.feature_count}] values, got shape {rows.shape}"
            )
        out = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _CALL_ROWS):
            block = rows[start : start + _CALL_ROWS]
            out[start : start + len(block)] = self._session.run([self._output], {self._input: block})[
                0
            ].reshape(-1)
        return out


def load_scorer(data: bytes) -> Scorer:
    """The fastest engine that serves this ONNX model.

    Raises
    ------
    ContractError
        When no engine can.
    """
    try:
        return TreeKernel.from_onnx(data)
    except ModelError:
        dense = dense_from_onnx(data)
        return OnnxScorer(data) if dense is None else DenseKernel(dense)
