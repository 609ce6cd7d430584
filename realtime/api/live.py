"""Server-sent events from the bus: each scored transaction to those who follow its user, anomalies to those
who follow an account. An event's id is a place in the log, so that a client resumes where it stopped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from anomalyze.bus.contract import Bus, Reader, Records
from anomalyze.errors import TransientError
from anomalyze.log import get

__all__ = ["POSITION_LENGTH_MAX", "Live", "Subscriber", "parse_position", "render_position"]

READ_TIMEOUT_S = 0.25
RECORDS_MAX = 5_000
# A client that reads slower than this many events behind is disconnected; it resumes by its last id.
QUEUE_MAX = 1_000
SUBSCRIBERS_MAX = 1_000
KEEPALIVE_S = 15.0
# A revoked key ends its streams with the first event after this long.
ALLOWED_EVERY_S = 1.0
# A client that comes back after more than this many records of the whole log begins at the newest of them.
REPLAY_RECORDS_MAX = 1_000_000
REPLAYS_MAX = 4
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
    """

    account_id: str
    user_id: str | None
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[tuple[int, int, bytes] | None] = field(default_factory=asyncio.Queue)
    ended: bool = False

    def offer(self, partition: int, offset: int, value: bytes) -> None:
        """Called in its loop; a client that is too far behind gets what waits for it, then its stream ends."""
        if self.queue.qsize() >= QUEUE_MAX:
            self.end()
        elif not self.ended:
            self.queue.put_nowait((partition, offset, value))

    def end(self) -> None:
        """Called in its loop: nothing more comes."""
        if not self.ended:
            self.ended = True
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
        self._replays = asyncio.Semaphore(REPLAYS_MAX)

    def close(self) -> None:
        """End every stream."""
        self._closed.set()
        with self._lock:
            for subscribers in self._subscribers.values():
                for subscriber in subscribers:
                    subscriber.loop.call_soon_threadsafe(subscriber.end)

    async def follow(
        self,
        account_id: str,
        user_id: str | None,
        resume: Mapping[int, int] | None,
        render: Callable[[bytes], bytes],
        allowed: Callable[[], Awaitable[bool]],
    ) -> AsyncIterator[bytes]:
        """Events for one client, from ``resume`` (next offsets) or from now on.

        Parameters
        ----------
        allowed
            Asked again while the stream runs: one whose key was revoked ends.

        Raises
        ------
        TransientError
            The bus does not answer, or too many clients follow.
        """
        if self._count >= SUBSCRIBERS_MAX:
            raise TransientError(f"{SUBSCRIBERS_MAX} clients follow already", 5.0)
        start = {p: end for p, (_, end) in (await self._watermarks()).items()}
        if resume is not None:
            start |= {p: offset for p, offset in resume.items() if offset < start.get(p, 0)}
        subscriber = Subscriber(account_id, user_id, asyncio.get_running_loop())
        return self._stream(subscriber, start, render, allowed)

    async def _stream(
        self,
        subscriber: Subscriber,
        position: dict[int, int],
        render: Callable[[bytes], bytes],
        allowed: Callable[[], Awaitable[bool]],
    ) -> AsyncIterator[bytes]:
        """First what is in the log already, then what is handed out.

        The subscriber is there before the log's ends are asked for, so that a record is either before them or
        handed out, and what is both is dropped here.
        """
        self._add(subscriber)
        try:
            yield b": connected\n\n"
            ends = await self._watermarks()
            self._start({p: end for p, (_, end) in ends.items()})
            if leave_out(position, ends):
                yield b"event: gap\ndata: {}\n\n"
            async for partition, offset, value in self._missed(subscriber, position, ends):
                position[partition] = offset + 1
                yield event(position, render(value))
            for partition, (_, end) in ends.items():
                position[partition] = max(end, position.get(partition, 0))
            async for partition, offset, value in self._live(subscriber, allowed):
                if partition < 0:
                    yield b": keep-alive\n\n"
                elif offset >= position.get(partition, 0):
                    position[partition] = offset + 1
                    yield event(position, render(value))
        except TransientError as error:
            get().warning("stream_ended", reason=str(error))
        finally:
            self._remove(subscriber)

    async def _live(
        self, subscriber: Subscriber, allowed: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """What is handed out to a client, until it is too slow, the server stops or its key is revoked.

        After a while of nothing it says so, as partition -1.
        """
        asked_s = time.monotonic()
        while True:
            try:
                item = await asyncio.wait_for(subscriber.queue.get(), KEEPALIVE_S)
            except TimeoutError:
                item = (-1, -1, b"")
            if item is None:
                return
            if time.monotonic() - asked_s >= ALLOWED_EVERY_S:
                asked_s = time.monotonic()
                if not await allowed():
                    return
            yield item

    async def _missed(
        self, subscriber: Subscriber, position: Mapping[int, int], ends: Mapping[int, tuple[int, int]]
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """What came between a client's last event and now; what the log no longer has is left out."""
        behind = {p: max(first, position.get(p, end)) for p, (first, end) in ends.items()}
        behind = {p: offset for p, offset in behind.items() if offset < ends[p][1]}
        if not behind:
            return
        async with self._replays:
            reader = await asyncio.to_thread(self._bus.reader, self._topic, behind)
            try:
                while behind:
                    records, found = await asyncio.to_thread(read_wanted, reader, subscriber)
                    for partition, offset, value in found:
                        if offset < ends[partition][1]:
                            yield partition, offset, value
                    for partition, _, end in records.runs():
                        if records.offsets[end - 1] + 1 >= ends[partition][1]:
                            behind.pop(partition, None)
                    if not len(records):
                        # Retention may have taken what was waited for.
                        now = await self._watermarks()
                        behind = {p: offset for p, offset in behind.items() if now[p][0] < ends[p][1]}
            finally:
                await asyncio.to_thread(reader.close)

    async def _watermarks(self) -> dict[int, tuple[int, int]]:
        return await asyncio.to_thread(self._bus.watermarks, self._topic)

    def _add(self, subscriber: Subscriber) -> None:
        with self._lock:
            if self._closed.is_set():
                subscriber.end()
            self._subscribers.setdefault(subscriber.account_id, set()).add(subscriber)
            self._count += 1

    def _start(self, ends: dict[int, int]) -> None:
        """Read from here on, unless the thread reads already: then it is not past these ends."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, args=(ends,), name="live", daemon=True)
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
                        subscriber.loop.call_soon_threadsafe(subscriber.end)
        finally:
            if reader is not None:
                reader.close()

    def _hand_out(self, records: Records) -> None:
        with self._lock:
            everybody = {account: list(followers) for account, followers in self._subscribers.items()}
        for partition, offset, value in zip(records.partitions, records.offsets, records.values, strict=True):
            meta = owner(value)
            if meta is None:
                continue
            for subscriber in everybody.get(meta.account_id, ()):
                if subscriber.user_id is None or subscriber.user_id == meta.user_id:
                    subscriber.loop.call_soon_threadsafe(subscriber.offer, partition, offset, value)


def owner(value: bytes) -> _Meta | None:
    """Whose record it is; None for what none of our programs wrote."""
    try:
        return msgspec.json.decode(value, type=_Record).meta
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_wanted(reader: Reader, subscriber: Subscriber) -> tuple[Records, list[tuple[int, int, bytes]]]:
    """Some records, and those of them that this client follows."""
    records = reader.read(RECORDS_MAX, READ_TIMEOUT_S)
    found = []
    for partition, offset, value in zip(records.partitions, records.offsets, records.values, strict=True):
        meta = owner(value)
        if (
            meta is not None
            and meta.account_id == subscriber.account_id
            and subscriber.user_id in (None, meta.user_id)
        ):
            found.append((partition, offset, value))
    return records, found


def leave_out(position: dict[int, int], ends: Mapping[int, tuple[int, int]]) -> bool:
    """Move a position forward that is too far behind; whether that was so.

    >>> position = {0: 5, 1: 0}
    >>> leave_out(position, {0: (0, 9), 1: (0, 2_000_000)}), position
    (True, {0: 5, 1: 1500000})
    """
    behind = sum(max(0, end - position.get(p, end)) for p, (_, end) in ends.items())
    if behind <= REPLAY_RECORDS_MAX:
        return False
    share = REPLAY_RECORDS_MAX // len(ends)
    for p, (_, end) in ends.items():
        position[p] = max(position.get(p, end), end - share)
    return True


def event(position: Mapping[int, int], data: bytes) -> bytes:
    """One SSE message."""
    return b"id: %b\ndata: %b\n\n" % (render_position(position).encode(), data)


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
