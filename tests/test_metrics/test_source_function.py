"""A batch's Python function runs in a process of its own: what it does there takes nothing else with it."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomalyze.errors import ConfigError, TransientError
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import Reading, read
from anomalyze.metrics.window import Window

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
WINDOW = Window(START, START + dt.timedelta(hours=4), dt.timedelta(hours=1))
READS = """
import datetime as dt, pathlib, sys
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from anomalyze.metrics.window import Window
start = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
read(load_batches(pathlib.Path(sys.argv[1]), {}).batches["one"], Window(start, start, dt.timedelta(hours=1)))
"""


def write(folder: Path, body: str) -> None:
    (folder / "metrics").mkdir()
    (folder / "metrics" / "given.py").write_text(
        f"import os, pathlib, signal, subprocess, sys, time\n\n\ndef f(window, params):\n    {body}\n"
    )
    document = {"python": "given:f", "source": {"kind": "python", "timeout_s": 4}}
    (folder / "metrics" / "one.yaml").write_text(json.dumps(document))


def reading(folder: Path, body: str) -> Reading:
    write(folder, body)
    return read(load_batches(folder, {}).batches["one"], WINDOW)


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until, f"{pid} still runs"
        time.sleep(0.05)


def test_a_process_that_ends_says_how(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given:f ended its process with signal 11"):
        reading(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")


def test_what_it_prints_is_no_answer(tmp_path: Path) -> None:
    found = reading(tmp_path, "print('a'); os.system('echo b'); os.write(1, b'c'); return {'a': 1}")
    assert found.frame["value"].to_list() == [1.0]


def test_what_it_started_ends_with_its_timeout(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(TransientError, match="longer than 4 s"):
        reading(
            tmp_path,
            f"child = subprocess.Popen(['sleep', '60']); pathlib.Path({str(mark)!r}).write_text(str(child.pid)); "
            "child.wait()",
        )
    wait_for_end(int(mark.read_text()))


def test_it_ends_with_the_program_that_asked(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    write(tmp_path, f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)")
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps({"python": "given:f"}))
    asking = subprocess.Popen([sys.executable, "-c", READS, str(tmp_path)])
    try:
        until = time.monotonic() + 30
        while not mark.exists() or not mark.read_text():
            assert time.monotonic() < until
            assert asking.poll() is None
            time.sleep(0.05)
    finally:
        asking.send_signal(signal.SIGKILL)
        asking.wait()
    pid = int(mark.read_text())
    assert pid != asking.pid
    wait_for_end(pid)


def test_errors_of_ours_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="come back"):
        reading(tmp_path, "from anomalyze.errors import TransientError; raise TransientError('come back')")


def test_a_frame_of_polars_comes_through(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        "import polars; return polars.DataFrame({'timestamp': [window.start], 'a': [0.1], 'b': [2**70]})",
    )
    assert found.frame.rows() == [("a", START, 0.1), ("b", START, float(2**70))]
    assert "anomalyze_metrics_batch" not in sys.modules
