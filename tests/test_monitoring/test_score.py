"""Scores are a function of the stored values, however they came and whatever was killed on the way."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.rules import BatchRules
from anomalyze.monitoring import score
from anomalyze.monitoring.score import Scored, score_batch
from anomalyze.monitoring.turn import VERSION
from anomalyze.storage import metrics_scores
from anomalyze.storage.metrics_runs import load_runs
from anomalyze.storage.metrics_scores import claim_batch
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch
from tests.test_monitoring.shop import HOUR, NOW, alerts, calm, frame, notices, scores

Connection = psycopg.Connection[Any]
RULES = BatchRules(3600.0)
SHAPED = BatchRules(3600.0, SeriesRules(difference=2, smooth=3))
LAGGED = BatchRules(
    3600.0,
    SeriesRules(lag_s=86_400.0, difference=1, rolling=4, rolling_aggregate="max"),
    zone="Europe/Berlin",
)


def whole(
    connection: Connection, rows: pl.DataFrame, folder: Path, rules: BatchRules = RULES, batch: str = "whole"
) -> list[tuple[Any, ...]]:
    """The scores of values that were stored and scored at once."""
    store_values(connection, batch, rows, NOW)
    score_batch(connection, batch, rules, folder, NOW)
    return scores(connection, batch)


def test_a_spike_is_one_alert_with_a_sentence(connection: Connection, tmp_path: Path) -> None:
    values = [*calm(200), 400.0]
    store_values(connection, "shop", frame({"orders": values, "visits": calm(201, 2)}), NOW)
    done = score_batch(connection, "shop", RULES, tmp_path, NOW)
    assert (done.pending, done.scored) == (402, 402)
    # In the first half of a series much is new: what was told of is the spike.
    told = connection.execute(
        "SELECT metric, sentence FROM metric_alerts WHERE notified_at IS NOT NULL"
    ).fetchall()
    assert [row[0] for row in told] == ["orders"]
    assert told[0][1].startswith("orders = 400, above the ")
    assert notices(connection) == [("orders", "opened")]


@pytest.mark.parametrize("rules", [RULES, SHAPED, LAGGED])
@pytest.mark.parametrize("seed", range(3))
def test_values_that_come_in_pieces_score_as_those_that_come_at_once(
    connection: Connection, tmp_path: Path, rules: BatchRules, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at random, late, corrected, missing: in the end the scores are those of the values as they are."""
    monkeypatch.setattr(metrics_scores, "ROWS_A_TURN", 40)
    random = np.random.default_rng(seed)
    series: dict[str, list[float | None]] = {f"m{n}": [*calm(90, n)] for n in range(4)}
    series["m1"][70] = 900.0
    series["m2"][50] = None
    rows = frame(series)
    wrong = rows.with_columns(
        value=pl.when(pl.Series(random.random(len(rows)) < 0.05)).then(pl.lit(55.5)).otherwise("value")
    )
    piece = pl.Series(
        np.clip(rows["timestamp"].rank("dense").to_numpy() // 20 + (random.random(len(rows)) < 0.1) * 2, 0, 6)
    )
    for n in range(7):
        store_values(connection, "shop", wrong.filter(piece == n), NOW)
        score_batch(connection, "shop", rules, tmp_path / "pieces", NOW)
    store_values(connection, "shop", rows, NOW)
    score_batch(connection, "shop", rules, tmp_path / "pieces", NOW)
    found = scores(connection)
    assert found == whole(connection, rows, tmp_path / "whole", rules)
    assert len(found) > 200
    # A rerun changes nothing.
    store_values(connection, "shop", rows, NOW)
    assert score_batch(connection, "shop", rules, tmp_path / "pieces", NOW) == Scored()
    assert scores(connection) == found


@pytest.mark.parametrize("rules", [SHAPED, LAGGED])
def test_what_comes_in_order_is_held_against_what_is_stored(
    connection: Connection, tmp_path: Path, rules: BatchRules
) -> None:
    """No series is taken again, so that all that lags and differences need comes from the tail that is loaded."""
    rows = frame({f"m{n}": calm(150, n) for n in range(3)})
    at = rows["timestamp"].rank("dense")
    for first in range(1, 151, 30):
        store_values(connection, "shop", rows.filter(at.is_between(first, first + 29)), NOW)
        done = score_batch(connection, "shop", rules, tmp_path / "pieces", NOW)
        assert done.rebuilt == 0
    found = scores(connection)
    assert found == whole(connection, rows, tmp_path / "whole", rules)
    assert len(found) > 300


@pytest.mark.parametrize("lost", ["bank", "older bank", "note"])
def test_a_bank_that_is_not_of_the_database_is_begun_anew(
    connection: Connection, tmp_path: Path, lost: str
) -> None:
    rows = frame({"a": calm(120, 1), "b": calm(120, 2)})
    folder = tmp_path / "banks"
    for n, (start, end) in enumerate([(0, 40), (40, 80), (80, 120)]):
        part = rows.filter(pl.int_range(pl.len()).over("metric").is_between(start, end - 1))
        store_values(connection, "shop", part, NOW)
        score_batch(connection, "shop", RULES, folder, NOW)
        if n == 0 and lost == "older bank":
            shutil.copytree(folder, tmp_path / "old")
        if n == 1:
            if lost == "note":
                next(folder.glob("*/turn.json")).write_text("{")
            else:
                shutil.rmtree(folder)
            if lost == "older bank":
                shutil.copytree(tmp_path / "old", folder)
    assert scores(connection) == whole(connection, rows, tmp_path / "whole")


def test_another_version_of_the_detector_scores_beside(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = calm(100)
    store_values(connection, "shop", frame({"a": values[:-1]}, NOW - HOUR), NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    for module in ("turn", "score"):
        monkeypatch.setattr(f"anomalyze.monitoring.{module}.VERSION", VERSION + 1)
    store_values(connection, "shop", frame({"a": values}), NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    counts = connection.execute(
        "SELECT version, count(*) FROM metric_scores GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert counts == [(VERSION, 99), (VERSION + 1, 100)]


def test_runs_exclude_each_other(connection: Connection, database: str, tmp_path: Path) -> None:
    store_values(connection, "shop", frame({"a": calm(50)}), NOW)
    with connect(database) as other, claim_batch(other, "shop"):
        assert score_batch(connection, "shop", RULES, tmp_path, NOW) == Scored(is_busy=True)
    assert score_batch(connection, "shop", RULES, tmp_path, NOW).scored == 50


def test_many_runs_at_once_score_everything_once(database: str, tmp_path: Path) -> None:
    rows = frame({f"m{n}": calm(60, n) for n in range(5)})

    def run(turn: int) -> int:
        alerts = 0
        with connect(database) as own:
            for n in range(6):
                part = rows.filter(pl.int_range(pl.len()).over("metric") < 10 * (n + 1))
                store_values(own, "shop", part, NOW)
                alerts += score_batch(own, "shop", RULES, tmp_path / "banks", NOW).alerts
        return alerts

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))
    with connect(database) as connection:
        score_batch(connection, "shop", RULES, tmp_path / "banks", NOW)
        assert scores(connection) == whole(connection, rows, tmp_path / "whole")
        assert alerts(connection) == alerts(connection, "whole")


def test_a_value_that_was_taken_back_has_no_score(connection: Connection, tmp_path: Path) -> None:
    values = calm(60)
    store_values(connection, "shop", frame({"a": values}), NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    store_values(connection, "shop", frame({"a": [*values[:-3], None, *values[-2:]]}), NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    assert len(scores(connection)) == 59
    assert scores(connection) == whole(connection, frame({"a": [*values[:-3], None, *values[-2:]]}), tmp_path)


def test_a_run_is_noted(connection: Connection, tmp_path: Path) -> None:
    store_values(connection, "shop", frame({"a": calm(40)}), NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    (run,) = fetch(connection, load_runs("shop"))
    assert (run.kind, run.rows_read, run.scored, run.error) == ("score", 40, 40, None)
    assert run.finished_at is not None
    assert run.finished_at - run.started_at < timedelta(minutes=1)


def test_values_at_the_edges_of_floating_point_harm_no_neighbour(
    connection: Connection, tmp_path: Path
) -> None:
    edges: list[float | None] = [1.7e308, -1.7e308, 5e-324, 0.0, -0.0, None, 1e16, 1e-300] * 20
    store_values(connection, "shop", frame({"a": edges, "b": calm(160)}), NOW)
    score_batch(connection, "shop", BatchRules(3600.0, SeriesRules(change_percent=50)), tmp_path, NOW)
    assert len([row for row in scores(connection) if row[0] == "a"]) == 140
    whole_b = whole(
        connection, frame({"b": calm(160)}), tmp_path, BatchRules(3600.0, SeriesRules(change_percent=50))
    )
    assert [row for row in scores(connection) if row[0] == "b"] == whole_b


def test_no_transaction_waits_for_a_compiler(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TransactionStatus] = []
    monkeypatch.setattr(score, "warm", lambda: seen.append(connection.info.transaction_status))
    store_values(connection, "shop", frame({"orders": calm(3)}), NOW)
    for _ in range(2):  # the second run has nothing to judge
        score_batch(connection, "shop", RULES, tmp_path, NOW)
    assert seen == [TransactionStatus.IDLE]
