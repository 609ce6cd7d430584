"""Killed anywhere, nothing is lost and nothing is there twice."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

from tests.test_monitoring.killed import STEPS
from tests.test_monitoring.shop import alerts, scores


def test_killed_runs_leave_what_an_undisturbed_one_leaves(
    connection: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.test_monitoring.killed",
            database,
            str(tmp_path),
            str(seed),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert int(done.stdout.splitlines()[-1]) == len(STEPS)
    found = scores(connection)
    assert len(found) == 8 * 180 * 3  # by the default detector and by two that are named
    assert found == scores(connection, "whole")
    assert alerts(connection) == alerts(connection, "whole")
    told = [
        connection.execute(
            "SELECT metric, a.kind, opened_ts, n.kind, number FROM metric_notices n "
            "JOIN metric_alerts a USING (alert_id) WHERE batch = %s ORDER BY 1, 2, 3, 4, 5",
            [batch],
        ).fetchall()
        for batch in ("shop", "whole")
    ]
    assert told[0] == told[1]
    assert len(told[0]) >= 8
