"""Transactions in: accepted when the bus has them."""

from __future__ import annotations

import asyncio
import secrets
import time
from itertools import count
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.events.ingest import Accepted, Rejected, parse_transactions
from realtime.api.idempotency import Replay
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer, transaction_body
from realtime.api.security import require
from realtime.api.state import State, state_of

__all__ = ["append", "authorized", "check_media_type", "next_trace_id", "router"]

router = APIRouter(tags=["transactions"])

authorized = require("ingest")

ROWS_MAX = 10_000
# Parsing what is larger takes long enough to be noticed by others: it goes to a thread.
INLINE_BYTES_MAX = 32 * 1024
# The last two are what curl says of `-d` when nobody told it otherwise, and what browsers say of text.
MEDIA_TYPES = frozenset(
    {
        "application/json",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-www-form-urlencoded",
        "text/plain",
    }
)
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: json_answer("Accepted", "Durable: these transactions will be judged and stored."),
    **problem_responses(409, 413, 415, 429),
}


@router.post(
    "/transaction",
    status_code=202,
    responses=ACCEPTED,
    openapi_extra=transaction_body(many=True),
    operation_id="post_transaction",
)
@router.post(
    "/v1/transactions",
    status_code=202,
    responses=ACCEPTED,
    openapi_extra=transaction_body(many=True),
    operation_id="post_transactions",
)
async def post_transactions(request: Request) -> Response:
    """Take one transaction, an array or NDJSON. Bad ones are named, the others taken.

    503 means that it is not known whether they were taken: send the same ids again, each counts once. With an
    `Idempotency-Key` the same request is answered the same for a day.
    """
    principal = await authorized(
        request
    )  # not as a dependency: FastAPI takes longer to solve it than we to parse
    state = state_of(request)
    state.disk.check()
    check_media_type(request)
    body = await request.body()
    replay = Replay(state.redis, principal.account_id, request.headers.get("idempotency-key"), body)
    if (known := await replay.find()) is not None:
        return known
    if len(body) > INLINE_BYTES_MAX:
        accepted, rejected = await asyncio.to_thread(parse, state, principal, body)
    else:
        accepted, rejected = parse(state, principal, body)
    if rejected:
        refuse(state, accepted, rejected)
    state.rate.take(principal.key_id, len(accepted))
    await append(state, accepted)
    distinct = len({(one.user_id, one.tx_id) for one in accepted})
    answer = msgspec.json.encode(
        {"accepted": distinct, "repeated": len(accepted) - distinct, "rejected": rejected}
    )
    await replay.keep(answer)
    return Response(answer, 202, media_type="application/json")


# Asking the system for random bits costs more than the rest of a request's parsing: once a process is enough.
_process = secrets.token_hex(8)
_requests = count()


def next_trace_id() -> str:
    """A name for a request whose client gave none: unique over processes and restarts."""
    return f"{_process}{next(_requests):012x}"


def check_media_type(request: Request) -> None:
    """415 for what cannot be JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in MEDIA_TYPES:
        raise Problem(
            415,
            "send application/json (an object or an array) or application/x-ndjson (an object a line)",
            field="Content-Type",
            expected="application/json or application/x-ndjson",
            got=kind,
        )
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Problem(
            415,
            "send the body as it is, not compressed",
            field="Content-Encoding",
            expected="identity, or none",
            got=coding,
            headers={"Accept-Encoding": "identity"},
        )


def parse(state: State, principal: Principal, body: bytes) -> tuple[list[Accepted], list[Rejected]]:
    """Parse a request's body. Raises ``EventError`` when it is no list of transactions."""
    return parse_transactions(
        body,
        account_id=principal.account_id,
        source="REALTIME_API",
        now_ms=time.time_ns() // 1_000_000,
        future_tolerance_ms=state.settings.future_tolerance_s * 1000,
        trace_id=next_trace_id(),
        records_max=ROWS_MAX,
    )


def refuse(state: State, accepted: list[Accepted], rejected: list[Rejected]) -> None:
    """Count what was refused; ``Problem`` when nothing is left to take."""
    for one in rejected:
        state.metrics.rejected(one.field)
    if accepted:
        return
    first = rejected[0]
    field = first.field or "body"
    problem = Problem(
        422,
        f"{field}: expected {first.expected}, got {first.got}",
        field=field,
        expected=first.expected,
        got=first.got,
    )
    problem.document["rejected"] = rejected
    raise problem


async def append(state: State, accepted: list[Accepted]) -> None:
    """Make them durable. Raises ``TransientError``."""
    started_s = time.perf_counter()
    await state.ingest.append([one.user_id.encode() for one in accepted], [one.value for one in accepted])
    state.metrics.accepted(len(accepted), time.perf_counter() - started_s)
