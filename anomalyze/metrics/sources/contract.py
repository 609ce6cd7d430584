"""What a source is asked and what it answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from anomalyze.errors import ConfigError, TransientError
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.statement import Statement
from anomalyze.metrics.window import Window
from anomalyze.settings import find_secret

__all__ = [
    "CONNECT_TIMEOUT_S",
    "Fetch",
    "Reading",
    "Request",
    "Table",
    "address_of",
    "broken",
    "limited",
    "load_driver",
    "path_of",
    "silent",
]

CONNECT_TIMEOUT_S = 10
RETRY_AFTER_S = 60.0
REASON_CHARACTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class Request:
    """One read.

    Attributes
    ----------
    name
        Of the batch.
    batch, window
        What is read, and of which time.
    folder, config_dir
        Of the batch's file, and of all configuration; relative paths of data begin at the latter.
    statement
        What is asked in SQL; None for sources that are asked otherwise.
    own_dsn
        Our own PostgreSQL, for the source ``anomalyze``.
    """

    name: str
    batch: Batch
    window: Window
    folder: Path
    config_dir: Path
    statement: Statement | None
    own_dsn: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as a source gave them: at most ``rows_max`` of them, values as its driver makes them."""

    columns: tuple[str, ...]
    rows: list[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one read gave.

    Attributes
    ----------
    frame
        ``metric`` (String), ``timestamp`` (Datetime, µs, UTC), ``value`` (Float64; null: the source has none), sorted by
        metric and timestamp, each pair once.
    notes
        What was put right on the way, in sentences: rows left out, repeated, not finite.
    failures
        Metrics of which values were left out because they are no numbers, each with the reason; neighbours go on.
    is_of_now
        The rows had no timestamp: they tell of when they were read, whatever the window.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    is_of_now: bool = False


Fetch = Callable[[Request], Table]


def limited(rows: Iterable[Sequence[Any]], rows_max: int, name: str) -> list[Sequence[Any]]:
    """All rows.

    Raises
    ------
    ConfigError
        There are more than ``rows_max``; reading stopped there.
    """
    found: list[Sequence[Any]] = []
    for row in rows:
        if len(found) >= rows_max:
            raise ConfigError(
                f"batch {name}: expected at most {rows_max:,} rows, got more: narrow the window, aggregate in the "
                "query, or raise source.rows_max"
            )
        found.append(row)
    return found


def load_driver(module: str, extra: str) -> Any:
    """A driver that not everybody has.

    Raises
    ------
    ConfigError
        It is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"expected the package that has {module}, got none: install it with pip install 'anomalyze[{extra}]'"
        ) from None


def address_of(variable: str) -> str:
    """The value of a variable that a file names.

    Raises
    ------
    ConfigError
        It is not set.
    """
    secret = find_secret(variable)
    if secret is None:
        raise ConfigError(
            f"expected an address in the environment variable {variable}, got nothing: set it where batches run, "
            "or in .env"
        )
    return secret.get_secret_value()


def path_of(request: Request, path: str) -> Path:
    """A file that a source names, which must be there."""
    found = (request.config_dir / Path(path).expanduser()).resolve()
    if not found.is_file():
        raise ConfigError(f"batch {request.name}: expected a file, got none at {found}")
    return found


def broken(request: Request, error: BaseException, secrets: Sequence[str] = ()) -> ConfigError:
    """What a source refuses, for its owner to put right; no secret in it."""
    return ConfigError(f"batch {request.name}: the source refuses: {_reason(error, secrets)}")


def silent(request: Request, error: BaseException, secrets: Sequence[str] = ()) -> TransientError:
    """What a source does not answer in time; asked again later."""
    return TransientError(
        f"batch {request.name}: the source does not answer: {_reason(error, secrets)}",
        retry_after_s=RETRY_AFTER_S,
    )


def _reason(error: BaseException, secrets: Sequence[str]) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    for secret in secrets:
        if secret:
            said = said.replace(secret, "…")
    return said[:REASON_CHARACTERS_MAX]
