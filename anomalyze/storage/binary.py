"""Columns of numbers to and from PostgreSQL's binary COPY format, without a loop over rows.

Every column has 8 bytes and no NULL: integers, times (µs since 2000, PostgreSQL's own) and double precision, where
NaN stands for NULL. (Format: PostgreSQL documentation, COPY, "Binary Format".)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

__all__ = ["EPOCH_MS", "copy_in", "copy_out", "to_ms", "to_postgres_us"]

# Milliseconds from 1970 to 2000.
EPOCH_MS = 946_684_800_000
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_KINDS = {"i": ">i8", "f": ">f8"}


def to_postgres_us(ts_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Times in ms since 1970 as PostgreSQL keeps them.

    >>> to_postgres_us(np.array([946_684_800_001]))
    array([1000])
    """
    return (ts_ms - EPOCH_MS) * 1000


def to_ms(ts_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The way back, cut to milliseconds."""
    return ts_us // 1000 + EPOCH_MS


def copy_in(cursor: psycopg.Cursor[Any], target: str, columns: Sequence[npt.NDArray[Any]]) -> None:
    """``COPY target FROM STDIN`` of columns of int64 or float64; ``target`` is a constant of ours."""
    kinds = ["i" if np.issubdtype(column.dtype, np.integer) else "f" for column in columns]
    rows = np.empty(len(columns[0]), _row(kinds))
    rows["columns"] = len(columns)
    for number, column in enumerate(columns):
        rows[f"l{number}"] = 8
        rows[f"v{number}"] = column
    with cursor.copy(f"COPY {target} FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(_HEADER)
        copy.write(rows.tobytes())
        copy.write(_TRAILER)


def copy_out(
    cursor: psycopg.Cursor[Any], query: str, parameters: Sequence[Any], kinds: str
) -> list[npt.NDArray[Any]]:
    """The columns of a query, all of 8 bytes and none NULL.

    Parameters
    ----------
    kinds
        A letter a column: ``i`` for bigint and timestamptz (µs since 2000), ``f`` for double precision.
    """
    content = bytearray()
    with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)", parameters) as copy:
        for part in copy:
            content += part
    dtype = _row(list(kinds))
    rows = np.frombuffer(memoryview(content)[len(_HEADER) : len(content) - len(_TRAILER)], dtype)
    native = {"i": np.int64, "f": np.float64}
    for number in range(len(kinds)):
        assert (rows[f"l{number}"] == 8).all(), f"column {number} of {query}: expected 8 bytes and no NULL"
    return [rows[f"v{number}"].astype(native[kind]) for number, kind in enumerate(kinds)]


def _row(kinds: Sequence[str]) -> np.dtype[Any]:
    fields: list[tuple[str, str]] = [("columns", ">i2")]
    for number, kind in enumerate(kinds):
        fields += [(f"l{number}", ">i4"), (f"v{number}", _KINDS[kind])]
    return np.dtype(fields)
