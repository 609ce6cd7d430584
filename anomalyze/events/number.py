"""Numbers as text, written in place by compiled code: rounded to so many decimals, no trailing zeros."""

from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.events.memory import put_byte

__all__ = ["DECIMALS_MAX", "NUMBER_BYTES_MAX", "format_number", "write_integer", "write_number"]


DECIMALS_MAX = 9
NUMBER_BYTES_MAX = 24

_MINUS, _POINT, _ZERO = ord("-"), ord("."), ord("0")
_POWERS = np.array([10.0**i for i in range(DECIMALS_MAX + 1)])
_TEN, _NONE = np.uint64(10), np.uint64(0)
# Beyond 2^53 a double has no such decimals to write: they are given up one by one. From 2^62 on: null.
_SCALED_MAX = float(1 << 53)
_WHOLE_MAX = float(1 << 62)


def format_number(value: float, decimals: int) -> str:
    """A number as the encoder writes it: rounded to that many decimals, no trailing zeros, NaN as null.

    >>> format_number(1234.5, 2), format_number(-0.0001, 2), format_number(float("nan"), 2)
    ('1234.5', '0', 'null')
    """
    out = np.empty(NUMBER_BYTES_MAX, dtype=np.uint8)
    return out[: write_number(out.ctypes.data, 0, float(value), decimals)].tobytes().decode()


@njit(cache=True, nogil=True)
def _write_decimal(out, i, number, decimals):  # type: ignore[no-untyped-def]
    """Index behind the digits of a uint64 with a point before the last ``decimals`` of them."""
    end = i + 1
    limit = _TEN
    while number >= limit:  # number is below 2^63, so that the limit never overflows
        limit *= _TEN
        end += 1
    if decimals > 0:
        end = max(end, i + 1 + decimals) + 1
    at = end - 1
    for _ in range(decimals):
        rest = number // _TEN
        put_byte(out, at, _ZERO + np.int64(number - _TEN * rest))
        number = rest
        at -= 1
    if decimals > 0:
        put_byte(out, at, _POINT)
        at -= 1
    while at >= i:
        rest = number // _TEN
        put_byte(out, at, _ZERO + np.int64(number - _TEN * rest))
        number = rest
        at -= 1
    return end


@njit(cache=True, nogil=True)
def write_integer(out, i, number):  # type: ignore[no-untyped-def]
    """Index behind the int64 written at ``i``."""
    if number < 0:
        put_byte(out, i, _MINUS)
        return _write_decimal(out, i + 1, np.uint64(-number), 0)
    return _write_decimal(out, i, np.uint64(number), 0)


@njit(cache=True, nogil=True)
def _write_null(out, i):  # type: ignore[no-untyped-def]
    put_byte(out, i, 110)
    put_byte(out, i + 1, 117)
    put_byte(out, i + 2, 108)
    put_byte(out, i + 3, 108)
    return i + 4


@njit(cache=True, nogil=True)
def write_number(out, i, value, decimals):  # type: ignore[no-untyped-def]
    """Index behind the number; see ``format_number``."""
    scaled = np.rint(abs(value) * _POWERS[decimals])
    while decimals > 0 and scaled >= _SCALED_MAX:
        decimals -= 1
        scaled = np.rint(abs(value) * _POWERS[decimals])
    if not scaled < _WHOLE_MAX:
        return _write_null(out, i)
    number = np.uint64(scaled)
    if value < 0 and number > _NONE:
        put_byte(out, i, _MINUS)
        i += 1
    while decimals > 0:
        rest = number // _TEN
        if rest * _TEN != number:
            break
        number = rest
        decimals -= 1
    return _write_decimal(out, i, number, decimals)
