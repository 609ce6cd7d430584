"""Transactions in: accepted when the bus has them, judged at once when asked."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from typing import Annotated, Any

import msgspec
import redis
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.errors import TransientError
from anomalyze.events.batch import Action
from anomalyze.events.ingest import Accepted, Rejected, parse_transaction, parse_transactions
from anomalyze.log import get
from realtime.api.problems import Problem, problem_responses
from realtime.api.security import require
from realtime.api.state import State, state_of

__all__ = ["router"]

router = APIRouter(tags=["transactions"])

IDEMPOTENCY_S = 86_400
IDEMPOTENCY_KEY_LENGTH_MAX = 256
DISK_CHECK_S = 2.0
TIMEOUT_MS_MAX = 10_000
ROWS_MAX = 10_000
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

EXAMPLE = {
    "user_id": "user_99",
    "tx_id": "tx_555",
    "amount": 4500.50,
    "currency": "USD",
    "location": "NY",
    "merchant_id": "m_0417",
    "device_id": "d_91e4",
    "channel": "online",
    "timestamp": "2025-12-20T12:00:00Z",
}
TRANSACTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["user_id", "tx_id", "amount", "currency"],
    "additionalProperties": True,
    "properties": {
        "user_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": "whose behaviour is watched",
        },
        "tx_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": "sent again, it counts once",
        },
        "amount": {"type": "number", "description": "in units of the currency; negative for a refund"},
        "currency": {"type": "string", "description": "ISO 4217"},
        "timestamp": {
            "type": "string",
            "format": "date-time",
            "description": "with offset; now when missing",
        },
        "trace_id": {"type": "string", "maxLength": 128},
        "location": {"type": "string", "maxLength": 256, "description": "country, US state or city"},
        "latitude": {"type": "number", "minimum": -90, "maximum": 90},
        "longitude": {"type": "number", "minimum": -180, "maximum": 180},
        "country": {"type": "string", "description": "ISO 3166 alpha-2"},
        "merchant_id": {"type": "string", "maxLength": 128},
        "merchant_category": {"type": "string", "maxLength": 128},
        "device_id": {"type": "string", "maxLength": 128},
        "ip": {"type": "string", "maxLength": 128},
        "channel": {"type": "string", "maxLength": 128, "description": "such as card_present or online"},
        "status": {"type": "string", "enum": ["pending", "approved", "declined", "refunded", "reversed"]},
    },
    "example": EXAMPLE,
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [TRANSACTION_SCHEMA, {"type": "array", "items": TRANSACTION_SCHEMA}]},
                "examples": {"one": {"value": EXAMPLE}, "several": {"value": [EXAMPLE]}},
            },
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Durable: these transactions will be judged and stored.",
        "content": {"application/json": {"example": {"accepted": 1, "repeated": 0, "rejected": []}}},
    },
    **problem_responses(400, 413, 415),
}
SCORED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The event with its verdict.",
        "content": {
            "application/json": {"example": {"verdict": {"final_severity": "NONE", "action": "ALLOW"}}}
        },
    },
    202: {
        "description": "Durable, but the verdict was not there in time.",
        "content": {"application/json": {"example": {"verdict": None, "action": "ALLOW"}}},
    },
    **problem_responses(400, 413, 415),
}


@router.post(
    "/transaction", status_code=202, responses=ACCEPTED, openapi_extra=BODY, operation_id="post_transaction"
)
@router.post(
    "/v1/transactions",
    status_code=202,
    responses=ACCEPTED,
    openapi_extra=BODY,
    operation_id="post_transactions",
)
async def post_transactions(
    request: Request, principal: Annotated[Principal, Depends(require("ingest"))]
) -> Response:
    """Take one transaction, an array or NDJSON. Bad ones are named, the others taken.

    503 means that it is not known whether they were taken: send the same ids again, each counts once. With an
    `Idempotency-Key` the same request is answered the same for a day.
    """
    state = state_of(request)
    state.disk.check()
    body = await request.body()
    replay = Replay(state, principal, request.headers.get("idempotency-key"), body)
    if (known := await replay.find()) is not None:
        return known
    check_media_type(request)
    accepted, rejected = parse(state, principal, body)
    state.rate.take(principal.key_id, len(accepted))
    await append(state, accepted)
    distinct = len({(one.user_id, one.tx_id) for one in accepted})
    answer = msgspec.json.encode(
        {"accepted": distinct, "repeated": len(accepted) - distinct, "rejected": rejected}
    )
    await replay.keep(answer)
    return Response(answer, 202, media_type="application/json")


@router.post("/v1/score", responses=SCORED, openapi_extra=BODY)
async def post_score(
    request: Request,
    principal: Annotated[Principal, Depends(require("ingest"))],
    timeout_ms: Annotated[
        int, Query(ge=1, le=TIMEOUT_MS_MAX, description="how long to wait for the verdict")
    ] = 250,
) -> Response:
    """Take one transaction and wait for its verdict; it is judged once, however often it is sent."""
    deadline_s = time.monotonic() + timeout_ms / 1000
    state = state_of(request)
    state.disk.check()
    check_media_type(request)
    one = parse_transaction(
        await request.body(),
        account_id=principal.account_id,
        source="REALTIME_API",
        now_ms=time.time_ns() // 1_000_000,
        future_tolerance_ms=state.settings.future_tolerance_s * 1000,
        trace_id=uuid.uuid4().hex,
        reply_to=state.waiters.channel,
    )
    if state.waiters.full:
        raise TransientError("too many requests wait for a verdict", 1.0)
    state.rate.take(principal.key_id, 1)
    waiting = state.waiters.expect(principal.account_id, one.user_id, one.tx_id)
    try:
        await append(state, [one])
        answer = await asyncio.wait_for(waiting, max(0.001, deadline_s - time.monotonic()))
    except TimeoutError:
        return pending()
    finally:
        waiting.cancel()
    event = msgspec.json.decode(answer)
    if "final_severity" not in event.get("verdict", {}):
        found = await first_verdict(state, principal.account_id, one.user_id, one.tx_id, deadline_s)
        return pending() if found is None else Response(found, 200, media_type="application/json")
    return Response(answer, 200, media_type="application/json")


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


def parse(state: State, principal: Principal, body: bytes) -> tuple[list[Accepted], list[Rejected]]:
    """Parse a request's body; refuses it when nothing of it can be taken."""
    accepted, rejected = parse_transactions(
        body,
        account_id=principal.account_id,
        source="REALTIME_API",
        now_ms=time.time_ns() // 1_000_000,
        future_tolerance_ms=state.settings.future_tolerance_s * 1000,
        trace_id=uuid.uuid4().hex,
        records_max=ROWS_MAX,
    )
    for one in rejected:
        state.metrics.rejected(one.field)
    if rejected and not accepted:
        first = rejected[0]
        problem = Problem(
            422,
            f"{first.field or 'body'}: expected {first.expected}, got {first.got}",
            field=first.field or "body",
            expected=first.expected,
            got=first.got,
        )
        problem.document["rejected"] = rejected
        raise problem
    return accepted, rejected


async def append(state: State, accepted: list[Accepted]) -> None:
    """Make them durable. Raises ``TransientError``."""
    started_s = time.perf_counter()
    await state.ingest.append([one.user_id.encode() for one in accepted], [one.value for one in accepted])
    state.metrics.accepted(len(accepted), time.perf_counter() - started_s)


def pending() -> Response:
    """The verdict is not there in time: what the policy says for that."""
    return Response(
        msgspec.json.encode({"verdict": None, "action": Action.ALLOW.name}),
        202,
        media_type="application/json",
    )


async def first_verdict(
    state: State, account_id: str, user_id: str, tx_id: str, deadline_s: float
) -> bytes | None:
    """The verdict that a repeated transaction has already; it may still be on its way to PostgreSQL."""
    while True:
        async with state.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT data::text, enrichment::text, analysis::text, verdict::text FROM transactions "
                "WHERE account_id = %s AND user_id = %s AND tx_id = %s ORDER BY ts DESC LIMIT 1",
                [account_id, user_id, tx_id],
            )
            row = await cursor.fetchone()
        if row is not None:
            names = ("data", "enrichment", "analysis", "verdict")
            sections = {name: msgspec.Raw(text.encode()) for name, text in zip(names, row, strict=True)}
            return msgspec.json.encode({**sections, "repeated": True})
        if time.monotonic() >= deadline_s:
            return None
        await asyncio.sleep(0.02)


class Replay:
    """The answer to a request that was sent before with the same `Idempotency-Key`.

    It spares the client a difference in counts; that nothing is judged twice does not depend on it, so a
    Redis that is away changes nothing else.
    """

    def __init__(self, state: State, principal: Principal, key: str | None, body: bytes) -> None:
        self._redis = state.redis
        self._key = None
        if key:
            if len(key) > IDEMPOTENCY_KEY_LENGTH_MAX:
                raise Problem(
                    422,
                    "the header Idempotency-Key is too long",
                    field="Idempotency-Key",
                    expected=f"at most {IDEMPOTENCY_KEY_LENGTH_MAX} characters",
                    got=str(len(key)),
                )
            named = f"{principal.account_id}\0{key}".encode()
            self._key = f"anomalyze:idempotency:{hashlib.sha256(named).hexdigest()}"
            self._digest = hashlib.sha256(body).hexdigest().encode()

    async def find(self) -> Response | None:
        """The earlier answer. Raises ``Problem`` 409 when the key came with another body."""
        if self._key is None:
            return None
        try:
            kept = await self._redis.get(self._key)
        except (redis.RedisError, OSError) as error:
            get().warning("idempotency_unknown", reason=repr(error))
            return None
        if kept is None:
            return None
        digest, _, answer = kept.partition(b"\n")
        if digest != self._digest:
            raise Problem(
                409,
                "this Idempotency-Key was used with another body within the last day; choose a new one",
                field="Idempotency-Key",
                expected="the body it was first sent with",
                got="another body",
            )
        return Response(answer, 202, headers={"Idempotent-Replayed": "true"}, media_type="application/json")

    async def keep(self, answer: bytes) -> None:
        """Remember the answer for a day."""
        if self._key is None:
            return
        try:
            await self._redis.set(self._key, self._digest + b"\n" + answer, ex=IDEMPOTENCY_S, nx=True)
        except (redis.RedisError, OSError) as error:
            get().warning("idempotency_not_kept", reason=repr(error))
