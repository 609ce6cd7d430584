"""The REST API: wiring only. Routes are in the modules beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from anomalyze.access.verify import AsyncKeyVerifier
from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import ANOMALIES, SCORED
from anomalyze.embedded.runtime import Addresses
from anomalyze.settings import Settings
from anomalyze.storage.pool import AsyncPool
from realtime.api import health, ingest_routes, live_routes, problems, read_routes
from realtime.api.disk import Disk
from realtime.api.ingest import Ingest
from realtime.api.limits import BodyLimit
from realtime.api.live import Live
from realtime.api.metrics import ApiMetrics
from realtime.api.rate import RateLimit
from realtime.api.score import Waiters
from realtime.api.state import State

__all__ = ["create_app"]

POOL_SIZE = 8

DESCRIPTION = """
Send transactions, get verdicts with a reason.

Every route but `/health` needs `Authorization: Bearer <key>`; `anomalyze keys create` makes keys with the scopes
`ingest`, `read` and `admin`. Every refusal is a problem document (RFC 9457) that names the field, what was
expected and what came. Times in answers are UTC.
"""


def create_app(settings: Settings, addresses: Addresses, bus: Bus, registry: CollectorRegistry) -> FastAPI:
    """The application; connections open when it starts and close when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = AsyncPool(addresses.postgres_dsn, program="anomalyze-api", size_max=POOL_SIZE)
        await pool.open()
        client = redis.asyncio.Redis.from_url(addresses.redis_url, socket_connect_timeout=2.0)
        waiters = Waiters(redis.asyncio.Redis.from_url(addresses.redis_url))
        waiters.start()
        shared = State(
            settings=settings,
            bus=bus,
            ingest=Ingest(bus),
            pool=pool,
            redis=client,
            verifier=AsyncKeyVerifier(pool),
            registry=registry,
            waiters=waiters,
            scored=Live(bus, SCORED),
            anomalies=Live(bus, ANOMALIES),
            rate=RateLimit(settings.rate_limit_per_s),
            metrics=ApiMetrics(registry),
            disk=Disk(settings.data_dir),
        )
        app.state.shared = shared
        yield
        shared.scored.close()
        shared.anomalies.close()
        shared.ingest.close()
        await waiters.close()
        await client.aclose()
        await pool.close()

    app = FastAPI(
        title="Anomalyze",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        responses=problems.problem_responses(401, 403, 422, 429, 503),
    )
    problems.install(app)
    app.add_middleware(BodyLimit)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        )
    app.include_router(health.router)
    app.include_router(ingest_routes.router)
    app.include_router(read_routes.router)
    app.include_router(live_routes.router)
    return app
