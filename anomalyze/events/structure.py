"""Where the known fields of a record lie: the scanner's reading of its JSON, before anything is understood."""

from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.events.field import (
    ACCOUNT,
    AMOUNT,
    CURRENCY,
    DATA,
    FIELDS,
    LATITUDE,
    LOCATION,
    LONGITUDE,
    META,
    TIMESTAMP,
    TX,
    UNKNOWN,
    USER,
    known_field,
)
from anomalyze.events.memory import byte_at, load_u64
from anomalyze.events.token import scan_number, scan_string, skip_literal, skip_space, skip_value

__all__ = ["FOLDED", "SPANS", "scan_structure"]

# What a record's spans are: start and length of each field (of a number: mantissa and decimals), -1 for the length of one
# that is not there; then whether the location has letters that only the gazetteer itself can fold.
FOLDED = 2 * FIELDS
SPANS = 2 * FIELDS + 1

_IS_NUMBER = (1 << AMOUNT) | (1 << LATITUDE) | (1 << LONGITUDE)
_IS_REQUIRED = (1 << TIMESTAMP) | (1 << USER) | (1 << ACCOUNT) | (1 << TX) | (1 << AMOUNT) | (1 << CURRENCY)
_META_KEY = np.uint64(int.from_bytes(b"meta", "little"))
_DATA_KEY = np.uint64(int.from_bytes(b"data", "little"))
_FOUR_BYTES = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _scan_section(buffer, i, section, spans):  # type: ignore[no-untyped-def]
    """Index behind the object at ``i``, its known fields in ``spans``; -1 to give up."""
    if byte_at(buffer, i) != 123:
        return -1
    i = skip_space(buffer, i + 1)
    seen = 0
    if byte_at(buffer, i) == 125:
        return i + 1
    while True:
        if byte_at(buffer, i) != 34:
            return -1
        start = i + 1
        end, flags = scan_string(buffer, start)
        if end < 0 or flags & 4:  # a key in disguise may be a known one
            return -1
        field = known_field(buffer, start, end - start, section)
        i = skip_space(buffer, end + 1)
        if byte_at(buffer, i) != 58:
            return -1
        i = skip_space(buffer, i + 1)
        if field == UNKNOWN:
            i = skip_value(buffer, i, 2)
            if i < 0:
                return -1
        else:
            bit = 1 << field
            if seen & bit:
                return -1
            seen |= bit
            if byte_at(buffer, i) == 110:
                if bit & _IS_REQUIRED:
                    return -1
                i = skip_literal(buffer, i)
                if i < 0:
                    return -1
            elif bit & _IS_NUMBER:
                i, mantissa, decimals = scan_number(buffer, i)
                if i < 0:
                    return -1
                spans[2 * field] = mantissa
                spans[2 * field + 1] = decimals
            else:
                if byte_at(buffer, i) != 34:
                    return -1
                start = i + 1
                end, flags = scan_string(buffer, start)
                # ids are counted and searched for control characters as ASCII only
                if end < 0 or flags & 1 or (flags and field < LOCATION):
                    return -1
                spans[2 * field] = start
                spans[2 * field + 1] = end - start
                if field == LOCATION:
                    spans[FOLDED] = flags
                i = end + 1
        i = skip_space(buffer, i)
        if byte_at(buffer, i) == 44:
            i = skip_space(buffer, i + 1)
        elif byte_at(buffer, i) == 125:
            return i + 1
        else:
            return -1


@njit(cache=True, nogil=True)
def scan_structure(buffer, start, end, spans):  # type: ignore[no-untyped-def]
    """Index of the record's last brace, or -1; every known field in ``spans``."""
    for field in range(FIELDS):
        spans[2 * field] = start
        spans[2 * field + 1] = -1
    i = skip_space(buffer, start)
    if byte_at(buffer, i) != 123:
        return -1
    seen = 0
    i = skip_space(buffer, i + 1)
    while True:
        if byte_at(buffer, i) != 34 or byte_at(buffer, i + 5) != 34:
            return -1
        key = load_u64(buffer, i + 1) & _FOUR_BYTES
        if key == _META_KEY:
            section = META
        elif key == _DATA_KEY:
            section = DATA
        else:
            return -1
        if seen & (1 << section):
            return -1
        seen |= 1 << section
        i = skip_space(buffer, i + 6)
        if byte_at(buffer, i) != 58:
            return -1
        i = _scan_section(buffer, skip_space(buffer, i + 1), section, spans)
        if i < 0:
            return -1
        i = skip_space(buffer, i)
        if byte_at(buffer, i) == 44:
            i = skip_space(buffer, i + 1)
        elif byte_at(buffer, i) == 125:
            break
        else:
            return -1
    if seen != 3 or skip_space(buffer, i + 1) != end:
        return -1
    return i
