"""Calls a function that a batch names, in a process of its own: ``python -m anomalyze.metrics.call``.

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
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from importlib.machinery import SourceFileLoader
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from anomalyze.errors import AnomalyzeError, ConfigError, TransientError
from anomalyze.metrics.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Answer", "Call", "FrameAnswer", "FrameCall"]

PARENT_SEEN_S = 1.0
REASON_CHARACTERS_MAX = 300
# Of its own for files beside a batch: they must not hide an installed module of their name.
MODULE = "anomalyze_metrics_batch"


class Call(msgspec.Struct, frozen=True, tag="rows"):
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


class FrameCall(msgspec.Struct, frozen=True, tag="frame"):
    """What prepares values: ``told`` is called with the frame of each metric; ``frame`` is Arrow's stream of all."""

    folder: str
    told: str
    params: dict[str, Any]
    frame: bytes


class FrameAnswer(msgspec.Struct, frozen=True):
    """Rows of metric, timestamp and value as Arrow's stream; and by metric why it has none, all of them under ``error``."""

    frame: bytes = b""
    failures: dict[str, str] = {}
    error: str | None = None


class _Loader(SourceFileLoader):
    """Reads the source: the cache of compiled files tells changes within a second apart by size alone."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError("not cached")


def main() -> None:
    """Answer one call."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    call = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Call | FrameCall)
    answer = _answer(call) if isinstance(call, Call) else _answer_frames(call)
    answers.write(_encoded(answer))
    answers.flush()
    # Threads that the function left behind are not waited for.
    os._exit(0)


def _encoded(answer: Answer | FrameAnswer) -> bytes:
    try:
        return msgspec.msgpack.encode(answer)
    except UnicodeEncodeError as error:
        return msgspec.msgpack.encode(Answer(error=f"expected text, got what no file could hold: {error}"))


def _raised(call: Call | FrameCall, error: Exception) -> str:
    """What a function raised, and in which line of the files beside the batch's."""
    folder = Path(call.folder)
    own = [one for one in traceback.extract_tb(error.__traceback__) if folder in Path(one.filename).parents]
    where = f" (line {own[-1].lineno} of {Path(own[-1].filename).relative_to(folder)})" if own else ""
    said = f"{call.told} raised {type(error).__name__}: {error}"
    return said[: REASON_CHARACTERS_MAX - len(where)] + where


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SEEN_S)
    os._exit(1)


def _find(call: Call | FrameCall) -> Callable[..., Any] | str:
    """The function, or why there is none."""
    name, _, attribute = call.told.partition(":")
    try:
        module = _load(Path(call.folder), name)
    except Exception as error:  # noqa: BLE001 - whatever the operator's code raises
        return f"the module {name} gives {type(error).__name__}: {error}"
    function = getattr(module, attribute, None)
    return function if callable(function) else f"expected a function {attribute} in {name}, got none"


def _answer_frames(call: FrameCall) -> FrameAnswer:
    import polars as pl

    function = _find(call)
    if isinstance(function, str):
        return FrameAnswer(error=function)
    given = pl.read_ipc_stream(call.frame)
    made, failures = [given.clear()], {}
    for own in given.partition_by("metric", maintain_order=True):
        metric = own["metric"][0]
        try:
            made.append(_checked(function(own, dict(call.params)), own))
        except AnomalyzeError as error:
            failures[metric] = str(error)[:REASON_CHARACTERS_MAX]
        except Exception as error:  # noqa: BLE001 - whatever the operator's code raises
            failures[metric] = _raised(call, error)
    return FrameAnswer(pl.concat(made).write_ipc_stream(None).getvalue(), failures)


def _checked(result: object, given: pl.DataFrame) -> pl.DataFrame:
    """The rows of a function's answer for a metric."""
    import polars as pl

    if not isinstance(result, pl.DataFrame) or not {"timestamp", "value"} <= set(result.columns):
        got = ", ".join(result.columns) if isinstance(result, pl.DataFrame) else type(result).__name__
        raise ConfigError(f"expected a polars frame with timestamp and value, got {got}")
    if result.schema["timestamp"] != given.schema["timestamp"]:
        raise ConfigError(f"expected timestamps as they were given, got {result.schema['timestamp']}")
    if not (result.schema["value"].is_numeric() or result.schema["value"] == pl.Null):
        raise ConfigError(f"expected numbers as values, got {result.schema['value']}")
    times = result["timestamp"]
    if times.is_duplicated().any() or not times.is_in(given["timestamp"].implode()).all():
        raise ConfigError("expected times that were given, each at most once, got others")
    name = pl.lit(given["metric"][0]).alias("metric")
    return result.select(name, "timestamp", pl.col("value").cast(pl.Float64))


def _answer(call: Call) -> Answer:
    function = _find(call)
    if isinstance(function, str):
        return Answer(error=function)
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
        return Answer(error=_raised(call, error))


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
