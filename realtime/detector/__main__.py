"""``python -m realtime.detector [--instance N]`` runs one worker; ``--workers N`` runs N under watch."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import STATE_FORMAT
from anomalyze.embedded.supervisor import Program as Watched
from anomalyze.embedded.supervisor import Supervisor
from anomalyze.embedded.warm import exercise
from anomalyze.errors import AnomalyzeError
from anomalyze.features.snapshot import ProfileStore
from anomalyze.log import get
from anomalyze.storage.objects import open_objects
from anomalyze.storage.profile_rows import RedisRows
from realtime.detector.alarm import AlarmPost
from realtime.detector.checkpoint import CheckpointStore
from realtime.detector.detector_cache import DetectorCache
from realtime.detector.history import StoredHistory
from realtime.detector.judge import Judge
from realtime.detector.metrics import WorkerMetrics
from realtime.detector.poison import AttemptFile, SkipList
from realtime.detector.profiles import ProfileCache
from realtime.detector.worker import Worker
from realtime.program import Heartbeat, Program, retry_until_stopped, start_program

REDIS_TIMEOUT_S = 0.25


def main() -> None:
    """Run one worker, or several."""
    parser = argparse.ArgumentParser(prog="python -m realtime.detector", description=__doc__)
    parser.add_argument("--instance", default="0", help="name of this worker on this machine")
    parser.add_argument("--workers", type=int, default=1, help="run this many and restart those that end")
    arguments = parser.parse_args()
    if arguments.workers > 1:
        run_many(arguments.workers)
    else:
        run_one(start_program("detector", arguments.instance))


def run_one(program: Program) -> None:
    """One worker until SIGTERM."""
    settings = program.settings
    bus = program.open_bus()
    found = retry_until_stopped(program.stop, "bus", lambda: (bus.partitions(TRANSACTIONS), bus.log_id()))
    if found is None:
        return
    partition_count, log_id = found
    objects = open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url)
    bundles = BundleStore(objects)
    metrics = WorkerMetrics(program.registry)
    post = AlarmPost(program.addresses.postgres_dsn)

    def alarm(pointer: str, bundle: str, reason: str) -> None:
        metrics.refused(pointer)
        post.bundle_refused(pointer, bundle, reason)

    client = redis.Redis.from_url(
        program.addresses.redis_url,
        # Whoever waits gives up within a second: a Redis that hangs must not hold up the commit.
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    profiles = ProfileStore(objects, settings.data_dir / "profiles")
    judge = Judge(
        DetectorCache(bundles.load),
        ProfileCache(profiles.open, RedisRows(client), metrics.profiles_read),
        partition_count,
        settings.future_tolerance_s,
        alarm,
    )
    warm_up(judge.detectors, bundles)
    worker = Worker(
        bus,
        log_id,
        judge,
        CheckpointStore(objects, log_id, STATE_FORMAT),
        SkipList(objects, log_id),
        AttemptFile(settings.data_dir / "attempts" / program.instance),
        StoredHistory(program.addresses.postgres_dsn),
        lambda: bundles.pointer("champion"),
        client,
        metrics,
        settings.checkpoint_interval_s,
    )
    port = program.serve_metrics()

    def state() -> dict[str, Any]:
        return {**metrics.state(), **worker.bundles(), "metrics_port": port}

    Heartbeat(program, state).start()
    try:
        worker.run(program.stop)
    except Exception as error:  # noqa: BLE001 - the program's top: it is started again and recovers
        get().error("worker_failed", exc_info=error)
        raise SystemExit(1) from None
    get().info("stopped")


def warm_up(detectors: DetectorCache, bundles: BundleStore) -> None:
    """Have everything compiled and loaded before the first transaction; what goes wrong here is met again later."""
    try:
        champion = bundles.pointer("champion")
        if champion is not None:
            exercise(detectors.get(champion))
    except AnomalyzeError as error:
        get().warning("not_warmed", reason=str(error))


def run_many(workers: int) -> None:
    """Several workers, each a process of its own."""
    program = start_program("detector-supervisor")
    argv = [sys.executable, "-m", "realtime.detector"]
    supervisor = Supervisor(
        [Watched(f"detector-{n}", [*argv, "--instance", str(n)]) for n in range(workers)],
        Path(program.settings.data_dir) / "logs",
        lambda text: get().warning("worker", text=text),
    )
    watch(supervisor, program.stop)


def watch(supervisor: Supervisor, stop: threading.Event) -> None:
    """Keep them running until stopped."""
    try:
        while not stop.is_set():
            supervisor.tick()
            time.sleep(0.2)
    finally:
        supervisor.stop()


if __name__ == "__main__":
    main()
