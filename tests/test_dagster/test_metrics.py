"""Batches of metrics run by themselves: new files, failures, what is old, days that are read again."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

from anomalyze_dagster.definitions import build_definitions, definitions
from anomalyze_dagster.metrics.sensors import metric_batches
from anomalyze_dagster.resources import PostgresResource
from tests.test_dagster.runs import run_job
from tests.test_dagster.shop import POINTS, SHOP

RUN = {"ops": {"run_batches": {"config": {"batches": ["shop"]}}}}


def look(instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={"postgres": PostgresResource()},
        repository_def=definitions.get_repository_def(),
    )
    return metric_batches.evaluate_tick(context)


def stored(dsn: str) -> dict[str, list[Any]]:
    """Every row there is, but of runs."""
    with psycopg.connect(dsn) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
            for table in (
                "metric_values",
                "metric_scores",
                "metric_alerts",
                "metric_notices",
                "metric_series",
            )
        }


def test_a_new_file_runs_once_and_its_spike_is_one_alert(
    folder: Path, database: str, instance: dg.DagsterInstance
) -> None:
    tick = look(instance)
    (request,) = tick.run_requests
    assert request.run_config["ops"]["run_batches"]["config"]["batches"] == ["shop"]
    result = run_job("run_metric_batches", request.run_config)
    assert result.success
    *earlier, made = [
        e.step_materialization_data.materialization for e in result.all_events if e.is_step_materialization
    ]
    # A first run reads all of the history, whose days are then no longer open.
    assert [one.partition for one in earlier] == [
        (datetime.now(UTC) - timedelta(days=back)).strftime("%Y-%m-%d") for back in range(len(earlier), 0, -1)
    ]
    assert len(earlier) in (29, 30)
    (check,) = result.get_asset_check_evaluations()
    assert (check.asset_key, check.check_name, check.passed) == (made.asset_key, "no_metric_failed", True)
    assert made.asset_key == dg.AssetKey(["metrics", "shop"])
    told = {name: value.value for name, value in made.metadata.items()}
    assert (told["rows"], told["new"], told["scored"]) == (POINTS, POINTS, POINTS)
    assert (told["failed_metrics"], told["strangest"]) == ("none", "orders")
    assert "data:image/png" in str(told["plot"])
    first = stored(database)
    # What lies further back than a day is kept, and nobody is told of it.
    (alert_id,) = [row[0] for row in first["metric_alerts"] if row[19] is None]
    assert [row[1] for row in first["metric_notices"] if row[2] == "opened"] == [alert_id]
    assert "orders = 1,000" in str(first["metric_notices"])

    assert run_job("run_metric_batches", request.run_config).success
    assert stored(database) == first
    again = look(instance, tick.cursor)
    assert not again.run_requests
    assert "no batch is due" in again.skip_message


def test_what_fails_is_named_and_stops_no_neighbour(
    folder: Path, database: str, instance: dg.DagsterInstance
) -> None:
    (folder / "metrics/gone.yaml").write_text(SHOP.replace("shop.db", "gone.db"))
    with sqlite3.connect(folder / "shop.db") as file:
        file.execute("CREATE TABLE odd AS SELECT ts, 'orders' AS metric, orders AS value FROM hours")
        file.execute("INSERT INTO odd VALUES ('1960-01-01 00:00:00', 'strange', 1)")
    (folder / "metrics/odd.yaml").write_text(
        SHOP.replace(
            "ts AS timestamp, orders FROM hours WHERE", "ts AS timestamp, metric, value FROM odd WHERE 1 OR"
        )
    )
    (request,) = look(instance).run_requests
    result = run_job("run_metric_batches", request.run_config)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = str(failure.event_specific_data)
    assert "2 of 3 batches failed" in said
    assert "gone: " in said
    assert "odd: metric strange" in said
    with psycopg.connect(database) as connection:
        count = dict(
            connection.execute("SELECT batch || metric, count(*) FROM metric_scores GROUP BY 1").fetchall()
        )
    assert count == {"shoporders": POINTS, "oddorders": POINTS}


def test_a_broken_file_runs_as_it_was_and_raises_one_alarm(
    folder: Path, database: str, instance: dg.DagsterInstance
) -> None:
    tick = look(instance)
    (folder / "metrics/shop.yaml").write_text(SHOP + "sheduled: 1h\n")
    for _ in range(2):
        assert not look(instance, tick.cursor).run_requests
    with psycopg.connect(database) as connection:
        ((said,),) = connection.execute("SELECT summary FROM alarms").fetchall()
    assert "sheduled" in said
    # Its time comes: nothing was ever asked for.
    (request,) = look(instance).run_requests
    assert "shop" in request.run_config["ops"]["run_batches"]["config"]["kept"]
    assert run_job("run_metric_batches", request.run_config).success
    assert len(stored(database)["metric_values"]) == POINTS
    assert not run_job(
        "run_metric_batches", {"ops": {"run_batches": {"config": {"batches": ["shop"]}}}}
    ).success


def test_many_batches_wait_for_each_other_and_none_runs_twice_at_a_time(
    folder: Path, instance: dg.DagsterInstance
) -> None:
    for number in range(49):
        (folder / f"metrics/shop{number}.yaml").write_text(SHOP + f"priority: {1 if number == 48 else 3}\n")
    tick = look(instance)
    asked = [request.run_config["ops"]["run_batches"]["config"]["batches"] for request in tick.run_requests]
    assert [len(names) for names in asked] == [20, 20]
    assert asked[0][0] == "shop48"
    (rest,) = look(instance, tick.cursor).run_requests
    left = rest.run_config["ops"]["run_batches"]["config"]["batches"]
    assert len({*asked[0], *asked[1], *left}) == 50

    job = definitions.resolve_job_def("run_metric_batches")
    instance.create_run_for_job(
        job, run_config=tick.run_requests[0].run_config, status=dg.DagsterRunStatus.STARTED
    )
    (one,) = look(instance).run_requests
    assert not {*one.run_config["ops"]["run_batches"]["config"]["batches"]} & {*asked[0]}
    instance.create_run_for_job(job, run_config=one.run_config, status=dg.DagsterRunStatus.STARTED)
    waiting = look(instance)
    assert not waiting.run_requests
    assert waiting.skip_message == "50 batches wait for 2 runs"


def test_a_batch_that_had_nothing_yet_is_asked_for_its_history_again(folder: Path, database: str) -> None:
    run = {"ops": {"run_batches": {"config": {"batches": ["shop"]}}}}
    with sqlite3.connect(folder / "shop.db") as file:
        file.execute("ALTER TABLE hours RENAME TO filled")
        file.execute("CREATE TABLE hours (ts TEXT, orders REAL)")
    assert run_job("run_metric_batches", run).success
    assert not stored(database)["metric_values"]
    with sqlite3.connect(folder / "shop.db") as file:
        file.execute("INSERT INTO hours SELECT * FROM filled")
    assert run_job("run_metric_batches", run).success
    assert len(stored(database)["metric_values"]) == POINTS


def test_old_values_go_and_the_rest_is_scored_on(folder: Path, database: str) -> None:
    run = {"ops": {"run_batches": {"config": {"batches": ["shop"]}}}}
    assert run_job("run_metric_batches", run).success
    before = stored(database)
    (folder / "metrics/shop.yaml").write_text(SHOP + "retention: 10d\n")
    assert run_job("forget_metrics").success
    after = stored(database)
    assert 239 <= len(after["metric_values"]) <= 241
    assert len(after["metric_scores"]) == len(after["metric_values"])
    assert len(after["metric_alerts"]) < len(before["metric_alerts"])
    with sqlite3.connect(folder / "shop.db") as file:
        file.execute("UPDATE hours SET orders = 101 WHERE ts = (SELECT max(ts) FROM hours)")
    assert run_job("run_metric_batches", run).success
    assert len(stored(database)["metric_scores"]) == len(after["metric_scores"])


def materialize(first: str, last: str) -> dg.ExecuteInProcessResult:
    """The days of the batch `shop`, as its page does with those that are chosen together."""
    made = build_definitions()
    with dg.DagsterInstance.ephemeral() as instance:
        return made.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["metrics", "shop"])],
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            },
            raise_on_error=False,
        )


def day(back: int) -> str:
    return (datetime.now(UTC) - timedelta(days=back)).strftime("%Y-%m-%d")


def test_days_are_read_again_by_themselves_and_change_nothing(folder: Path, database: str) -> None:
    result = materialize(day(9), day(5))
    assert result.success
    made = result.get_asset_materialization_events()
    assert [event.partition for event in made] == [day(back) for back in range(9, 4, -1)]
    assert result.get_asset_check_evaluations()[0].passed
    told = {name: value.value for name, value in made[0].materialization.metadata.items()}
    assert (told["rows"], told["from"][:10], told["to"][:10]) == (5 * 24, day(9), day(4))
    first = stored(database)
    assert len(first["metric_values"]) == 5 * 24
    assert materialize(day(9), day(5)).success
    assert stored(database) == first
    # What a person reads again of the past is not what the schedule has to read.
    assert run_job("run_metric_batches", RUN).success
    assert len(stored(database)["metric_values"]) == POINTS
    with psycopg.connect(database) as connection:
        kinds = connection.execute(
            "SELECT kind, count(*) FROM metric_runs WHERE rows_read > 0 GROUP BY 1"
        ).fetchall()
    assert dict(kinds)["backfill"] == 2

    today = materialize(day(0), day(0))
    assert today.success
    (folder / "shop.db").unlink()
    failed = materialize(day(2), day(1))
    assert not failed.success
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    assert "shop.db" in str(failure.event_specific_data)


def test_a_batch_whose_metric_failed_fails_its_check_which_names_it(folder: Path) -> None:
    with sqlite3.connect(folder / "shop.db") as file:
        file.execute("CREATE TABLE odd AS SELECT ts, 'orders' AS metric, orders AS value FROM hours")
        file.execute("INSERT INTO odd VALUES ('1960-01-01 00:00:00', 'strange', 1)")
    (folder / "metrics/shop.yaml").write_text(
        SHOP.replace(
            "ts AS timestamp, orders FROM hours WHERE", "ts AS timestamp, metric, value FROM odd WHERE 1 OR"
        )
    )
    for result in (run_job("run_metric_batches", RUN), materialize(day(2), day(0))):
        (check,) = result.get_asset_check_evaluations()
        assert not check.passed
        assert "strange: " in str(check.description)
    (folder / "shop.db").rename(folder / "away.db")
    with dg.DagsterInstance.ephemeral() as instance:

        def checks() -> list[tuple[bool, str | None]]:
            run = definitions.resolve_job_def("run_metric_batches").execute_in_process(
                instance=instance, run_config=RUN, raise_on_error=False
            )
            return [(check.passed, check.description) for check in run.get_asset_check_evaluations()]

        ((passed, said),) = checks()
        assert not passed
        assert "shop.db" in str(said)
        # What is as it was is not said with each run.
        assert checks() == []
        (folder / "metrics/shop.yaml").write_text(SHOP)
        (folder / "away.db").rename(folder / "shop.db")
        assert checks() == [(True, "Every metric was read and stored.")]
