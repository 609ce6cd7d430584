"""A platform for Dagster's assets: settings, addresses, a stored history, a starter bundle; and one for batches of metrics."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import psycopg
import pytest

from anomalyze.bus import open_bus
from anomalyze.detection.bundle import Bundle
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.learning.promotion import CHAMPION, open_bundles
from anomalyze.settings import Settings
from anomalyze.storage.migrate import migrate
from tests.test_dagster.history import CONFIG, store_history
from tests.test_dagster.shop import HOUR, POINTS, SHOP, SPIKE

HISTORY_USERS, HISTORY_DAYS = 280, 21


@pytest.fixture(scope="session")
def starter(starter_bundle: Bundle) -> Bundle:
    """The first champion."""
    return starter_bundle


@pytest.fixture(scope="session")
def history_template(postgres_server: EmbeddedPostgres, starter: Bundle) -> str:
    """Name of a database with a month of 200 people in it, to copy from."""
    name = "dagster_history"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = postgres_server.dsn.rsplit("/", 1)[0] + f"/{name}"
    migrate(dsn)
    now_ms = int(time.time() * 1000)
    assert store_history(dsn, starter, users=HISTORY_USERS, days=HISTORY_DAYS, end_ms=now_ms) > 10_000
    return name


@pytest.fixture
def history_dsn(
    postgres_server: EmbeddedPostgres, history_template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """DSN of a database of its own with that history."""
    name = f"h{abs(hash(request.node.name)) % 10**10}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {history_template}")
    yield postgres_server.dsn.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def set_platform(monkeypatch: pytest.MonkeyPatch, data: Path, config: Path, dsn: str) -> None:
    """Let settings be those of a platform of the test's own; nothing answers as its Redis."""
    for name, value in {
        "ANOMALYZE_DATA_DIR": str(data),
        "ANOMALYZE_CONFIG_DIR": str(config),
        "ANOMALYZE_POSTGRES_DSN": dsn,
        "ANOMALYZE_REDIS_URL": "redis://127.0.0.1:1/0",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def settings(history_dsn: str, starter: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a platform with that history, a log and a champion."""
    set_platform(monkeypatch, tmp_path / "data", CONFIG, history_dsn)
    made = Settings()
    bus = open_bus(made, postgres_dsn=history_dsn)
    try:
        bus.ensure_topics(2)
    finally:
        bus.close()
    store = open_bundles(made)
    store.publish(starter)
    store.set_pointer(CHAMPION, starter.id, expected=None)
    return made


@pytest.fixture
def folder(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with an hourly batch over a SQLite file; one value of yesterday is ten times the others."""
    set_platform(monkeypatch, tmp_path / "data", tmp_path, database)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/shop.yaml").write_text(SHOP)
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    orders = 100 + 2 * np.random.default_rng(7).standard_normal(POINTS)
    orders[SPIKE] = 1000
    rows = [
        ((end + HOUR * (n - POINTS)).strftime("%Y-%m-%d %H:%M:%S"), float(value))
        for n, value in enumerate(orders)
    ]
    with sqlite3.connect(tmp_path / "shop.db") as file:
        file.execute("CREATE TABLE hours (ts TEXT, orders REAL)")
        file.executemany("INSERT INTO hours VALUES (?, ?)", rows)
    return tmp_path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made
