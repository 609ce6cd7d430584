"""A folder of Anomstack's, written by tests, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from anomalyze.cli import app
from anomalyze.metrics.anomstack import Plan, plan_import
from anomalyze.metrics.anomstack.folder import Folder

DEFAULTS = """
db: duckdb
alert_methods: "email,slack"
alert_snooze_n: 3
delete_after_n_days: 100
disable_tholdalert: True
ingest_cron_schedule: "*/3 * * * *"
train_cron_schedule: "*/5 * * * *"
train_max_n: 2500
"""


def put(folder: Path, name: str, **keys: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metric_batch": path.stem, **keys}, indent=1))


def ask(theirs: Path, ours: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["import-anomstack", str(theirs), "--config-dir", str(ours), *more])


def plan(theirs: Path, **variables: str) -> Plan:
    return plan_import(Folder(theirs), variables=variables)


def said(found: Plan) -> str:
    return "\n".join(str(note) for one in found.batches for note in one.notes) + "\n".join(
        map(str, found.notes)
    )
