"""The dashboard's own heartbeat: its line on the System page and in `anomalyze status`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

import psycopg

from anomalyze.errors import TransientError
from anomalyze.storage.heartbeat import beat
from anomalyze.storage.pool import connect

__all__ = ["Requests", "keep_beating"]

HEARTBEAT_S = 2.0
WINDOW_S = 10.0
REQUESTS_KEPT = 2000


class Requests:
    """How long the latest pages took."""

    def __init__(self) -> None:
        self._latest: deque[tuple[float, float]] = deque(maxlen=REQUESTS_KEPT)

    def note(self, took_s: float) -> None:
        """One request was answered."""
        self._latest.append((time.monotonic(), took_s))

    def state(self) -> dict[str, float | None]:
        """Rate and p99 over `WINDOW_S`."""
        oldest = time.monotonic() - WINDOW_S
        took = sorted(s for at, s in self._latest if at >= oldest)
        p99 = took[math.ceil(len(took) * 0.99) - 1] if took else None
        return {
            "rate": round(len(took) / WINDOW_S, 1),
            "p99_ms": round(p99 * 1000, 1) if p99 is not None else None,
        }


async def keep_beating(
    dsn: str, requests: Requests, watchers: Callable[[], int], started_at: datetime
) -> None:
    """Until cancelled; PostgreSQL away means silence, which is what the page then says."""
    while True:
        with contextlib.suppress(TransientError, psycopg.Error):
            await asyncio.to_thread(_beat, dsn, {**requests.state(), "open_pages": watchers()}, started_at)
        await asyncio.sleep(HEARTBEAT_S)


def _beat(dsn: str, state: dict[str, float | None], started_at: datetime) -> None:
    with connect(dsn, program="anomalyze-dashboard", statement_timeout_s=HEARTBEAT_S) as connection:
        beat(
            connection,
            program="dashboard",
            instance=f"{socket.gethostname()}-0",
            started_at=started_at,
            state=state,
        )
