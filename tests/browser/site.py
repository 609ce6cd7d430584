"""A dashboard that runs: its own database with two accounts, served by uvicorn on a free port of this process."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn

from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.detection.training import build_bundle
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.learning.promotion import CHAMPION, open_bundles
from anomalyze.settings import Settings
from anomalyze.storage.migrate import migrate
from dashboard.app import create_app
from tests.browser.metric_seed import seed_metrics
from tests.browser.seed import INCIDENTS, Seeded, Seeder, seed_account

START_TIMEOUT_S = 20
CONFIG = Path(__file__).parents[2] / "metrics_config"


@dataclass(slots=True)
class Site:
    """Where it is and what lies in it. `mine` is the account that tests sign in to."""

    url: str
    dsn: str
    mine: Seeded
    other: Seeded
    data_dir: Path
    config_dir: Path = CONFIG

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def add_case(self, kind: int = 0, user_id: str = "user_99") -> str:
        """A new case of the account, now; returns its id."""
        with self.connect() as connection:
            seeder = Seeder(connection, self.mine.account_id, datetime.now(UTC), seed=time.time_ns())
            seeder.offset = 1_000_000 + time.time_ns() // 1000 % 1_000_000_000
            seeder.take_user(user_id)
            case_id = seeder.add_incident(user_id, INCIDENTS[kind], seeder.now)
            seeder.write()
        return case_id

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client, signed in with a key."""
        client = httpx.Client(base_url=self.url, timeout=20, **options)
        if key is not None:
            token = client.get("/sign-in").text.split('name="csrf" value="')[1].split('"')[0]
            answer = client.post("/sign-in", data={"csrf": token, "key": key, "tz": "Europe/Berlin"})
            assert answer.status_code in (200, 303), answer.text
        return client


@contextlib.contextmanager
def served(dsn: str, data_dir: Path, config_dir: Path = CONFIG) -> Iterator[str]:
    """The dashboard's address while it runs on a database."""
    port = free_port()
    app = create_app(Settings(data_dir=data_dir, config_dir=config_dir, _env_file=None), dsn)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        assert thread.is_alive(), "the dashboard did not start"
        assert time.monotonic() < deadline, "the dashboard did not start in time"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def new_database(server: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database of its own."""
    name = f"site_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = server.dsn.rsplit("/", 1)[0] + f"/{name}"
    try:
        migrate(dsn)
        yield dsn
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def give_bundle(dsn: str, data_dir: Path) -> None:
    """A log, and a champion of the shipped rules without a model, which nobody needs here."""
    store = open_bundles(Settings(data_dir=data_dir, _env_file=None))
    bundle = build_bundle(CONFIG)
    store.publish(bundle)
    store.set_pointer(CHAMPION, bundle.id)
    bus = EmbeddedBus(dsn)
    bus.ensure_topics(2)
    bus.close()


@contextlib.contextmanager
def seeded_site(server: EmbeddedPostgres, data_dir: Path) -> Iterator[Site]:
    """A site with a month of data in two accounts."""
    with new_database(server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            mine = seed_account(connection)
            other = seed_account(connection, "acct_8", "Somebody Else", users=30, waiting=4, decided=2)
        give_bundle(dsn, data_dir)
        config_dir = data_dir / "config"
        shutil.copytree(CONFIG, config_dir)
        with psycopg.connect(dsn, autocommit=True) as connection:
            seed_metrics(connection, config_dir, mine.account_id, other.account_id)
        with served(dsn, data_dir, config_dir) as url:
            yield Site(url, dsn, mine, other, data_dir, config_dir)
