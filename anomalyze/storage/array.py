"""Columns of thousands of values as parameters, in PostgreSQL's binary array format.

psycopg writes a list value by value, which for the sink's counters costs more than counting. A connection knows what
was registered when it was made: `pool` imports this module, so that each does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

__all__ = ["BigintArray", "TextArray"]

# Oids of the element types (PostgreSQL: src/include/catalog/pg_type.dat).
_BIGINT, _BIGINT_ARRAY = 20, 1016
_TEXT, _TEXT_ARRAY = 25, 1009
# Dimensions, has-nulls flag, element type, length, lower bound.
_HEADER = struct.Struct(">iiiii").pack
_LENGTH = struct.Struct(">i").pack


class TextArray:
    """A parameter of type ``text[]``."""

    __slots__ = ("content",)

    def __init__(self, values: Iterable[str]) -> None:
        parts = [b""]
        for value in values:
            encoded = value.encode()
            parts.append(_LENGTH(len(encoded)))
            parts.append(encoded)
        parts[0] = _HEADER(1, 0, _TEXT, len(parts) // 2, 1)
        self.content = b"".join(parts)


class BigintArray:
    """A parameter of type ``bigint[]``."""

    __slots__ = ("content",)

    def __init__(self, values: Iterable[int]) -> None:
        # Programs without numpy connect too.
        import numpy as np

        column = np.fromiter(values, np.int64)
        elements = np.empty(len(column), np.dtype([("length", ">i4"), ("value", ">i8")]))
        elements["length"] = 8
        elements["value"] = column
        self.content = _HEADER(1, 0, _BIGINT, len(column), 1) + elements.tobytes()


class _Dumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: TextArray | BigintArray) -> Buffer:
        return obj.content


class _TextDumper(_Dumper):
    oid = _TEXT_ARRAY


class _BigintDumper(_Dumper):
    oid = _BIGINT_ARRAY


psycopg.adapters.register_dumper(TextArray, _TextDumper)
psycopg.adapters.register_dumper(BigintArray, _BigintDumper)
