"""PyOD's detectors, trained for each metric on a table of lags, again and again as time goes on.

When is given by the clock of the data: rows of a span of ``refit`` (counted from 1970) are judged by what was learned of the
newest values before that span began. While these are too few for a span, those before the row's day count. So a model is
a function of stored values, name, parameters and seed. The newest one of a series is kept as plain arrays, with a digest
of all that it follows from (values, parameters, seed, versions of the libraries): where that is another one, it is trained
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version as version_of_package

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.detectors.base import (
    ALERT,
    STRENGTH_MAX,
    Arrays,
    Fits,
    Found,
    Reach,
    Stretch,
    band_told,
    nothing,
    times_as_far,
    usable,
)
from anomalyze.metrics.detectors.lag_table import Learned, lag_table, learn
from anomalyze.metrics.detectors.search import Candidate, find_best
from anomalyze.metrics.detectors.setting import Pyod
from anomalyze.metrics.detectors.usual import lean, learn_usual, write_leaning
from anomalyze.metrics.incident import Incident

__all__ = ["TrainedDetector"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_DAY_MS = 86_400_000
# Rows of a table from which on something is learned.
ROWS_MIN = 100
LAGS_MAX = 100
_NUMBERS, _PAST = "learned", "past"

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


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows that one model judges, the model and the table that it reads; what is usual by the values it learned from, and
    how many values a row of the table is made of.
    """

    rows: Ints
    learned: Learned
    table: Floats
    usual: Floats
    looked_at: int


class TrainedDetector:
    """As configured; see the module."""

    wants: tuple[str, ...] = ()
    wants_ms = 0

    def __init__(self, kind: str, version: int, setting: Pyod) -> None:
        self.kind, self.version, self._setting = kind, version, setting
        self.keeps: tuple[str, ...] = (f"{kind}-{version}",)
        self._refit_ms = int(setting.refit.total_seconds() * 1000)

    def reach(self, first_ms: int) -> Reach:
        """All rows since the span began, and the training rows before with their lags."""
        return Reach(first_ms // self._refit_ms * self._refit_ms, self._setting.train + LAGS_MAX + 2)

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        value = usable(stretch.value)
        count = len(value) - first
        tail, direction = np.full(count, np.nan), np.zeros(count, np.int64)
        found = replace(nothing(count), direction=direction, tail=tail)
        found.level[:] = value[first:]
        for span in self._spans(stretch, value, first):
            rows, learned = span.rows, span.learned
            upto = slice(0, int(rows[-1]) + 1)
            leaning = lean(
                span.usual,
                stretch.ts_ms[upto],
                stretch.offset_ms[upto],
                value[upto],
                int(rows[0]),
                span.looked_at,
            )
            write_leaning(found, rows - first, leaning)
            known = rows[~np.isnan(span.table[rows, 0])]
            if not len(known):
                continue
            score = learned.score(span.table[known])
            above, size = score - learned.usual, learned.limit - learned.usual
            # Training rows that all score the same: what scores more is new.
            strength = ALERT * above / size if size > 0 else np.where(above > 0, STRENGTH_MAX, 0.0)
            found.strength[known - first] = np.clip(strength, 0.0, STRENGTH_MAX)
            found.measure[known - first] = score
            tail[known - first] = learned.tail(score)
        return found

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        setting = self._setting
        what = f"{setting.lags} lags" if setting.search is None else "its lags"
        return (
            f"{metric} = {shown(incident.peak_value)}{band_told(incident, shown)}: to PyOD's {TITLES[setting.name]} on {what} stranger than "
            f"{100 * setting.quantile:.4g} % of what it was trained on{times_as_far(incident.peak_strength)}"
        )

    def _spans(self, stretch: Stretch, value: Floats, first: int) -> Iterator[_Span]:
        """Rows that one model judges, with what it needs."""
        ts_ms, tables = stretch.ts_ms, dict[Candidate, Floats]()
        parts: list[tuple[int, Ints]] = []
        for begin_ms, rows in _by_span(ts_ms, np.arange(first, len(ts_ms)), self._refit_ms):
            end = int(np.searchsorted(ts_ms, begin_ms))
            training = self._table(tables, value, None)[max(0, end - self._setting.train) : end, 0]
            if np.count_nonzero(~np.isnan(training)) < ROWS_MIN:
                parts += _by_span(ts_ms, rows, min(self._refit_ms, _DAY_MS))
            else:
                parts.append((begin_ms, rows))
        for number, (at_ms, rows) in enumerate(parts, 1):
            # Of a history's models the last one is asked for again, with the next value.
            fits = stretch.fits if number == len(parts) else None
            end = int(np.searchsorted(ts_ms, at_ms))
            found = self._learned(tables, value, end, fits)
            if found is None:
                continue
            learned, (lags, differences) = found
            part = slice(max(0, end - self._setting.train), end)
            usual = learn_usual(ts_ms[part], stretch.offset_ms[part], value[part])
            table = self._table(tables, value, (lags, differences))
            yield _Span(rows, learned, table, usual, lags + 1 + differences)

    def _learned(
        self, tables: dict[Candidate, Floats], value: Floats, end: int, fits: Fits | None
    ) -> tuple[Learned, Candidate] | None:
        """What is learned of the values before a row, or was before, and of which table."""
        if fits is None:
            return self._learn(tables, value, end)
        (name,), key = self.keeps, self._key(value, end)
        kept = fits.load(name, key)
        if kept is not None:
            return _of_arrays(self._setting.name, kept)
        found = self._learn(tables, value, end)
        if found is not None:
            fits.keep(name, key, _as_arrays(*found))
        return found

    def _key(self, value: Floats, end: int) -> bytes:
        """A digest of all that a model follows from, beside what its name says."""
        begin = max(0, end - self._setting.train)
        seen = value[max(0, begin - LAGS_MAX - 1) : end]
        digest = hashlib.blake2b(f"{_libraries()} {end - begin} ".encode(), digest_size=16)
        digest.update(np.where(np.isnan(seen), np.nan, seen).tobytes())
        return digest.digest()

    def _learn(
        self, tables: dict[Candidate, Floats], value: Floats, end: int
    ) -> tuple[Learned, Candidate] | None:
        """What is learned of the values before a row, and of which table."""
        setting = self._setting
        begin = max(0, end - setting.train)
        candidate = (setting.lags, setting.differences)
        if setting.search is not None and end - begin >= ROWS_MIN:
            candidate = find_best(setting, setting.search, value[begin:end])
        training = self._table(tables, value, candidate)[begin:end]
        training = training[~np.isnan(training[:, 0])]
        if len(training) < ROWS_MIN:
            return None
        learned = learn(setting.name, training, setting.seed, setting.quantile)
        return None if learned is None else (learned, candidate)

    def _table(self, tables: dict[Candidate, Floats], value: Floats, candidate: Candidate | None) -> Floats:
        key = candidate or (self._setting.lags, self._setting.differences)
        if key not in tables:
            tables[key] = lag_table(value, *key)
        return tables[key]


@lru_cache(maxsize=1)
def _libraries() -> str:
    """Versions of what trains: another one may learn something else."""
    return " ".join(version_of_package(name) for name in ("numpy", "scipy", "scikit-learn", "pyod"))


def _as_arrays(learned: Learned, candidate: Candidate) -> Arrays:
    lags, differences = candidate
    numbers = [learned.centre, learned.scale, learned.usual, learned.limit, lags, differences]
    return {**learned.form, _NUMBERS: np.array(numbers, np.float64), _PAST: learned.past}


def _of_arrays(name: str, arrays: Arrays) -> tuple[Learned, Candidate]:
    centre, scale, usual, limit, lags, differences = arrays[_NUMBERS].tolist()
    form = {key: array for key, array in arrays.items() if key not in (_NUMBERS, _PAST)}
    learned = Learned(name, form, centre, scale, usual, limit, arrays[_PAST])
    return learned, (int(lags), bool(differences))


def _by_span(ts_ms: Ints, rows: Ints, span_ms: int) -> Iterator[tuple[int, Ints]]:
    """Rows of each span, with the time at which it begins."""
    if not len(rows):
        return
    begins = ts_ms[rows] // span_ms * span_ms
    for some in np.split(rows, np.flatnonzero(np.diff(begins)) + 1):
        yield int(ts_ms[some[0]] // span_ms * span_ms), some
