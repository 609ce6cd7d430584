"""What the API's routes share: one object, made at start and closed at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import redis.asyncio
from fastapi import Request
from prometheus_client import CollectorRegistry

from anomalyze.access.verify import AsyncKeyVerifier
from anomalyze.backtest.ask import Estimates
from anomalyze.bus.contract import Bus
from anomalyze.metrics.ownership import OwnedBatches
from anomalyze.settings import Settings
from anomalyze.storage.objects import ObjectStore
from anomalyze.storage.pool import AsyncPool
from realtime.api.champion import Champion
from realtime.api.disk import Disk
from realtime.api.ingest import Ingest
from realtime.api.live import Live
from realtime.api.metrics import ApiMetrics
from realtime.api.rate import RateLimit
from realtime.api.score import Waiters

__all__ = ["State", "state_of"]


@dataclass(slots=True)
class State:
    """Connections and caches of one API process."""

    settings: Settings
    bus: Bus
    ingest: Ingest
    pool: AsyncPool
    redis: redis.asyncio.Redis
    verifier: AsyncKeyVerifier
    registry: CollectorRegistry
    waiters: Waiters
    scored: Live
    anomalies: Live
    rate: RateLimit
    metrics: ApiMetrics
    disk: Disk
    champion: Champion
    objects: ObjectStore
    # Of PostgreSQL, for what threads do; it holds a password.
    dsn: str = field(repr=False)
    estimates: Estimates
    batches: OwnedBatches


def state_of(request: Request) -> State:
    """The state of the application that serves this request."""
    state: State = request.app.state.shared
    return state
