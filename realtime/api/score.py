"""Verdicts asked for at once: the worker answers over a Redis channel of this process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import msgspec
import redis.asyncio

from anomalyze.log import get

__all__ = ["CHANNEL_PREFIX", "Waiters"]

CHANNEL_PREFIX = "anomalyze:score:"
WAITING_MAX = 10_000
RECONNECT_S = 0.5


class _Meta(msgspec.Struct):
    user_id: str
    account_id: str


class _Data(msgspec.Struct):
    tx_id: str


class _Answer(msgspec.Struct):
    meta: _Meta
    data: _Data


class Waiters:
    """Requests of this process that wait for a verdict."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.channel = f"{CHANNEL_PREFIX}{uuid.uuid4().hex}"
        self._client = client
        self._waiting: dict[tuple[str, str, str], list[asyncio.Future[bytes]]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no further request may wait."""
        return self._count >= WAITING_MAX

    def expect(self, account_id: str, user_id: str, tx_id: str) -> asyncio.Future[bytes]:
        """A future of the scored record; of the plain one when the transaction is a repeat."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        key = (account_id, user_id, tx_id)
        self._waiting.setdefault(key, []).append(future)
        self._count += 1
        future.add_done_callback(lambda done: self._forget(key, done))
        return future

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _forget(self, key: tuple[str, str, str], done: asyncio.Future[bytes]) -> None:
        self._count -= 1
        waiting = self._waiting.get(key, [])
        if done in waiting:
            waiting.remove(done)
        if not waiting:
            self._waiting.pop(key, None)

    async def _listen(self) -> None:
        is_lost = False
        while True:
            try:
                async with self._client.pubsub() as listener:
                    await listener.subscribe(self.channel)
                    is_lost = False
                    async for message in listener.listen():
                        if message["type"] == "message":
                            self._deliver(bytes(message["data"]))
            except (redis.RedisError, OSError) as error:
                if not is_lost:  # once an outage, not twice a second
                    get().warning("score_channel_lost", reason=repr(error))
                is_lost = True
                await asyncio.sleep(RECONNECT_S)

    def _deliver(self, data: bytes) -> None:
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            get().warning("score_answer_unreadable", reason=str(error))
            return
        key = (answer.meta.account_id, answer.meta.user_id, answer.data.tx_id)
        for future in list(self._waiting.get(key, [])):
            if not future.done():
                future.set_result(data)
