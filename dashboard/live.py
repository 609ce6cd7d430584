"""Live updates: one poller an account while somebody watches, and as many listeners as there are pages.

The poller asks PostgreSQL once a second what the newest cases are, however many pages are open, and keeps
when it first saw each. A page that was rendered at a stamp is told how many cases came after it: counts,
never rows. `arrived` stamps are this process's clock except for what was there when it started, which takes
the time at which it was stored; so a page that outlives a restart of the dashboard goes on counting.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import psycopg

from anomalyze.errors import TransientError
from anomalyze.log import get
from anomalyze.storage import board_feed
from anomalyze.storage.metrics_incidents import count_waiting
from anomalyze.storage.pool import AsyncPool
from anomalyze.storage.query import fetch_async
from dashboard.case_filter import NowView
from dashboard.frame import FrameState
from dashboard.stream import describe_stream

__all__ = ["Channel", "Hub", "SlotState"]

POLL_INTERVAL_S = 1.0
# After an error, so that a database that starts is not knocked on by every account each second.
RETRY_INTERVAL_S = 5.0
WATCHERS_MAX = 200
CHANGES_MAX = 1000
# A frame state asked for by a page without a watcher is good for so long.
STATE_AGE_MAX_S = 2.0

SLOW_MAX = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SlotState:
    """What the slot above the list says. `new` by severity; `failed_at`: last good answer while none comes."""

    new: dict[int, int]
    last_at: datetime | None
    failed_at: datetime | None


@dataclass(slots=True)
class Channel:
    """What one account's pages are told."""

    account_id: str
    entries: dict[str, board_feed.FeedEntry] = field(default_factory=dict)
    values: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    changes: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=CHANGES_MAX))
    state: FrameState | None = None
    polled_at: float = 0.0
    answered_at: datetime | None = None
    failing: bool = False
    watchers: int = 0
    task: asyncio.Task[None] | None = None
    ticked: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    slow: dict[str, tuple[float, Any]] = field(default_factory=dict)

    async def remembered(self, name: str, age_max_s: float, load: Callable[[], Awaitable[T]]) -> T:
        """What `load` gave at most ``age_max_s`` ago: for figures that pages share and that change slowly."""
        known = self.slow.get(name)
        if known is None or time.monotonic() - known[0] > age_max_s:
            if len(self.slow) >= SLOW_MAX:
                self.slow.clear()
            known = self.slow[name] = (time.monotonic(), await load())
        found: T = known[1]
        return found

    def slot(self, view: NowView, since: int) -> SlotState:
        """What is new for a page rendered at ``since``."""
        new: dict[int, int] = {}
        for case_id, stamp in self.arrived.items():
            entry = self.entries[case_id]
            if stamp > since and view.admits(entry, self.values.get(case_id, set())):
                new[entry.severity] = new.get(entry.severity, 0) + 1
        last = max((e.last_at for e in self.entries.values()), default=None)
        return SlotState(new, last, self.answered_at if self.failing else None)

    def arrived_after(self, view: NowView, since: int) -> list[str]:
        """Ids of what `slot` counts."""
        return [
            case_id
            for case_id, stamp in self.arrived.items()
            if stamp > since and view.admits(self.entries[case_id], self.values.get(case_id, set()))
        ]

    def changed_after(self, since: int) -> list[str]:
        """Cases decided, undone or grown since a stamp."""
        return list(dict.fromkeys(case_id for stamp, case_id in self.changes if stamp > since))

    def take(
        self, feed: list[board_feed.FeedEntry], values: dict[str, set[tuple[str, str]]], stamp: int
    ) -> None:
        """Compare what the poller read with what was known."""
        first = not self.polled_at
        fresh = {entry.case_id: entry for entry in feed}
        for case_id, entry in fresh.items():
            known = self.entries.get(case_id)
            if known is None or entry.stored_at > known.stored_at:  # a decided case may come back
                self.arrived[case_id] = int(entry.stored_at.timestamp() * 1e6) if first else stamp
            elif (known.state, known.anomalies, known.severity) != (
                entry.state,
                entry.anomalies,
                entry.severity,
            ):
                self.changes.append((stamp, case_id))
        self.entries = fresh
        self.arrived = {case_id: self.arrived[case_id] for case_id in fresh}
        self.values = {case_id: values.get(case_id) or self.values.get(case_id, set()) for case_id in fresh}


class Hub:
    """All accounts' channels.

    Parameters
    ----------
    pool
        Where the pollers borrow connections.
    clock
        Now, aware.
    batches_of
        An account's batches of metrics; it may read files.
    """

    def __init__(
        self, pool: AsyncPool, clock: Callable[[], datetime], batches_of: Callable[[str], Collection[str]]
    ) -> None:
        self._pool = pool
        self._batches_of = batches_of
        self._clock = clock
        self._channels: dict[str, Channel] = {}

    def channel(self, account_id: str) -> Channel:
        """The account's channel, made when first asked for."""
        return self._channels.setdefault(account_id, Channel(account_id))

    def watchers(self) -> int:
        """Open pages that listen."""
        return sum(channel.watchers for channel in self._channels.values())

    async def refresh(self, account_id: str, age_max_s: float = STATE_AGE_MAX_S) -> Channel:
        """The account's channel, polled now unless it was just before."""
        channel = self.channel(account_id)
        async with channel.lock:
            if time.monotonic() - channel.polled_at > age_max_s:
                await self._poll(channel)
        return channel

    @contextlib.asynccontextmanager
    async def watch(self, account_id: str) -> AsyncIterator[Channel]:
        """Keep the account's poller running for the length of a connection."""
        channel = self.channel(account_id)
        channel.watchers += 1
        if channel.task is None:
            channel.task = asyncio.create_task(self._run(channel), name=f"feed {account_id}")
        try:
            yield channel
        finally:
            channel.watchers -= 1
            if not channel.watchers and channel.task is not None:
                channel.task.cancel()
                channel.task = None

    async def close(self) -> None:
        """End all pollers."""
        tasks = [c.task for c in self._channels.values() if c.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, channel: Channel) -> None:
        while True:
            try:
                async with channel.lock:
                    await self._poll(channel)
                channel.failing = False
            except (TransientError, psycopg.Error) as error:
                if not channel.failing:
                    get().warning("feed.failed", account=channel.account_id, error=str(error))
                channel.failing = True
            channel.ticked.set()
            channel.ticked = asyncio.Event()
            await asyncio.sleep(RETRY_INTERVAL_S if channel.failing else POLL_INTERVAL_S)

    async def _poll(self, channel: Channel) -> None:
        batches = await asyncio.to_thread(self._batches_of, channel.account_id)
        async with self._pool.connection() as connection:
            feed = await board_feed.load_feed(connection, channel.account_id)
            unknown = [e.case_id for e in feed if e.case_id not in channel.entries]
            grown = [
                e.case_id
                for e in feed
                if (known := channel.entries.get(e.case_id)) and known.anomalies != e.anomalies
            ]
            values = (
                await board_feed.load_feed_values(connection, channel.account_id, unknown + grown)
                if unknown or grown
                else {}
            )
            stamp = time.time_ns() // 1000
            pulse = await board_feed.load_pulse(connection, channel.account_id)
            programs = await board_feed.load_programs(connection)
            waiting = await board_feed.load_open_count(connection, channel.account_id)
            alerts = await fetch_async(connection, count_waiting(list(batches))) if batches else 0
        now = self._clock()
        channel.take(feed, values, stamp)
        channel.state = FrameState(waiting, describe_stream(programs, pulse, now), alerts)
        channel.polled_at = time.monotonic()
        channel.answered_at = now
