"""Real servers for the tests: started once a process on free loopback ports, ended with it come what may.

Beside them: how the tests are spread over processes, and failures that are shown when they happen.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.embedded.valkey import EmbeddedValkey
from anomalyze.storage.migrate import migrate
from tests.folders import passable_folder

if TYPE_CHECKING:
    from anomalyze.detection.bundle import Bundle
    from tests.kafka import KafkaBroker


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread the tests over processes by what they share."""
    from tests.parallel import ByPortion

    return ByPortion(config, log)


class FailuresAtOnce:
    """Shows a failure when it happens: a run that is ended from outside has told what failed until then."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line("")
            terminal.write_sep("_", f"{report.when} of {report.nodeid} failed", red=True)
            report.toterminal(terminal._tw)
            for name, text in report.sections:
                terminal.write_line(f"--- {name}\n{text}")


def pytest_configure(config: pytest.Config) -> None:
    """Only who collects the reports of all processes shows them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of our own kind."""
    with passable_folder() as folder:
        server = EmbeddedPostgres(folder / "pg", free_port())
        server.start()
        yield server
        server.stop()


@pytest.fixture
def empty_database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """DSN of a new, empty database, dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.dsn.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def schema_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a database with our schema and nothing in it, to copy from: faster than migrating each time."""
    name = "schema_template"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    migrate(postgres_server.dsn.rsplit("/", 1)[0] + f"/{name}")
    return name


@pytest.fixture
def database(postgres_server: EmbeddedPostgres, schema_template: str) -> Iterator[str]:
    """DSN of a new database with our schema, dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {schema_template}")
    yield postgres_server.dsn.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def starter_bundle() -> Bundle:
    """The bundle that ``up`` begins with, trained once."""
    from anomalyze.simulation.starter import build_starter_bundle

    return build_starter_bundle(Path(__file__).parents[1] / "metrics_config")


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey of our own kind."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"), free_port())
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A real Kafka broker; skipped where Java is missing, but never in CI."""
    from tests.kafka import KafkaBroker, missing_programs

    missing = missing_programs()
    if missing is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"), free_port())
    broker.start()
    yield broker
    broker.stop()
