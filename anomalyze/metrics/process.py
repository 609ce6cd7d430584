"""Asks `anomalyze.metrics.call` in a process of its own, which ends with its timeout and with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

import anomalyze
from anomalyze.metrics.call import Call, FrameCall

__all__ = ["TIMEOUT_S", "ask"]

# What a batch without `source` is given.
TIMEOUT_S = 60
Told = TypeVar("Told")


def ask(call: Call | FrameCall, timeout_s: float, answer: type[Told]) -> Told:
    """What the function of a batch answers.

    Raises
    ------
    TimeoutError
        It took too long; the process and what it started have ended.
    ChildProcessError
        The process ended without an answer.
    """
    root = str(Path(anomalyze.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-m", "anomalyze.metrics.call"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(msgspec.msgpack.encode(call), timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"took longer than {timeout_s} s") from None
        finally:
            # All of its session: also what the function started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise ChildProcessError(f"ended its process with {_ending(process.returncode)}")
    return msgspec.msgpack.decode(said, type=answer)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
