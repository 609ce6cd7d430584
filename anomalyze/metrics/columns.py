"""Parallel columns: records of arrays that all have one entry a row."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Columns = TypeVar("Columns", bound=DataclassInstance)

__all__ = ["keep_rows"]


def keep_rows(columns: Columns, mask: npt.NDArray[np.bool_]) -> Columns:
    """The same columns with some of their rows."""
    return replace(columns, **{field.name: getattr(columns, field.name)[mask] for field in fields(columns)})
