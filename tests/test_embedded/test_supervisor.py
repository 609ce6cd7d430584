"""Programs that start late: not before they may, and watched like the others from then on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalyze.embedded.orchestration import dagster_dsn, prepare_dagster
from anomalyze.embedded.runtime import Addresses
from anomalyze.embedded.supervisor import Program, Supervisor
from anomalyze.errors import ConfigError
from anomalyze.settings import Settings
from anomalyze.storage.pool import connect

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def wait(supervisor: Supervisor, found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        supervisor.tick()
        time.sleep(0.05)


def test_late_programs_wait_until_they_may_and_are_then_watched(tmp_path: Path) -> None:
    supervisor = Supervisor(
        [Program("first", SLEEP), Program("late", SLEEP, is_late=True)], tmp_path, lambda text: None
    )
    first, late = supervisor.states
    try:
        wait(supervisor, lambda: first.running)
        supervisor.tick()
        assert late.process is None
        supervisor.release_late()
        wait(supervisor, lambda: late.running and late.process is not None and late.process.pid is not None)
        assert late.process is not None
        late.process.kill()
        wait(supervisor, lambda: late.restarts == 1 and late.running)
    finally:
        supervisor.stop()


def test_dagster_has_a_database_and_a_home_of_its_own(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg]
    addresses = Addresses(empty_database, "redis://127.0.0.1:1/0")
    try:
        for _ in range(2):  # made once, found again
            environment = prepare_dagster(settings, addresses)
        with connect(environment["ANOMALYZE_DAGSTER_DSN"]) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == (
                empty_database.rsplit("/", 1)[1] + "_dagster",
            )
    finally:
        with connect(empty_database) as connection:
            name = empty_database.rsplit("/", 1)[1] + "_dagster"
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    home = tmp_path / "dagster"
    assert home.stat().st_mode & 0o077 == 0
    assert (home / "dagster.yaml").read_text() == (Path(__file__).parents[2] / "dagster.yaml").read_text()


def test_a_database_that_may_not_be_made_is_named_with_the_way_out(
    empty_database: str, tmp_path: Path
) -> None:
    user = f"plain_{empty_database.rsplit('/', 1)[1]}"
    with connect(empty_database) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    try:
        plain = f"postgresql://{user}:x@{empty_database.split('@')[1]}"
        settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="ANOMALYZE_DAGSTER_DSN"):
            prepare_dagster(settings, Addresses(plain, "redis://127.0.0.1:1/0"))
        elsewhere = Settings(_env_file=None, data_dir=tmp_path, dagster_dsn="postgresql://u:p@elsewhere:1/d")  # type: ignore[call-arg, arg-type]
        assert dagster_dsn(elsewhere, Addresses(plain, "")) == "postgresql://u:p@elsewhere:1/d"
        prepare_dagster(elsewhere, Addresses(plain, ""))  # another server is its operator's to prepare
    finally:
        with connect(empty_database) as connection:
            connection.execute(f"DROP ROLE {user}")
