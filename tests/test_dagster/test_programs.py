"""Dagster's own programs over PostgreSQL: who gets in, a job from GraphQL, sensors that tick, alarms that arrive."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from anomalyze.access.admin import ensure_admin_key
from anomalyze.access.keys import create_key
from anomalyze.bus import open_bus
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import GuardedProcess, free_port
from anomalyze.settings import Settings
from anomalyze.storage.alarms import load_alarms
from anomalyze.storage.migrate import migrate
from anomalyze.storage.pool import connect
from tests.test_dagster.history import CONFIG

DATABASE = "dagster_programs"
WAIT_S = 120.0  # runs are processes that import much, and may share a machine with other tests
LAUNCH = """
mutation ($job: String!, $config: RunConfigData) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "anomalyze", repositoryName: "__repository__", jobName: $job},
    runConfigData: $config
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status startTime creationTime } } }"
RUNS = "{ runsOrError(limit: 20) { ... on Runs { results { runId status parentRunId } } } }"
ASSETS = "{ assetNodes { assetKey { path } } }"
INSTIGATORS = """
{ repositoriesOrError { ... on RepositoryConnection { nodes {
  schedules { name scheduleState { status } }
  sensors { name sensorState { status ticks(limit: 5) { status } } }
} } } }"""


class Programs:
    """Code server, webserver and daemon: in one process, as `anomalyze up` starts them, or apart."""

    def __init__(self, folder: Path, dsn: str, roles: Sequence[str] = ("all",)) -> None:
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.dsn = dsn
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ANOMALYZE_", "DAGSTER_"))},
            "ANOMALYZE_DATA_DIR": str(folder / "data"),
            "ANOMALYZE_CONFIG_DIR": str(shutil.copytree(CONFIG, folder / "config")),
            "ANOMALYZE_POSTGRES_DSN": dsn,
            "ANOMALYZE_REDIS_URL": "redis://127.0.0.1:1/0",
            "ANOMALYZE_DAGSTER_PORT": str(self.port),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self.folder = folder
        chosen = {
            k.removeprefix("ANOMALYZE_").lower(): v
            for k, v in self.environment.items()
            if k.startswith("ANOMALYZE_")
        }
        self.settings = Settings(_env_file=None, **chosen)  # type: ignore[call-arg, arg-type]
        with connect(dsn) as connection:
            self.key = ensure_admin_key(connection, self.settings).secret
            _, self.reader = create_key(connection, "default", "reader", ["read"], "test")
            _, self.stranger = create_key(connection, "other", "other", ["admin"], "test")
        bus = open_bus(self.settings, postgres_dsn=dsn)
        bus.ensure_topics(2)
        bus.close()
        self.processes = [self._start(role) for role in roles]

    def _start(self, role: str) -> GuardedProcess:
        argv = [sys.executable, "-m", "anomalyze_dagster", role]
        return GuardedProcess(role, argv, self.folder / f"{role}.log", env=self.environment)

    def stop(self) -> None:
        for process in self.processes:
            process.release()
        for process in self.processes:
            process.stop()

    def wait_loaded(self) -> None:
        self.wait(lambda: self.ask(INSTIGATORS)["repositoriesOrError"].get("nodes"), "the definitions load")

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.log_tail(40)}" for p in self.processes)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=WAIT_S,
        )
        answer.raise_for_status()
        body = answer.json()
        assert "errors" not in body, body
        return dict(body["data"])

    def wait(self, found: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                value = found()
                if value:
                    return value
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, f"{what}\n{self.logs()}"
            time.sleep(0.2)

    def launch(self, job: str) -> str:
        """Launch a job; the run's id."""
        launched = self.ask(LAUNCH, job=job, config="{}")["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def wait_ended(self, run_id: str) -> tuple[str, float]:
        """Wait for a run; its end, and seconds until its first step could begin."""

        def ended() -> dict[str, Any] | None:
            run: dict[str, Any] = self.ask(STATUS, id=run_id)["runOrError"]
            return run if run["status"] in ("SUCCESS", "FAILURE") else None

        run = self.wait(ended, f"run {run_id} ends")
        return run["status"], run["startTime"] - run["creationTime"]


@pytest.fixture(scope="module")
def programs(
    postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    dsn = postgres_server.dsn.rsplit("/", 1)[0] + f"/{DATABASE}"
    migrate(dsn)
    made = Programs(tmp_path_factory.mktemp("dagster"), dsn)
    try:
        made.wait_loaded()
        yield made
    finally:
        made.stop()
        with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
            for name in (DATABASE, f"{DATABASE}_dagster"):
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def begun(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A new file over a database, and the id of a run that fails: both take their time while other tests run."""
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    with closing(sqlite3.connect(path)) as shop:
        shop.execute("CREATE TABLE orders (hour TEXT)")
        hours = "WITH RECURSIVE h (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM h WHERE n < 200)"
        shop.execute(
            f"{hours} INSERT INTO orders SELECT strftime('%Y-%m-%d %H:00:00', 'now', '-' || n || ' hours') FROM h"
        )
        shop.commit()
    failing_run = programs.launch("promote")
    file = programs.settings.config_dir / "metrics" / "own_shop.yaml"
    file.write_text(
        f"source: {{kind: sqlite, path: {path}}}\n"
        "sql: SELECT hour AS timestamp, count(*) AS orders FROM orders WHERE hour >= :start AND hour < :end GROUP BY 1\n"
    )
    return failing_run


def test_only_the_operator_gets_in(programs: Programs) -> None:
    def status(path: str = "/server_info", **headers: str) -> int:
        return httpx.get(programs.url + path, headers=headers, timeout=10).status_code

    assert status(Authorization=f"Bearer {programs.key}") == 200
    assert httpx.get(programs.url, auth=("anybody", programs.key), timeout=10).status_code == 200
    nobody = httpx.get(programs.url, timeout=10)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"].startswith("Basic")
    for key in (programs.reader, programs.stranger, "wrong"):
        assert status(Authorization=f"Bearer {key}") == 401
    operator = {"Authorization": f"Bearer {programs.key}"}
    assert status(Host="evil.example:3000", **operator) == 403
    assert status(Origin="http://evil.example", **operator) == 403
    cross_site = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", **operator}
    assert status("/graphql?query={version}", **cross_site) == 403
    assert status("/runs", **{**cross_site, "Sec-Fetch-Mode": "navigate"}) == 200


def test_a_job_runs_from_graphql_and_soon(programs: Programs) -> None:
    status, waited_s = programs.wait_ended(programs.launch("forget_old_runs"))
    assert status == "SUCCESS", programs.logs()
    assert waited_s < 15


@pytest.mark.usefixtures("begun")
def test_schedules_and_sensors_are_on_and_tick(programs: Programs) -> None:
    def ticked() -> bool:
        (repository,) = programs.ask(INSTIGATORS)["repositoriesOrError"]["nodes"]
        assert {s["scheduleState"]["status"] for s in repository["schedules"]} == {"RUNNING"}
        states = {s["name"]: s["sensorState"] for s in repository["sensors"]}
        assert (
            states["alarm_of_failed_runs"]["status"] == states["promote_automatically"]["status"] == "RUNNING"
        )
        return all(states[name]["ticks"] for name in ("alarm_of_failed_runs", "promote_automatically"))

    programs.wait(ticked, "sensors tick")


def test_the_graph_follows_the_files_of_batches_without_a_restart(programs: Programs) -> None:
    file = programs.settings.config_dir / "metrics" / "shop.yaml"
    started = [process.pid for process in programs.processes]

    def shown() -> bool:
        nodes = programs.ask(ASSETS)["assetNodes"]
        return {"path": ["metrics", "shop"]} in [node["assetKey"] for node in nodes]

    assert not shown()
    file.write_text("source: {kind: push}\n")
    programs.wait(shown, "the batch is in the graph")
    file.unlink()
    programs.wait(lambda: not shown(), "the batch is gone from the graph")
    status, _ = programs.wait_ended(programs.launch("forget_metrics"))
    assert status == "SUCCESS", programs.logs()
    assert [process.pid for process in programs.processes] == started


@pytest.mark.usefixtures("begun")
def test_a_new_file_over_a_database_is_read_and_scored(programs: Programs) -> None:
    """By a run's own process, which has imported nothing before it connects."""

    def scored() -> list[tuple[str, int]]:
        with connect(programs.dsn) as connection:
            return connection.execute(
                "SELECT metric, count(*) FROM metric_scores WHERE batch = 'own_shop' GROUP BY metric"
            ).fetchall()

    assert programs.wait(scored, "the batch is scored") == [("orders", 200)]


def test_a_failed_run_raises_an_alarm_in_its_own_words(programs: Programs, begun: str) -> None:
    assert programs.wait_ended(begun)[0] == "FAILURE"

    def raised() -> list[str]:
        with connect(programs.dsn) as connection:
            return [a.summary for a in load_alarms(connection) if a.run_id == begun]

    (summary,) = programs.wait(raised, "the alarm is raised")
    assert "promote" in summary
    assert "there is no challenger yet" in summary


def test_no_secret_is_in_a_log_or_on_a_command_line(programs: Programs) -> None:
    import psutil

    password = programs.dsn.split(":")[2].split("@")[0]
    for process in programs.processes:
        text = process.log_path.read_text(errors="replace")
        assert password not in text
        assert programs.key not in text
        assert process.pid is not None
        assert password not in " ".join(psutil.Process(process.pid).cmdline())


def test_a_run_killed_with_dagster_is_run_again_by_programs_that_run_apart(
    programs: Programs, tmp_path: Path
) -> None:
    killed = programs.ask(LAUNCH, job="forget_old_runs", config="{}")["launchRun"]["run"]["runId"]
    programs.processes[0].kill()
    programs.stop()
    apart = Programs(tmp_path, programs.dsn, ("code", "webserver", "daemon"))
    try:
        apart.wait_loaded()

        def again() -> list[str]:
            runs = apart.ask(RUNS)["runsOrError"]["results"]
            assert {r["runId"]: r["status"] for r in runs}[killed] == "FAILURE"
            return [r["runId"] for r in runs if r["parentRunId"] == killed and r["status"] == "SUCCESS"]

        assert len(apart.wait(again, "the run is run again")) == 1
        with connect(programs.dsn) as connection:
            rows = connection.execute(
                "SELECT program FROM program_states WHERE seen_at > now() - interval '10 s'"
            )
            assert {"dagster", "dagster-code", "dagster-daemon"} <= {row[0] for row in rows}
    finally:
        apart.stop()
