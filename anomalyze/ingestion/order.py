"""Rows of a large file in the order of their time, with the memory of a part of them.

Rows come in the file's order and are written as sorted runs; afterwards the runs are merged by time slices that
each fit into memory. Files are mostly in order already: then the runs are simply read one after the other. The
order is total (time, then line), so that reading the same file again gives the same sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["RUN_ROWS", "OrderedRows"]

RUN_ROWS = 400_000
_GROUP_ROWS = 8_192
# Slices are cut by every so many-th time of a run: all of a large file's would be held twice.
_SAMPLE_EVERY = 16


@dataclass(frozen=True, slots=True)
class _Run:
    """One sorted run: its file and its times, int64 ``[rows]`` ascending."""

    path: Path
    ts: npt.NDArray[np.int64]


class OrderedRows:
    """Takes rows in the file's order, gives them back in that of their time.

    Parameters
    ----------
    folder
        For the runs; somebody else's to delete.
    run_rows
        Rows held in memory at once.
    """

    def __init__(self, folder: Path, run_rows: int = RUN_ROWS) -> None:
        self._folder = folder
        self._run_rows = run_rows
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._runs: list[_Run] = []
        self.rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Take rows (``ts``, ``line``, ``user``, ``value``), whose lines lie behind all before."""
        if frame.height == 0:
            return
        self._waiting.append(frame)
        self._waiting_rows += frame.height
        self.rows += frame.height
        if self._waiting_rows >= self._run_rows:
            self._write_run()

    def read(self, skip: int = 0, batch_rows: int = 10_000) -> Iterator[pl.DataFrame]:
        """All rows in order but the first ``skip``, in batches of at most ``batch_rows``."""
        self._write_run()
        for start, part in self._parts():
            first = max(0, skip - start)
            for at in range(first, part.height, batch_rows):
                yield part.slice(at, batch_rows)

    def _write_run(self) -> None:
        if not self._waiting:
            return
        frame = pl.concat(self._waiting).sort("ts", "line")
        self._waiting, self._waiting_rows = [], 0
        path = self._folder / f"run-{len(self._runs):06d}.parquet"
        frame.write_parquet(path, compression="lz4", row_group_size=_GROUP_ROWS, statistics=False)
        self._runs.append(_Run(path, frame["ts"].to_numpy().copy()))

    def _parts(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """(rows before it, rows) of consecutive parts of the whole order."""
        start = 0
        for lower, upper in self._slices():
            cuts = [
                (run, int(np.searchsorted(run.ts, lower)), int(np.searchsorted(run.ts, upper)))
                for run in self._runs
            ]
            rows = sum(b - a for _, a, b in cuts)
            if rows == 0:
                continue
            if upper - lower == 1 or sum(b > a for _, a, b in cuts) == 1:
                # One moment, or one run: the runs' own order is the order, whatever the size.
                for run, a, b in cuts:
                    for at in range(a, b, self._run_rows):
                        size = min(self._run_rows, b - at)
                        yield start, _read(run, at, size)
                        start += size
                continue
            yield start, pl.concat([_read(run, a, b - a) for run, a, b in cuts if b > a]).sort("ts", "line")
            start += rows

    def _slices(self) -> list[tuple[int, int]]:
        """Spans of time, from and to, one behind the other, with about as many rows as a run has."""
        runs = [run for run in self._runs if len(run.ts)]
        if not runs:
            return []
        if all(a.ts[-1] < b.ts[0] for a, b in pairwise(runs)):
            return [(int(run.ts[0]), int(run.ts[-1]) + 1) for run in runs]
        count = -(-self.rows // self._run_rows)
        every = np.concatenate([run.ts[::_SAMPLE_EVERY] for run in runs])
        places = np.unique(np.linspace(0, len(every) - 1, count + 1).astype(np.int64))
        bounds = np.unique(np.partition(every, places)[places])
        # A moment with very many rows gets a span of its own.
        low, high = min(int(run.ts[0]) for run in runs), max(int(run.ts[-1]) for run in runs) + 1
        crowded = [
            int(ts)
            for ts in bounds
            if sum(int(np.searchsorted(r.ts, ts + 1) - np.searchsorted(r.ts, ts)) for r in runs)
            > self._run_rows
        ]
        cuts = sorted({low, high, *map(int, bounds), *(ts + 1 for ts in crowded)})
        return list(pairwise(cuts))


def _read(run: _Run, offset: int, rows: int) -> pl.DataFrame:
    return pl.scan_parquet(run.path).slice(offset, rows).collect()
