"""A Python function: ``python: module:function`` in a batch, called as ``function(window, params)``.

The module is a file beside the batch's, else an installed one. It gives a frame of polars or pandas, a list of rows as
dictionaries, or one dictionary of values that tells of now. It is called in a process of its own, which a timeout ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

import anomalyze
from anomalyze.metrics.call import Answer, Call
from anomalyze.metrics.source_file import ROWS_MAX
from anomalyze.metrics.sources.contract import Request, Table, broken, limited, silent

__all__ = ["fetch"]

# What a batch without `source` is given.
TIMEOUT_S = 60


def fetch(request: Request) -> Table:
    """What the function gives; the process and what it started end with the timeout."""
    source, told = request.batch.source, request.batch.python or ""
    timeout_s = source.timeout_s if source else TIMEOUT_S
    rows_max = source.rows_max if source else ROWS_MAX
    window = request.window
    call = Call(
        str(request.folder),
        told,
        window.start,
        window.end,
        window.step.total_seconds(),
        dict(request.batch.params),
        rows_max + 1,
    )
    try:
        answer = _ask(call, timeout_s)
    except subprocess.TimeoutExpired:
        raise silent(request, TimeoutError(f"{told} took longer than {timeout_s} s")) from None
    except ChildProcessError as error:
        raise broken(request, RuntimeError(f"{told} {error}")) from None
    if answer.error is not None:
        said = RuntimeError(answer.error)
        raise silent(request, said) if answer.again else broken(request, said)
    return Table(tuple(answer.columns), limited(answer.rows, rows_max, request.name))


def _ask(call: Call, timeout_s: float) -> Answer:
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
        finally:
            # All of its session: also what the function started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise ChildProcessError(f"ended its process with {_ending(process.returncode)}")
    return msgspec.msgpack.decode(said, type=Answer)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
