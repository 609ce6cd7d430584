"""One log with real workers and sinks on it, each a process of its own, and what they wrote."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from anomalyze.bus import open_bus
from anomalyze.bus.contract import Bus
from anomalyze.bus.partitioner import murmur2_partition
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import STATE_FORMAT
from anomalyze.detection.training import build_bundle
from anomalyze.embedded.process import GuardedProcess
from anomalyze.errors import TransientError
from anomalyze.features.snapshot import ProfileStore
from anomalyze.settings import Settings
from anomalyze.simulation.record import user_ids, wire_records
from anomalyze.simulation.world import Simulation
from anomalyze.storage.objects import open_objects
from realtime.detector.checkpoint import CheckpointStore
from realtime.detector.detector_cache import DetectorCache
from realtime.detector.history import StoredHistory
from realtime.detector.judge import Judge
from realtime.detector.metrics import WorkerMetrics
from realtime.detector.poison import AttemptFile, SkipList
from realtime.detector.profiles import ProfileCache
from realtime.detector.worker import Worker
from tests.simulation.ledger import read_all, replayed

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG = CHECKOUT / "metrics_config"
FAULTS = Path(__file__).with_name("faults")
PARTITIONS = 2
WAIT_S = 90.0
# Far enough in the past to be no future on any clock.
START_MS = 1_760_000_000_000
DAYS = 12
Row = tuple[bytes, bytes]  # user, record


@functools.cache
def bundles() -> tuple[Bundle, Bundle]:
    """Two bundles without a model, which differ in their names only."""
    first = build_bundle(CONFIG)
    return first, replace(first, policy=first.policy + "\n# the second one\n")


@functools.cache
def traffic() -> tuple[Row, ...]:
    """About 700 transactions of 40 users, some of them attacks."""
    world = Simulation(
        users=40, seed=11, start_ms=START_MS, days=DAYS, per_day_mean=1.5, incidents_per_10k=300.0
    )
    rows: list[Row] = []
    for chunk in world.chunks():
        rows += zip(
            (user.encode() for user in user_ids(chunk)), wire_records(chunk, "w", "acct"), strict=True
        )
    return tuple(rows)


def record(user: str, tx_id: str, amount: float, day: float = DAYS, **data: Any) -> Row:
    """One transaction."""
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START_MS / 1000 + day * 86_400))
    meta = {"timestamp": timestamp, "source": "KAFKA", "user_id": user, "account_id": "acct"}
    body = {"meta": meta, "data": {"tx_id": tx_id, "amount": amount, "currency": "USD", **data}}
    return user.encode(), msgspec.json.encode(body)


class Bed:
    """A log of two partitions, its object store and database, and programs that end with it."""

    def __init__(self, dsn: str, folder: Path, kafka: str | None, **environment: str) -> None:
        self.dsn = dsn
        self.folder = folder
        self.kind = "kafka" if kafka else "embedded"
        self.stack = contextlib.ExitStack()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANOMALYZE_")},
            "ANOMALYZE_DATA_DIR": str(folder / "data"),
            "ANOMALYZE_CONFIG_DIR": str(CONFIG),
            "ANOMALYZE_POSTGRES_DSN": dsn,
            "ANOMALYZE_REDIS_URL": "redis://127.0.0.1:9/0",  # nobody waits for an answer here
            "ANOMALYZE_CHECKPOINT_INTERVAL_S": "1",
            "PYTHONPATH": os.pathsep.join([str(FAULTS), str(CHECKOUT)]),
            **environment,
        }
        (folder / "data").mkdir()
        if kafka:
            self.environment["ANOMALYZE_KAFKA_BOOTSTRAP_SERVERS"] = kafka
            self.environment["ANOMALYZE_TOPIC_PREFIX"] = f"t{uuid.uuid4().hex[:8]}-"
        chosen = {
            name.removeprefix("ANOMALYZE_").lower(): value
            for name, value in self.environment.items()
            if name.startswith("ANOMALYZE_")
        }
        self.settings = Settings(_env_file=None, **chosen)  # type: ignore[call-arg, arg-type]
        self.objects = open_objects(self.settings.object_store, s3_endpoint_url=self.settings.s3_endpoint_url)
        self.store = BundleStore(self.objects)
        for bundle in bundles():
            self.store.publish(bundle)
        self.store.set_pointer("champion", bundles()[0].id)
        self.bus: Bus
        self.reopen()
        self.bus.ready(10)
        self.bus.ensure_topics(PARTITIONS)

    def reopen(self) -> None:
        """Open the log anew: a client that a server has left in the middle of a question waits long for its answer."""
        self.bus = open_bus(self.settings, postgres_dsn=self.dsn)
        self.stack.callback(self.bus.close)

    def send(self, rows: Sequence[Row]) -> None:
        """Append transactions where their users belong."""
        self.append([(murmur2_partition(user, PARTITIONS), user, value) for user, value in rows])

    def append(self, records: Sequence[tuple[int, bytes | None, bytes]]) -> None:
        """Append anything."""
        producer = self.bus.producer()
        for partition, key, value in records:
            producer.send(TRANSACTIONS, partition, key, value)
        producer.flush(30)
        producer.close()

    def run(self, module: str, *arguments: str, log: str = "", **environment: str) -> GuardedProcess:
        """Start a program; it ends with the test."""
        process = GuardedProcess(
            module,
            [sys.executable, "-m", module, *arguments],
            self.folder / f"{log or module}.log",
            env={**self.environment, **environment},
            cwd=CHECKOUT,
        )
        self.stack.callback(process.stop)
        return process

    def worker(self, instance: str = "0") -> GuardedProcess:
        """Start a worker."""
        return self.run("realtime.detector", "--instance", instance, log=f"worker-{instance}")

    def judge(self) -> Judge:
        """What judges here."""
        return Judge(
            DetectorCache(self.store.load),
            ProfileCache(ProfileStore(self.objects, self.folder / "laid-out").open),
            PARTITIONS,
            self.settings.future_tolerance_s,
        )

    @contextlib.contextmanager
    def worker_here(self) -> Iterator[Worker]:
        """A worker on a thread of this process: it is there at once. Ended politely."""
        log_id = self.bus.log_id()
        worker = Worker(
            self.bus,
            log_id,
            self.judge(),
            CheckpointStore(self.objects, log_id, STATE_FORMAT),
            SkipList(self.objects, log_id),
            AttemptFile(self.folder / "attempts" / "here"),
            StoredHistory(self.dsn),
            lambda: self.store.pointer("champion"),
            None,
            WorkerMetrics(CollectorRegistry()),
            self.settings.checkpoint_interval_s,
        )
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(worker.run, stop)
            try:
                yield worker
            finally:
                stop.set()
                ended.result(WAIT_S)

    def sink(self, name: str = "sink") -> GuardedProcess:
        """Start a sink."""
        return self.run("realtime.sink", log=name)

    def events(self, log: str = "worker-0") -> list[dict[str, Any]]:
        """What a program logged."""
        lines = (self.folder / f"{log}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def scored(self) -> list[tuple[int, bytes]]:
        """(partition, record) of all that stands in `scored`."""
        found = []
        for partition, (low, high) in self.bus.watermarks(SCORED).items():
            records = read_all(self.bus, partition, low, high, SCORED)
            found += [(partition, value) for value in records.values]
        return found

    def effective(self) -> list[tuple[int, bytes]]:
        """What readers of `scored` see, who drop every ``src`` that is not above the highest seen.

        Asserts that no predecessor is missing.
        """
        reached: dict[int, int] = {}
        seen = []
        for partition, value in self.scored():
            src = json.loads(value)["src"]
            assert src["partition"] == partition
            if src["offset"] > reached.get(partition, -1):
                assert src["previous"] <= reached.get(partition, -1), "a gap"
                assert src["previous"] == reached.get(partition, -1)
                reached[partition] = src["offset"]
                seen.append((partition, value))
        return seen

    def undisturbed(self) -> list[tuple[int, bytes]]:
        """What one worker would have written that nobody disturbed."""
        return [(partition, value) for partition, _, value in replayed(self.bus, self.settings, 5)]

    def judged(self) -> bool:
        """Whether every record was judged, and what came of it is durable."""
        try:
            done, marks = self.bus.committed(TRANSACTIONS, "detector"), self.bus.watermarks(TRANSACTIONS)
        except TransientError:
            return False  # a server is only just back
        return all(done.get(p, 0) >= high for p, (_, high) in marks.items())

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until something holds; the programs' logs are in the failure's message."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = [f"--- {p.name}\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.log")]
                raise AssertionError(f"waited {timeout_s:.0f} s in vain: {what}\n" + "\n".join(logs))
            time.sleep(0.05)

    def wait_judged(self) -> None:
        """Wait until every record was judged."""
        self.wait(self.judged, "all judged")


@contextlib.contextmanager
def open_bed(request: pytest.FixtureRequest, tmp_path: Path, kind: str, **environment: str) -> Iterator[Bed]:
    """A bed on the session's servers; ``environment`` has further settings."""
    kafka = request.getfixturevalue("kafka_broker").bootstrap_servers if kind == "kafka" else None
    bed = Bed(request.getfixturevalue("database"), tmp_path, kafka, **environment)
    with bed.stack:
        yield bed
