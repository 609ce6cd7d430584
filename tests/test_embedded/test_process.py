"""Guarded programs: none outlives its supervisor, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from anomalyze.embedded.process import GuardedProcess
from anomalyze.embedded.supervisor import Program, Supervisor

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def wait_for(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stop_is_polite_first_and_certain_in_the_end(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), exit(0))); print('up', flush=True); time.sleep(600)"
    polite = GuardedProcess("polite", [sys.executable, "-c", code], tmp_path / "a")
    wait_for(lambda: "up" in polite.log_tail())
    assert polite.stop() == 0
    assert "told" in polite.log_tail()

    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    stubborn = GuardedProcess("deaf", [sys.executable, "-c", deaf], tmp_path / "b", grace_s=0.3)
    wait_for(lambda: "up" in stubborn.log_tail())
    pid = stubborn.pid
    assert pid is not None
    stubborn.stop()
    assert gone(pid)


def test_the_program_gets_default_signals_and_its_exit_code_is_passed_on(tmp_path: Path) -> None:
    code = "import signal, sys; sys.exit(7 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)"
    with GuardedProcess("code", [sys.executable, "-c", code], tmp_path / "log") as process:
        assert process.wait(15) == 7


def test_a_program_with_less_right_to_the_processor_has_it_against_other_sessions_too(tmp_path: Path) -> None:
    code = "import os; print(os.nice(0)); f = '/proc/self/autogroup'; print(open(f).read() if os.path.exists(f) else 'nice 10')"
    with GuardedProcess("late", [sys.executable, "-c", code], tmp_path / "log", niceness=10) as process:
        assert process.wait(15) == 0
    own, group = (tmp_path / "log").read_text().strip().splitlines()
    assert int(own) == os.nice(0) + 10
    assert not group or group.endswith(f"nice {own}")


@pytest.mark.parametrize("victim", ["supervisor", "guard"])
def test_killing_supervisor_or_guard_ends_the_whole_group(tmp_path: Path, victim: str) -> None:
    program = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(c.pid, flush=True); time.sleep(600)"
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        import sys
        from anomalyze.embedded.process import GuardedProcess
        p = GuardedProcess("x", [sys.executable, "-c", {program!r}], Path({str(tmp_path / "log")!r}), grace_s=1)
        while p.pid is None or not p.log_tail():
            time.sleep(0.02)
        print(p.guard_pid, p.pid, p.log_tail(), flush=True)
        time.sleep(600)
        """
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    guard, child, grandchild = (int(x) for x in supervisor.stdout.readline().split())
    try:
        os.kill(supervisor.pid if victim == "supervisor" else guard, signal.SIGKILL)
        wait_for(lambda: gone(child))
        if victim == "supervisor":  # a killed guard can no longer see to grandchildren
            wait_for(lambda: gone(grandchild) and gone(guard))
    finally:
        supervisor.kill()
        supervisor.wait()
        for pid in (guard, child, grandchild):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_what_ends_is_started_again_with_back_off_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor([Program("worker", SLEEPER)], tmp_path / "logs", said.append)
    state = supervisor.states[0]
    try:
        supervisor.tick()
        for round_ in (1, 2):
            process = state.process
            assert process is not None
            wait_for(lambda p=process: p.pid is not None)  # type: ignore[misc]
            before = state.backoff_s
            process.kill()
            wait_for(lambda r=round_: (supervisor.tick(), state.restarts == r)[1])  # type: ignore[misc]
            assert state.backoff_s == 2 * before
            assert not state.running
            wait_for(lambda: (supervisor.tick(), state.running)[1])
        assert len(said) == 2
        assert "killed by signal 9" in said[0]
        assert "0.5 s" in said[0]
        assert "1 s" in said[1]
    finally:
        supervisor.stop()
    assert not state.running
