"""Migrations: by several programs at once, quickly when there is nothing to do."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

from anomalyze.cli import app
from anomalyze.errors import ContractError, TransientError
from anomalyze.storage import migrate as migrate_module
from anomalyze.storage.migrate import HEAD, MIGRATIONS, load_revision, migrate
from anomalyze.storage.partition import load_partitions
from anomalyze.storage.pool import connect


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_several_programs_migrate_at_once(empty_database: str) -> None:
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(migrate, [empty_database] * 5)) == [HEAD] * 5
    with connect(empty_database) as connection:
        assert load_revision(connection) == HEAD
        assert len(load_partitions(connection, "transactions")) == 3


def test_a_current_schema_is_seen_without_alembic(database: str) -> None:
    program = (
        "import sys; from anomalyze.storage.migrate import migrate; migrate(sys.argv[1]); "
        "sys.exit('alembic' in sys.modules or 'sqlalchemy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, database], check=True)


def test_a_schema_of_a_later_release_is_accepted(database: str) -> None:
    with connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    assert migrate(database) == "0999"


def test_a_command_on_an_older_schema_says_what_to_do(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYZE_POSTGRES_DSN", database)
    monkeypatch.setenv("ANOMALYZE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("ANOMALYZE_DATA_DIR", str(tmp_path))
    with connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    for command in (["digest"], ["run", "payments"], ["backfill", "payments"]):
        ended = CliRunner().invoke(app, ["metrics", *command])
        assert ended.exit_code == 1
        assert f"expected a database with the schema {HEAD} of this version, got 0001" in ended.stderr
        assert "anomalyze migrate" in ended.stderr


def test_a_foreign_database_is_refused(database: str) -> None:
    with connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'a1b2c3'")
    with pytest.raises(ContractError, match="another program"):
        migrate(database)


def test_a_table_locked_for_long_is_no_endless_wait(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(migrate_module, "ATTEMPTS_MAX", 2)
    monkeypatch.setattr(migrate_module, "RETRY_S", 0.01)
    with psycopg.connect(empty_database) as other:
        other.execute("CREATE TABLE accounts (x int)")  # uncommitted: our CREATE TABLE waits for its outcome
        with pytest.raises(TransientError, match="locked"):
            migrate(empty_database)
        other.rollback()
    assert migrate(empty_database) == HEAD
