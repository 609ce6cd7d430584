"""Server-sent events: transactions of a user, anomalies of an account."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import StreamingResponse

from anomalyze.access.keys import Principal
from anomalyze.errors import TransientError
from anomalyze.events.schema import ID_CHARACTERS_MAX
from realtime.api.live import POSITION_LENGTH_MAX, Live, parse_position
from realtime.api.schemas import header
from realtime.api.security import is_still_allowed, require
from realtime.api.shapes import render_anomaly, render_transaction
from realtime.api.state import state_of

__all__ = ["router"]

router = APIRouter(tags=["live"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An endless stream. `Last-Event-ID` (or the query parameter `last_event_id`) resumes it.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'id: 0.17-1.4\ndata: {"id": "tx_555", "user_id": "user_99"}\n\n',
            }
        },
    }
}
RESUME: dict[str, Any] = {
    "parameters": [
        header("Last-Event-ID", "the id of the last event seen: go on behind it", POSITION_LENGTH_MAX)
    ]
}
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/sse/transactions/{user_id:path}",
    responses=STREAM,
    openapi_extra=RESUME,
    response_class=StreamingResponse,
)
async def transactions(
    request: Request,
    user_id: Annotated[str, Path(min_length=1, max_length=ID_CHARACTERS_MAX)],
    principal: Annotated[Principal, Depends(require("read", public=True))],
) -> StreamingResponse:
    """Each new transaction of a user, as soon as it is judged."""
    return await stream(request, state_of(request).scored, principal.account_id, user_id, render_transaction)


@router.get("/sse/anomalies", responses=STREAM, openapi_extra=RESUME, response_class=StreamingResponse)
async def anomalies(
    request: Request, principal: Annotated[Principal, Depends(require("read", public=True))]
) -> StreamingResponse:
    """Each new anomaly of the account."""
    return await stream(request, state_of(request).anomalies, principal.account_id, None, render_anomaly)


async def stream(
    request: Request, live: Live, account_id: str, user_id: str | None, render: Any
) -> StreamingResponse:
    """Follow the bus from where the client stopped."""
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")

    async def allowed() -> bool:
        try:
            return await is_still_allowed(request, "read")
        except TransientError:
            return True  # nobody knows of a revocation: who was let in stays

    events = await live.follow(account_id, user_id, parse_position(last), render, allowed)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)
