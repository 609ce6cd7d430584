"""What is shipped runs: the built-in batch over our own tables, the examples, and the commands that show them."""

from __future__ import annotations

import datetime as dt
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from anomalyze.cli import app
from anomalyze.cli.plot import plot
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from anomalyze.metrics.window import Window
from anomalyze.storage.partition import ensure_partitions
from tests.test_metrics.web import web_server

SHIPPED = Path(__file__).parents[2] / "metrics_config"
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shipped batches, and a shop's SQLite file where its batch looks for one."""
    folder = tmp_path / "config"
    shutil.copytree(SHIPPED / "metrics", folder / "metrics")
    shop = runpy.run_path(str(folder / "metrics/examples/shop.py"))
    shop["write"](str(tmp_path / "shop.db"), 30)
    path = folder / "metrics/examples/shop_orders.yaml"
    path.write_text(path.read_text().replace("/tmp/shop.db", str(tmp_path / "shop.db")))
    return folder


def test_the_built_in_batch_tells_of_payments_by_hour(database: str) -> None:
    start = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0) - 5 * HOUR
    with psycopg.connect(database) as connection:
        ensure_partitions(connection, [start, start + 9 * HOUR])
        for count, (hour, amount, currency, status, severity, source, lag_s) in enumerate(
            [
                (0, 10, "EUR", 0, 0, "KAFKA", 2),
                (0, 20, "EUR", 1, 3, "REALTIME_API", 1),
                (0, 7, "USD", 2, 0, "CSV", 9_000),
                (2, -5, "EUR", 3, 0, "WEBSOCKET", 90_000),
                (9, 1, "EUR", 0, 0, "KAFKA", 0),
            ]
        ):
            at = start + hour * HOUR + dt.timedelta(minutes=10)
            connection.execute(
                "INSERT INTO transactions (account_id, user_id, ts, tx_id, amount, currency, status, severity, action,"
                " src_partition, src_offset, source, bundle, data, enrichment, analysis, verdict, stored_at) VALUES"
                " ('default', 'u', %s, %s, %s, %s, %s, %s, 0, 0, 0, %s, 'b', '{}', '{}', '{}', '{}', %s)",
                [
                    at,
                    str(count),
                    amount,
                    currency,
                    status,
                    severity,
                    source,
                    at + dt.timedelta(seconds=lag_s),
                ],
            )
            connection.execute(
                "INSERT INTO hourly VALUES ('default', %s, %s, 1) ON CONFLICT (account_id, hour, severity)"
                " DO UPDATE SET transactions = hourly.transactions + 1",
                [start + hour * HOUR, severity],
            )
    entry = load_batches(SHIPPED, {}).batches["payments"]
    frame = read(entry, Window(start - 2 * HOUR, start + 4 * HOUR, HOUR), database).frame
    rows = {(metric, (at - start) // HOUR): round(value, 3) for metric, at, value in frame.iter_rows()}
    assert rows == {
        ("transactions", 0): 3,
        ("transactions", 1): 0,
        ("transactions", 2): 1,
        ("transactions", 3): 0,
        ("anomalies", 0): 1,
        ("anomalies", 1): 0,
        ("anomalies", 2): 0,
        ("anomalies", 3): 0,
        ("decline_rate", 0): 33.333,
        ("decline_rate", 2): 0,
        ("lag", 0): 1.5,
        ("lag", 2): 3600,
        ("amount_EUR", 0): 30,
    }
    assert entry.batch.settings("amount_EUR").preprocessing.aggregate == "sum"


@pytest.fixture
def rest(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server where an example asks our REST API; `tests/test_realtime/test_metrics_api.py` asks the API itself."""

    def answer(path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        if headers.get("Authorization") != "Bearer sesame":
            return 401, "{}"
        first, last = (dt.datetime.fromisoformat(query[name]) for name in ("from", "to"))
        hours = [first + n * HOUR for n in range((last - first) // HOUR)]
        return 200, json.dumps({"points": [{"timestamp": at.isoformat(), "value": 5.0} for at in hours]})

    monkeypatch.setenv("ANOMALYZE_SOURCE_API_KEY", "sesame")
    path = config / "metrics/examples/payments_over_rest.yaml"
    with web_server(answer) as address:
        path.write_text(path.read_text().replace("http://127.0.0.1:8000", address))
        yield


@pytest.mark.usefixtures("rest")
def test_every_example_runs(config: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYZE_POSTGRES_DSN", database)
    monkeypatch.setenv("ANOMALYZE_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("ANOMALYZE_DATA_DIR", str(config / "data"))
    loaded = load_batches(config, {})
    assert loaded.problems == ()
    found: dict[str, set[str]] = {}
    told: dict[str, dict[str, str]] = {}
    for name, entry in loaded.batches.items():
        if "example" not in entry.batch.tags:
            continue
        command = [
            "metrics",
            "run",
            name,
            "--dry-run",
            "--json",
            "--rows",
            "10000",
            "--config-dir",
            str(config),
        ]
        # PyOD's detectors learn again and again while a history goes by.
        ran = CliRunner().invoke(app, [*command, "--back", "10d"] if name == "shop_detectors" else command)
        assert ran.exit_code == 0, ran.stderr
        document = json.loads(ran.stdout)
        assert document["notes"] == []
        found[name] = {row["metric"] for row in document["values"]}
        told[name] = {one["opened"][:10]: one["sentence"] for one in document["alerts"]}
    assert {name for name in found.pop("postgres_tables") if not name.startswith("size_")} == {
        "dead_rows",
        "locks_waiting",
        "oldest_query",
    }
    assert found == {
        "system_load": {"processor", "memory", "disk_used"},
        "machine_processes": {"processes", "disk_free"},
        "network_traffic": {"sent", "received"},
        "postgres_statistics": {"connections", "size", "cache_hits", "deadlocks"},
        "shop_visits": {"visits", "checkouts"},
        "shop_orders": {"orders", "revenue"},
        "shop_simulated": {"orders", "payment_errors"},
        "shop_detectors": {"orders", "payment_errors", "errors_per_order"},
        "shop_deliveries": {"minutes", "minutes_slowest"},
        "shop_funnel": {"came", "bought", "conversion"},
        "payments_over_rest": {"payments"},
        "sales_daily": {"orders_north", "orders_south", "revenue"},
    }
    failed = told["sales_daily"]["2025-09-15"]  # midnight of the 16th in Berlin
    assert failed.startswith("orders_south (less that of 7 days before) = -")


def test_the_simulated_shop_has_its_incidents(config: Path) -> None:
    """Asked in parts it says the same, so that a value never depends on the window."""
    entry = load_batches(config, {}).batches["shop_simulated"]
    start = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    whole = read(entry, Window(start, start + 24 * 46 * HOUR, HOUR)).frame
    errors = whole.filter(whole["metric"] == "payment_errors")
    down = errors.filter(errors["value"] > 20)["timestamp"].to_list()
    assert len(down) == 6
    assert {at.hour for at in down} == {13, 14, 15}
    part = read(entry, Window(start + 5 * HOUR, start + 9 * HOUR, HOUR)).frame
    assert set(part.rows()) <= set(whole.rows())


def test_list_and_dry_run_show_and_tell(config: Path) -> None:
    runner, where = CliRunner(), ["--config-dir", str(config)]
    listed = runner.invoke(app, ["metrics", "list", *where])
    assert listed.exit_code == 0
    assert "shop_orders" in listed.stdout
    tried = runner.invoke(app, ["metrics", "run", "shop_visits", "--dry-run", "--rows", "2", *where])
    assert tried.exit_code == 0
    assert "3,024 rows of 2 metrics" in tried.stdout
    assert "Nothing is stored." in tried.stdout
    assert "1960 ┤" in tried.stdout
    machine = runner.invoke(
        app, ["metrics", "run", "shop_orders", "--dry-run", "--json", "--back", "2d", *where]
    )
    document = json.loads(machine.stdout)
    assert (document["rows"], document["metrics"], len(document["values"])) == (96, 2, 10)

    (config / "metrics/now.yaml").write_text("source: {kind: duckdb}\nsql: SELECT 5 AS load\n")
    (config / "metrics/none.yaml").write_text("source: {kind: duckdb}\nsql: SELECT 5 AS load WHERE false\n")
    of_now = runner.invoke(app, ["metrics", "run", "now", "--dry-run", *where])
    assert "5        load" in of_now.stdout
    assert "┤" not in of_now.stdout, "one value is no line"
    empty = runner.invoke(app, ["metrics", "run", "none", "--dry-run", *where])
    assert "the source answered without a row" in empty.stdout
    stored = runner.invoke(app, ["metrics", "run", "shop_visits", "--back", "2d", *where])
    assert (stored.exit_code, stored.stdout) == (1, "")
    assert "metrics backfill shop_visits --back 2d" in stored.stderr
    typo = runner.invoke(app, ["metrics", "run", "shop_visit", "--dry-run", *where])
    assert (typo.exit_code, typo.stdout) == (1, "")
    assert "perhaps shop_visits" in typo.stderr
    (config / "metrics/examples/shop_visits.yaml").write_text("source: {kind: duckdb}\nsqll: SELECT 1\n")
    wrong = runner.invoke(app, ["metrics", "run", "shop_visits", "--dry-run", *where])
    assert "shop_visits.yaml:2:1: sqll: " in wrong.stderr
    assert wrong.exit_code == 1
    listed = runner.invoke(app, ["metrics", "list", *where])
    assert listed.exit_code == 1
    assert "Did you mean sql?" in listed.stdout


def test_a_terminal_without_the_signs_of_a_plot_gets_the_rest(config: Path) -> None:
    command = ["metrics", "run", "shop_visits", "--dry-run", "--back", "2d", "--config-dir", str(config)]
    ended = subprocess.run(
        [sys.executable, "-m", "anomalyze", *command],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Nothing is stored." in ended.stdout
    assert "??????" in ended.stdout


def test_a_plot_never_loses_a_spike_and_leaves_gaps() -> None:
    values: list[float | None] = [0.0] * 5_000
    values[1_234] = 9.0
    lines = plot(values, 50, 4, [1_234])
    assert [len(line) for line in lines[:4]] == [53] * 4
    assert lines[0].startswith("9 ┤")
    assert lines[0][3 + 12] != "\u2800"
    assert lines[0].replace("\u2800", "")[3:] == lines[0][3 + 12]
    assert lines[4] == " " * (3 + 12) + "▲"
    assert plot([None, float("nan")], 50, 4) == ["no values"]
    assert plot([1.0, None, None, 1.0], 50, 1) == ["1 ┤⡀⢀"]
