"""Where numbers are read from: one contract, a file a kind. Sessions only read, take a limited time, and stop at a limit."""

from __future__ import annotations

from anomalyze.metrics.sources.contract import Reading, Request, Table
from anomalyze.metrics.sources.read import read

__all__ = ["Reading", "Request", "Table", "read"]
