"""JSON tokens over a byte array: strings, plain numbers, whole values to be skipped.

Part of the compiled scanner (``scan.py``): -1 means "not plain, let the slow parser look". No index is checked
against a record's end, for the NUL behind each record ends every loop here.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.events.memory import byte_at, count_trailing_zeros, load_u64
from anomalyze.events.schema import DEPTH_MAX

__all__ = ["scan_number", "scan_string", "skip_literal", "skip_space", "skip_value"]

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)
_ZERO = np.uint64(0)
_TRUE = np.uint64(int.from_bytes(b"true", "little"))
_NULL = np.uint64(int.from_bytes(b"null", "little"))
_FALSE = np.uint64(int.from_bytes(b"false", "little"))
_FOUR_BYTES = np.uint64(0xFFFFFFFF)
_FIVE_BYTES = np.uint64(0xFFFFFFFFFF)


@njit(cache=True, nogil=True, forceinline=True)
def skip_space(buffer, i):  # type: ignore[no-untyped-def]
    byte = byte_at(buffer, i)
    while byte == 32 or byte == 10 or byte == 13 or byte == 9:
        i += 1
        byte = byte_at(buffer, i)
    return i


@njit(cache=True, nogil=True)
def _utf8_length(buffer, i):  # type: ignore[no-untyped-def]
    """Bytes of the UTF-8 character at ``i`` (Unicode, table 3-7), or 0 when it is not valid."""
    first = byte_at(buffer, i)
    second = byte_at(buffer, i + 1)
    if first < 0xC2 or first > 0xF4 or second & 0xC0 != 0x80:
        return 0
    if first < 0xE0:
        return 2
    if byte_at(buffer, i + 2) & 0xC0 != 0x80:
        return 0
    if first < 0xF0:
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return 0
        return 3
    if byte_at(buffer, i + 3) & 0xC0 != 0x80:
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return 4


@njit(cache=True, nogil=True)
def _escape_length(buffer, i):  # type: ignore[no-untyped-def]
    """Bytes of the escape behind a backslash, or 0 when it is wrong, NUL, or half of a pair."""
    byte = byte_at(buffer, i)
    if byte == 117:  # u
        code = 0
        for at in range(i + 1, i + 5):
            digit = byte_at(buffer, at)
            if 48 <= digit <= 57:
                code = code * 16 + digit - 48
            elif 97 <= digit | 32 <= 102:
                code = code * 16 + (digit | 32) - 87
            else:
                return 0
        return 0 if code == 0 or 0xD800 <= code <= 0xDFFF else 5
    if byte == 34 or byte == 92 or byte == 47 or byte == 110:
        return 1
    return 1 if byte == 116 or byte == 114 or byte == 98 or byte == 102 else 0


@njit(cache=True, nogil=True)
def scan_string(buffer, i):  # type: ignore[no-untyped-def]
    """From behind the opening quote: index of the closing one or -1, and what is in between.

    Flags: 1 an escape, 2 a character beyond ASCII, 4 an escape ``\\u``.
    """
    flags = 0
    while True:
        word = load_u64(buffer, i)
        quotes = word ^ _QUOTES
        slashes = word ^ _BACKSLASHES
        # The lowest marked byte of each term is exact; borrows only mark bytes above it.
        marks = (
            ((quotes - _ONES) & ~quotes) | ((slashes - _ONES) & ~slashes) | ((word - _SPACES) & ~word) | word
        ) & _HIGHS
        if marks == _ZERO:
            i += 8
            continue
        i += count_trailing_zeros(marks) >> 3
        byte = byte_at(buffer, i)
        if byte == 34:
            return i, flags
        if byte == 92:
            length = _escape_length(buffer, i + 1)
            if length == 0:
                return -1, flags
            flags |= 1 if length == 1 else 5
            i += 1 + length
        elif byte >= 128:
            length = _utf8_length(buffer, i)
            if length == 0:
                return -1, flags
            flags |= 2
            i += length
        else:
            return -1, flags


@njit(cache=True, nogil=True)
def scan_number(buffer, i):  # type: ignore[no-untyped-def]
    """(index behind the number or -1, its digits as an integer, decimals) of a plain JSON number."""
    negative = byte_at(buffer, i) == 45
    if negative:
        i += 1
    first = i
    mantissa = np.int64(0)
    byte = byte_at(buffer, i)
    while 48 <= byte <= 57:
        mantissa = mantissa * 10 + (byte - 48)
        i += 1
        byte = byte_at(buffer, i)
        if i - first > 18:
            return -1, mantissa, 0
    digits = i - first
    if digits == 0 or (digits > 1 and byte_at(buffer, first) == 48):
        return -1, mantissa, 0
    decimals = 0
    if byte == 46:
        i += 1
        point = i
        byte = byte_at(buffer, i)
        while 48 <= byte <= 57:
            mantissa = mantissa * 10 + (byte - 48)
            i += 1
            byte = byte_at(buffer, i)
            if digits + i - point > 18:
                return -1, mantissa, 0
        decimals = i - point
        if decimals == 0:
            return -1, mantissa, 0
    if byte == 101 or byte == 69:
        return -1, mantissa, 0
    if negative:
        mantissa = -mantissa
    return i, mantissa, decimals


@njit(cache=True, nogil=True)
def skip_literal(buffer, i):  # type: ignore[no-untyped-def]
    """Index behind true, false or null, or -1."""
    word = load_u64(buffer, i)
    if word & _FOUR_BYTES in (_TRUE, _NULL):
        return i + 4
    if word & _FIVE_BYTES == _FALSE:
        return i + 5
    return -1


@njit(cache=True, nogil=True)
def _skip_key(buffer, i):  # type: ignore[no-untyped-def]
    """Index of the value behind the key at ``i``, or -1."""
    if byte_at(buffer, i) != 34:
        return -1
    end, _ = scan_string(buffer, i + 1)
    if end < 0:
        return -1
    i = skip_space(buffer, end + 1)
    if byte_at(buffer, i) != 58:
        return -1
    return skip_space(buffer, i + 1)


@njit(cache=True, nogil=True)
def skip_value(buffer, i, depth):  # type: ignore[no-untyped-def]
    """Index behind the JSON value at ``i``, which lies ``depth`` levels deep, or -1."""
    level = 0
    objects = 0  # bit per level: whether it is an object
    while True:
        byte = byte_at(buffer, i)
        opened = False
        if byte == 34:
            end, _ = scan_string(buffer, i + 1)
            if end < 0:
                return -1
            i = end + 1
        elif byte == 123 or byte == 91:
            level += 1
            if depth + level > DEPTH_MAX:
                return -1
            i = skip_space(buffer, i + 1)
            if byte == 123:
                objects |= 1 << level
                opened = byte_at(buffer, i) != 125
                if opened:
                    i = _skip_key(buffer, i)
                    if i < 0:
                        return -1
            else:
                objects &= ~(1 << level)
                opened = byte_at(buffer, i) != 93
        elif byte == 45 or 48 <= byte <= 57:
            i, _, _ = scan_number(buffer, i)
            if i < 0:
                return -1
        else:
            i = skip_literal(buffer, i)
            if i < 0:
                return -1
        if opened:
            continue
        while True:
            if level == 0:
                return i
            i = skip_space(buffer, i)
            byte = byte_at(buffer, i)
            inside_object = objects & (1 << level) != 0
            if byte == 44:
                i = skip_space(buffer, i + 1)
                if inside_object:
                    i = _skip_key(buffer, i)
                    if i < 0:
                        return -1
                break
            if (byte == 125 and inside_object) or (byte == 93 and not inside_object):
                level -= 1
                i += 1
                continue
            return -1
