"""Columns for tests, from rows as a person writes them: None is NULL, text stays text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.events.hashing import text_key
from anomalyze.rules import Column, ColumnTypes

__all__ = ["TYPES", "column_arrays", "types_of"]

TYPES = ColumnTypes(
    [
        Column("a", "number"),
        Column("b", "number"),
        Column("c", "number"),
        Column("f", "flag"),
        Column("g", "flag"),
        Column("t", "text"),
        Column("u", "text"),
        Column("word", "text", choices=frozenset({"red", "green"})),
        Column("id", "text", listed_only=True),
    ]
)


def column_arrays(types: ColumnTypes, rows: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """The rows as the detector hands them over."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, column in types.items():
        values = [row.get(name) for row in rows]
        if column.kind == "text":
            arrays[name] = np.array([0 if v is None else text_key(v) for v in values], dtype=np.uint64)
        else:
            arrays[name] = np.array([np.nan if v is None else float(v) for v in values])
    return arrays


def types_of(names: Sequence[str]) -> ColumnTypes:
    """Number columns of these names."""
    return ColumnTypes([Column(name, "number") for name in names])
