"""What a run says is found where `anomalyze logs` looks, not on Dagster's pages alone."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

from anomalyze_dagster import run_log

NOWHERE = "redis://127.0.0.1:1/0"


def say(folder: str, dsn: str) -> None:
    """As a run does, in a process of its own."""
    from anomalyze.log import get
    from anomalyze_dagster.resources import PostgresResource

    os.environ |= {
        "ANOMALYZE_DATA_DIR": folder,
        "ANOMALYZE_POSTGRES_DSN": dsn,
        "ANOMALYZE_REDIS_URL": NOWHERE,
    }
    for _ in range(2):
        with PostgresResource().connect():
            get().info("metric_alert", said="a = 20, above its limit of 10")


def test_a_run_writes_to_a_file_of_bounded_size(tmp_path: Path, database: str) -> None:
    log = tmp_path / "logs" / f"{run_log.NAME}.log"
    log.parent.mkdir()
    with log.open("wb") as file:
        file.truncate(run_log.LOG_BYTES_MAX + 1)
    run = multiprocessing.get_context("spawn").Process(target=say, args=(str(tmp_path), database))
    run.start()
    run.join(60)
    assert run.exitcode == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["event"], line["program"]) for line in lines] == [("metric_alert", "dagster-runs")] * 2
    assert log.with_suffix(".log.1").stat().st_size == run_log.LOG_BYTES_MAX + 1
