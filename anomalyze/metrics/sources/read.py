"""Reading a batch: its source is asked, its answer becomes one frame in long form."""

from __future__ import annotations

import importlib
from zoneinfo import ZoneInfo

from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.sources.contract import Fetch, Reading, Request
from anomalyze.metrics.sources.shape import build_reading
from anomalyze.metrics.statement import build_statement
from anomalyze.metrics.window import Window

__all__ = ["read"]

# A kind's module is imported when it is asked; it is called like the kind, but for these.
_MODULES = {"anomalyze": "postgres", "python": "function"}


def read(entry: BatchEntry, window: Window, own_dsn: str | None = None) -> Reading:
    """The values of a batch in a window.

    Parameters
    ----------
    entry
        From ``load_batches`` or a ``Library``.
    own_dsn
        Our own PostgreSQL; only the source ``anomalyze`` needs it.

    Raises
    ------
    ConfigError
        The source refuses, answers with what is no table of metrics, or with too much of it.
    TransientError
        It does not answer, or not in time.
    """
    batch = entry.batch
    statement = None
    if entry.statement is not None:
        statement = build_statement(entry.statement, batch, entry.name, window)
    request = Request(entry.name, batch, window, entry.path.parent, entry.config_dir, statement, own_dsn)
    kind = "python" if batch.python is not None or batch.source is None else batch.source.kind
    fetch: Fetch = importlib.import_module(f"anomalyze.metrics.sources.{_MODULES.get(kind, kind)}").fetch
    table = fetch(request)
    return build_reading(
        table,
        entry.name,
        ZoneInfo(batch.timezone),
        window,
        batch.metrics_max,
        is_measured=batch.timestamps == "measured",
    )
