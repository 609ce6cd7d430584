"""A JSON document over HTTP: a list of rows, or one object that tells of now."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import HttpSource
from anomalyze.metrics.sources.contract import Request, Table, limited
from anomalyze.metrics.sources.web import ask, web_address
from anomalyze.metrics.template import TemplateMistake, render

__all__ = ["fetch"]


def fetch(request: Request) -> Table:
    """Rows at ``items`` of the document, their ``columns``; without ``columns`` each row's own keys with plain values."""
    source = request.batch.source
    assert isinstance(source, HttpSource)
    zone, params = ZoneInfo(request.batch.timezone), request.batch.params
    try:
        query = {
            key: render(text, request.window, request.name, params, zone)
            for key, text in source.query.items()
        }
    except TemplateMistake as error:
        raise ConfigError(f"batch {request.name}: source.query: {error}") from None
    body = ask(request, web_address(source.url), query, source.timeout_s, source.token)
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ConfigError(f"batch {request.name}: expected JSON, got {body[:80]!r}: {error}") from None
    found = _at(document, source.items, request.name)
    rows = limited(found if isinstance(found, list) else [found], source.rows_max, request.name)
    columns = source.columns or {key: key for key in _plain_keys(rows, request.name)}
    return Table(tuple(columns), [tuple(_inside(row, path) for path in columns.values()) for row in rows])


def _at(document: Any, path: str, name: str) -> Any:
    found = _inside(document, path) if path else document
    if not isinstance(found, list | dict):
        where = f"at {path}" if path else "as the document"
        raise ConfigError(f"batch {name}: expected a list or an object {where}, got {str(found)[:80]}")
    return found


def _inside(value: Any, path: str) -> Any:
    """What a dotted path leads to, a key that has dots itself first; None when nothing."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _plain_keys(rows: list[Any], name: str) -> list[str]:
    keys: dict[str, None] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise ConfigError(
                f"batch {name}: expected objects as rows, or source.columns that say where values lie, got {str(row)[:80]}"
            )
        keys |= dict.fromkeys(key for key, value in row.items() if not isinstance(value, dict | list))
    return list(keys)
