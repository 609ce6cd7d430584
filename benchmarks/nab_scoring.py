"""The official scoring of the Numenta Anomaly Benchmark, as its paper and its scorer define it.

Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms" (2015). A detection inside a label window earns
the more the earlier it is, only the best one of a window counts, a window without any costs; a detection outside
costs the more the farther it lies behind the last window. The first 15 % of a series (at most 750 rows) are not
scored. One threshold holds for the whole corpus, and the official one is the best one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["PROFILES", "Corpus", "Profile", "Result", "load_corpus"]

Floats = npt.NDArray[np.float64]
PROBATION_SHARE, PROBATION_OF_ROWS_MAX = 0.15, 5_000


@dataclass(frozen=True)
class Profile:
    """Weights of one application profile."""

    tp: float
    fn: float
    fp: float


# By the keys of the benchmark's own configuration.
PROFILES = {
    "standard": Profile(1.0, 1.0, 0.11),
    "low_fp": Profile(1.0, 1.0, 0.22),
    "low_fn": Profile(1.0, 2.0, 0.11),
}


@dataclass(frozen=True)
class Result:
    """Points of a hundred (0: a detector that says nothing; 100: every window at its first row, nothing else)."""

    score: float
    threshold: float
    per_file: dict[str, float]  # raw points


@dataclass(frozen=True)
class Corpus:
    """All rows of all files, file after file; ``window`` is -1 outside, ``position`` what the sigmoid takes."""

    files: list[str]
    starts: npt.NDArray[np.int64]  # [F + 1]
    time_ms: npt.NDArray[np.int64]
    value: Floats
    window: npt.NDArray[np.int64]
    position: Floats
    scored: npt.NDArray[np.bool_]
    windows_of: npt.NDArray[np.int64]  # windows of each file, those in its probation too
    file_of: npt.NDArray[np.int64]

    def evaluate(self, scores: Floats, profile: Profile, threshold: float | None = None) -> Result:
        """Score a detector's output.

        Parameters
        ----------
        scores
            float64 ``[N]`` in the order of the corpus, higher = stranger.
        threshold
            A row at or above it is a detection; None: the best one for this profile.
        """
        rows = np.flatnonzero(self.scored)
        earned = _sigmoid(self.position) * np.where(
            self.window >= 0, profile.tp / _sigmoid(np.array(-1.0)), profile.fp
        )
        if threshold is None:
            threshold = self._best(scores, earned, profile, rows)
        detected = rows[scores[rows] >= threshold]
        per_file, missed = np.zeros(len(self.files)), self._countable()
        best = np.zeros(int(missed.max(initial=-1)) + 1)
        inside = detected[self.window[detected] >= 0]
        np.maximum.at(best, self.window[inside], earned[inside] + profile.fn)
        file_of_window = np.zeros(len(best), np.int64)
        file_of_window[self.window[self.window >= 0]] = self.file_of[self.window >= 0]
        np.add.at(per_file, file_of_window[missed], best[missed] - profile.fn)
        outside = detected[self.window[detected] < 0]
        np.add.at(per_file, self.file_of[outside], earned[outside])
        return Result(
            self._normal(float(per_file.sum()), profile),
            threshold,
            dict(zip(self.files, per_file.tolist(), strict=True)),
        )

    def _countable(self) -> npt.NDArray[np.int64]:
        """Windows with at least one scored row."""
        return np.unique(self.window[self.scored & (self.window >= 0)])

    def _normal(self, raw: float, profile: Profile) -> float:
        perfect = float(self.windows_of.sum()) * profile.tp
        null = -profile.fn * len(self._countable())
        return 100.0 * (raw - null) / (perfect - null)

    def _best(self, scores: Floats, earned: Floats, profile: Profile, rows: npt.NDArray[np.int64]) -> float:
        """The threshold with the most points: one pass from the highest score down."""
        order = rows[np.argsort(-scores[rows], kind="stable")]
        gain = np.where(self.window[order] < 0, earned[order], 0.0)
        best: dict[int, float] = {}
        for place in np.flatnonzero(self.window[order] >= 0).tolist():
            window, points = int(self.window[order[place]]), float(earned[order[place]])
            before = best.get(window, -profile.fn)
            if points > before:
                gain[place] = points - before
                best[window] = points
        total = np.cumsum(gain)
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        top = int(np.argmax(total[ends]))
        # Nothing detected is a threshold too.
        return (
            float(scores[order[ends[top]]])
            if total[ends[top]] > 0
            else float(np.nextafter(scores.max(), np.inf))
        )


def load_corpus(data: Path) -> Corpus:
    """Read ``nab.parquet`` and ``combined_windows.json`` from a folder."""
    frame = pl.read_parquet(data / "nab.parquet").with_columns(pl.col("file").cast(pl.String))
    limits: dict[str, list[list[str]]] = json.loads((data / "combined_windows.json").read_text())
    parts: dict[str, list[Any]] = {"window": [], "position": [], "scored": []}
    files, starts, windows_of, first_window = [], [0], [], 0
    for (file,), rows in frame.group_by("file", maintain_order=True):
        stamps = rows["timestamp"].to_numpy().astype("datetime64[us]")
        spans = [tuple(np.datetime64(limit, "us") for limit in span) for span in limits[str(file)]]
        window, position = _positions(stamps, spans)
        parts["window"].append(np.where(window >= 0, window + first_window, -1))
        parts["position"].append(position)
        probation = int(PROBATION_SHARE * min(len(stamps), PROBATION_OF_ROWS_MAX))
        parts["scored"].append(np.arange(len(stamps)) >= probation)
        files.append(str(file))
        starts.append(starts[-1] + len(stamps))
        windows_of.append(len(spans))
        first_window += len(spans)
    lengths = np.diff(starts)
    return Corpus(
        files=files,
        starts=np.array(starts),
        time_ms=frame["timestamp"].dt.epoch("ms").to_numpy(),
        value=frame["value"].cast(pl.Float64).to_numpy(),
        window=np.concatenate(parts["window"]),
        position=np.concatenate(parts["position"]),
        scored=np.concatenate(parts["scored"]),
        windows_of=np.array(windows_of),
        file_of=np.repeat(np.arange(len(files)), lengths),
    )


def _positions(stamps: Any, spans: list[tuple[Any, ...]]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Window of each row, and where it lies: -1 to 0 within a window, above 0 behind one, inf before the first."""
    window, position = np.full(len(stamps), -1), np.full(len(stamps), np.inf)
    for number, (begin, end) in enumerate(spans):
        left = int(np.flatnonzero(stamps == begin)[0])
        right = int(np.flatnonzero(stamps == end)[0])
        width = right - left + 1.0
        window[left : right + 1] = number
        position[left : right + 1] = -(right - np.arange(left, right + 1) + 1) / width
        behind = np.arange(right + 1, len(stamps))
        position[right + 1 :] = (behind - right) / (width - 1.0)
    return window, position


def _sigmoid(position: Floats) -> Floats:
    """The benchmark's scaled sigmoid: +1 at the left of a window, 0 at its right end, -1 far behind."""
    with np.errstate(over="ignore"):
        return np.where(position > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * position)) - 1.0)
