"""Start one program under a guard, so that it never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["GuardedProcess", "free_port", "unprivileged_user"]

GUARD = Path(__file__).with_name("guard.py")


class GuardedProcess:
    """A running program and the pipe that keeps it alive.

    Parameters
    ----------
    name
        For messages.
    argv
        Program and arguments; no shell.
    log_path
        Receives standard output and error, appended.
    env
        The program's whole environment; ours when None.
    user
        Name of the user to change to; None keeps ours.
    stop_signal, grace_s
        How ``stop`` (and the guard, when we die) ends it, and how long that may take before SIGKILL.
    niceness
        How much less right to the processor it has than we.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 15.0,
        niceness: int = 0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.grace_s = grace_s
        read_end, self._pipe = os.pipe()
        os.set_inheritable(self._pipe, False)
        try:
            with log_path.open("ab") as log:
                self._guard = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        str(GUARD),
                        str(int(stop_signal)),
                        str(grace_s),
                        user or "-",
                        str(niceness),
                        "--",
                    ]
                    + [str(a) for a in argv],
                    stdin=read_end,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=None if env is None else dict(env),
                    cwd=cwd,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(read_end)

    @property
    def guard_pid(self) -> int:
        """Process id of the guard; the program is its only child."""
        return self._guard.pid

    @property
    def pid(self) -> int | None:
        """Process id of the program itself, or None when it has ended."""
        try:
            children = Path(f"/proc/{self._guard.pid}/task/{self._guard.pid}/children").read_text()
        except OSError:
            return None
        return int(children.split()[0]) if children.strip() else None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._guard.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; raises ``subprocess.TimeoutExpired``."""
        return self._guard.wait(timeout_s)

    def stop(self) -> int:
        """Close the pipe, which makes the guard end the program, and wait for that."""
        self.release()
        return self._guard.wait(self.grace_s + 5)

    def release(self) -> None:
        """Close the pipe without waiting; safe to call twice."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def kill(self) -> None:
        """SIGKILL the program itself, as a crash would; the guard reports its end."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def unprivileged_user() -> str | None:
    """Who runs what refuses to run as root: ``nobody`` when we are root, else None (ourselves)."""
    return "nobody" if os.geteuid() == 0 else None
