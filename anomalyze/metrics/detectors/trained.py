"""PyOD's detectors, trained for each metric on a table of lags, again and again as time goes on.

When is given by the clock of the data: rows of a span of ``refit`` (counted from 1970) are judged by what was learned of the
newest values before that span began. While these are too few for a span, those before the row's day count. So a model is
a function of stored values, name, parameters and seed; it is trained where it is needed, and never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.detectors.base import (
    ALERT,
    STRENGTH_MAX,
    Found,
    Reach,
    Stretch,
    nothing,
    times_as_far,
    usable,
)
from anomalyze.metrics.detectors.lag_table import Learned, lag_table, learn
from anomalyze.metrics.detectors.search import Candidate, find_best
from anomalyze.metrics.detectors.setting import Pyod
from anomalyze.metrics.incident import Incident

__all__ = ["TrainedDetector"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_DAY_MS = 86_400_000
# Rows of a table from which on something is learned.
ROWS_MIN = 100
LAGS_MAX = 100

TITLES = {
    "default": "neighbours and bulk",
    "iforest": "isolation forest",
    "ecod": "ECOD",
    "copod": "COPOD",
    "hbos": "histograms (HBOS)",
    "pca": "principal components",
    "knn": "nearest neighbours",
    "lof": "local outlier factor",
    "mcd": "minimum covariance determinant",
    "ocsvm": "one-class SVM",
    "kde": "kernel density",
    "gmm": "Gaussian mixture",
}


class TrainedDetector:
    """As configured; see the module."""

    wants: tuple[str, ...] = ()

    def __init__(self, kind: str, version: int, setting: Pyod) -> None:
        self.kind, self.version, self._setting = kind, version, setting
        self._refit_ms = int(setting.refit.total_seconds() * 1000)

    def reach(self, first_ms: int) -> Reach:
        """All rows since the span began, and the training rows before with their lags."""
        return Reach(first_ms // self._refit_ms * self._refit_ms, self._setting.train + LAGS_MAX + 2)

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        value, ts_ms = usable(stretch.value), stretch.ts_ms
        found = nothing(len(value) - first)
        found.level[:] = value[first:]
        for rows, learned, table in self._spans(ts_ms, value, first):
            known = rows[~np.isnan(table[rows, 0])]
            if not len(known):
                continue
            score = learned.score(table[known])
            above, size = score - learned.usual, learned.limit - learned.usual
            # Training rows that all score the same: what scores more is new.
            strength = ALERT * above / size if size > 0 else np.where(above > 0, STRENGTH_MAX, 0.0)
            found.strength[known - first] = np.clip(strength, 0.0, STRENGTH_MAX)
            found.measure[known - first] = score
        return found

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        setting = self._setting
        what = f"{setting.lags} lags" if setting.search is None else "its lags"
        return (
            f"{metric} = {shown(incident.peak_value)}: to PyOD's {TITLES[setting.name]} on {what} stranger than "
            f"{100 * setting.quantile:.4g} % of what it was trained on{times_as_far(incident.peak_strength)}"
        )

    def _spans(self, ts_ms: Ints, value: Floats, first: int) -> Iterator[tuple[Ints, Learned, Floats]]:
        """Rows that one model judges, the model, and the table that it reads."""
        tables: dict[tuple[int, bool], Floats] = {}
        for begin_ms, rows in _by_span(ts_ms, np.arange(first, len(ts_ms)), self._refit_ms):
            parts = [(begin_ms, rows)]
            end = int(np.searchsorted(ts_ms, begin_ms))
            training = self._table(tables, value, None)[max(0, end - self._setting.train) : end, 0]
            if np.count_nonzero(~np.isnan(training)) < ROWS_MIN:
                parts = list(_by_span(ts_ms, rows, min(self._refit_ms, _DAY_MS)))
            for at_ms, some in parts:
                learned = self._learn(tables, value, int(np.searchsorted(ts_ms, at_ms)))
                if learned is not None:
                    yield some, *learned

    def _learn(
        self, tables: dict[tuple[int, bool], Floats], value: Floats, end: int
    ) -> tuple[Learned, Floats] | None:
        """What is learned of the values before a row."""
        setting = self._setting
        begin = max(0, end - setting.train)
        candidate = None
        if setting.search is not None and end - begin >= ROWS_MIN:
            candidate = find_best(setting, setting.search, value[begin:end])
        table = self._table(tables, value, candidate)
        training = table[begin:end]
        training = training[~np.isnan(training[:, 0])]
        if len(training) < ROWS_MIN:
            return None
        learned = learn(setting.name, training, setting.seed, setting.quantile)
        return None if learned is None else (learned, table)

    def _table(
        self, tables: dict[tuple[int, bool], Floats], value: Floats, candidate: Candidate | None
    ) -> Floats:
        setting = self._setting
        key = (setting.lags, setting.differences) if candidate is None else candidate
        if key not in tables:
            tables[key] = lag_table(value, *key)
        return tables[key]


def _by_span(ts_ms: Ints, rows: Ints, span_ms: int) -> Iterator[tuple[int, Ints]]:
    """Rows of each span, with the time at which it begins."""
    if not len(rows):
        return
    begins = ts_ms[rows] // span_ms * span_ms
    for some in np.split(rows, np.flatnonzero(np.diff(begins)) + 1):
        yield int(ts_ms[some[0]] // span_ms * span_ms), some
