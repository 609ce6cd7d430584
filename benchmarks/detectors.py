"""Detectors of metrics by name on a folder of labelled series, counted as ``benchmarks.series`` counts.

An incident is one alert. Each series is judged from its first point on; the first weeks, in which a detector learns, count.

    python -m benchmarks.detectors --data DIR seasonal_z level_shift '{"pyod": "pca"}'
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from anomalyze.metrics.detectors.base import Stretch
from anomalyze.metrics.detectors.build import build_detectors
from anomalyze.metrics.detectors.setting import DetectorSetting, from_words
from anomalyze.metrics.incident import follow
from anomalyze.metrics.judgement import CALM_POINTS, SeriesRules
from anomalyze.monitoring.alerting import build_track
from anomalyze.monitoring.named import as_judged
from benchmarks.harness import arguments, report
from benchmarks.series import WEEK_S, Counts, load


def main() -> None:
    """Measure each detector that is named, and print JSON."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument(
        "--data", type=Path, required=True, help="a file or a folder of parquet and CSV files"
    )
    parser.add_argument("detectors", nargs="+", help="names, or entries of detectors as JSON")
    options = parser.parse_args()
    rows = load(options.data)
    with threadpool_limits(1):
        report({name: measure(rows, read(name)) for name in options.detectors}, options.json)


def read(text: str) -> DetectorSetting:
    """An entry from its name or its JSON."""
    (entry,) = from_words(DetectorSetting, [json.loads(text) if text.startswith("{") else text])
    return DetectorSetting.model_validate(entry)


def measure(rows: pl.DataFrame, setting: DetectorSetting) -> dict[str, Any]:
    """Event F1 and its parts, alerts a week, mean AUC-PR of a series, processor time a point."""
    counts, weeks, points, taken_s = Counts(), 0.0, 0, 0.0
    precisions: list[float] = []
    for _, part in rows.group_by("series", maintain_order=True):
        ts_ms = part["at_ms"].to_numpy()
        value = part["value"].fill_null(np.nan).to_numpy()
        label = part["label"].to_numpy()
        period_s = max(1.0, float(np.median(np.diff(ts_ms))) / 1000.0) if len(ts_ms) > 1 else 60.0
        (detector,) = build_detectors([setting], period_s)
        begun_s = time.process_time()
        found = detector.judge(Stretch(ts_ms, np.zeros(len(ts_ms), np.int64), value), 0)
        taken_s += time.process_time() - begun_s
        every = np.ones(len(ts_ms), bool)
        place = np.zeros(len(ts_ms), np.int64)
        judged = as_judged(detector.kind, SeriesRules(), place, place, ts_ms, found, every, every)
        track = build_track(detector.kind, judged, np.arange(len(ts_ms)), SeriesRules(), period_s)
        alerts = np.zeros(len(ts_ms), bool)
        opened = [one.opened_ms for one in follow(detector.kind, None, track, calm_points=CALM_POINTS)]
        alerts[np.searchsorted(ts_ms, np.array(opened, np.int64))] = True
        counts.add(label, alerts)
        weeks, points = weeks + len(ts_ms) * period_s / WEEK_S, points + len(ts_ms)
        if label.any():
            precisions.append(float(average_precision_score(label, np.nan_to_num(found.strength))))
    return {
        "event_f1": round(counts.f1, 3),
        "event_precision": round(counts.precision, 3),
        "event_recall": round(counts.recall, 3),
        "alerts_week": round(counts.alerts / weeks, 2),
        "auc_pr_mean": round(float(np.mean(precisions)), 3) if precisions else None,
        "microseconds_per_point": round(1e6 * taken_s / points, 1),
    }


if __name__ == "__main__":
    main()
