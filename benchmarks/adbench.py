"""The default detector for tables without time on the data sets of ADBench, against PyOD's isolation forest.

One rule for every set, chosen without labels: nothing is tuned to a set. Rows are split 70 to 30, at most 10,000 of
them; anomalies stay in the training rows, as they do in life. Means over the sets and over seeds of the split.

    python -m benchmarks.adbench --data DIR
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits

from anomalyze.metrics.table import fit_table
from benchmarks.harness import arguments, report

ROWS_MAX, TRAIN_SHARE = 10_000, 0.7
METHODS = ("default", "iforest")

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Score each set by both, print a table, then JSON."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files with X and y")
    parser.add_argument("--seeds", type=int, default=3, help="splits of each set")
    options = parser.parse_args()
    paths = sorted(options.data.glob("*.npz"))
    if not paths:
        raise SystemExit(f"{options.data}: .npz files with X and y were expected, none found")
    figures = np.zeros((len(paths), options.seeds, len(METHODS), 2))
    seconds = dict.fromkeys(METHODS, 0.0)
    with threadpool_limits(1):
        for place, path in enumerate(paths):
            for seed in range(options.seeds):
                train, test, labels = load(path, seed)
                for column, method in enumerate(METHODS):
                    begun_s = time.process_time()
                    scores = score(method, train, test, seed)
                    seconds[method] += time.process_time() - begun_s
                    figures[place, seed, column] = (
                        roc_auc_score(labels, scores),
                        average_precision_score(labels, scores),
                    )
    show(paths, figures)
    means = figures.mean(axis=(0, 1))
    result: dict[str, Any] = {
        "roc_auc": round(means[0, 0], 4),
        "average_precision": round(means[0, 1], 4),
        "iforest_roc_auc": round(means[1, 0], 4),
        "iforest_average_precision": round(means[1, 1], 4),
        "roc_auc_by_seed": [round(value, 4) for value in figures[:, :, 0, 0].mean(axis=0).tolist()],
        "sets": len(paths),
        "score_s": round(seconds["default"], 2),
        "iforest_s": round(seconds["iforest"], 2),
    }
    report(result, options.json)


def load(path: Path, seed: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Rows to learn from, rows to score, and the labels of these."""
    with np.load(path) as data:
        rows, labels = data["X"].astype(np.float64), data["y"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(rows))[:ROWS_MAX]
    cut = int(TRAIN_SHARE * len(order))
    return rows[order[:cut]], rows[order[cut:]], labels[order[cut:]]


def score(method: str, train: Floats, test: Floats, seed: int) -> Floats:
    """What a method says of the test rows."""
    if method == "default":
        return fit_table(train, seed).score(test)
    from pyod.models.iforest import IForest

    return np.asarray(IForest(random_state=seed).fit(train).decision_function(test))


def show(paths: list[Path], figures: npt.NDArray[np.float64]) -> None:
    """Means over seeds, a row a set."""
    table = Table(
        "set", "ROC AUC", "isolation forest", "average precision", "isolation forest", title="ADBench"
    )
    for path, row in zip(paths, figures.mean(axis=1), strict=True):
        table.add_row(path.stem, *(f"{row[method, kind]:.3f}" for kind in (0, 1) for method in (0, 1)))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
