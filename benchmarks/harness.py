"""What the benchmarks share: a broker, a log full of simulated transactions, programs, and the way to report."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from anomalyze.access.admin import ensure_admin_key
from anomalyze.bus.contract import Bus
from anomalyze.bus.control import encode_control
from anomalyze.bus.partitioner import murmur2_partitions
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import GuardedProcess, free_port
from anomalyze.embedded.valkey import EmbeddedValkey
from anomalyze.simulation.record import user_ids, wire_records
from anomalyze.simulation.starter import build_starter_bundle
from anomalyze.simulation.world import Simulation
from anomalyze.storage.migrate import migrate
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import connect
from tests.kafka import KafkaBroker

__all__ = ["Bench", "arguments", "report", "say"]

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG = CHECKOUT / "metrics_config"
END_MS = 1_767_225_600_000  # simulated histories end with 2025: far enough in the past to be no future


class Bench:
    """Servers and settings of one benchmark, in a folder that goes away with it.

    Parameters
    ----------
    bus
        ``kafka`` or ``embedded``.
    postgres, valkey
        Whether these run too (the embedded log needs PostgreSQL).
    """

    def __init__(self, bus: str, partitions: int, *, postgres: bool = False, valkey: bool = False) -> None:
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="anomalyze-bench-")))
        os.chmod(self.folder, 0o755)
        self.partitions = partitions
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANOMALYZE_")},
            "ANOMALYZE_DATA_DIR": str(self.folder / "data"),
            "ANOMALYZE_CONFIG_DIR": str(CONFIG),
            "ANOMALYZE_PARTITIONS": str(partitions),
            # Nothing listens there: a program that should not need it fails if it does.
            "ANOMALYZE_POSTGRES_DSN": "postgresql://nobody:x@127.0.0.1:9/none",
            "ANOMALYZE_REDIS_URL": "redis://127.0.0.1:9/0",
            "ANOMALYZE_RATE_LIMIT_PER_S": "100000000",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        (self.folder / "data").mkdir()
        self.dsn = ""
        if postgres or bus == "embedded":
            server = EmbeddedPostgres(self.folder / "postgresql", free_port())
            self.stack.callback(server.stop)
            self.dsn = self.environment["ANOMALYZE_POSTGRES_DSN"] = server.start()
            migrate(self.dsn)
        if valkey:
            cache = EmbeddedValkey(self.folder / "valkey", free_port())
            self.stack.callback(cache.stop)
            self.environment["ANOMALYZE_REDIS_URL"] = cache.start()
        self.broker: KafkaBroker | None = None
        if bus == "kafka":
            self.broker = KafkaBroker(self.folder / "kafka", free_port(), is_measured=True)
            self.stack.callback(self.broker.stop)
            self.environment["ANOMALYZE_KAFKA_BOOTSTRAP_SERVERS"] = self.broker.start()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def open_bus(self) -> Bus:
        """The log, with its topics."""
        from anomalyze.bus import open_bus

        bus = open_bus(self.settings, postgres_dsn=self.dsn or None)
        bus.ensure_topics(self.partitions)
        return bus

    @property
    def settings(self) -> Any:
        """Settings as the programs read them."""
        from anomalyze.settings import Settings

        chosen = {
            name.removeprefix("ANOMALYZE_").lower(): value
            for name, value in self.environment.items()
            if name.startswith("ANOMALYZE_")
        }
        return Settings(_env_file=None, **chosen)

    def publish_bundle(self) -> str:
        """Train and publish the starter bundle; returns its id."""
        store = BundleStore(open_objects(self.settings.object_store))
        bundle = build_starter_bundle(CONFIG)
        store.publish(bundle)
        store.set_pointer("champion", bundle.id)
        return bundle.id

    def run(self, module: str, *arguments: str, name: str = "", **environment: str) -> GuardedProcess:
        """Start one of our programs; it ends with the benchmark."""
        name = name or module
        process = GuardedProcess(
            name,
            [sys.executable, "-m", module, *arguments],
            self.folder / f"{name}.log",
            env={**self.environment, **environment},
            cwd=CHECKOUT,
        )
        self.stack.callback(process.stop)
        return process

    def start_api(self) -> tuple[int, str]:
        """Start the REST API and wait for it; returns its port and an admin key."""
        port = free_port()
        self.environment["ANOMALYZE_API_PORT"] = str(port)
        self.environment["ANOMALYZE_ADMIN_KEY"] = "benchmark-key-0123456789"
        with connect(self.dsn) as connection:
            key = ensure_admin_key(connection, self.settings).secret
        self.run("realtime.api", name="api")

        def up() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(up, "the API answers")
        return port, key

    def fill(
        self, bus: Bus, events: int, bundle: str, *, users: int | None = None, progress: bool = True
    ) -> int:
        """Put simulated transactions of 30 days into the log, behind the bundle's control record.

        Returns the bytes of the transactions' values.
        """
        producer = bus.producer(linger_ms=20.0)
        for partition in range(self.partitions):
            producer.send(TRANSACTIONS, partition, None, encode_control("bundle", {"bundle": bundle}))
        users = users or max(200, events // 60)
        world = Simulation(
            users=users,
            seed=7,
            start_ms=END_MS - 40 * 86_400_000,
            days=40,
            per_day_mean=max(0.05, events / users / 36),
            incidents_per_10k=20.0,
        )
        sent = size = 0
        for chunk in world.chunks():
            values = wire_records(chunk, "b", "bench")[: events - sent]
            keys = [user.encode() for user in user_ids(chunk)][: len(values)]
            for at in range(0, len(values), 50_000):
                part, names = values[at : at + 50_000], keys[at : at + 50_000]
                producer.send_many(TRANSACTIONS, murmur2_partitions(names, self.partitions), names, part)
            sent += len(values)
            size += sum(map(len, values))
            if progress:
                say(f"  {sent:,} of {events:,} transactions in the log")
            if sent >= events:
                break
        producer.flush(120.0)
        producer.close()
        if sent < events:
            raise RuntimeError(f"the simulation gave {sent} of {events} transactions")
        return size


def follow(bus: Bus, topic: str, wanted: int, timeout_s: float) -> float:
    """Records a second while a topic grows to ``wanted``, between its first and last twentieth.

    Neither the programs' start nor the last flush counts.
    """
    begun_s = time.monotonic()
    marks: list[tuple[float, int]] = []
    while True:
        count = sum(high - low for low, high in bus.watermarks(topic).values())
        marks.append((time.monotonic(), count))
        if count >= wanted:
            break
        if time.monotonic() - begun_s > timeout_s:
            raise RuntimeError(f"{topic}: {count:,} of {wanted:,} records after {timeout_s:.0f} s")
        time.sleep(0.1)
    low = next(mark for mark in marks if mark[1] >= 0.05 * wanted)
    high = next(mark for mark in marks if mark[1] >= 0.95 * wanted)
    return (high[1] - low[1]) / max(1e-9, high[0] - low[0])


def scored_count(bus: Bus) -> int:
    """Records in `scored`."""
    return sum(high - low for low, high in bus.watermarks(SCORED).values())


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the JSON there")
    return parser


def report(result: dict[str, Any], path: Path | None) -> None:
    """A table for people on standard error, one JSON object as the last line of standard output."""
    say(f"{platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    for name, value in result.items():
        shown = f"{value:,.4g}" if isinstance(value, float) else value
        say(f"  {name:<28} {shown}")
    line = json.dumps(result)
    if path is not None:
        path.write_text(line + "\n")
    print(line, flush=True)


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def wait_for(condition: Any, what: str, timeout_s: float = 120.0) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(0.05)


def quantiles_ms(values_s: list[float]) -> dict[str, float]:
    """p50, p99 and p99.9 in milliseconds."""
    ordered = sorted(values_s)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999)}


def lines(path: Path) -> Iterator[str]:
    """Lines of a log."""
    return iter(path.read_text(errors="replace").splitlines())
