"""Polled tables: each row once, whatever ends a run; nothing that commits late is passed by; failures are seen."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.cli.configuration import check_configuration
from anomalyze.errors import ConfigError, TransientError
from anomalyze.ingestion import drain
from anomalyze.ingestion.drain import Drained, poll_source
from anomalyze.ingestion.watch import find_ready
from anomalyze.storage.pool import connect
from anomalyze_dagster.ingestion.sensors import sources
from anomalyze_dagster.resources import PostgresResource
from tests.test_realtime.conftest import CONFIGURATION, Api, wait_until

SOURCE = """\
account: acct_a
url: {variable}
table: payments
cursor: changed
tie_break: id
lag_s: {lag}
batch_rows: 3
mapping:
  fields: {{tx_id: id, user_id: who, timestamp: at, amount: amount, status: state}}
  constants: {{currency: EUR}}
"""
TABLE = "CREATE TABLE payments (id text PRIMARY KEY, who text, at {time}, amount {money}, state text, changed {time})"


class Shop:
    """Somebody else's table, and its source's file."""

    def __init__(self, api: Api, folder: Path, kind: str, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = f"{kind}-{uuid.uuid4().hex[:8]}"
        self.variable = f"ANOMALYZE_SOURCE_{self.name.replace('-', '_').upper()}"
        self.dsn, self.kind, self.user = dsn, kind, f"u{uuid.uuid4().hex[:8]}"
        self.api, self.config, self._bus = api, folder / "config", EmbeddedBus(api.platform.dsn)
        self.path = folder / "shop.db"
        api.client("read")
        self.address = dsn if kind == "postgresql" else f"sqlite:///{self.path}"
        monkeypatch.setenv(self.variable, self.address)
        (self.config / "sources").mkdir(parents=True)
        self.write()
        time, money = ("timestamptz", "numeric(12, 2)") if kind == "postgresql" else ("text", "real")
        self.execute(TABLE.format(time=time, money=money))

    def write(self, lag: int = 0, **changes: str) -> None:
        text = SOURCE.format(variable=self.variable, lag=lag)
        for old, new in changes.items():
            text = text.replace(f"{old}:", new)
        (self.config / "sources" / f"{self.name}.yaml").write_text(text)

    def execute(self, statement: str, *values: Any) -> None:
        if self.kind == "postgresql":
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(statement, values)
        else:
            with sqlite3.connect(self.path) as lite:
                lite.execute(statement.replace("%s", "?"), values)

    def add(self, *numbers: int, amount: float = 5.25, changed: str = "2025-11-03 10:00:00") -> None:
        for i in numbers:
            self.execute(
                "INSERT INTO payments VALUES (%s, %s, %s, %s, 'pending', %s)",
                f"{self.user}-{i:03d}", self.user, "2025-11-03 09:00:00+00:00", amount, changed + "+00:00",
            )  # fmt: skip

    def look(self) -> list[str]:
        with connect(self.api.platform.dsn) as connection:
            return [state.name for state in find_ready(connection, self.config)]

    def poll(self, **options: Any) -> Drained | None:
        return poll_source(
            self.name,
            dsn=self.api.platform.dsn,
            config_dir=self.config,
            bus=self._bus,
            future_tolerance_s=300,
            **options,
        )

    def stored(self) -> dict[str, tuple[int, str, int]]:
        """(status, source, how often) by number."""
        with psycopg.connect(self.api.platform.dsn) as connection:
            rows = connection.execute(
                "SELECT tx_id, min(status), min(source), count(*) FROM transactions WHERE user_id = %s GROUP BY 1",
                [self.user],
            ).fetchall()
        return {tx_id.removeprefix(f"{self.user}-"): tuple(rest) for tx_id, *rest in rows}

    def shown(self) -> dict[str, Any]:
        listed = self.api.client("read").get("/v1/sources").json()["sources"]
        return next(one for one in listed if one["name"] == self.name)

    def close(self) -> None:
        self._bus.close()


@pytest.fixture(params=["postgresql", "sqlite"])
def shop(
    request: pytest.FixtureRequest,
    api: Api,
    tmp_path: Path,
    empty_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    """A table in either."""
    made = Shop(api, tmp_path, request.param, empty_database, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def pg_shop(api: Api, tmp_path: Path, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A table in PostgreSQL."""
    made = Shop(api, tmp_path, "postgresql", empty_database, monkeypatch)
    yield made
    made.close()


def test_rows_are_read_once_and_changes_again(shop: Shop) -> None:
    assert shop.look() == []
    shop.add(*range(10))
    shop.execute(
        "INSERT INTO payments VALUES ('bad', %s, NULL, 1, 'pending', '2025-11-03 10:00:00+00:00')", shop.user
    )
    assert shop.look() == [shop.name]
    assert shop.poll() == Drained(11, 10, 1)
    assert shop.look() == []
    wait_until(lambda: len(shop.stored()) == 10, "they are stored")
    assert set(shop.stored().values()) == {(1, "POLL", 1)}
    shop.execute(
        "UPDATE payments SET state = 'settled', changed = '2025-11-03 11:00:00+00:00' WHERE id = %s",
        f"{shop.user}-004",
    )
    assert shop.look() == [shop.name]
    assert shop.poll() == Drained(1, 1, 0)
    wait_until(lambda: shop.stored()["004"] == (0, "POLL", 1), "the status follows")
    shown = shop.shown()
    assert shown["rows"] == {"read": 12, "published": 11, "refused": 1}
    assert shown["error"] is None
    lines = shop.api.client("read").get(f"/v1/sources/{shop.name}/errors").text.splitlines()
    assert len(lines) == 2
    assert "timestamp: expected a value, got nothing" in lines[1]
    assert shop.user in lines[1]
    other = shop.api.client("admin", account="acct_other")
    assert other.get("/v1/sources").json() == {"sources": []}
    assert other.get(f"/v1/sources/{shop.name}/errors").status_code == 404


@pytest.mark.parametrize("batches", [0, 2])
def test_a_killed_run_repeats_one_batch_and_nothing_counts_twice(
    pg_shop: Shop, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    pg_shop.add(*range(10))
    noted = 0
    move_on = drain.store.move_on

    # Between the acknowledgement of the log and the note of it.
    def die(*arguments: Any, **counts: Any) -> None:
        nonlocal noted
        if noted == batches:
            raise KeyboardInterrupt
        noted += 1
        move_on(*arguments, **counts)

    assert pg_shop.look() == [pg_shop.name]
    with monkeypatch.context() as broken:
        broken.setattr(drain.store, "move_on", die)
        with pytest.raises(KeyboardInterrupt):
            pg_shop.poll()
    assert pg_shop.shown()["rows"]["read"] == 3 * batches
    assert pg_shop.poll() == Drained(10 - 3 * batches, 10 - 3 * batches, 0)
    wait_until(lambda: len(pg_shop.stored()) == 10, "they are stored")
    assert {count for _, _, count in pg_shop.stored().values()} == {1}


def test_a_log_that_fails_leaves_the_position_where_it_was(
    pg_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg_shop.add(*range(10))
    assert pg_shop.look() == [pg_shop.name]
    publish, calls = drain.publish_rows, 0

    def fail(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TransientError("the log is away")
        publish(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(drain, "publish_rows", fail)
        with pytest.raises(TransientError):
            pg_shop.poll()
    assert pg_shop.shown()["rows"]["read"] == 3
    assert pg_shop.poll() == Drained(7, 7, 0)
    wait_until(lambda: len(pg_shop.stored()) == 10, "they are stored")


def test_what_commits_late_is_not_passed_by(pg_shop: Shop) -> None:
    pg_shop.write(lag=3600)

    def later() -> None:
        with connect(pg_shop.api.platform.dsn) as connection:
            connection.execute(
                "UPDATE sources SET bound_at = bound_at - interval '2 hours' WHERE name = %s", [pg_shop.name]
            )

    with psycopg.connect(pg_shop.dsn) as slow:
        slow.execute(
            "INSERT INTO payments VALUES (%s, %s, now(), 1, 'pending', '2025-11-03 10:00:01+00:00')",
            [f"{pg_shop.user}-900", pg_shop.user],
        )
        pg_shop.add(1, changed="2025-11-03 10:00:02")
        assert pg_shop.look() == []
        assert pg_shop.look() == []  # the lag has not passed
    later()
    assert pg_shop.look() == [pg_shop.name]
    assert pg_shop.poll() == Drained(2, 2, 0)
    wait_until(lambda: set(pg_shop.stored()) == {"001", "900"}, "both are stored")


def test_a_table_that_fails_is_told_and_asked_again_later(
    pg_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, platform = pg_shop.api.client("read"), pg_shop.api.platform
    pg_shop.execute("ALTER TABLE payments RENAME TO elsewhere")
    assert pg_shop.look() == []
    with connect(platform.dsn) as connection:
        found = connection.execute(
            "SELECT summary FROM alarms WHERE account_id = 'acct_a' AND kind = 'source' AND summary LIKE %s",
            [f"%{pg_shop.name}%"],
        ).fetchall()
    assert len(found) == 1
    assert 'relation "payments" does not exist' in found[0][0]
    assert "payments" in str(pg_shop.shown()["error"])
    with pytest.raises(ConfigError):
        pg_shop.poll()
    pg_shop.execute("ALTER TABLE elsewhere RENAME TO payments")
    pg_shop.add(1)
    assert pg_shop.look() == []  # not yet: it failed twice just now
    assert pg_shop.poll() == Drained(1, 1, 0)
    assert pg_shop.shown()["error"] is None
    for address, error in (
        ("postgresql://me:secret-word@127.0.0.1:9/none", TransientError),
        ("nothing://me:secret-word@host/x", ConfigError),
        ("secret-word", ConfigError),
    ):
        monkeypatch.setenv(pg_shop.variable, address)
        with pytest.raises(error) as raised:
            pg_shop.poll()
        assert "secret-word" not in str(raised.value)
        assert "secret-word" not in client.get("/v1/sources").text
    monkeypatch.delenv(pg_shop.variable)
    with pytest.raises(ConfigError, match=pg_shop.variable):
        pg_shop.poll()


def test_one_reads_a_source_at_a_time(pg_shop: Shop) -> None:
    pg_shop.add(*range(4))
    assert pg_shop.look() == [pg_shop.name]
    seen: list[Any] = []
    pg_shop.poll(report=lambda _: seen.append((pg_shop.look(), pg_shop.poll())))
    assert seen == [([], None)] * 2


def test_the_sensor_asks_for_a_run_where_there_are_rows(
    pg_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYZE_DATA_DIR", str(pg_shop.api.platform.folder))
    monkeypatch.setenv("ANOMALYZE_POSTGRES_DSN", pg_shop.api.platform.dsn)
    monkeypatch.setenv("ANOMALYZE_REDIS_URL", pg_shop.api.platform.redis_url)
    monkeypatch.setenv("ANOMALYZE_CONFIG_DIR", str(pg_shop.config))

    def tick() -> Any:
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(instance=instance, resources={"postgres": PostgresResource()}) as context,
        ):
            return sources(context)

    assert "no source has new rows" in str(tick())
    pg_shop.add(1)
    (request,) = tick().run_requests
    assert request.run_config == {"ops": {"publish_polled_rows": {"config": {"source": pg_shop.name}}}}
    # A file that is wrong: an alarm, and nothing is polled.
    pg_shop.write(cursor="cursr:")
    assert "no source has new rows" in str(tick())
    shutil.rmtree(pg_shop.config / "sources")
    assert "no source is configured" in str(tick())


def test_mistakes_are_named_with_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    shutil.copytree(CONFIGURATION, folder)
    (folder / "sources").mkdir(exist_ok=True)
    path, fine = folder / "sources" / "shop.yaml", SOURCE.format(variable="ANOMALYZE_SOURCE_SHOP", lag=1)
    path.write_text(fine)
    assert check_configuration(folder).problems == []
    for old, new, line in (
        ("cursor: changed", "cursor: changed; DROP TABLE x", 4),
        ("ANOMALYZE_SOURCE_SHOP", "postgresql://me:word@host/db", 2),
        ("tx_id: id, ", "", 1),
        ("amount: amount", "amuont: amount", 9),
        ("batch_rows: 3", "batch_rows: 0", 7),
        ("table:", "tabel:", 3),
    ):
        path.write_text(fine.replace(old, new))
        problems = check_configuration(folder).problems
        assert problems, old
        assert line in {problem.line for problem in problems}, (old, problems)
        assert {Path(problem.file).name for problem in problems} == {"shop.yaml"}
    path.rename(path.with_name("Shop!.yaml"))
    assert check_configuration(folder).problems
