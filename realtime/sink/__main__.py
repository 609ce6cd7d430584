"""``python -m realtime.sink``: one thread stores `scored`, others `dead-letters` and `labels`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from anomalyze.bus.contract import Bus
from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.bus.topics import DEAD_LETTERS, LABELS, SCORED, TRANSACTIONS
from anomalyze.events.batch import DeadLetter
from anomalyze.log import get
from anomalyze.storage.dead_letters import decode_dead_letter, store_dead_letters
from anomalyze.storage.label import Label, read_labels
from anomalyze.storage.label import store_labels as store_label_rows
from anomalyze.storage.partition import PartitionKeeper, ensure_partitions_ahead
from anomalyze.storage.pool import connect
from anomalyze.storage.position import load_positions
from anomalyze.storage.scored import ScoredRows, decode_scored
from anomalyze.storage.store import store_scored
from realtime.program import Heartbeat, Program, retry_until_stopped, start_program
from realtime.sink.announcer import LABELS_MAX, announce_labels
from realtime.sink.metrics import SinkMetrics
from realtime.sink.worker import Sink

CONSUMER = "sink"
HOUSE_EVERY_S = 3600.0
LABELS_EVERY_S = 1.0


def main() -> None:
    """Store until SIGTERM; the first thread that fails ends the program, which is then started again."""
    program = start_program("sink")
    bus = program.open_bus()
    log_id = retry_until_stopped(program.stop, "bus", bus.log_id)
    if log_id is None:
        return
    metrics = SinkMetrics(program.registry)
    failures: list[BaseException] = []
    keeper = PartitionKeeper()

    def positions(topic: str) -> Any:
        def load(connection: psycopg.Connection[Any], partitions: Sequence[int]) -> Mapping[int, int]:
            found = load_positions(connection, CONSUMER, log_id, topic)
            # A database that knows nothing of this log begins with what the log holds, whatever the group
            # has committed: offsets there only show lag.
            return {p: found[p].next_offset if p in found else 0 for p in partitions}

        return load

    def store_verdicts(
        connection: psycopg.Connection[Any], rows: ScoredRows, next_offsets: Mapping[int, int]
    ) -> int:
        counts = store_scored(
            connection,
            rows,
            consumer=CONSUMER,
            log_id=log_id,
            topic=SCORED,
            next_offsets=next_offsets,
            partitions=keeper,
        )
        return counts.stored

    def read_letters(values: Sequence[bytes]) -> list[DeadLetter]:
        return [decode_dead_letter(value) for value in values]

    def store_letters(
        connection: psycopg.Connection[Any], letters: list[DeadLetter], next_offsets: Mapping[int, int]
    ) -> int:
        return store_dead_letters(
            connection,
            letters,
            consumer=CONSUMER,
            log_id=log_id,
            topic=DEAD_LETTERS,
            next_offsets=next_offsets,
        )

    def store_labels(
        connection: psycopg.Connection[Any], labels: list[Label], next_offsets: Mapping[int, int]
    ) -> int:
        return store_label_rows(
            connection, labels, consumer=CONSUMER, log_id=log_id, topic=LABELS, next_offsets=next_offsets
        )

    def guarded(sink: Sink[Any]) -> None:
        try:
            sink.run()
        except BaseException as error:  # noqa: BLE001 - the thread's top
            get().error("sink_failed", exc_info=error)
            failures.append(error)
            program.stop.set()

    dsn = program.addresses.postgres_dsn
    sinks: list[Sink[Any]] = [
        Sink[ScoredRows](
            bus,
            dsn,
            SCORED,
            CONSUMER,
            decode_scored,
            store_verdicts,
            positions(SCORED),
            metrics,
            program.stop,
        ),
        Sink[list[DeadLetter]](
            bus,
            dsn,
            DEAD_LETTERS,
            f"{CONSUMER}-dead-letters",
            read_letters,
            store_letters,
            positions(DEAD_LETTERS),
            metrics,
            program.stop,
        ),
        Sink[list[Label]](
            bus,
            dsn,
            LABELS,
            f"{CONSUMER}-labels",
            read_labels,
            store_labels,
            positions(LABELS),
            metrics,
            program.stop,
        ),
    ]
    threads = [
        threading.Thread(target=guarded, args=(sink,), name=f"sink-{i}") for i, sink in enumerate(sinks)
    ]
    threads.append(threading.Thread(target=keep_house, args=(program, bus), name="house", daemon=True))
    threads.append(
        threading.Thread(target=tell_labels, args=(program, bus, log_id), name="announcer", daemon=True)
    )
    port = program.serve_metrics()
    Heartbeat(program, lambda: {**metrics.state(), "metrics_port": port}).start()
    for thread in threads:
        thread.start()
    for thread in threads[: len(sinks)]:
        thread.join()
    bus.close()
    get().info("stopped")
    if failures:
        raise SystemExit(1)


def tell_labels(program: Program, bus: Bus, log_id: str) -> None:
    """Every second: tell the log what became known of transactions."""

    def tell() -> bool:
        producer = bus.producer()
        try:
            with connect(program.addresses.postgres_dsn, program="anomalyze-sink") as connection:
                partitions = bus.partitions(TRANSACTIONS)
                while not program.stop.is_set():
                    if announce_labels(connection, producer, partitions, log_id) < LABELS_MAX:
                        program.stop.wait(LABELS_EVERY_S)
        finally:
            producer.close()
        return True

    while not program.stop.is_set():
        retry_until_stopped(program.stop, "labels", tell)


def keep_house(program: Program, bus: Bus) -> None:
    """Every hour: make the coming months' table partitions before anything needs them, and let the embedded
    log forget what is older than its retention (Kafka does so by itself)."""

    def tidy() -> bool:
        with connect(program.addresses.postgres_dsn, program="anomalyze-sink") as connection:
            ensure_partitions_ahead(connection)
        if isinstance(bus, EmbeddedBus):
            expired = bus.expire(now_ms=int(time.time() * 1000))
            get().info("log_expired", segments=expired)
        return True

    while not program.stop.is_set():
        retry_until_stopped(program.stop, "house", tidy)
        program.stop.wait(HOUSE_EVERY_S)


if __name__ == "__main__":
    main()
