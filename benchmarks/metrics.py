"""A batch of metrics through the default detector, against a model per metric in a Python loop.

The loop is how metric watchers are usually built: for each metric its smoothed differences and their lags become a
table, PyOD's PCA and KNN are fitted on the history, and both score the newest points. Ours takes the same history
into a bank and scores the same points, all metrics in one call. Then many series get one new point each.
Both work on one thread, and seconds are the processor's, so that neighbours on the machine do not count. Last, as a
batch is run: values stored in PostgreSQL, scored, scores and alerts stored; wall time.

    python -m benchmarks.metrics --metrics 300 --points 2100
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import threadpool_limits

from anomalyze.metrics.bank import SeriesBank
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.warm import warm
from anomalyze.monitoring.score import score_batch
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.pool import connect
from benchmarks.harness import Bench, arguments, report

PERIOD_S = 300.0
START_MS = 1_735_689_600_000
SCORED_POINTS = 25  # of each metric at a scoring
LAGS, SMOOTH = 5, 3
STORED_HISTORY = 40

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Measure both and print JSON."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--metrics", type=int, default=300)
    parser.add_argument("--points", type=int, default=2_100, help="of each metric; the newest 25 are scored")
    parser.add_argument("--many", type=int, default=10_000, help="series that get one new point each")
    parser.add_argument("--many-history", type=int, default=500, help="points that each of these has already")
    parser.add_argument(
        "--stored", type=int, default=10_000, help="series whose new point is stored and scored"
    )
    options = parser.parse_args()
    if options.points <= 2 * SCORED_POINTS:
        raise SystemExit(f"--points above {2 * SCORED_POINTS} were expected, got {options.points}")
    values = make_values(options.metrics, options.points)
    warm()
    with threadpool_limits(1):
        train_s, score_s = measure_ours(values)
        reference_train_s, reference_score_s = measure_reference(values)
    result: dict[str, Any] = {
        "metrics": options.metrics,
        "points": options.points,
        "train_s": round(train_s, 4),
        "score_s": round(score_s, 4),
        "reference_train_s": round(reference_train_s, 4),
        "reference_score_s": round(reference_score_s, 4),
        "ratio_reference": round((reference_train_s + reference_score_s) / (train_s + score_s), 1),
        "microseconds_per_point": round(1e6 * (train_s + score_s) / values.size, 3),
    }
    if options.many:
        result |= measure_many(options.many, options.many_history)
    if options.stored:
        result |= measure_stored(options.stored)
    report(result, options.json)


def make_values(metrics: int, points: int) -> Floats:
    """float64 ``[metrics, points]``: a day's habit, noise, and a few spikes each."""
    rng = np.random.default_rng(1)
    day = np.sin(np.arange(points) * 2 * np.pi * PERIOD_S / 86_400)
    level = rng.lognormal(4, 1, (metrics, 1))
    values = level * (1 + 0.3 * day + rng.normal(0, 0.05, (metrics, points)))
    return np.where(rng.random((metrics, points)) < 0.001, 3 * values, values)


def measure_ours(values: Floats) -> tuple[float, float]:
    """Seconds to take the history, and to score the newest points."""
    history, newest = values[:, :-SCORED_POINTS], values[:, -SCORED_POINTS:]
    with (
        tempfile.TemporaryDirectory() as folder,
        SeriesBank.open(Path(folder), [f"m{n}" for n in range(len(values))], PERIOD_S) as bank,
    ):
        begun_s = time.process_time()
        take(bank, history, 0)
        between_s = time.process_time()
        take(bank, newest, history.shape[1])
        return between_s - begun_s, time.process_time() - between_s


def take(bank: SeriesBank, values: Floats, first: int) -> int:
    """Advance all series by the same points; how many alerts that made."""
    series, points = values.shape
    times = START_MS + (first + np.arange(points)) * int(PERIOD_S * 1000)
    scores = bank.advance(np.repeat(np.arange(series), points), np.tile(times, series), values.ravel())
    return int((scores.novelty_alert | scores.rarity_alert).sum())


def measure_reference(values: Floats) -> tuple[float, float]:
    """The same work, a metric after the other."""
    from pyod.models.knn import KNN
    from pyod.models.pca import PCA

    train_s = score_s = 0.0
    for row in values:
        begun_s = time.process_time()
        table = lag_table(row[:-SCORED_POINTS])
        models = [PCA().fit(table), KNN().fit(table)]
        between_s = time.process_time()
        table = lag_table(row[-SCORED_POINTS - LAGS - SMOOTH :])[-SCORED_POINTS:]
        for model in models:
            model.predict_proba(table)
        train_s += between_s - begun_s
        score_s += time.process_time() - between_s
    return train_s, score_s


def lag_table(values: Floats) -> Floats:
    """Smoothed differences and their lags, a row a point."""
    smooth = np.convolve(np.diff(values), np.ones(SMOOTH) / SMOOTH, "valid")
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(smooth, LAGS + 1))


def measure_many(series: int, history: int) -> dict[str, Any]:
    """Many series that have a history get one new point each."""
    values = make_values(series, history + 1)
    with tempfile.TemporaryDirectory() as folder:
        path, names = Path(folder), [f"m{n}" for n in range(series)]
        with SeriesBank.open(path, names, PERIOD_S) as bank:
            take(bank, values[:, :-1], 0)
        begun_s = time.perf_counter()  # of the wall: writing to the disk counts here
        with SeriesBank.open(path, names, PERIOD_S) as bank:
            opened_s = time.perf_counter()
            take(bank, values[:, -1:], history)
            taken_s = time.perf_counter()
            bank.flush()
            flushed_s = time.perf_counter()
        size = sum(file.stat().st_size for file in path.iterdir())
    return {
        "many_series": series,
        "many_open_s": round(opened_s - begun_s, 4),
        "many_score_s": round(taken_s - opened_s, 4),
        "many_flush_s": round(flushed_s - taken_s, 4),
        "many_bytes_per_series": round(size / series),
    }


def measure_stored(series: int) -> dict[str, Any]:
    """Each series of a batch gets one new point, through the database."""
    names = [f"m{n}" for n in range(series)]
    values = make_values(series, STORED_HISTORY + 1)
    rules, now = BatchRules(PERIOD_S), datetime.now(UTC)
    times = [now - timedelta(seconds=PERIOD_S * (STORED_HISTORY - n)) for n in range(STORED_HISTORY + 1)]

    def frame(first: int, end: int) -> pl.DataFrame:
        stamps = pl.Series(times[first:end]).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame(
            {
                "metric": np.repeat(names, end - first),
                "timestamp": pl.concat([stamps] * series),
                "value": values[:, first:end].ravel(),
            }
        )

    with Bench("embedded", 1) as bench, connect(bench.dsn) as connection:
        folder = bench.folder / "banks"
        store_values(connection, "bench", frame(0, STORED_HISTORY), now)
        score_batch(connection, "bench", rules, folder, now)
        newest = frame(STORED_HISTORY, STORED_HISTORY + 1)
        begun_s = time.perf_counter()
        store_values(connection, "bench", newest, now)
        stored_s = time.perf_counter()
        done = score_batch(connection, "bench", rules, folder, now)
        ended_s = time.perf_counter()
    if done.scored != series:
        raise SystemExit(f"{series} scores were expected, got {done.scored}")
    return {
        "stored_series": series,
        "stored_values_s": round(stored_s - begun_s, 4),
        "stored_scores_s": round(ended_s - stored_s, 4),
    }


if __name__ == "__main__":
    main()
