"""A run that polls a table is killed, its process with `kill -9`: begun again, every row is judged once, none is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest

from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from tests.simulation.ledger import read_all
from tests.test_realtime.conftest import Api, wait_until
from tests.test_realtime.test_sources import Shop

ROOT = Path(__file__).parents[2]
ROWS = 600
BATCH_ROWS = 20
# What the job of the orchestrator does in the process of its run.
POLL = """
import sys
from pathlib import Path
from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.ingestion.drain import poll_source

name, dsn, config = sys.argv[1:]
bus = EmbeddedBus(dsn)
poll_source(name, dsn=dsn, config_dir=Path(config), bus=bus, future_tolerance_s=300)
"""


@pytest.fixture
def shop(api: Api, tmp_path: Path, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A table of `ROWS` rows of a few users."""
    made = Shop(api, tmp_path, "postgresql", empty_database, monkeypatch)
    made.write(batch_rows=f"batch_rows: {BATCH_ROWS} #")
    made.execute(
        "INSERT INTO payments SELECT %s || '-' || n, %s || n %% 7, timestamptz '2025-11-03 09:00:00+00' + n * interval '1 s', "
        "5.25, 'settled', timestamptz '2025-11-03 10:00:00+00' + n / 30 * interval '1 s' FROM generate_series(1, %s) n",
        made.user, made.user, ROWS,
    )  # fmt: skip
    yield made
    made.close()


@contextmanager
def running_poll(shop: Shop) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own."""
    arguments = [shop.name, shop.api.platform.dsn, str(shop.config)]
    process = subprocess.Popen([sys.executable, "-c", POLL, *arguments], cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)


def rows_noted(shop: Shop) -> int:
    with psycopg.connect(shop.api.platform.dsn) as connection:
        row = connection.execute("SELECT rows_read FROM sources WHERE name = %s", [shop.name]).fetchone()
    return 0 if row is None else int(row[0])


def kill_between_log_and_note(shop: Shop, process: subprocess.Popen[bytes]) -> None:
    """The log has acknowledged a batch; the note of it waits for a row that we hold."""
    with psycopg.connect(shop.api.platform.dsn) as ours:
        ours.execute("SELECT 1 FROM sources WHERE name = %s FOR UPDATE", [shop.name])
        with psycopg.connect(shop.api.platform.dsn, autocommit=True) as looking:
            wait_until(
                lambda: looking.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
                    "AND query LIKE 'UPDATE sources SET position%'"
                ).fetchone(),
                "the note of a batch waits",
            )
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
        ours.rollback()


def identities(shop: Shop, topic: str) -> Counter[str]:
    """How often each row of the table stands in a topic."""
    bus = EmbeddedBus(shop.api.platform.dsn)
    found: Counter[str] = Counter()
    try:
        for partition, (low, high) in bus.watermarks(topic).items():
            for value in read_all(bus, partition, low, high, topic).values:
                if shop.user.encode() in value:
                    found[msgspec.json.decode(value)["data"]["tx_id"]] += 1
    finally:
        bus.close()
    return found


def test_a_run_killed_with_its_process_loses_and_doubles_nothing(shop: Shop) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    pick = random.Random(seed)
    assert shop.look() == [shop.name]
    for at, between in ((100, True), (300, False)):
        with running_poll(shop) as process:
            wait_until(lambda least=at: rows_noted(shop) >= least, f"{at} rows are noted")
            if between:
                kill_between_log_and_note(shop, process)
            else:
                time.sleep(pick.uniform(0, 0.05))
                os.kill(process.pid, signal.SIGKILL)
                process.wait(20)
        assert process.returncode == -signal.SIGKILL
        assert at <= rows_noted(shop) < ROWS, "in the middle"
    # Its session ends with its process; until PostgreSQL has seen that, somebody is at it.
    done = wait_until(shop.poll, "the source is free again")
    assert done.read == done.published
    assert rows_noted(shop) == ROWS
    published = identities(shop, TRANSACTIONS)
    assert len(published) == ROWS
    assert published.total() >= ROWS + BATCH_ROWS, "a killed run's batch was published again"
    wait_until(lambda: identities(shop, SCORED).total() >= ROWS, "they are judged")
    expected = {f"{shop.user}-{n}": 1 for n in range(1, ROWS + 1)}

    def stored() -> dict[str, int]:
        with psycopg.connect(shop.api.platform.dsn) as connection:
            rows = connection.execute(
                "SELECT tx_id, count(*) FROM transactions WHERE user_id LIKE %s GROUP BY 1", [f"{shop.user}%"]
            ).fetchall()
        return dict(rows)

    wait_until(lambda: len(stored()) == ROWS, "they are stored")
    assert stored() == expected
    assert identities(shop, SCORED) == expected
