"""Server-sent events from the bus: each scored transaction to those who follow its user, anomalies to those
who follow an account. An event's id is a place in the log, so that a client resumes where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from anomalyze.bus.contract import Bus, Records
from anomalyze.errors import TransientError
from anomalyze.log import get

__all__ = ["Live", "Subscriber", "parse_position", "render_position"]

READ_TIMEOUT_S = 0.25
RECORDS_MAX = 5_000
# A client that reads slower than this many events behind is disconnected; it resumes by its last id.
QUEUE_MAX = 1_000
SUBSCRIBERS_MAX = 1_000
KEEPALIVE_S = 15.0
POSITION_LENGTH_MAX = 16_384


class _Meta(msgspec.Struct):
    account_id: str
    user_id: str


class _Record(msgspec.Struct):
    meta: _Meta


@dataclass(slots=True, eq=False)
class Subscriber:
    """One client.

    Attributes
    ----------
    account_id, user_id
        What it follows; ``user_id`` None follows the whole account.
    position
        Next offset by partition: what it has seen.
    """

    account_id: str
    user_id: str | None
    loop: asyncio.AbstractEventLoop
    position: dict[int, int] = field(default_factory=dict)
    queue: asyncio.Queue[tuple[int, int, bytes] | None] = field(
        default_factory=lambda: asyncio.Queue(QUEUE_MAX)
    )

    def offer(self, partition: int, offset: int, value: bytes) -> None:
        """Called in its loop; a full queue ends the client's stream."""
        if offset < self.position.get(partition, 0):
            return
        try:
            self.queue.put_nowait((partition, offset, value))
        except asyncio.QueueFull:
            with contextlib.suppress(asyncio.QueueEmpty):
                self.queue.get_nowait()
            self.queue.put_nowait(None)


class Live:
    """One reading thread a topic for all clients; it runs only while somebody follows."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._subscribers: dict[str, set[Subscriber]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """End every stream."""
        self._closed.set()
        with self._lock:
            for subscribers in self._subscribers.values():
                for subscriber in subscribers:
                    subscriber.loop.call_soon_threadsafe(subscriber.queue.put_nowait, None)

    async def follow(
        self,
        account_id: str,
        user_id: str | None,
        resume: Mapping[int, int] | None,
        render: Callable[[bytes], bytes],
    ) -> AsyncIterator[bytes]:
        """Events for one client, from ``resume`` (next offsets) or from now on.

        Raises
        ------
        TransientError
            The bus does not answer, or too many clients follow.
        """
        if self._count >= SUBSCRIBERS_MAX:
            raise TransientError(f"{SUBSCRIBERS_MAX} clients follow already", 5.0)
        loop = asyncio.get_running_loop()
        ends = {
            p: end for p, (_, end) in (await asyncio.to_thread(self._bus.watermarks, self._topic)).items()
        }
        subscriber = Subscriber(account_id, user_id, loop, dict(ends))
        self._add(subscriber, ends)
        return self._stream(subscriber, resume, ends, render)

    async def _stream(
        self,
        subscriber: Subscriber,
        resume: Mapping[int, int] | None,
        ends: dict[int, int],
        render: Callable[[bytes], bytes],
    ) -> AsyncIterator[bytes]:
        try:
            position = dict(ends)
            if resume is not None:
                position |= {p: offset for p, offset in resume.items() if p in ends and offset < ends[p]}
                async for partition, offset, value in self._missed(subscriber, dict(position), ends):
                    position[partition] = offset + 1
                    yield event(position, ends, render(value))
                position = dict(ends)
            yield b": connected\n\n"
            while True:
                try:
                    item = await asyncio.wait_for(subscriber.queue.get(), KEEPALIVE_S)
                except TimeoutError:
                    yield b": keep-alive\n\n"
                    continue
                if item is None:
                    return
                partition, offset, value = item
                position[partition] = offset + 1
                yield event(position, {}, render(value))
        finally:
            self._remove(subscriber)

    async def _missed(
        self, subscriber: Subscriber, start: dict[int, int], ends: dict[int, int]
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """What came between a client's last event and now."""
        behind = {p: offset for p, offset in start.items() if offset < ends[p]}
        if not behind:
            return
        reader = await asyncio.to_thread(self._bus.reader, self._topic, behind)
        try:
            while behind:
                records = await asyncio.to_thread(reader.read, RECORDS_MAX, READ_TIMEOUT_S)
                for partition, offset, value in wanted(records, subscriber):
                    if offset < ends[partition]:
                        yield partition, offset, value
                for partition, offset in zip(records.partitions, records.offsets, strict=True):
                    if offset + 1 >= ends[partition]:
                        behind.pop(partition, None)
        finally:
            await asyncio.to_thread(reader.close)

    def _add(self, subscriber: Subscriber, ends: Mapping[int, int]) -> None:
        with self._lock:
            self._subscribers.setdefault(subscriber.account_id, set()).add(subscriber)
            self._count += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._read, args=(dict(ends),), name="live", daemon=True
                )
                self._thread.start()

    def _remove(self, subscriber: Subscriber) -> None:
        with self._lock:
            followers = self._subscribers.get(subscriber.account_id, set())
            followers.discard(subscriber)
            if not followers:
                self._subscribers.pop(subscriber.account_id, None)
            self._count -= 1

    def _read(self, start: dict[int, int]) -> None:
        reader = None
        try:
            reader = self._bus.reader(self._topic, start)
            while not self._closed.is_set():
                with self._lock:
                    if not self._subscribers:
                        self._thread = None
                        return
                self._hand_out(reader.read(RECORDS_MAX, READ_TIMEOUT_S))
        except Exception as error:  # noqa: BLE001 - the thread's top: clients reconnect with their last id
            get().warning("live_reader_failed", reason=repr(error))
            with self._lock:
                self._thread = None
                for followers in self._subscribers.values():
                    for subscriber in followers:
                        subscriber.loop.call_soon_threadsafe(subscriber.queue.put_nowait, None)
        finally:
            if reader is not None:
                reader.close()

    def _hand_out(self, records: Records) -> None:
        with self._lock:
            everybody = {account: list(followers) for account, followers in self._subscribers.items()}
        for partition, offset, value in zip(records.partitions, records.offsets, records.values, strict=True):
            meta = msgspec.json.decode(value, type=_Record).meta
            for subscriber in everybody.get(meta.account_id, ()):
                if subscriber.user_id is None or subscriber.user_id == meta.user_id:
                    subscriber.loop.call_soon_threadsafe(subscriber.offer, partition, offset, value)


def wanted(records: Records, subscriber: Subscriber) -> list[tuple[int, int, bytes]]:
    """The records that this client follows."""
    found = []
    for partition, offset, value in zip(records.partitions, records.offsets, records.values, strict=True):
        meta = msgspec.json.decode(value, type=_Record).meta
        if meta.account_id == subscriber.account_id and subscriber.user_id in (None, meta.user_id):
            found.append((partition, offset, value))
    return found


def event(position: Mapping[int, int], ends: Mapping[int, int], data: bytes) -> bytes:
    """One SSE message; ``ends`` fills in partitions that the client has not moved in."""
    return b"id: %b\ndata: %b\n\n" % (render_position({**ends, **position}).encode(), data)


def render_position(position: Mapping[int, int]) -> str:
    """A place in the log as text: next offsets by partition.

    >>> render_position({0: 17, 3: 4})
    '0.17-3.4'
    """
    return "-".join(f"{p}.{offset}" for p, offset in sorted(position.items()))


def parse_position(text: str) -> dict[int, int] | None:
    """What ``render_position`` wrote; None for anything else (such a client starts from now).

    >>> parse_position("0.17-3.4")
    {0: 17, 3: 4}
    >>> parse_position("yesterday") is None
    True
    """
    if not text or len(text) > POSITION_LENGTH_MAX:
        return None
    try:
        pairs = [part.split(".") for part in text.split("-")]
        return {int(p): int(offset) for p, offset in pairs if p.isdecimal() and offset.isdecimal()} or None
    except ValueError:
        return None
