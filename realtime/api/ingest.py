"""Appends to the log in groups: what arrives while one group is being made durable forms the next.

A request is answered only when the bus has acknowledged its records. A group that fails leaves every request
of it in the unknown: the answer is 503, and sending the same ids again is safe. From then on requests hear
503 at once, until the bus answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from anomalyze.bus.contract import Bus, Producer
from anomalyze.bus.partitioner import murmur2_partitions
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.errors import TransientError
from anomalyze.log import get

__all__ = ["Ingest"]

# Records waiting for the bus; past it requests are answered 503 at once instead of piling up.
PENDING_RECORDS_MAX = 100_000
FLUSH_TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.5
LOOK_TIMEOUT_S = 1.0


@dataclass(slots=True)
class _Append:
    keys: Sequence[bytes]
    values: Sequence[bytes]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    topic: str


class Ingest:
    """A thread that owns the API's producer."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._partitions: dict[str, int] = {}
        self._pending: list[_Append] = []
        self._pending_records = 0
        self._wake = threading.Condition()
        self._closed = False
        self._away: TransientError | None = None
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()

    async def append(self, keys: Sequence[bytes], values: Sequence[bytes], topic: str = TRANSACTIONS) -> None:
        """Append records to a topic, by key; returns when they are durable.

        Raises
        ------
        TransientError
            The bus does not take them now, or did not say that it has them.
        """
        if not values:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._wake:
            if self._closed:
                raise TransientError("the API is stopping", 1.0)
            if self._away is not None:
                raise TransientError(f"the log is away: {self._away}", self._away.retry_after_s)
            if self._pending_records + len(values) > PENDING_RECORDS_MAX and self._pending:
                raise TransientError("the log takes less than what arrives", 1.0)
            self._pending.append(_Append(keys, values, done, loop, topic))
            self._pending_records += len(values)
            self._wake.notify()
        await done

    def close(self) -> None:
        """Append what waits, then stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(FLUSH_TIMEOUT_S + 1)

    def _run(self) -> None:
        producer: Producer | None = None
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._closed)
                group, self._pending = self._pending, []
                self._pending_records = 0
                if not group:
                    break
            error: TransientError | None = None
            try:
                if producer is None:
                    producer = self._bus.producer(linger_ms=0.0)
                self._send(producer, group)
            except TransientError as problem:
                error = problem
            except Exception as problem:  # noqa: BLE001 - the thread's top; nobody must wait for ever
                get().error("append_failed", exc_info=problem)
                error = TransientError(repr(problem))
            if error is None:
                resolve(group, None)
                continue
            with self._wake:
                self._away = error
                group += self._pending
                self._pending, self._pending_records = [], 0
            resolve(group, error)
            if producer is not None:
                with contextlib.suppress(Exception):  # it failed already, and was reported
                    producer.close()
                producer = None
            self._await_bus()
        if producer is not None:
            producer.close()

    def _await_bus(self) -> None:
        """Look at the bus now and then until it answers, or the API stops."""
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._closed, LOOK_EVERY_S):
                    return
            try:
                self._bus.ready(LOOK_TIMEOUT_S)
            except TransientError:
                continue
            except Exception as error:  # noqa: BLE001 - the thread's top: whatever it says, it is not there yet
                get().error("bus_not_ready", reason=repr(error))
                continue
            with self._wake:
                self._away = None
            return

    def _send(self, producer: Producer, group: list[_Append]) -> None:
        for topic in dict.fromkeys(append.topic for append in group):
            if topic not in self._partitions:
                self._partitions[topic] = self._bus.partitions(topic)
            keys = [key for append in group if append.topic == topic for key in append.keys]
            values = [value for append in group if append.topic == topic for value in append.values]
            producer.send_many(topic, murmur2_partitions(keys, self._partitions[topic]), keys, values)
        producer.flush(FLUSH_TIMEOUT_S)


def resolve(group: list[_Append], error: TransientError | None) -> None:
    """Tell the requests of a group how it ended, in their own loops."""

    def tell(appends: list[_Append]) -> None:
        for append in appends:
            if append.done.done():
                continue
            if error is None:
                append.done.set_result(None)
            else:
                append.done.set_exception(error)

    for loop in {append.loop for append in group}:
        loop.call_soon_threadsafe(tell, [append for append in group if append.loop is loop])
