"""PyOD's detectors by name over a batch that gets one new point a metric, against a PyOD loop.

The batch is run as the product runs it: the new values lie in PostgreSQL, are judged by the default detector and by the one
that is named, and scores and alerts are stored; wall time. First as when a period begins (each metric's detector is
trained), then with the next values, whose detectors are kept. The loop trains the same detector of PyOD on the same lags of
each metric and asks it for the newest row, as watchers without a store of models do; it reads and stores nothing.

    python -m benchmarks.named --metrics 300 --points 2100 pca knn ecod iforest
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg
from threadpoolctl import threadpool_limits

from anomalyze.metrics.detectors.build import build_detectors
from anomalyze.metrics.detectors.setting import DetectorSetting
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.warm import warm
from anomalyze.monitoring.score import score_batch
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.pool import connect
from benchmarks.harness import Bench, arguments, report
from benchmarks.metrics import make_values

HOUR = timedelta(hours=1)
LAGS, TRAINED_ON = 5, 2_000
CLASSES = {"iforest": "IForest", "ecod": "ECOD", "copod": "COPOD"}
# As if judged: what counts here is the newest value, and every series has its history in common.
MARK_JUDGED = """
INSERT INTO metric_scores (batch, metric, ts, detector, version, value, novelty, surprise, rarity, severity, flags)
SELECT batch, metric, newest_ts, %s, %s, newest_value, 0, 0, 0, 0, 0 FROM metric_series WHERE batch = %s
"""

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Measure each detector, and print JSON."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--metrics", type=int, default=300)
    parser.add_argument("--points", type=int, default=2_100, help="of each metric, by the hour")
    parser.add_argument("names", nargs="+", help="of PyOD's detectors")
    options = parser.parse_args()
    values = make_values(options.metrics, options.points + 3)
    warm()
    result: dict[str, Any] = {"metrics": options.metrics, "points": options.points}
    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
        Bench("embedded", 1) as bench,
        connect(bench.dsn) as connection,
    ):
        warnings.simplefilter("ignore")
        for name in options.names:
            result[name] = measure(connection, bench.folder / name, name, values) | measure_loop(name, values)
            result[name]["ratio_loop"] = round(result[name]["loop_s"] / result[name]["kept_s"], 1)
    report(result, options.json)


def measure(connection: psycopg.Connection[Any], folder: Path, name: str, values: Floats) -> dict[str, Any]:
    """Seconds of a run over one new value of each metric: trained, kept, and by the default detector alone."""
    setting = DetectorSetting.model_validate({"pyod": {"name": name, "lags": LAGS, "train": TRAINED_ON}})
    (detector,) = build_detectors([setting], 3600.0)
    alone, beside = BatchRules(3600.0), BatchRules(3600.0, SeriesRules(detectors=(detector,)))
    history, now = values.shape[1] - 3, datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    store_values(connection, name, frame(values[:, :history], now - history * HOUR), now)
    score_batch(connection, name, alone, folder, now)
    taken_s: list[float] = []
    for point in range(3):
        at = now + point * HOUR
        store_values(connection, name, frame(values[:, [history + point]], at), at)
        begun_s = time.perf_counter()
        done = score_batch(connection, name, beside if point else alone, folder, at)
        taken_s.append(time.perf_counter() - begun_s)
        if done.scored_by_name != (len(values) if point else 0) or done.failures:
            raise SystemExit(f"{len(values)} scores by {name} were expected, got {done}")
        if not point:
            connection.execute(MARK_JUDGED, [detector.kind, detector.version, name])
            # What a run makes of settings that changed is no part of it, nor what it learned then.
            score_batch(connection, name, beside, folder, at)
            for kept in folder.rglob("fits"):
                shutil.rmtree(kept)
    size = sum(file.stat().st_size for file in folder.rglob("fits/*/*"))
    return {
        "without_s": round(taken_s[0], 3),
        "trained_s": round(taken_s[1], 3),
        "kept_s": round(taken_s[2], 3),
        "kept_bytes_per_metric": round(size / len(values)),
    }


def measure_loop(name: str, values: Floats) -> dict[str, Any]:
    """Seconds of PyOD's fit and score, a metric after the other."""
    detector = getattr(importlib.import_module(f"pyod.models.{name}"), CLASSES.get(name, name.upper()))
    table = np.lib.stride_tricks.sliding_window_view(values[0], LAGS + 1)
    detector().fit(table[:100]).decision_function(table[-1:])  # what it compiles
    begun_s = time.perf_counter()
    for row in values:
        table = np.lib.stride_tricks.sliding_window_view(row, LAGS + 1)
        detector().fit(table[-TRAINED_ON - 1 : -1]).decision_function(table[-1:])
    return {"loop_s": round(time.perf_counter() - begun_s, 3)}


def frame(values: Floats, first: datetime) -> pl.DataFrame:
    """Rows of a batch: a metric a row of ``values``, hour by hour."""
    times = pl.Series([first + n * HOUR for n in range(values.shape[1])]).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {
            "metric": np.repeat([f"m{n}" for n in range(len(values))], values.shape[1]),
            "timestamp": pl.concat([times] * len(values)),
            "value": values.ravel(),
        }
    )


if __name__ == "__main__":
    main()
