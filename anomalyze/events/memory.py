"""Unaligned loads and copies over byte arrays, for the compiled codec.

numba reads a uint8 array one byte at a time; the scanner and the hashes want eight. "Bytes" below are a
C-contiguous uint8 array or the address of its first byte (``array.ctypes.data``, int64), which is cheaper to
hand from function to function; whoever holds the address keeps the array alive. Every caller keeps the
index in range itself: buffers that are scanned end with ``PADDING`` spare bytes, so that a load which
begins inside a record never leaves the array. Little-endian machines only (x86-64, arm64).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyze.errors import ContractError

__all__ = [
    "PADDING",
    "byte_at",
    "copy_bytes",
    "count_trailing_zeros",
    "float_bits",
    "load_u64",
    "put_byte",
    "same_bytes",
]

PADDING = 16

if sys.byteorder != "little":  # pragma: no cover
    raise ContractError(f"the compiled codec expects a little-endian machine, got {sys.byteorder}-endian")


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    if isinstance(array_type, types.Integer):
        return builder.inttoptr(builder.add(array, index), ir.IntType(8).as_pointer())
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def byte_at(typing_context: Any, array: Any, index: Any) -> Any:
    """One byte of a uint8 array as int64; unchecked, and no wrapping of negative indices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.zext(builder.load(pointer, typ=ir.IntType(8)), ir.IntType(64))

    return types.int64(array, types.int64), generate


@intrinsic
def put_byte(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write one byte (the low eight bits of an int64); unchecked."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        builder.store(builder.trunc(args[2], ir.IntType(8)), pointer)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def put_u64(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write eight bytes, lowest first; unchecked."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        stored = builder.store(args[2], builder.bitcast(pointer, ir.IntType(64).as_pointer()))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generate


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


@intrinsic
def float_bits(typing_context: Any, value: Any) -> Any:
    """The bits of a float64 as uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.uint64(types.float64), generate


@njit(cache=True, nogil=True)
def same_bytes(array, first, second, length):  # type: ignore[no-untyped-def]
    """Whether ``length`` bytes at two places are equal; up to 7 bytes behind both are read too."""
    i = 0
    while i + 8 <= length:
        if load_u64(array, first + i) != load_u64(array, second + i):
            return False
        i += 8
    if i == length:
        return True
    different = load_u64(array, first + i) ^ load_u64(array, second + i)
    return different << np.uint64(64 - 8 * (length - i)) == np.uint64(0)
