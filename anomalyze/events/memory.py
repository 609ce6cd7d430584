"""Unaligned loads and copies over byte arrays, for the compiled codec.

numba reads a uint8 array one byte at a time; the scanner and the hashes want eight. Every caller keeps the
index in range itself: buffers that are scanned end with ``PADDING`` spare bytes, so that a load which
begins inside a record never leaves the array. Little-endian machines only (x86-64, arm64).
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyze.errors import ContractError

__all__ = ["PADDING", "copy_bytes", "count_trailing_zeros", "load_u64"]

PADDING = 16

if sys.byteorder != "little":  # pragma: no cover
    raise ContractError(f"the compiled codec expects a little-endian machine, got {sys.byteorder}-endian")


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load_u64(typing_context: Any, array: Any, index: Any) -> Any:
    """Eight bytes of a uint8 array from ``index`` on, as a little-endian uint64; unchecked."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        word = ir.IntType(64)
        loaded = builder.load(builder.bitcast(pointer, word.as_pointer()), typ=word)
        loaded.align = 1
        return loaded

    return types.uint64(array, types.int64), generate


@intrinsic
def count_trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Zero bits below the lowest one bit of a uint64; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def copy_bytes(typing_context: Any, target: Any, at: Any, source: Any, start: Any, length: Any) -> Any:
    """Copy ``source[start:start + length]`` to ``target[at:]`` (uint8 arrays, no overlap); unchecked."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = _pointer(context, builder, signature.args[0], args[0], args[1])
        origin = _pointer(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, to, origin, args[4], 1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), generate
