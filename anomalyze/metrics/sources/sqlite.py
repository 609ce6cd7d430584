"""A SQLite file. ``:start`` and ``:end`` are bound as UTC text, ``2025-11-03 12:00:00``, as SQLite writes times."""

from __future__ import annotations

import datetime as dt
import sqlite3
import time
from contextlib import closing
from typing import Any

from anomalyze.metrics.source_file import SqliteSource
from anomalyze.metrics.sources.contract import Request, Table, broken, limited, path_of, silent

__all__ = ["fetch"]

LOCK_TIMEOUT_S = 5
# The clock is looked at every so many steps of SQLite's machine: some milliseconds.
STEPS_BETWEEN_LOOKS = 50_000


def fetch(request: Request) -> Table:
    """The answer; the file is opened for reading only, and is ended after its time."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, SqliteSource)
    assert statement is not None
    path = path_of(request, source.path)
    values = {name: _bound(value) for name, value in statement.values.items()}
    deadline = time.monotonic() + source.timeout_s
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_S)
        ) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
            cursor = connection.execute(statement.text, values)
            columns = tuple(column[0] for column in cursor.description or ())
            return Table(columns, limited(cursor, source.rows_max, request.name))
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            late = TimeoutError(f"it took longer than {source.timeout_s} s")
            raise silent(request, late) from None
        if "locked" in str(error):
            raise silent(request, error) from None
        raise broken(request, error) from None
    except sqlite3.Error as error:
        raise broken(request, error) from None


def _bound(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return value
