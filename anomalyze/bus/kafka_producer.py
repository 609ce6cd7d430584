"""Appending to Kafka: idempotent, in order, acknowledged by all replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as LibraryProducer

from anomalyze.bus.topics import RECORD_BYTES_MAX
from anomalyze.errors import EventError, TransientError

__all__ = ["KafkaProducer"]

log = structlog.get_logger(__name__)

QUEUE_BYTES_MAX = 128 * 1024 * 1024
QUEUE_RECORDS_MAX = 200_000
# How long ``send`` waits for room while the broker is away before it says so.
SEND_TIMEOUT_S = 30.0


class KafkaProducer:
    """See ``contract.Producer``.

    A record that cannot be delivered would leave a hole in its partition's order, so librdkafka is told to stop
    for good in that case (``enable.gapless.guarantee``) and never to give up on time alone: who waits in
    ``flush`` decides how long.
    """

    def __init__(self, configuration: Mapping[str, Any], prefix: str, linger_ms: float) -> None:
        self._prefix = prefix
        self._failure: str | None = None
        self._producer = LibraryProducer(
            {
                **configuration,
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": linger_ms,
                "batch.num.messages": 10_000,
                "partitioner": "murmur2_random",
                "message.max.bytes": RECORD_BYTES_MAX,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": QUEUE_RECORDS_MAX,
                "queue.buffering.max.kbytes": QUEUE_BYTES_MAX // 1024,
                "delivery.report.only.error": True,
                "on_delivery": self._on_delivery,
                "error_cb": self._on_error,
            }
        )

    @property
    def failure(self) -> str | None:
        """Why this producer can no longer be used, or None."""
        return self._failure

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Append to a known partition; buffered until sent. Blocks while the local queue is full."""
        self.send_many(topic, (partition,), (key,), (value,))

    def send_many(
        self, topic: str, partitions: Sequence[int], keys: Sequence[bytes | None], values: Sequence[bytes]
    ) -> None:
        """The same for many records; keeps their order within each partition.

        Raises
        ------
        EventError
            A record is larger than ``RECORD_BYTES_MAX``; those before it were accepted.
        TransientError
            The producer has failed, or the queue stayed full for 30 s.
        """
        self._raise_failure()
        name = self._prefix + topic
        produce = self._producer.produce
        records = zip(values, keys, partitions, strict=True)
        deadline = None
        pending = None
        while True:
            try:
                if pending is not None:
                    produce(name, *pending)
                    pending = deadline = None
                for pending in records:
                    produce(name, *pending)
                break
            except BufferError:
                deadline = deadline or time.monotonic() + SEND_TIMEOUT_S
                self._serve(self._producer.poll, 0.05)
                self._raise_failure()
                if time.monotonic() > deadline:
                    self._fail(f"its queue stayed full for {SEND_TIMEOUT_S:.0f} s")
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE and pending is not None:
                    raise EventError(
                        "", f"at most {RECORD_BYTES_MAX} bytes", f"{len(pending[0])} bytes"
                    ) from None
                self._fail(error.args[0].str())
        self._serve(self._producer.poll, 0)
        self._raise_failure()

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was sent is durable. Raises ``TransientError`` when it is not known to be."""
        self._raise_failure()
        left = self._serve(self._producer.flush, timeout_s)
        self._raise_failure()
        if left:
            self._fail(f"{left} records were not acknowledged within {timeout_s:g} s")

    def close(self) -> None:
        """Release the connection; what was not flushed may be lost."""
        self._failure = self._failure or "it was closed"
        # Giving up a record in flight breaks the order that was asked for, which the library calls fatal and tells
        # by an exception, or by a SystemError when it happens inside a callback. Here it is what is wanted.
        with suppress(KafkaException, SystemError):
            self._producer.purge()
            self._producer.flush(1.0)

    def _serve(self, step: Callable[[float], int], timeout_s: float) -> int:
        # The library tells what is fatal, such as an order it could not keep, not to `error_cb` but by an exception out
        # of whatever serves callbacks; where a callback runs after it, as a SystemError.
        try:
            return step(timeout_s)
        except (KafkaException, SystemError) as error:
            self._fail(f"fatal: {error.__cause__ or error}")

    def _on_delivery(self, error: KafkaError | None, _message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = f"a record was not delivered: {error.str()}"

    def _on_error(self, error: KafkaError) -> None:
        # What is not fatal is about connections, which the library mends by itself.
        log.warning("kafka_error", error=error.str(), code=error.name())
        if error.fatal() and self._failure is None:
            self._failure = f"fatal: {error.str()}"

    def _fail(self, reason: str) -> NoReturn:
        self._failure = reason
        raise self._error()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._error()

    def _error(self) -> TransientError:
        return TransientError(f"this Kafka producer cannot go on ({self._failure}): make a new one")
