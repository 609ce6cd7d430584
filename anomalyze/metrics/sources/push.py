"""Values that are sent to us: there is nothing to read, a run only scores what came."""

from __future__ import annotations

from anomalyze.metrics.sources.contract import Request, Table

__all__ = ["fetch"]


def fetch(request: Request) -> Table:
    """No rows."""
    del request
    return Table(("timestamp", "metric", "value"), [])
