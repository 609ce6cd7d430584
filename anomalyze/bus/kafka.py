"""The event log on Apache Kafka.

Topics carry the broker's append time, so that every reader sees the same clock. Producers and consumers are in
``kafka_producer`` and ``kafka_consumer``; here is what they share: connection settings, topics, offsets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer as LibraryConsumer
from confluent_kafka import (
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from anomalyze.bus.contract import Rebalance
from anomalyze.bus.kafka_consumer import KafkaConsumer, KafkaReader
from anomalyze.bus.kafka_producer import KafkaProducer
from anomalyze.bus.topics import RECORD_BYTES_MAX, RETENTION_MS, TOPICS, TRANSACTIONS
from anomalyze.errors import ConfigError, TransientError
from anomalyze.settings import Settings

__all__ = ["KafkaBus"]

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 15.0
# How soon a refusal is seen while the broker is asked.
LOOK_S = 2.0
SESSION_TIMEOUT_MS = 15_000

# Errors that no waiting mends.
CONFIGURATION_ERRORS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
    }
)

# A topic made a moment ago, a partition that changes its leader, a broker that has just started.
PASSING_ERRORS = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError._TRANSPORT,
    }
)


class KafkaBus:
    """One log on a Kafka cluster.

    Parameters
    ----------
    settings
        Addresses and credentials (``kafka_*``), ``topic_prefix``, ``kafka_replication_factor``.
    session_timeout_ms
        How long a silent member of a group keeps its partitions.
    """

    def __init__(self, settings: Settings, *, session_timeout_ms: int = SESSION_TIMEOUT_MS) -> None:
        self._configuration = client_configuration(settings)
        self._prefix = settings.topic_prefix
        self._replication_factor = settings.kafka_replication_factor
        self._session_timeout_ms = session_timeout_ms
        self._last_error: KafkaError | None = None
        self._admin_lock = threading.Lock()
        self._admin_client: AdminClient | None = None
        self._views: dict[str, LibraryConsumer] = {}

    def log_id(self) -> str:
        """Cluster id and the id of the topic ``transactions``, which a topic made anew does not share."""
        name = self._prefix + TRANSACTIONS
        described = self._ask(
            lambda: [self._admin.describe_topics(TopicCollection([name]))[name]], f"describing {name}"
        )
        # Both are base64, and the id names folders of the object store: in its URL-safe form.
        identity = f"kafka-{self._metadata().cluster_id}-{described[0].topic_id}"
        return identity.replace("+", "-").replace("/", "_").rstrip("=")

    def ensure_topics(self, partitions: int) -> None:
        """Make the topics that are missing; never changes one that exists."""
        wanted = {self._prefix + topic: topic for topic in TOPICS}
        there = self._metadata().topics
        missing = [name for name in wanted if name not in there]
        new = [
            NewTopic(
                name,
                num_partitions=partitions,
                replication_factor=self._replication_factor,
                config=topic_configuration(wanted[name], self._replication_factor),
            )
            for name in missing
        ]
        futures = self._admin.create_topics(new, request_timeout=REQUEST_TIMEOUT_S) if new else {}
        for name, future in futures.items():
            try:
                future.result()
                log.info("topic_created", topic=name, partitions=partitions)
            except KafkaException as error:
                # Another program was faster.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise as_our_error(error, f"making the topic {name}") from None
        if new:
            self._wait_until_known(list(wanted))

    def partitions(self, topic: str) -> int:
        """Number of partitions of a topic."""
        found = self._metadata(self._prefix + topic).topics.get(self._prefix + topic)
        if found is None or found.error is not None:
            raise TransientError(
                f"the topic {self._prefix + topic} is not there: it is made by ensure_topics when the programs start"
            )
        return len(found.partitions)

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """(oldest offset, next offset) by partition."""
        partitions = range(self.partitions(topic))
        oldest = self._offsets(topic, partitions, OffsetSpec.earliest())
        newest = self._offsets(topic, partitions, OffsetSpec.latest())
        return {p: (oldest[p], newest[p]) for p in partitions}

    def offsets_at(self, topic: str, append_ms: int) -> dict[int, int]:
        """First offset at or after that append time, by partition (next offset when none)."""
        partitions = range(self.partitions(topic))
        found = self._offsets(topic, partitions, OffsetSpec.for_timestamp(append_ms))
        none = [p for p in partitions if found[p] < 0]
        return found | self._offsets(topic, none, OffsetSpec.latest())

    def committed(self, topic: str, group: str) -> dict[int, int]:
        """Next offset of the group by partition (missing when none)."""
        name = self._prefix + topic
        asked = [TopicPartition(name, p) for p in range(self.partitions(topic))]
        found = self._again(lambda: self._look(group, asked), f"asking what {group} committed")
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def producer(self, *, linger_ms: float = 2.0) -> KafkaProducer:
        """A producer: idempotent, all replicas acknowledge."""
        return KafkaProducer(self._configuration, self._prefix, linger_ms)

    def consumer(self, topic: str, group: str, rebalance: Rebalance) -> KafkaConsumer:
        """A member of a group; partitions arrive during ``poll``."""
        return KafkaConsumer(
            self._configuration, self._prefix, topic, group, rebalance, self._session_timeout_ms
        )

    def reader(self, topic: str, start: Mapping[int, int]) -> KafkaReader:
        """A reader of these partitions from these offsets."""
        return KafkaReader(self._configuration, self._prefix, topic, start)

    def ready(self, timeout_s: float = 2.0) -> None:
        """Return when a broker answers; raise ``TransientError`` when not."""
        self._metadata(timeout_s=timeout_s)

    def close(self) -> None:
        """Release what is shared between producers and consumers."""
        with self._admin_lock:
            self._admin_client = None
            views, self._views = self._views, {}
        for view in views.values():
            view.close()

    def _look(self, group: str, asked: list[TopicPartition]) -> list[TopicPartition]:
        found = self._view(group).committed(asked, timeout=REQUEST_TIMEOUT_S)
        for error in (tp.error for tp in found):
            if error is not None:
                raise KafkaException(error)
        return found

    def _view(self, group: str) -> LibraryConsumer:
        # Names a group without joining it. AdminClient could be asked as well, but where a broker that has just started
        # does not coordinate the group yet, the library reaches for a consumer that it has not, and the process ends
        # (librdkafka 2.16, `list_consumer_group_offsets`; a segmentation fault in its main thread).
        with self._admin_lock:
            if group not in self._views:
                self._views[group] = LibraryConsumer(
                    {**self._configuration, "group.id": self._prefix + group, "enable.auto.commit": False}
                )
            return self._views[group]

    @property
    def _admin(self) -> AdminClient:
        # Made when first needed: a program that only produces opens no further connection.
        with self._admin_lock:
            if self._admin_client is None:
                self._admin_client = AdminClient({**self._configuration, "error_cb": self._on_error})
            return self._admin_client

    def _on_error(self, error: KafkaError) -> None:
        self._last_error = error
        log.warning("kafka_error", error=error.str(), code=error.name())

    def _wait_until_known(self, names: list[str]) -> None:
        """Wait until brokers know the topics: a client that is told "unknown" asks again only minutes later."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            found = self._metadata().topics
            known = [found[name].partitions.values() for name in names if name in found]
            if len(known) == len(names) and all(p.leader >= 0 for partitions in known for p in partitions):
                break
            if time.monotonic() > deadline:
                raise TransientError(f"Kafka made the topics {names} but does not show them yet")
            time.sleep(0.02)
        for name in names:
            self._offsets(name.removeprefix(self._prefix), found[name].partitions, OffsetSpec.latest())

    def _metadata(self, topic: str | None = None, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        self._last_error = None
        while True:
            left_s = deadline - time.monotonic()
            try:
                return self._admin.list_topics(topic, timeout=min(LOOK_S, max(0.1, left_s)))
            except KafkaException as error:
                # The library says only "timed out"; why a connection failed it tells the callback, when polled.
                self._admin.poll(0)
                reason: KafkaError | None = self._last_error
                if reason is not None and reason.code() in CONFIGURATION_ERRORS:
                    raise as_our_error(KafkaException(reason), "connecting") from None
                if left_s <= LOOK_S:
                    told = "" if reason is None else f" ({reason.str()})"
                    raise as_our_error(error, f"asking the broker for its topics{told}") from None

    def _offsets(self, topic: str, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(self._prefix + topic, p): spec for p in partitions}
        if not asked:
            return {}
        answers = self._ask(
            lambda: list(self._admin.list_offsets(asked, request_timeout=REQUEST_TIMEOUT_S).values()),
            f"asking for offsets of {topic}",
        )
        return {tp.partition: answer.offset for tp, answer in zip(asked, answers, strict=True)}

    def _ask(self, request: Callable[[], list[Any]], doing: str) -> list[Any]:
        """The results of a request's futures, as `_again` gets them."""
        try:
            return self._again(lambda: [future.result(REQUEST_TIMEOUT_S) for future in request()], doing)
        except TimeoutError:
            raise TransientError(f"Kafka did not answer within {REQUEST_TIMEOUT_S:.0f} s, {doing}") from None

    def _again(self, request: Callable[[], list[Any]], doing: str) -> list[Any]:
        """What a request answers; asked again while a topic or a coordinator is only just coming up."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                return request()
            except KafkaException as error:
                if error.args[0].code() not in PASSING_ERRORS or time.monotonic() > deadline:
                    raise as_our_error(error, doing) from None
                time.sleep(0.02)


def client_configuration(settings: Settings) -> dict[str, Any]:
    """What every client of ours tells librdkafka. Holds the password: never to be logged."""
    if settings.kafka_bootstrap_servers is None:
        raise ConfigError("ANOMALYZE_KAFKA_BOOTSTRAP_SERVERS: expected host:port[,host:port], got nothing")
    configuration: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        "client.id": "anomalyze",
        # Lost connections are reported by error_cb, as structured logs; the library's own lines are not.
        "log_level": 2,
        # A broker that was restarted is found again within a second.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "socket.nagle.disable": True,
    }
    optional = {
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password and settings.kafka_sasl_password.get_secret_value(),
        "ssl.ca.location": settings.kafka_ssl_ca_location,
    }
    return configuration | {key: value for key, value in optional.items() if value is not None}


def topic_configuration(topic: str, replication_factor: int) -> dict[str, str]:
    """Settings of one of our topics."""
    return {
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(RETENTION_MS[topic]),
        "max.message.bytes": str(RECORD_BYTES_MAX + 48_576),
        "min.insync.replicas": str(2 if replication_factor >= 3 else 1),
        "cleanup.policy": "delete",
        "compression.type": "producer",
    }


def as_our_error(error: KafkaException, doing: str) -> ConfigError | TransientError:
    """The error to raise for one of Kafka's: ``ConfigError`` for what no waiting mends."""
    cause: KafkaError = error.args[0]
    if cause.code() in CONFIGURATION_ERRORS:
        return ConfigError(f"Kafka refused, {doing}: {cause.str()} ({cause.name()})")
    return TransientError(f"Kafka did not answer, {doing}: {cause.str()} ({cause.name()})")
