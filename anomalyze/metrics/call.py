"""Calls the function of a Python batch, in a process of its own: ``python -m anomalyze.metrics.call``.

A function that hangs is ended by its timeout, and one that takes the process with it takes no other batch. It is asked on
standard input and answers on standard output, both msgpack; what the function prints goes to standard error.
"""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.util
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from importlib.machinery import SourceFileLoader
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from anomalyze.errors import AnomalyzeError, TransientError
from anomalyze.metrics.window import Window

__all__ = ["Answer", "Call"]

PARENT_SEEN_S = 1.0
# Of its own for files beside a batch: they must not hide an installed module of their name.
MODULE = "anomalyze_metrics_batch"


class Call(msgspec.Struct, frozen=True):
    """What is called: ``told`` is ``module:function``; at most ``rows_max`` rows are answered."""

    folder: str
    told: str
    start: dt.datetime
    end: dt.datetime
    step_s: float
    params: dict[str, Any]
    rows_max: int


class Answer(msgspec.Struct, frozen=True):
    """Columns and rows of plain values, or the ``error`` instead; ``again``: it may do later."""

    columns: list[str] = []
    rows: list[list[Any]] = []
    error: str | None = None
    again: bool = False


class _Loader(SourceFileLoader):
    """Reads the source: the cache of compiled files tells changes within a second apart by size alone."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError("not cached")


def main() -> None:
    """Answer one call."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    answer = _answer(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Call))
    answers.write(msgspec.msgpack.encode(answer))
    answers.flush()
    # Threads that the function left behind are not waited for.
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SEEN_S)
    os._exit(1)


def _answer(call: Call) -> Answer:
    name, _, attribute = call.told.partition(":")
    try:
        module = _load(Path(call.folder), name)
    except Exception as error:  # noqa: BLE001 - whatever the operator's code raises
        return Answer(error=f"the module {name} gives {type(error).__name__}: {error}")
    function = getattr(module, attribute, None)
    if not callable(function):
        return Answer(error=f"expected a function {attribute} in {name}, got none")
    window = Window(call.start, call.end, dt.timedelta(seconds=call.step_s))
    try:
        result = function(window, call.params)
        found = _table(result)
        if found is None:
            got = type(result).__name__
            return Answer(
                error=f"expected {call.told} to give a frame, rows as dictionaries or a dictionary, got {got}"
            )
        columns, rows = found
        return Answer(columns, [[_plain(value) for value in row] for row in islice(rows, call.rows_max)])
    except AnomalyzeError as error:
        return Answer(error=str(error), again=isinstance(error, TransientError))
    except Exception as error:  # noqa: BLE001 - whatever the operator's code raises
        return Answer(error=f"{call.told} raised {type(error).__name__}: {error}")


def _load(folder: Path, name: str) -> ModuleType:
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    if not file.is_file():
        return importlib.import_module(name)
    spec = importlib.util.spec_from_loader(MODULE, _Loader(MODULE, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def _table(result: Any) -> tuple[list[str], Iterable[Sequence[Any]]] | None:
    """Columns and rows of a frame of polars or pandas (neither is imported here), of rows or of one row."""
    if hasattr(result, "iter_rows") and hasattr(result, "columns"):
        return list(result.columns), result.iter_rows()
    if hasattr(result, "itertuples") and hasattr(result, "columns"):
        return [str(column) for column in result.columns], result.itertuples(index=False, name=None)
    if isinstance(result, Mapping):
        result = [result]
    if isinstance(result, list | tuple) and all(isinstance(row, Mapping) for row in result):
        names = list(dict.fromkeys(key for row in result for key in row))
        return [str(name) for name in names], ([row.get(name) for name in names] for row in result)
    return None


def _plain(value: Any) -> Any:
    """A value that msgpack has; times without a zone and days as ISO 8601 text."""
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "to_pydatetime"):  # of pandas; its NaT is unequal to itself
        return None if value != value else _plain(value.to_pydatetime())
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.isoformat()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if hasattr(value, "dtype") and hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    return str(value)


def _number(value: float | Decimal) -> int | float:
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf


if __name__ == "__main__":
    main()
