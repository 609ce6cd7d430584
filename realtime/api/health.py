"""Is it up, is it ready, what does it measure. The only routes without a key are `/health` and `/`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse, RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.errors import TransientError
from realtime.api.problems import Problem
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.state import State, state_of

__all__ = ["router"]

router = APIRouter(tags=["operating"])
CHECK_TIMEOUT_S = 2.0
authorized = require("read")


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """The documentation."""
    return RedirectResponse("/docs")


@router.get("/health", responses={200: json_answer("Health", "It answers.")})
async def health() -> Any:
    """Whether the process answers. Needs no key."""
    return {"health": "ok"}


@router.get("/ready", responses={200: json_answer("Ready", "Everything that is needed answers.")})
async def ready(request: Request) -> Response:
    """Each dependency and its state; 503 when one that is needed does not answer.

    While PostgreSQL is away no key can be verified: the states are then told to anybody, without reasons.
    """
    state = state_of(request)
    try:
        await authorized(request)
        is_known = True
    except TransientError:
        is_known = False
    names = ("bus", "postgresql", "redis", "disk")
    checks = (check_bus(state), check_postgresql(state), check_redis(state), check_disk(state))
    results = dict(zip(names, await asyncio.gather(*(timed(check) for check in checks)), strict=True))
    if not is_known:
        results = {name: {"state": result["state"]} for name, result in results.items()}
    away = [name for name, result in results.items() if result["state"] != "ok"]
    document = {"ready": not away, "dependencies": results}
    if away:
        problem = Problem(503, f"{', '.join(away)}: no answer now", retry_after_s=1.0)
        problem.document |= document
        return problem.response()
    return Response(msgspec.json.encode(document), media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, _: Annotated[Principal, Depends(authorized)]) -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(state_of(request).registry), media_type=CONTENT_TYPE_LATEST)


async def timed(check: Awaitable[None]) -> dict[str, Any]:
    """Run one check within its time."""
    started_s = time.perf_counter()
    try:
        await asyncio.wait_for(check, CHECK_TIMEOUT_S)
    except TimeoutError:
        return {"state": "away", "reason": f"no answer within {CHECK_TIMEOUT_S:g} s"}
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a dependency, the answer says so
        return {"state": "away", "reason": str(error)[:200]}
    return {"state": "ok", "ms": round((time.perf_counter() - started_s) * 1000, 1)}


async def check_bus(state: State) -> None:
    """The event log answers."""
    ready_check: Callable[[float], None] = state.bus.ready
    await asyncio.to_thread(ready_check, CHECK_TIMEOUT_S)


async def check_postgresql(state: State) -> None:
    """PostgreSQL answers."""
    async with state.pool.connection() as connection:
        await connection.execute("SELECT 1")


async def check_redis(state: State) -> None:
    """Redis answers."""
    await state.redis.ping()


async def check_disk(state: State) -> None:
    """There is room to store what is accepted."""
    state.disk.check()
