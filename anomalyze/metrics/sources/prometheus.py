"""Prometheus' HTTP API: each query over the window, at whole steps; labels become part of a metric's name."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import PrometheusSource
from anomalyze.metrics.sources.contract import Request, Table, limited
from anomalyze.metrics.sources.web import ask, web_address

__all__ = ["fetch"]

# Prometheus refuses more points a series in one answer.
POINTS_MAX = 11_000


def fetch(request: Request) -> Table:
    """Values at the beginning of each step of the window."""
    source = request.batch.source
    assert isinstance(source, PrometheusSource)
    base = web_address(source.url)
    url = base.copy_with(path=base.path.rstrip("/") + "/api/v1/query_range")
    rows = limited(_rows(request, source, url), source.rows_max, request.name)
    return Table(("metric", "timestamp", "value"), rows)


def _rows(request: Request, source: PrometheusSource, url: httpx.URL) -> Iterator[tuple[str, float, float]]:
    window = request.window
    points = math.ceil((window.end - window.start) / window.step)
    for name, promql in source.queries.items():
        for first in range(0, points, POINTS_MAX):
            last = min(first + POINTS_MAX, points) - 1
            query = {
                "query": promql,
                "start": (window.start + first * window.step).timestamp(),
                "end": (window.start + last * window.step).timestamp(),
                "step": int(window.step / dt.timedelta(seconds=1)),
                # Else it goes on for minutes for nobody.
                "timeout": f"{source.timeout_s}s",
            }
            for series in _series(request, name, ask(request, url, query, source.timeout_s, source.token)):
                metric = _named(name, series["metric"])
                for at, value in series["values"]:
                    yield metric, at, float(value)


def _series(request: Request, name: str, body: bytes) -> list[Any]:
    try:
        document = json.loads(body)
        data = document["data"]
        if document["status"] == "success" and data["resultType"] == "matrix":
            return list(data["result"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f"batch {request.name}: {name}: expected an answer of Prometheus' query_range, got {body[:80]!r}"
    )


def _named(name: str, labels: dict[str, str]) -> str:
    told = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels) if key != "__name__")
    return f"{name}{{{told}}}" if told else name
