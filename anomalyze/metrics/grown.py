"""An array in a file, mapped into memory, that grows."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GrownArray"]

_ROWS_AT_LEAST = 8


class GrownArray:
    """Rows of one shape in one file; new rows are zero.

    Parameters
    ----------
    path
        The file; made when there is none.
    dtype, shape
        Of a row.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape
        self._row_bytes = self._dtype.itemsize * math.prod(shape)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._memory: mmap.mmap | None = None
        self.array: npt.NDArray[Any] = np.zeros((0, *shape), self._dtype)
        self._map()

    def reserve(self, rows: int) -> None:
        """Make room for at least so many rows. Arrays taken from ``array`` before look at the old mapping.

        Raises
        ------
        OSError
            The disk is full. Space is claimed here: a hole that cannot be filled later would end the process.
        """
        if rows <= len(self.array):
            return
        rows = max(rows, len(self.array) + len(self.array) // 4, _ROWS_AT_LEAST)
        size = rows * self._row_bytes
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)
        else:
            os.ftruncate(self._file, size)
        self._map()

    def flush(self) -> None:
        """Write to the disk what has changed."""
        if self._memory is not None:
            self._memory.flush()

    def close(self) -> None:
        """Let go of the file."""
        self.array = np.zeros((0, *self._shape), self._dtype)
        self._memory = None
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _map(self) -> None:
        rows = os.fstat(self._file).st_size // self._row_bytes
        if rows:
            self._memory = mmap.mmap(self._file, rows * self._row_bytes)
            self.array = np.frombuffer(self._memory, self._dtype).reshape(rows, *self._shape)
