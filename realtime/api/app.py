"""The REST API: wiring only. Routes are in the modules beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from anomalyze.access.verify import AsyncKeyVerifier
from anomalyze.backtest.ask import Estimates
from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import ANOMALIES, SCORED
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.embedded.runtime import Addresses
from anomalyze.metrics.ownership import OwnedBatches
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import AsyncPool
from realtime.api import (
    account_routes,
    alert_routes,
    docs_routes,
    health,
    ingest_routes,
    label_routes,
    list_routes,
    live_routes,
    metric_routes,
    problems,
    read_routes,
    score_routes,
    source_routes,
    upload_routes,
)
from realtime.api.champion import Champion
from realtime.api.disk import Disk
from realtime.api.headers import SecurityHeaders
from realtime.api.ingest import Ingest
from realtime.api.limits import BodyLimit
from realtime.api.live import Live
from realtime.api.metrics import ApiMetrics
from realtime.api.openapi import install_openapi
from realtime.api.rate import RateLimit
from realtime.api.score import Waiters
from realtime.api.state import State

__all__ = ["create_app"]

POOL_SIZE = 8
# Redis answers within a millisecond or is away; nothing but the answer to a repeated request waits for it.
REDIS_TIMEOUT_S = 0.5

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
        client = open_redis(addresses.redis_url, socket_timeout=REDIS_TIMEOUT_S)
        waiters = Waiters(open_redis(addresses.redis_url, socket_keepalive=True))
        waiters.start()
        champion = Champion(lambda: open_bundles(settings))
        champion.start()
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
            champion=champion,
            objects=open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url),
            dsn=addresses.postgres_dsn,
            estimates=Estimates(settings),
            batches=OwnedBatches(settings.config_dir),
        )
        app.state.shared = shared
        settling = asyncio.create_task(account_routes.settle(shared))
        yield
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        shared.scored.close()
        shared.anomalies.close()
        shared.ingest.close()
        await shared.estimates.close()
        await waiters.close()
        await champion.close()
        await client.aclose()
        await pool.close()

    app = FastAPI(
        title="Anomalyze",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=problems.problem_responses(401, 403, 422, 500, 503),
    )
    problems.install(app)
    install_openapi(app)
    app.add_middleware(BodyLimit)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Last-Event-ID"],
            expose_headers=["Retry-After", "Idempotent-Replayed", "ETag"],
        )
    app.add_middleware(problems.Unforeseen)
    app.add_middleware(SecurityHeaders)
    # Routes are tried in this order: those that are asked most come first. The plain ones answer, and FastAPI's of
    # the same paths are for the document only: its own way to a handler takes twice as long as the handler.
    for path in ("/transaction", "/v1/transactions"):
        app.router.routes.append(Route(path, ingest_routes.post_transactions, methods=["POST"]))
    app.include_router(ingest_routes.router)
    app.include_router(score_routes.router)
    app.include_router(read_routes.router)
    app.include_router(upload_routes.router)
    app.include_router(source_routes.router)
    app.include_router(label_routes.router)
    app.include_router(account_routes.router)
    app.include_router(list_routes.router)
    app.include_router(metric_routes.router)
    app.include_router(alert_routes.router)
    app.include_router(live_routes.router)
    app.include_router(health.router)
    app.include_router(docs_routes.router)
    return app


def open_redis(url: str, **options: Any) -> redis.asyncio.Redis:
    """A client that says at once when Redis is away, and leaves it to us to try again."""
    return redis.asyncio.Redis.from_url(
        url, socket_connect_timeout=REDIS_TIMEOUT_S, retry=Retry(NoBackoff(), 0), **options
    )


def open_bundles(settings: Settings) -> BundleStore:
    """The store of bundles."""
    return BundleStore(open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url))
