"""The API over real servers: PostgreSQL, Valkey, the embedded bus, a detector and a sink as programs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from anomalyze.access.keys import create_key
from anomalyze.bus.control import announce
from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.training import build_bundle
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.embedded.runtime import Addresses
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from realtime.api.app import create_app

CONFIGURATION = Path(__file__).parents[2] / "metrics_config"
PARTITIONS = 4


@dataclass
class Platform:
    """One product in a database of its own, judging by the starter rules (no model: training takes long)."""

    dsn: str
    redis_url: str
    folder: Path
    bundles: BundleStore

    def settings(self, **changes: Any) -> Settings:
        return Settings(_env_file=None, data_dir=self.folder, config_dir=CONFIGURATION, **changes)

    def key(self, *scopes: str, account: str = "acct_a") -> str:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return create_key(connection, account, "test", scopes or ("admin",), "tests")[1]


@dataclass
class Api:
    """A running API, and clients for it."""

    url: str
    platform: Platform
    app: Any

    def client(self, *scopes: str, account: str = "acct_a") -> httpx.Client:
        key = self.platform.key(*scopes, account=account)
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def stranger(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


def wait_until(
    condition: Callable[[], Any], what: str, timeout_s: float = 60.0, every_s: float = 0.02
) -> Any:
    """What ``condition`` returns once that is true; ``every_s`` is longer where the question itself is work."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)
    return found


@contextmanager
def running_api(
    platform: Platform,
    *,
    dsn: str | None = None,
    bus_dsn: str | None = None,
    url: str | None = None,
    **settings: Any,
) -> Iterator[Api]:
    """The API on a thread; other addresses than the platform's lead through something that can fail."""
    bus = EmbeddedBus(bus_dsn or platform.dsn)
    addresses = Addresses(dsn or platform.dsn, url or platform.redis_url)
    app = create_app(platform.settings(**settings), addresses, bus, CollectorRegistry())
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, name="api", daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the API starts")
        yield Api(f"http://127.0.0.1:{port}", platform, app)
    finally:
        app.state.shared.scored.close()
        app.state.shared.anomalies.close()
        server.should_exit = True
        thread.join(15)
        bus.close()


@contextmanager
def running_program(platform: Platform, module: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m module`` over the platform, with its log in the platform's folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANOMALYZE_")}
    environment |= Addresses(platform.dsn, platform.redis_url).environment()
    environment |= {
        "ANOMALYZE_DATA_DIR": str(platform.folder),
        "ANOMALYZE_CONFIG_DIR": str(CONFIGURATION),
        "ANOMALYZE_PARTITIONS": str(PARTITIONS),
    }
    with (platform.folder / f"{module}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=environment, cwd=CONFIGURATION.parent, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def platform(
    postgres_server: EmbeddedPostgres,
    schema_template: str,
    valkey_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    """Database, topics and a bundle; nothing runs yet."""
    name = f"api{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {schema_template}")
    dsn = postgres_server.dsn.rsplit("/", 1)[0] + f"/{name}"
    folder = tmp_path_factory.mktemp("platform")
    bundles = BundleStore(open_objects((folder / "objects").as_uri()))
    made = Platform(dsn, valkey_url, folder, bundles)
    bundle = build_bundle(CONFIGURATION)
    bundles.publish(bundle)
    bundles.set_pointer("champion", bundle.id)
    bus = EmbeddedBus(dsn)
    bus.ensure_topics(PARTITIONS)
    announce(bus, "bundle", {"bundle": bundle.id})
    bus.close()
    yield made
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def judged(platform: Platform) -> Iterator[Platform]:
    """The platform with a detector and a sink at work."""
    with running_program(platform, "realtime.detector"), running_program(platform, "realtime.sink"):
        yield platform


@pytest.fixture(scope="session")
def api(judged: Platform) -> Iterator[Api]:
    """The API over all of it."""
    with running_api(judged) as running:
        yield running


@pytest.fixture
def transaction() -> Callable[..., dict[str, Any]]:
    """Makes transactions of a user that nobody else uses."""
    return partial(make_transaction, f"user_{uuid.uuid4().hex[:12]}")


def make_transaction(user_id: str, **changes: Any) -> dict[str, Any]:
    """One ordinary transaction."""
    return {
        "user_id": user_id,
        "tx_id": f"tx_{uuid.uuid4().hex}",
        "amount": 12.5,
        "currency": "USD",
        "location": "NY",
        **changes,
    }
