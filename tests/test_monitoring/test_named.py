"""Detectors by name beside the default one: the same scores however values came, and what fails is named."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest

from anomalyze.metrics.batch import Batch
from anomalyze.metrics.rules import BatchRules, rules_of
from anomalyze.monitoring.preview import foresee
from anomalyze.monitoring.score import Scored, score_batch
from anomalyze.storage import metrics_scores
from anomalyze.storage.metrics_picture import find_pictured, load_pictured_points
from anomalyze.storage.metrics_runs import load_runs
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.query import fetch
from tests.test_monitoring.shop import NOW, frame

Connection = psycopg.Connection[Any]
POINTS = 24 * 24
LATE_MS = int((NOW - timedelta(hours=24)).timestamp() * 1000)


def batch(detectors: list[Any], **others: Any) -> Batch:
    return Batch.model_validate({"python": "x:y", "detectors": detectors, **others})


def daily(points: int = POINTS, seed: int = 1) -> list[float | None]:
    """A day's habit with noise."""
    noise = np.random.default_rng(seed).normal(0, 3, points)
    return [*(100 + 30 * np.sin(np.arange(points) * np.pi / 12) + noise).round(3).tolist()]


def named_scores(connection: Connection, name: str = "shop") -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT metric, ts, detector, version, value, novelty, surprise, expected, lower, upper, severity, flags "
        "FROM metric_scores WHERE batch = %s AND detector <> 'novelty' ORDER BY 1, 3, 4, 2",
        [name],
    ).fetchall()


def whole(
    connection: Connection, rows: pl.DataFrame, folder: Path, rules: BatchRules
) -> list[tuple[Any, ...]]:
    store_values(connection, "whole", rows, NOW)
    score_batch(connection, "whole", rules, folder, NOW)
    return named_scores(connection, "whole")


EVERY = [
    "seasonal_z",
    {"level_shift": {"spans": 5}},
    {"knn_shape": {"lags": 6, "memory": 200}},
    {"pyod": {"name": "pca", "train": 200}},
    {"pyod": {"name": "ecod", "train": 100}},
    {"ensemble": {"of": ["novelty", "rarity", "seasonal_z", {"pyod": "pca"}]}},
]


@pytest.mark.parametrize(
    ("preprocessing", "detectors"),
    [({}, EVERY), ({"difference": 2, "smooth": 3}, EVERY[:2])],
    ids=["as measured", "transformed"],
)
def test_values_that_come_in_pieces_score_as_those_that_come_at_once(
    connection: Connection,
    tmp_path: Path,
    preprocessing: dict[str, int],
    detectors: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut at random, late, corrected, missing: the scores are those of the values as they are, to the bit."""
    monkeypatch.setattr(metrics_scores, "ROWS_A_TURN", 700)
    random = np.random.default_rng(3)
    series = {"a": daily(), "b": daily(seed=2)}
    series["a"][500] = 900.0
    series["b"][300] = None
    series["b"][400:] = [value and value + 80 for value in series["b"][400:]]
    rows = frame(series)
    rules = rules_of(batch(detectors, preprocessing=preprocessing), ["a", "b"])
    wrong = rows.with_columns(
        value=pl.when(pl.Series(random.random(len(rows)) < 0.01)).then(pl.lit(55.5)).otherwise("value")
    )
    piece = rows["timestamp"].rank("dense").to_numpy() // 130 + (random.random(len(rows)) < 0.01) * 2
    for n in range(int(piece.max()) + 1):
        store_values(connection, "shop", wrong.filter(pl.Series(piece == n)), NOW)
        score_batch(connection, "shop", rules, tmp_path / "pieces", NOW)
    store_values(connection, "shop", rows, NOW)
    score_batch(connection, "shop", rules, tmp_path / "pieces", NOW)
    found = named_scores(connection)
    assert found == whole(connection, rows, tmp_path / "whole", rules)
    assert {row[2] for row in found} == {detector.kind for detector in rules.default.detectors}
    assert max(row[5] for row in found) > 0.9
    store_values(connection, "shop", rows, NOW)
    assert score_batch(connection, "shop", rules, tmp_path / "pieces", NOW) == Scored()
    assert named_scores(connection) == found


def test_a_shift_is_one_incident_with_both_levels_and_since_when(
    connection: Connection, tmp_path: Path
) -> None:
    values = daily()
    values[-30:] = [value and value + 60 for value in values[-30:]]
    rows = frame({"orders": values})
    asked = batch(["level_shift"], direction="up", unit="EUR")
    store_values(connection, "shop", rows, NOW)
    score_batch(connection, "shop", rules_of(asked, ["orders"]), tmp_path, NOW)
    found = connection.execute(
        "SELECT kind, direction, severity, peak_ts, sentence FROM metric_alerts"
    ).fetchall()
    assert [row[:3] for row in found] == [("shift", 1, 2)]
    assert abs(found[0][3] - (NOW - timedelta(hours=30))) <= timedelta(hours=3)
    assert found[0][4].startswith("orders shifted up from a level of about ")
    assert [one.sentence for one in foresee(rows, asked)] == [found[0][4]]
    # A detector that leaves the file takes its open incident with it.
    later = frame({"orders": [values[-1]]}, NOW + timedelta(hours=1))
    store_values(connection, "shop", later, NOW)
    score_batch(connection, "shop", rules_of(batch([]), ["orders"]), tmp_path, NOW)
    assert connection.execute("SELECT kind, state, resolution FROM metric_alerts").fetchall() == [
        ("shift", 2, "detector gone")
    ]
    # The good way it is no incident.
    assert foresee(rows, batch(["level_shift"], direction="down")) == []


def test_an_odd_hour_is_told_with_what_is_usual_then(connection: Connection, tmp_path: Path) -> None:
    values = daily()
    values[-3] = 125.0  # an ordinary value, at the wrong hour
    (told,) = foresee(frame({"orders": values}), batch(["seasonal_z"]))
    assert told.incident.kind == "seasonal_z"
    assert "of this time of the day and week (expected about " in told.sentence


def test_a_detector_that_is_added_scores_what_is_stored(connection: Connection, tmp_path: Path) -> None:
    rows = frame({"a": daily(), "b": daily(seed=2)})
    older = rows.filter(pl.col("timestamp") < NOW - timedelta(hours=5))
    store_values(connection, "shop", older, NOW)
    score_batch(connection, "shop", rules_of(batch(["novelty"]), ["a", "b"]), tmp_path / "some", NOW)
    assert named_scores(connection) == []
    rules = rules_of(batch(["novelty", "seasonal_z"], metrics={"b": {"detectors": []}}), ["a", "b"])
    store_values(connection, "shop", rows, NOW)
    score_batch(connection, "shop", rules, tmp_path / "some", NOW)
    assert named_scores(connection) == whole(connection, rows, tmp_path / "whole", rules)
    assert {row[0] for row in named_scores(connection)} == {"a"}


def test_a_new_value_is_judged_alone_on_what_it_looks_back_on(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = daily()
    rules = rules_of(batch([{"level_shift": {"points": 6, "spans": 4}}]), ["a"])
    (detector,) = rules.default.detectors
    real, seen = detector.judge, list[tuple[int, int]]()

    def judge(stretch: Any, first: int) -> Any:
        seen.append((len(stretch.value), first))
        return real(stretch, first)

    monkeypatch.setattr(detector, "judge", judge)
    for end in (-2, -1, POINTS):
        store_values(connection, "shop", frame({"a": values[:end]}, NOW + timedelta(hours=min(end, 0))), NOW)
        score_batch(connection, "shop", rules, tmp_path, NOW)
    before = detector.reach(0).points + 2  # as many are read for smoothing, which takes a value itself
    assert seen == [(POINTS - 2, 0), (before + 1, before), (before + 1, before)]


def test_what_fails_of_a_metric_is_named_and_its_neighbours_are_scored(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = rules_of(batch(["seasonal_z"]), ["a", "b"])
    (detector,) = rules.default.detectors
    real = detector.judge

    def judge(stretch: Any, first: int) -> Any:
        if stretch.value[0] == 1e9:
            raise ZeroDivisionError("of such a series nothing can be said")
        return real(stretch, first)

    monkeypatch.setattr(detector, "judge", judge)
    store_values(connection, "shop", frame({"a": [1e9, *daily()], "b": daily()}), NOW)
    done = score_batch(connection, "shop", rules, tmp_path, NOW)
    (failure,) = done.failures
    assert (failure.metric, failure.reason) == (
        "a",
        "seasonal_z could not judge it: of such a series nothing can be said",
    )
    assert {row[0] for row in named_scores(connection)} == {"b"}
    (run,) = fetch(connection, load_runs("shop"))
    assert [one["metric"] for one in run.failures] == ["a"]


def test_learning_may_take_longer_than_a_transaction_may_stand_still(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = rules_of(batch(["seasonal_z"]), ["a"])
    (detector,) = rules.default.detectors
    real = detector.judge

    def judge(stretch: Any, first: int) -> Any:
        time.sleep(0.4)
        return real(stretch, first)

    monkeypatch.setattr(detector, "judge", judge)
    store_values(connection, "shop", frame({"a": daily()}), NOW)
    connection.execute("SET idle_in_transaction_session_timeout = '100ms'")
    assert score_batch(connection, "shop", rules, tmp_path, NOW).scored_by_name == POINTS


@pytest.mark.parametrize(
    "detector",
    [
        {"pyod": {"name": "pca", "train": 300}},
        {"knn_shape": {"lags": 6, "memory": 300}},
        {"ensemble": {"of": ["rarity", {"pyod": {"name": "pca", "train": 300}}], "combine": "max"}},
    ],
    ids=["pyod", "knn_shape", "ensemble"],
)
@pytest.mark.parametrize("way", ["up", "down"])
def test_what_is_strange_the_good_way_is_no_incident(detector: Any, way: str) -> None:
    """Also behind the spike, where the shape is strange for what came before."""
    values = daily()
    values[-20] = 400.0 if way == "up" else -400.0
    rows = frame({"orders": values})
    kind = detector if isinstance(detector, str) else next(iter(detector))

    def told(direction: str) -> list[Any]:
        found = foresee(rows, batch([detector], direction=direction))
        return [one for one in found if one.incident.kind.startswith(kind) and one.incident.last_ms > LATE_MS]

    (incident,) = told(way)
    assert incident.incident.direction == (1 if way == "up" else -1)
    assert [one.sentence for one in told("both")] == [incident.sentence]
    assert told({"up": "down", "down": "up"}[way]) == []
    assert incident.incident.peak_lower < incident.incident.peak_expected < incident.incident.peak_upper
    assert " (usual then: " in incident.sentence


def test_the_picture_has_the_band_that_the_sentence_speaks_of(connection: Connection, tmp_path: Path) -> None:
    values = daily()
    values[-3] = 300.0
    store_values(connection, "shop", frame({"orders": values}), NOW)
    rules = rules_of(batch(["novelty", "seasonal_z", {"pyod": "knn"}]), ["orders"])
    score_batch(connection, "shop", rules, tmp_path, NOW)
    told = connection.execute(
        "SELECT alert_id, kind, peak_ts, peak_lower, peak_upper FROM metric_alerts"
    ).fetchall()
    assert {row[1] for row in told} == {"unusual", "seasonal_z", "pyod_knn"}
    bands = set()
    for alert_id, _, peak_ts, lower, upper in told:
        alert = fetch(connection, find_pictured(["shop"], alert_id))
        assert alert is not None
        points = fetch(connection, load_pictured_points(alert))
        assert len({point.ts for point in points}) == len(points) > 90
        (peak,) = [point for point in points if point.ts == peak_ts]
        assert (peak.lower, peak.upper) == pytest.approx((lower, upper), rel=1e-5)
        assert peak.severity is not None
        assert peak.severity > 0
        bands.add(peak.lower)
    assert len(bands) == 3
