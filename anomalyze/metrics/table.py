"""The default detector for tables: rows of numbers without time, no labels, one rule for every table.

Two distances see different things: to the nearest rows (local: a row far from its like) and to the bulk as a whole
(global: a row against the way columns go together). Each is put on the scale of what training rows reach, and both
are added. Parameters follow from the number of rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

__all__ = ["COLUMNS_MAX", "ROWS_MIN", "TableDetector", "fit_table"]

ROWS_MIN = 20
COLUMNS_MAX = 1_000
# Rows that neighbours are looked for among; more find nothing else and cost with their number.
NEIGHBOUR_ROWS_MAX = 4_000
NEIGHBOURS_MIN, NEIGHBOURS_SHARE = 5, 0.02
# Rows farthest from the bulk do not shape it (the idea of the minimum covariance determinant, Rousseeuw 1984).
BULK_SHARE, BULK_ROUNDS = 0.75, 5
# Of the mean variance, so that columns that follow from others divide by something.
SHRINKAGE = 0.01
DEVIATIONS_MAX = 30.0  # one wild column does not drown the others
NORMAL_DECILES = 2.56

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TableDetector:
    """What was learned from a table; ``fit_table`` makes it, the same table and seed the same one."""

    columns: npt.NDArray[np.int64]  # that vary
    centre: Floats
    scale: Floats
    near_rows: Floats  # scaled, among which neighbours are looked for
    neighbours: NearestNeighbors
    count: int
    mean: Floats
    axes: Floats
    variance: Floats
    typical: Floats  # median and spread of the logarithm of both distances, [2, 2]

    def score(self, rows: Floats) -> Floats:
        """How strange rows are.

        Parameters
        ----------
        rows
            float64 ``[N, F]``; NaN and infinities are taken as ordinary values of their column.

        Returns
        -------
        float64 ``[N]``, higher = stranger; about 0 for an ordinary row, 1 where one in ten of training lies.
        """
        scaled = _scale(rows, self.columns, self.centre, self.scale)
        near = self.neighbours.kneighbors(scaled, self.count)[0].mean(axis=1)
        bulk = _bulk_distance(scaled, self.mean, self.axes, self.variance)
        return _combine(near, bulk, self.typical)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All that was learned, as plain arrays, of which ``of`` makes the same detector."""
        kept = [field.name for field in fields(self) if field.name != "neighbours"]
        return {name: np.asarray(getattr(self, name)) for name in kept}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> TableDetector:
        """The detector that ``arrays`` are of."""
        kept = {field.name: arrays[field.name] for field in fields(cls) if field.name in arrays}
        neighbours = NearestNeighbors(n_jobs=1).fit(kept["near_rows"])
        return cls(**{**kept, "count": int(kept["count"]), "neighbours": neighbours})


def fit_table(rows: Floats, seed: int = 0) -> TableDetector:
    """Learn what is ordinary in a table.

    Parameters
    ----------
    rows
        float64 ``[N, F]``; some of them may be anomalous.

    Raises
    ------
    ValueError
        Fewer than ``ROWS_MIN`` rows, more than ``COLUMNS_MAX`` columns, or no column that varies.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or len(rows) < ROWS_MIN or rows.shape[1] > COLUMNS_MAX:
        raise ValueError(
            f"a table of at least {ROWS_MIN} rows and at most {COLUMNS_MAX} columns was expected, got {rows.shape}"
        )
    known = np.where(np.isfinite(rows), rows, np.nan)
    seen = np.isfinite(known).sum(axis=0) > 1
    columns = np.flatnonzero(seen)
    low, centre, high = np.nanquantile(known[:, columns], [0.1, 0.5, 0.9], axis=0)
    scale = (high - low) / NORMAL_DECILES
    # A column that is mostly one value still says something where it is another.
    scale = np.where(scale > 0, scale, np.nanstd(known[:, columns], axis=0))
    varies = np.isfinite(scale) & (scale > 0)
    if not varies.any():
        raise ValueError("at least one column with different values was expected, got none")
    columns, centre, scale = columns[varies], centre[varies], scale[varies]
    scaled = _scale(rows, columns, centre, scale)
    chosen = np.random.default_rng(seed).permutation(len(scaled))[:NEIGHBOUR_ROWS_MAX]
    near_rows = scaled[chosen]
    neighbours = NearestNeighbors(n_jobs=1).fit(near_rows)
    count = min(len(chosen) - 1, max(NEIGHBOURS_MIN, int(NEIGHBOURS_SHARE * len(rows))))
    mean, axes, variance = _fit_bulk(scaled)
    near = neighbours.kneighbors(n_neighbors=count)[0].mean(axis=1)  # of each row, itself left out
    bulk = _bulk_distance(scaled, mean, axes, variance)
    typical = np.array([_typical(near), _typical(bulk)])
    return TableDetector(columns, centre, scale, near_rows, neighbours, count, mean, axes, variance, typical)


def _scale(rows: Floats, columns: npt.NDArray[np.int64], centre: Floats, scale: Floats) -> Floats:
    scaled = (np.asarray(rows, np.float64)[:, columns] - centre) / scale
    return np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -DEVIATIONS_MAX, DEVIATIONS_MAX)


def _fit_bulk(scaled: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, axes and variances of the rows that lie together."""
    kept = scaled
    for _ in range(BULK_ROUNDS):
        mean = kept.mean(axis=0)
        variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(kept, rowvar=False)))
        variance = np.maximum(variance, 0.0)
        variance = variance + SHRINKAGE * max(float(variance.mean()), 1e-9)
        distance = _bulk_distance(scaled, mean, axes, variance)
        kept = scaled[np.argsort(distance, kind="stable")[: max(2, int(BULK_SHARE * len(scaled)))]]
    return mean, axes, variance


def _bulk_distance(scaled: Floats, mean: Floats, axes: Floats, variance: Floats) -> Floats:
    """Mahalanobis distance."""
    return np.asarray(np.sqrt((((scaled - mean) @ axes) ** 2 / variance).sum(axis=1)))


def _typical(distance: Floats) -> tuple[float, float]:
    logs = np.log(distance + 1e-9)
    middle, high = np.quantile(logs, [0.5, 0.9])
    return float(middle), max(float(high - middle), 1e-3)


def _combine(near: Floats, bulk: Floats, typical: Floats) -> Floats:
    both = np.log(np.column_stack([near, bulk]) + 1e-9)
    return np.asarray(((both - typical[:, 0]) / typical[:, 1]).mean(axis=1))
