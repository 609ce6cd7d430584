"""A transaction in, its verdict out."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from anomalyze.errors import TransientError
from anomalyze.events.ingest import parse_transaction
from realtime.api.ingest_routes import append, authorized, check_media_type, next_trace_id
from realtime.api.problems import problem_responses
from realtime.api.schemas import json_answer, transaction_body
from realtime.api.shapes import time_text
from realtime.api.state import State, state_of

__all__ = ["router"]

router = APIRouter(tags=["transactions"])

TIMEOUT_MS_MAX = 10_000
# How often PostgreSQL is asked for the verdict of a transaction that was known already.
LOOK_EVERY_S = 0.02
SCORED: dict[int | str, dict[str, Any]] = {
    200: json_answer("Scored", "The event with its verdict."),
    202: json_answer("Pending", "Durable, but the verdict was not there in time."),
    **problem_responses(413, 415, 429),
}
FIRST = (
    "SELECT ts, trace_id, source, src_partition, src_offset, data::text, enrichment::text, analysis::text, "
    "verdict::text FROM transactions WHERE account_id = %s AND user_id = %s AND tx_id = %s ORDER BY ts DESC LIMIT 1"
)


@router.post("/v1/score", responses=SCORED, openapi_extra=transaction_body(many=False))
async def post_score(
    request: Request,
    timeout_ms: Annotated[
        int, Query(ge=1, le=TIMEOUT_MS_MAX, description="how long to wait for the verdict")
    ] = 250,
) -> Response:
    """Take one transaction and wait for its verdict; it is judged once, however often it is sent.

    202 when the verdict is not there in time, with the action that the policy names for that
    (`score_timeout_action`): the transaction is judged and stored all the same.
    """
    deadline_s = time.monotonic() + timeout_ms / 1000
    principal = await authorized(request)
    state = state_of(request)
    state.disk.check()
    check_media_type(request)
    one = parse_transaction(
        await request.body(),
        account_id=principal.account_id,
        source="REALTIME_API",
        now_ms=time.time_ns() // 1_000_000,
        future_tolerance_ms=state.settings.future_tolerance_s * 1000,
        trace_id=next_trace_id(),
        reply_to=state.waiters.channel,
    )
    if state.waiters.full:
        raise TransientError("too many requests wait for a verdict", 1.0)
    state.rate.take(principal.key_id, 1)
    waiting = state.waiters.expect(principal.account_id, one.user_id, one.tx_id)
    try:
        await append(state, [one])
        async with asyncio.timeout(max(0.001, deadline_s - time.monotonic())):
            answer = await waiting
            event = msgspec.json.decode(answer)
            if "final_severity" in event.get("verdict", {}):
                # Where we wait is nobody else's business.
                answer = answer.replace(b',"reply_to":"%b"' % state.waiters.channel.encode(), b"", 1)
                return Response(answer, 200, media_type="application/json")
            answer = await first_verdict(state, principal.account_id, one.user_id, one.tx_id)
            return Response(answer, 200, media_type="application/json")
    except TimeoutError:
        pending = msgspec.json.encode({"verdict": None, "action": state.champion.timeout_action})
        return Response(pending, 202, media_type="application/json")
    finally:
        waiting.cancel()


async def first_verdict(state: State, account_id: str, user_id: str, tx_id: str) -> bytes:
    """The verdict that a repeated transaction has already; waits while it is on its way to PostgreSQL."""
    while True:
        try:
            async with state.pool.connection() as connection:
                cursor = await connection.execute(FIRST, [account_id, user_id, tx_id])
                row = await cursor.fetchone()
        except TransientError:
            row = None
        if row is not None:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    ts, trace_id, source, partition, offset, *sections = row
    meta = {
        "trace_id": trace_id,
        "timestamp": time_text(ts),
        "source": source,
        "user_id": user_id,
        "account_id": account_id,
    }
    names = ("data", "enrichment", "analysis", "verdict")
    stored = {name: msgspec.Raw(section.encode()) for name, section in zip(names, sections, strict=True)}
    src = {"partition": partition, "offset": offset}
    return msgspec.json.encode({"meta": meta, **stored, "src": src, "repeated": True})
