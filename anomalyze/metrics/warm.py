"""Compiles the package's kernels before the first batch waits for them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from anomalyze.metrics.bank import SeriesBank

__all__ = ["warm"]


@cache
def warm() -> None:
    """Compile, or load from the cache beside the sources, what advancing a bank needs; once a process."""
    with tempfile.TemporaryDirectory() as folder, SeriesBank.open(Path(folder), ["warm"], 3_600.0) as bank:
        for first in (0, 64):  # the second call moves the series into a larger block
            points = np.arange(first, first + 64)
            bank.advance(np.zeros(64, np.int64), points * 3_600_000, points.astype(np.float64))
