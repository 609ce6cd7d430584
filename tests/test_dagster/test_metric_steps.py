"""Jobs that do one step of a run of batches, by real Dagster runs."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

from anomalyze_dagster.definitions import definitions
from anomalyze_dagster.metrics.steps import JOBS
from tests.test_dagster.runs import run_job
from tests.test_dagster.shop import POINTS, SHOP, SPIKE
from tests.test_dagster.test_metrics import RUN, stored


def told(result: dg.ExecuteInProcessResult, op: str) -> dict[str, Any]:
    """What a step noted of its output."""
    (output,) = [e for e in result.all_events if e.is_successful_output and e.step_key == op]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def test_one_step_after_another_leaves_what_one_run_leaves(folder: Path, database: str) -> None:
    assert run_job("ingest_metrics").success
    values = stored(database)
    assert len(values["metric_values"]) == POINTS
    assert not values["metric_scores"]
    result = run_job("score_metrics", {"ops": {"score_batches": {"config": {"batches": ["shop"]}}}})
    batches = told(result, "score_batches")["batches"]
    assert batches["shop"]["scored"] == POINTS
    assert batches["shop"]["incidents"] >= 1
    scored = stored(database)
    assert run_job("run_metric_batches", RUN).success
    assert stored(database) == scored


def test_training_changes_what_the_settings_changed_and_tells_nobody(folder: Path, database: str) -> None:
    assert run_job("run_metric_batches", RUN).success
    before = stored(database)
    batches = told(run_job("train_metrics"), "train_batches")["batches"]
    assert batches == {"shop": {"series": 1, "scores_that_changed": 0}}
    assert stored(database) == before
    (folder / "metrics/shop.yaml").write_text(SHOP + "preprocessing: {difference: 1}\n")
    assert (
        told(run_job("train_metrics"), "train_batches")["batches"]["shop"]["scores_that_changed"] > POINTS / 2
    )
    after = stored(database)
    assert [row[:4] for row in after["metric_values"]] == [row[:4] for row in before["metric_values"]]
    assert after["metric_notices"] == before["metric_notices"]
    assert after["metric_alerts"] == before["metric_alerts"]
    # A first run over the same values would have left these scores.
    with psycopg.connect(database) as connection:
        for table in ("metric_scores", "metric_series", "metric_batches", "metric_alerts"):
            connection.execute(
                f"DELETE FROM {table}" if table != "metric_alerts" else "TRUNCATE metric_alerts CASCADE"
            )
        connection.execute("TRUNCATE metric_values")
    assert run_job("run_metric_batches", RUN).success
    assert [row[:11] for row in stored(database)["metric_scores"]] == [
        row[:11] for row in after["metric_scores"]
    ]


def test_data_that_are_late_are_told_though_the_source_is_gone(folder: Path, database: str) -> None:
    (folder / "metrics/shop.yaml").write_text(SHOP + "thresholds: {late_after: 3h}\n")
    with sqlite3.connect(folder / "shop.db") as file:
        late = datetime.now(UTC) - timedelta(hours=9)
        file.execute("DELETE FROM hours WHERE ts > ?", [f"{late:%Y-%m-%d %H:%M:%S}"])
    assert run_job("ingest_metrics").success
    assert run_job("score_metrics").success
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM metric_alerts WHERE kind = 'late'")
    (folder / "shop.db").unlink()
    assert told(run_job("alert_metrics"), "tell_batches")["batches"] == {"shop": {"incidents": 1}}
    assert told(run_job("alert_metrics"), "tell_batches")["batches"] == {"shop": {"incidents": 0}}


def test_thresholds_and_changes_are_looked_for_in_what_is_stored(folder: Path, database: str) -> None:
    with sqlite3.connect(folder / "shop.db") as file:
        file.execute("UPDATE hours SET orders = orders + 60 WHERE rowid > ?", [SPIKE - 120])
    assert run_job("run_metric_batches", RUN).success
    before = stored(database)
    (folder / "metrics/shop.yaml").write_text(SHOP + "thresholds: {upper: 900}\ndetectors: [novelty]\n")
    config = {"ops": {"check_thresholds": {"config": {"back": "10d"}}}}
    found = told(run_job("threshold_metrics", config), "check_thresholds")["batches"]["shop"]
    assert found["found"] == 1
    assert "orders = 1,0" in found["newest"][0]
    assert "900" in found["newest"][0]
    shifts = told(run_job("change_metrics"), "find_changes")["batches"]["shop"]
    assert shifts["found"] == 1, shifts
    assert "orders" in shifts["newest"][0]
    drawn = told(run_job("plot_metrics"), "plot_batches")
    assert drawn["batches"]["shop"]["strangest"] == ["orders"]
    assert "data:image/png" in drawn["shop: orders"]
    assert stored(database) == before


def test_a_batch_that_cannot_is_named_and_its_neighbours_are_done(folder: Path, database: str) -> None:
    (folder / "metrics/gone.yaml").write_text(SHOP.replace("shop.db", "gone.db"))
    result = run_job("ingest_metrics")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "1 of 2 batches failed" in str(failure.event_specific_data)
    assert "gone.db" in str(failure.event_specific_data)
    assert len(stored(database)["metric_values"]) == POINTS
    for config in ({"back": "soon"}, {"batches": ["nobody"]}):
        assert not run_job("change_metrics", {"ops": {"find_changes": {"config": config}}}).success


def test_the_digest_of_a_day_is_written_once(folder: Path, database: str) -> None:
    assert run_job("run_metric_batches", RUN).success
    schedule = definitions.resolve_schedule_def("summary_of_metrics_daily")
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    tick = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=until))
    (request,) = tick.run_requests or []
    for _ in range(2):
        result = run_job("summary_metrics", dict(request.run_config))
        assert "shop" in told(result, "write_digests")["default"]
    with psycopg.connect(database) as connection:
        ((ends,),) = connection.execute("SELECT until_ts FROM metric_digests").fetchall()
    assert ends == until


def test_every_job_says_what_it_does() -> None:
    for job in JOBS:
        assert len(definitions.resolve_job_def(job.name).description or "") > 40, job.name
