"""Reading from Kafka: members of a group, and readers without one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import OFFSET_STORED, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Consumer as LibraryConsumer

from anomalyze.bus.contract import Rebalance, Records
from anomalyze.bus.topics import RECORD_BYTES_MAX
from anomalyze.errors import ConfigError, TransientError

__all__ = ["KafkaConsumer", "KafkaReader"]

log = structlog.get_logger(__name__)

CONSUMER = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": False,
    "check.crcs": True,
    # When the local queue is full the library would stop fetching for a second; 5 ms keeps the stream going.
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 50,
    "fetch.min.bytes": 1,
    "fetch.error.backoff.ms": 50,
    "fetch.message.max.bytes": 2 * RECORD_BYTES_MAX,
    "queued.min.messages": 50_000,
    "queued.max.messages.kbytes": 64 * 1024,
}
POLL_INTERVAL_MS_MAX = 300_000
SEEK_TIMEOUT_S = 10.0
# How long ``close`` waits for the answer to its last commit; it only shows lag.
CLOSING_COMMIT_S = 2.0
REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})


class KafkaConsumer:
    """See ``contract.Consumer``."""

    def __init__(
        self,
        configuration: Mapping[str, Any],
        prefix: str,
        topic: str,
        group: str,
        rebalance: Rebalance,
        session_timeout_ms: int,
    ) -> None:
        self._topic = topic
        self._name = prefix + topic
        self._rebalance = rebalance
        self._owned: set[int] = set()
        self._paused: set[int] = set()
        self._positions: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._taken_away: set[int] = set()
        self._callback_error: BaseException | None = None
        self._fatal: str | None = None
        self._commits = 0  # on their way
        self._consumer = LibraryConsumer(
            {
                **configuration,
                **CONSUMER,
                # Two installations on one cluster share no group.
                "group.id": prefix + group,
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_timeout_ms,
                # Members hear of a rebalance with a heartbeat, twice in a cooperative one.
                "heartbeat.interval.ms": min(1000, session_timeout_ms // 6),
                "max.poll.interval.ms": max(POLL_INTERVAL_MS_MAX, session_timeout_ms),
                "error_cb": self._on_error,
                "on_commit": self._on_commit,
            }
        )
        self._consumer.subscribe(
            [self._name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, records_max: int, timeout_s: float) -> Records:
        """Up to ``records_max`` records; waits up to ``timeout_s`` for the first one only."""
        self._taken_away.clear()
        messages = consume(self._consumer, records_max, timeout_s)
        if self._callback_error is not None:
            error, self._callback_error = self._callback_error, None
            raise error
        if self._fatal is not None:
            raise TransientError(f"this Kafka consumer cannot go on ({self._fatal}): make a new one")
        if self._taken_away or self._paused:
            messages = self._without_unwanted(messages)
        records = as_records(self._topic, messages)
        self._positions.update((p, records.offsets[end - 1] + 1) for p, _, end in records.runs())
        return records

    def _without_unwanted(self, messages: list[Message]) -> list[Message]:
        """Leave out what a rebalance or a pause from within a callback has made unwanted in the same poll."""
        wanted = []
        for message in messages:
            partition = message.partition()
            if partition in self._paused:
                # The library counts it as delivered: resume goes back to it.
                self._held.setdefault(partition, message.offset())
            elif partition not in self._taken_away:
                wanted.append(message)
        return wanted

    def pause(self, partitions: Sequence[int]) -> None:
        """Deliver nothing of these until ``resume``; membership stays."""
        new = set(partitions) - self._paused
        self._paused |= new
        # Within a callback they are not the library's yet; the callback applies it afterwards.
        if owned := new & self._owned:
            self._consumer.pause(self._at(owned))

    def resume(self, partitions: Sequence[int]) -> None:
        """Undo ``pause``."""
        # Resuming what was not paused would set the library back to an older position.
        paused = set(partitions) & self._paused
        self._paused -= paused
        if owned := paused & self._owned:
            self._consumer.resume(self._at(owned))
            for p in owned & self._held.keys():
                seek(self._consumer, self._name, p, self._held.pop(p))

    def seek(self, partition: int, offset: int) -> None:
        """Deliver from this offset on."""
        if partition not in self._owned:
            raise TransientError(f"partition {partition} of {self._name} is not owned by this consumer now")
        self._positions[partition] = offset
        self._held.pop(partition, None)
        seek(self._consumer, self._name, partition, offset)

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Note the next offset to read for each partition (shows lag; the truth is in the outputs).

        It does not wait. Called within ``revoked`` it still precedes the next owner: in a rebalance the library
        gives partitions up only when the commits on their way are answered, and ``close`` waits for them itself.
        """
        offsets = [TopicPartition(self._name, p, o) for p, o in next_offsets.items() if p in self._owned]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
            self._commits += 1
        except KafkaException as error:
            log.warning("commit_failed", topic=self._name, error=error.args[0].str())

    def assignment(self) -> frozenset[int]:
        """Partitions owned now."""
        return frozenset(self._owned)

    def lag(self) -> Mapping[int, int]:
        """Records behind the newest one, by owned partition; from cached watermarks."""
        lags = {}
        for p in self._owned:
            watermarks = self._consumer.get_watermark_offsets(TopicPartition(self._name, p), cached=True)
            if watermarks is not None and watermarks[1] >= 0:
                lags[p] = max(0, watermarks[1] - self._positions.get(p, max(0, watermarks[0])))
        return lags

    def close(self) -> None:
        """Leave the group (after ``revoked``)."""
        if self._owned:
            # The library would leave at once, and what ``revoked`` commits may come too late.
            self._consumer.pause(self._at(self._owned))
            self._take_away(self._at(self._owned), self._rebalance.revoked)
            deadline = time.monotonic() + CLOSING_COMMIT_S
            while self._commits and time.monotonic() < deadline:
                self._consumer.poll(0.05)
        self._consumer.close()
        if self._callback_error is not None:
            raise self._callback_error

    def _on_assign(self, consumer: LibraryConsumer, assigned: list[TopicPartition]) -> None:
        partitions = sorted(tp.partition for tp in assigned)
        starts: Mapping[int, int] = {}
        self._taken_away -= set(partitions)
        try:
            # A cooperative rebalance that changes nothing here comes as an empty list.
            starts = (self._rebalance.assigned(partitions) if partitions else None) or {}
        except BaseException as error:  # noqa: BLE001 - raised again by poll, outside of the library
            self._callback_error = error
        self._owned |= set(partitions)
        self._positions.update(starts)
        consumer.incremental_assign(
            [TopicPartition(self._name, p, starts.get(p, OFFSET_STORED)) for p in partitions]
        )
        # What the callback paused: only now does the library know these partitions.
        if paused := self._paused & set(partitions):
            consumer.pause(self._at(paused))

    def _on_revoke(self, consumer: LibraryConsumer, revoked: list[TopicPartition]) -> None:
        self._take_away([tp for tp in revoked if tp.partition in self._owned], self._rebalance.revoked)
        consumer.incremental_unassign(revoked)

    def _on_lost(self, consumer: LibraryConsumer, lost: list[TopicPartition]) -> None:
        self._take_away(lost, self._rebalance.lost)
        consumer.incremental_unassign(lost)

    def _take_away(self, topic_partitions: list[TopicPartition], tell: Any) -> None:
        partitions = sorted(tp.partition for tp in topic_partitions)
        try:
            if partitions:
                tell(partitions)
        except BaseException as error:  # noqa: BLE001 - raised again by poll, outside of the library
            self._callback_error = error
        finally:
            self._owned -= set(partitions)
            self._paused -= set(partitions)
            self._taken_away |= set(partitions)
            for p in partitions:
                self._positions.pop(p, None)
                self._held.pop(p, None)

    def _on_error(self, error: KafkaError) -> None:
        log.warning("kafka_error", error=error.str(), code=error.name(), topic=self._name)
        if error.fatal():
            self._fatal = error.str()

    def _on_commit(self, error: KafkaError | None, _offsets: list[TopicPartition]) -> None:
        self._commits -= 1
        if error is not None:
            log.warning("commit_failed", topic=self._name, error=error.str())

    def _at(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._name, p) for p in partitions]


class KafkaReader:
    """See ``contract.Reader``."""

    def __init__(
        self, configuration: Mapping[str, Any], prefix: str, topic: str, start: Mapping[int, int]
    ) -> None:
        self._topic = topic
        self._name = prefix + topic
        # The library demands a group's name; without subscription and commit the broker never hears of it.
        self._consumer = LibraryConsumer({**configuration, **CONSUMER, "group.id": "anomalyze-reader"})
        self._consumer.assign([TopicPartition(self._name, p, o) for p, o in start.items()])

    def read(self, records_max: int, timeout_s: float) -> Records:
        """Like ``Consumer.poll``."""
        return as_records(self._topic, consume(self._consumer, records_max, timeout_s))

    def seek(self, partition: int, offset: int) -> None:
        """Deliver from this offset on."""
        seek(self._consumer, self._name, partition, offset)

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()


def consume(consumer: LibraryConsumer, records_max: int, timeout_s: float) -> list[Message]:
    """Up to ``records_max`` messages without error; waits for the first one only."""
    deadline = time.monotonic() + timeout_s
    while True:
        messages = consumer.consume(1, max(0.0, deadline - time.monotonic()))
        if messages and records_max > 1:
            messages += consumer.consume(records_max - 1, 0)
        failed = [m for m in messages if m.error() is not None]
        if not failed:
            return messages
        for message in failed:
            check_error(message.error())
        messages = [m for m in messages if m.error() is None]
        if messages or time.monotonic() >= deadline:
            return messages


def check_error(error: KafkaError) -> None:
    """Raise for what the library does not mend by itself."""
    if error.code() in REFUSED:
        raise ConfigError(f"Kafka refused: {error.str()}")
    if error.fatal():
        raise TransientError(f"this Kafka consumer cannot go on ({error.str()}): make a new one")
    log.warning("consume_error", error=error.str(), name=error.name())


def as_records(topic: str, messages: list[Message]) -> Records:
    """Messages as parallel lists, sorted by (partition, offset)."""
    # Each partition's messages come in order, so a stable sort by partition suffices.
    messages.sort(key=Message.partition)
    return Records(
        topic,
        [m.partition() for m in messages],
        [m.offset() for m in messages],
        [m.timestamp()[1] for m in messages],
        [m.key() for m in messages],
        [m.value() or b"" for m in messages],
    )


def seek(consumer: LibraryConsumer, name: str, partition: int, offset: int) -> None:
    """Move the library's position; what it fetched before is thrown away by it."""
    deadline = time.monotonic() + SEEK_TIMEOUT_S
    while True:
        try:
            consumer.seek(TopicPartition(name, partition, offset))
            return
        except KafkaException as error:
            # Just assigned: the library has not begun to fetch it.
            if error.args[0].code() != KafkaError._STATE or time.monotonic() > deadline:
                raise TransientError(
                    f"could not seek in {name}[{partition}]: {error.args[0].str()}"
                ) from None
            time.sleep(0.005)
