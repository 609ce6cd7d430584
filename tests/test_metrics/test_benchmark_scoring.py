"""What the benchmarks of detection count, on cases small enough to count by hand."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anomalyze.metrics.bank import Scores
from benchmarks.nab_scoring import PROFILES, Corpus, load_corpus
from benchmarks.series import Counts, find_alerts, load


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two files of 100 rows; the first has a window of rows 40 to 49, the second none."""
    times = [datetime(2025, 1, 1) + timedelta(minutes=5 * row) for row in range(100)]
    pl.concat(
        [
            pl.DataFrame({"file": [name] * 100, "timestamp": times, "value": [0.0] * 100})
            for name in ("a", "b")
        ]
    ).write_parquet(tmp_path / "nab.parquet")
    limits = {"a": [[str(times[40]), str(times[49])]], "b": []}
    (tmp_path / "combined_windows.json").write_text(json.dumps(limits))
    return load_corpus(tmp_path)


def points(corpus: Corpus, *rows: int, profile: str = "standard") -> float:
    scores = np.zeros(200)
    scores[list(rows)] = 1.0
    return corpus.evaluate(scores, PROFILES[profile], 0.5).score


def test_nab_points(corpus: Corpus) -> None:
    assert points(corpus) == 0.0
    assert points(corpus, 40) == pytest.approx(100.0)
    # One window: from -1 to 1, so half of what is raw. The sigmoid at the window's last row.
    last = (2 / (1 + np.exp(-0.5)) - 1) / (2 / (1 + np.exp(-5)) - 1)
    assert points(corpus, 49) == pytest.approx(50 * (last + 1))
    assert points(corpus, 40, 45, 49) == pytest.approx(100.0), "only the best of a window counts"
    assert points(corpus, 3) == 0.0, "the first 15 % are not scored"
    assert points(corpus, 30) == pytest.approx(-50 * 0.11)
    assert points(corpus, 130, profile="low_fp") == pytest.approx(-50 * 0.22)
    just_behind = 2 / (1 + np.exp(5 / 9)) - 1
    assert points(corpus, 50) == pytest.approx(50 * 0.11 * just_behind)
    assert points(corpus, 90) == pytest.approx(-50 * 0.11)


def test_nab_finds_the_best_threshold(corpus: Corpus) -> None:
    scores = np.zeros(200)
    scores[40], scores[120], scores[121] = 0.7, 0.9, 0.6
    best = corpus.evaluate(scores, PROFILES["standard"])
    assert best.threshold == 0.7
    assert best.score == pytest.approx(50 * 2 - 50 * 0.11)
    scores[40] = 0.0
    assert corpus.evaluate(scores, PROFILES["standard"]).score == 0.0, (
        "saying nothing is better than false alarms"
    )


def test_events_are_found_within_two_points() -> None:
    label = np.zeros(50, np.bool_)
    label[[10, 11, 12, 30, 48]] = True
    counts = Counts()
    alerts = np.zeros(50, np.bool_)
    alerts[[8, 14, 15, 27, 49]] = True
    counts.add(label, alerts)
    assert (counts.events, counts.found, counts.alerts, counts.false) == (3, 2, 5, 2)
    assert counts.f1 == pytest.approx(2 * 2 / (2 + 2 + 3))
    assert counts.recall == pytest.approx(2 / 3)


def test_an_alert_is_an_incident_that_opens() -> None:
    """What grows within one tells nothing new; after three calm points it does."""
    value = np.full(40, 100.0)
    value[10:18], value[25], value[30] = 200.0, np.nan, 200.0
    alerts = np.isin(np.arange(40), [10, 15, 30])
    none = np.zeros(40, np.bool_)
    column = np.full(40, 0.8)
    scores = Scores(
        novelty=column, surprise=column, rarity=column, rarity_score=column, expected=np.full(40, 100.0),
        lower=np.full(40, 90.0), upper=np.full(40, 110.0), tail=column, novelty_alert=alerts, rarity_alert=none,
        taken=~none, channel=np.zeros(40, np.int8),
    )  # fmt: skip
    found = find_alerts(scores, np.arange(40) * 60_000, value, 60.0)
    assert np.flatnonzero(found).tolist() == [10, 30]


def test_series_are_read_from_parquet_and_csv(tmp_path: Path) -> None:
    frame = pl.DataFrame({"series": ["a", "a"], "timestamp": [60, 0], "value": [1.5, None], "label": [1, 0]})
    frame.write_parquet(tmp_path / "one.parquet")
    frame.with_columns(
        series=pl.lit("b"), timestamp=pl.Series(["2025-01-01T00:00:00Z", "2025-01-01T01:00:00Z"])
    ).write_csv(tmp_path / "two.csv")
    rows = load(tmp_path)
    assert rows["at_ms"].to_list() == [0, 60_000, 1_735_689_600_000, 1_735_693_200_000]
    assert rows["value"].to_list() == [None, 1.5, 1.5, None]
    assert rows["label"].to_list() == [False, True, True, False]
    frame.drop("label").write_csv(tmp_path / "three.csv")
    with pytest.raises(SystemExit, match="label missing"):
        load(tmp_path)
