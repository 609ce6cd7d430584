"""Keep programs running: start, watch, start again with back-off, stop together.

Each program runs under a guard (see ``guard.py``): none of them outlives the supervisor, whatever ends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomalyze.embedded.process import GuardedProcess

__all__ = ["Program", "ProgramState", "Supervisor"]

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
# A program that ran this long before it ended starts over with the shortest back-off: one that fails at its start
# fails sooner, and one that is killed now and then should be back at once.
HEALTHY_S = 10.0
GRACE_S = 12.0
LOG_BYTES_MAX = 20_000_000


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes
    ----------
    name
        One word, shown and used for its log file.
    argv
        Program and arguments.
    address
        What people open or connect to; empty when there is nothing.
    is_late
        Starts only when `Supervisor.release_late` was called: it would take the processor from those that judge.
    niceness
        How much less right to the processor it has than the others.
    """

    name: str
    argv: Sequence[str]
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    is_late: bool = False
    niceness: int = 0


@dataclass(slots=True)
class ProgramState:
    """What a program is doing."""

    program: Program
    process: GuardedProcess | None = None
    started_at_s: float = 0.0
    start_at_s: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    restarts: int = 0
    last_exit: int | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None


class Supervisor:
    """Programs under watch.

    Parameters
    ----------
    programs
        In the order of their start; they stop in the opposite one, all at once.
    logs
        Folder of one log file a program.
    notify
        Called with a sentence whenever a program ends or is started again.
    """

    def __init__(self, programs: Sequence[Program], logs: Path, notify: Callable[[str], None]) -> None:
        self.states = [ProgramState(program) for program in programs]
        self._logs = logs
        self._notify = notify
        self._late_may_start = False
        logs.mkdir(parents=True, exist_ok=True)

    def tick(self) -> None:
        """Start what should run and does not; call it a few times a second."""
        now_s = time.monotonic()
        for state in self.states:
            if state.process is not None and (code := state.process.poll()) is not None:
                self._ended(state, code, now_s)
            waits = state.program.is_late and not self._late_may_start
            if state.process is None and not waits and now_s >= state.start_at_s:
                self._start(state, now_s)

    def release_late(self) -> None:
        """Let the late programs start."""
        self._late_may_start = True

    def stop(self) -> None:
        """End every program politely and wait for all of them."""
        running = [state for state in reversed(self.states) if state.process is not None]
        for state in running:
            assert state.process is not None
            state.process.release()
        for state in running:
            assert state.process is not None
            state.process.stop()
            state.process = None

    def _start(self, state: ProgramState, now_s: float) -> None:
        log = self._logs / f"{state.program.name}.log"
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        state.process = GuardedProcess(
            state.program.name,
            state.program.argv,
            log,
            env={**os.environ, **state.program.environment},
            grace_s=GRACE_S,
            niceness=state.program.niceness,
        )
        state.started_at_s = now_s

    def _ended(self, state: ProgramState, code: int, now_s: float) -> None:
        assert state.process is not None
        tail = state.process.log_tail(1)
        state.process.release()
        state.process = None
        if now_s - state.started_at_s >= HEALTHY_S:
            state.backoff_s = BACKOFF_FIRST_S
        state.last_exit = code
        state.restarts += 1
        state.start_at_s = now_s + state.backoff_s
        how = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
        self._notify(
            f"{state.program.name} {how}; starting it again in {state.backoff_s:g} s"
            + (f". Its last line: {tail[:300]}" if tail and code <= 128 else "")
        )
        state.backoff_s = min(BACKOFF_MAX_S, state.backoff_s * 2)
