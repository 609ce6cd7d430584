"""A Python function: ``python: module:function`` in a batch, called as ``function(window, params)``.

The module is a file beside the batch's (read again when it changes), else an installed one. It gives a frame of polars or
pandas, a list of rows as dictionaries, or one dictionary of values that tells of now.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import polars as pl

from anomalyze.errors import AnomalyzeError, ConfigError
from anomalyze.metrics.source_file import ROWS_MAX
from anomalyze.metrics.sources.contract import Request, Table, broken, limited

__all__ = ["fetch"]


class _Loader(SourceFileLoader):
    """Reads the source each time: the cache of compiled files tells changes within a second apart by size alone."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError("not cached")


def fetch(request: Request) -> Table:
    """What the function gives; it runs in this process and is not ended by a timeout."""
    told = request.batch.python or ""
    name, _, attribute = told.partition(":")
    function = getattr(_module(request, name), attribute, None)
    if not callable(function):
        raise ConfigError(f"batch {request.name}: expected a function {attribute} in {name}, got none")
    try:
        result = function(request.window, dict(request.batch.params))
    except AnomalyzeError:
        raise
    except Exception as error:
        raise broken(request, RuntimeError(f"{told} raised {type(error).__name__}: {error}")) from error
    source = request.batch.source
    return _table(result, source.rows_max if source else ROWS_MAX, request.name, told)


def _module(request: Request, name: str) -> ModuleType:
    file = request.folder.joinpath(*name.split(".")).with_suffix(".py")
    try:
        if not file.is_file():
            return importlib.import_module(name)
        stamp = file.stat().st_mtime_ns
        key = f"anomalyze_metrics_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
        loaded = sys.modules.get(key)
        if loaded is not None and loaded.__dict__.get("_stamp") == stamp:
            return loaded
        spec = importlib.util.spec_from_loader(key, _Loader(key, str(file)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.__dict__["_stamp"] = stamp
        sys.modules[key] = module
        return module
    except Exception as error:
        raise broken(
            request, RuntimeError(f"the module {name} gives {type(error).__name__}: {error}")
        ) from error


def _table(result: Any, rows_max: int, name: str, told: str) -> Table:
    if isinstance(result, pl.DataFrame):
        return Table(tuple(result.columns), limited(result.iter_rows(), rows_max, name))
    if hasattr(result, "itertuples") and hasattr(result, "columns"):  # pandas, which need not be installed
        rows = ([_plain(value) for value in row] for row in result.itertuples(index=False, name=None))
        return Table(tuple(map(str, result.columns)), limited(rows, rows_max, name))
    if isinstance(result, Mapping):
        result = [result]
    if isinstance(result, list | tuple) and all(isinstance(row, Mapping) for row in result):
        columns = tuple(dict.fromkeys(str(key) for row in result for key in row))
        rows = ([row.get(column) for column in columns] for row in result)
        return Table(columns, limited(rows, rows_max, name))
    raise ConfigError(
        f"batch {name}: expected {told} to give a frame, rows as dictionaries or a dictionary, got "
        f"{type(result).__name__}"
    )


def _plain(value: Any) -> Any:
    """A pandas time as Python's; its NaT as none."""
    if hasattr(value, "to_pydatetime"):
        return None if value != value else value.to_pydatetime()
    return None if type(value).__name__ in ("NaTType", "NAType") else value
