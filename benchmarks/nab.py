"""The default detector of metrics on the Numenta Anomaly Benchmark, by the official scoring.

One configuration for every series, no look-ahead. A row scores its novelty where an alert is raised and nothing
elsewhere, as people would hear of it; the official threshold is the best one of the corpus for each profile, the
shipped one is fixed; `both` counts every alert of rarity too. The scorer is proved in the same run on two detectors whose output and points are published.

    python -m benchmarks.nab --data DIR
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from anomalyze.metrics.bank import SeriesBank
from anomalyze.metrics.kernel import NOVELTY_ALERT
from benchmarks.harness import arguments, report
from benchmarks.nab_scoring import PROFILES, Corpus, Floats, Result, load_corpus

# Where an incident opens, on the scale of ``Scores.novelty``.
SHIPPED_THRESHOLD = NOVELTY_ALERT / (1.0 + NOVELTY_ALERT)
# The benchmark's keys of a profile, and how far a sum of floats may lead from what it published.
PUBLISHED_PROFILES = {"standard": "standard", "low_fp": "reward_low_FP_rate", "low_fn": "reward_low_FN_rate"}
PUBLISHED_TOLERANCE = 0.01
PUBLISHED = ("windowedGaussian", "contextOSE")


def main() -> None:
    """Prove the scorer, score, print tables, then JSON."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with nab.parquet and combined_windows.json"
    )
    options = parser.parse_args()
    corpus = load_corpus(options.data)
    verified = [name for name in PUBLISHED if verify(corpus, options.data, name)]
    begun_s = time.perf_counter()
    scores, alerts, rare = score(corpus)
    taken_s = time.perf_counter() - begun_s
    best = {name: corpus.evaluate(scores, profile) for name, profile in PROFILES.items()}
    fixed = {name: corpus.evaluate(scores, profile, SHIPPED_THRESHOLD) for name, profile in PROFILES.items()}
    show(corpus, alerts, best["standard"], fixed["standard"])
    result: dict[str, Any] = {name: round(found.score, 2) for name, found in best.items()}
    result |= {f"{name}_fixed_threshold": round(found.score, 2) for name, found in fixed.items()}
    result |= {f"{name}_threshold": round(found.threshold, 4) for name, found in best.items()}
    both = np.where(alerts | rare, 1.0, 0.0)
    result |= {f"{name}_both": round(corpus.evaluate(both, p, 1.0).score, 2) for name, p in PROFILES.items()}
    result |= {"alerts": int(alerts.sum()), "score_s": round(taken_s, 2), "scorer_verified_on": verified}
    report(result, options.json)


def score(corpus: Corpus) -> tuple[Floats, Any, Any]:
    """What a novelty alert says of each row (0 without one), where there is one, and where rarity alerts."""
    scores, alerts = np.zeros(len(corpus.value)), np.zeros(len(corpus.value), np.bool_)
    rare = alerts.copy()
    spans = list(zip(corpus.starts[:-1].tolist(), corpus.starts[1:].tolist(), strict=True))
    periods = [float(np.median(np.diff(corpus.time_ms[first:end]))) / 1000.0 for first, end in spans]
    for period_s in sorted(set(periods)):
        files = [place for place, period in enumerate(periods) if period == period_s]
        rows = np.concatenate([np.arange(*spans[place]) for place in files])
        index = np.repeat(np.arange(len(files)), [spans[place][1] - spans[place][0] for place in files])
        times = np.concatenate([newer(corpus.time_ms[slice(*spans[place])]) for place in files])
        with (
            tempfile.TemporaryDirectory() as folder,
            SeriesBank.open(Path(folder), [corpus.files[place] for place in files], period_s) as bank,
        ):
            found = bank.advance(index, times, corpus.value[rows])
        alerts[rows], rare[rows] = found.novelty_alert, found.rarity_alert
        scores[rows] = np.where(found.novelty_alert, found.novelty, 0.0)
    return scores, alerts, rare


def newer(time_ms: Any) -> Any:
    """Eight of the files repeat an hour or a time; the benchmark wants each row judged, in the file's order."""
    steps = np.arange(len(time_ms))
    return np.maximum.accumulate(time_ms - steps) + steps


def verify(corpus: Corpus, data: Path, name: str) -> bool:
    """Whether the scorer gives a published detector its published points; False where its output is not there."""
    path = data / f"scores_{name}.parquet"
    if not path.exists():
        return False
    frame = pl.read_parquet(path).with_columns(pl.col("file").cast(pl.String))
    parts = {str(key[0]): part["anomaly_score"].to_numpy() for key, part in frame.group_by("file")}
    scores = np.concatenate([parts[file] for file in corpus.files])
    published = json.loads((data / "final_results.json").read_text())[name]
    for profile, key in PUBLISHED_PROFILES.items():
        ours = corpus.evaluate(scores, PROFILES[profile]).score
        if abs(ours - published[key]) > PUBLISHED_TOLERANCE:
            raise SystemExit(
                f"{name}, {profile}: {published[key]:.2f} was published, this scorer says {ours:.2f}"
            )
    return True


def show(corpus: Corpus, alerts: Any, best: Result, fixed: Result) -> None:
    """Points of each file, standard profile; a window is worth one."""
    table = Table("file", "windows", "alerts", "points", "at the shipped threshold", title="NAB, standard")
    counts = np.bincount(corpus.file_of[alerts], minlength=len(corpus.files))
    for place, file in enumerate(corpus.files):
        table.add_row(
            file,
            str(corpus.windows_of[place]),
            str(counts[place]),
            f"{best.per_file[file]:.2f}",
            f"{fixed.per_file[file]:.2f}",
        )
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
