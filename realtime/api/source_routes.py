"""Polled tables: how far each was read, and its rows that were refused."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response, StreamingResponse

from anomalyze.access.keys import Principal
from anomalyze.storage import source as store
from anomalyze.storage.csv_stream import stream_csv
from anomalyze.storage.query import fetch_async
from anomalyze.storage.source import SourceState
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.shapes import time_text
from realtime.api.state import state_of
from realtime.api.upload_routes import answer

__all__ = ["router"]

router = APIRouter(tags=["uploads"])

Reader = Annotated[Principal, Depends(require("read"))]
Name = Annotated[str, Path(min_length=1, max_length=64)]


@router.get("/v1/sources", responses={200: json_answer("Sources", "By name.")})
async def list_sources(request: Request, principal: Reader) -> Response:
    """Tables of other systems that are polled for the account (`metrics_config/sources`)."""
    async with state_of(request).pool.connection() as connection:
        found = await fetch_async(connection, store.list_sources(principal.account_id))
    return answer({"sources": [source_shape(source) for source in found]})


@router.get(
    "/v1/sources/{name}/errors",
    responses={
        200: {
            "description": "at, column, reason, raw: a row for each that was refused, the newest first.",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **problem_responses(404),
    },
    response_class=StreamingResponse,
)
async def get_errors(request: Request, principal: Reader, name: Name) -> StreamingResponse:
    """The rows of a polled table that were refused, as CSV, the newest 10,000 of them."""
    pool = state_of(request).pool
    found = None
    if "\0" not in name:
        async with pool.connection() as connection:
            found = await fetch_async(connection, store.load_source(principal.account_id, name))
    if found is None:
        raise Problem(404, f"no source {name} in this account", field="name", got=name)

    text = stream_csv(
        ("at", "column", "reason", "raw"),
        pool.connection(),
        lambda connection: (
            [time_text(at), *rest]
            async for at, *rest in store.stream_source_errors(connection, principal.account_id, name)
        ),
    )
    headers = {"Content-Disposition": f'attachment; filename="refused-{found.name}.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


def source_shape(source: SourceState) -> dict[str, Any]:
    """A source as clients see it."""
    return {
        "name": source.name,
        "table": source.table_name,
        "position": source.position and source.position["cursor"][1],
        "rows": {
            "read": source.rows_read,
            "published": source.rows_published,
            "refused": source.rows_refused,
        },
        "error": source.error,
        "looked_at": time_text(source.looked_at) if source.looked_at else None,
        "read_at": time_text(source.read_at) if source.read_at else None,
        "run_id": source.run_id,
    }
