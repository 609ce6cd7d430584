"""ClickHouse over its HTTP interface: no driver is needed. Times are shown in the batch's zone, sent as UTC."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import httpx

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import ClickHouseSource
from anomalyze.metrics.sources.contract import Request, Table, broken, limited, silent
from anomalyze.metrics.sources.web import ask, web_address

__all__ = ["fetch"]

# The server answers most mistakes with the status 500, too; what it means stands in a header.
_CODE = "X-ClickHouse-Exception-Code"
# Out of time, too slow, a quota, too many queries, no connection, a socket, the network, Keeper, stopped, out of memory,
# no replica, no shard, cancelled, the system, no thread, a deadlock.
_PASSING = {159, 160, 201, 202, 203, 209, 210, 225, 236, 241, 265, 279, 394, 425, 439, 473, 999}
_LATE = re.compile(rb"Code: (\d+)\. DB::Exception: .*", re.DOTALL)
_LATE_BYTES = 16 << 10
_TYPES = ((bool, "Bool"), (int, "Int64"), (float, "Float64"), (dt.datetime, "DateTime64(3,'UTC')"))


def fetch(request: Request) -> Table:
    """The answer; the server keeps the limits: it only reads, stops after its time and past the row limit."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, ClickHouseSource)
    assert statement is not None
    url = web_address(source.url)
    query: dict[str, Any] = {
        # 2: reading, with these settings.
        "readonly": 2,
        "max_execution_time": source.timeout_s,
        "max_result_rows": source.rows_max + 1,
        "result_overflow_mode": "break",
        "date_time_output_format": "iso",
        "output_format_json_quote_64bit_integers": 0,
        "session_timezone": request.batch.timezone,
    }
    if url.path.strip("/"):
        query["database"] = url.path.strip("/")
    for name, value in statement.values.items():
        query[f"param_{name}"] = _text(value)
    text = statement.written(lambda name: f"{{{name}:{_type(statement.values[name])}}}")
    body = ask(
        request,
        url.copy_with(path="/"),
        query,
        source.timeout_s + 5,
        body=f"{text}\nFORMAT JSONCompact",
        is_passing=_is_passing,
    )
    try:
        document = json.loads(body)
        columns = tuple(column["name"] for column in document["meta"])
        rows = document["data"]
    except (ValueError, KeyError, TypeError):
        # An error in the midst of an answer is text at its end.
        found = _LATE.search(body[-_LATE_BYTES:])
        if found is None:
            raise ConfigError(f"batch {request.name}: expected JSON, got {body[-200:]!r}") from None
        error = RuntimeError(found[0].decode(errors="replace"))
        raise (silent if int(found[1]) in _PASSING else broken)(request, error, [url.password]) from None
    return Table(columns, limited(rows, source.rows_max, request.name))


def _is_passing(answer: httpx.Response) -> bool | None:
    code = answer.headers.get(_CODE, "")
    # Without a code it is not ClickHouse that answers, but what stands before it.
    return int(code) in _PASSING if code.isdecimal() else None


def _type(value: Any) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "String")


def _text(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    if isinstance(value, bool):
        return "true" if value else "false"
    # The interface reads parameters as tab-separated values do.
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
