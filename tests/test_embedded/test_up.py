"""`anomalyze up` as an operator meets it: refusals with reasons, nothing left running, data that stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from tests.folders import passable_folder
from tests.simulation.stack import Stack

TRANSACTION = {"user_id": "user_1", "tx_id": "tx_1", "amount": 12.5, "currency": "USD"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with passable_folder() as folder:
        running = Stack(folder, "embedded", workers=1)
        running.start()
        yield running
        running.stop()


def up(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anomalyze", "up"],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )


def stored(stack: Stack) -> list[str]:
    answer = httpx.get(f"{stack.api}/transactions", headers=stack.headers, params={"user_id": "user_1"})
    return [row["id"] for row in answer.json()["transactions"]]


def wait_for_stored(stack: Stack, tx_id: str) -> None:
    deadline = time.monotonic() + 60
    while tx_id not in stored(stack):
        assert time.monotonic() < deadline, stack.output()
        time.sleep(0.1)


def test_a_second_up_on_the_same_folder_is_refused_with_the_reason(stack: Stack) -> None:
    done = up(stack.environment)
    assert done.returncode == 1
    assert "is in use by `anomalyze up` with process id" in done.stderr
    assert "ANOMALYZE_DATA_DIR" in done.stderr
    assert stack.ready()


def test_a_busy_port_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = up({**os.environ, "ANOMALYZE_DATA_DIR": str(tmp_path / "d"), "ANOMALYZE_API_PORT": str(port)})
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert f"ANOMALYZE_API_PORT={port + 1}" in done.stderr


def test_secrets_are_readable_by_their_owner_only_and_in_no_log(stack: Stack) -> None:
    data = stack.folder / "data"
    for name in ("admin-key", "runtime.json"):
        assert (data / name).stat().st_mode & 0o077 == 0
    password = stack.dsn.split(":")[2].split("@")[0]
    for log in [*(data / "logs").glob("*.log"), *data.glob("*/log")]:
        text = log.read_text(errors="replace")
        assert stack.key not in text, log
        assert password not in text, log


@pytest.mark.parametrize("program", ["sink", "detector", "api", "postgresql", "valkey"])
def test_a_killed_program_comes_back_and_work_goes_on(stack: Stack, program: str) -> None:
    before = stack.pids(program)
    assert stack.kill(program)
    deadline = time.monotonic() + 60
    while not (stack.pids(program) and stack.pids(program) != before and stack.ready()):
        assert time.monotonic() < deadline, stack.output()
        time.sleep(0.1)
    tx_id = f"after-{program}"
    answer = httpx.post(
        f"{stack.api}/transaction", headers=stack.headers, json={**TRANSACTION, "tx_id": tx_id}, timeout=30
    )
    assert answer.status_code == 202, answer.text
    wait_for_stored(stack, tx_id)


def test_replay_finds_what_is_stored_equal_and_sees_one_changed_letter(stack: Stack) -> None:
    def replay() -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "anomalyze", "replay", "--json"],
            env=stack.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    code, found = replay()
    assert (code, found["differ"], found["unstored"]) == (0, 0, 0)
    assert found["compared"] >= 5
    with psycopg.connect(stack.dsn, autocommit=True) as connection:
        changed = """UPDATE transactions SET verdict = replace(verdict::text, 'ALLOW', 'BLOCK')::json
                     WHERE tx_id = 'after-sink'"""
        assert connection.execute(changed).rowcount == 1
    code, found = replay()
    assert (code, found["differ"]) == (1, 1)
    assert "after-sink" in found["examples"][0]


def test_ctrl_c_stops_everything_and_started_again_nothing_is_lost(stack: Stack) -> None:
    httpx.post(
        f"{stack.api}/transaction", headers=stack.headers, json={**TRANSACTION, "tx_id": "before-stop"}
    )
    assert stack.process is not None
    everything = psutil.Process(stack.process.pid).children(recursive=True)
    assert len(everything) > 10
    begun = time.monotonic()
    assert stack.stop() == 0
    assert time.monotonic() - begun < 30
    assert not [p for p in everything if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    stack.start()
    wait_for_stored(stack, "before-stop")
    assert len(stored(stack)) == len(set(stored(stack)))


def test_killing_the_parent_leaves_nothing_running(stack: Stack) -> None:
    assert stack.process is not None
    everything = psutil.Process(stack.process.pid).children(recursive=True)
    stack.process.send_signal(signal.SIGKILL)
    stack.process.wait()
    _, alive = psutil.wait_procs(everything, timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], alive
    stack.start()
    assert stack.ready()
