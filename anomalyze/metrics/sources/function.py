"""A Python function: ``python: module:function`` in a batch, called as ``function(window, params)``.

The module is a file beside the batch's, else an installed one. It gives a frame of polars or pandas, a list of rows as
dictionaries, or one dictionary of values that tells of now. It is called in a process of its own, which a timeout ends.
"""

from __future__ import annotations

from anomalyze.metrics.call import Answer, Call
from anomalyze.metrics.process import TIMEOUT_S, ask
from anomalyze.metrics.source_file import ROWS_MAX
from anomalyze.metrics.sources.contract import Request, Table, broken, limited, silent

__all__ = ["fetch"]


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
        answer = ask(call, timeout_s, Answer)
    except TimeoutError as error:
        raise silent(request, TimeoutError(f"{told} {error}")) from None
    except ChildProcessError as error:
        raise broken(request, RuntimeError(f"{told} {error}")) from None
    if answer.error is not None:
        said = RuntimeError(answer.error)
        raise silent(request, said) if answer.again else broken(request, said)
    return Table(tuple(answer.columns), limited(answer.rows, rows_max, request.name))
