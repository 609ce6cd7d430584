"""`anomalyze up`: everything on one machine, started in order, watched, stopped together.

1. One lock file guards the data folder.
2. PostgreSQL and Valkey start side by side, unless addresses name servers elsewhere.
3. The schema, the topics, the admin key and the first bundle are made where they are missing.
4. API, detector, sink and dashboard start under watch, and are started again when they end.
5. Dagster starts when these have said that they live, or after a while: it takes the processor for seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.access.admin import AdminKey, ensure_admin_key
from anomalyze.bus import open_bus
from anomalyze.embedded.compiled_code import remove_old_code
from anomalyze.embedded.orchestration import prepare_dagster
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.embedded.runtime import Addresses, publish_addresses
from anomalyze.embedded.supervisor import Program, Supervisor
from anomalyze.embedded.valkey import EmbeddedValkey
from anomalyze.errors import ConfigError, TransientError
from anomalyze.settings import Settings
from anomalyze.storage.migrate import migrate
from anomalyze.storage.pool import connect

__all__ = ["Platform", "run_platform"]

TICK_S = 0.2
# How long Dagster waits at most for the programs that judge.
LATE_AFTER_S = 30.0
BEATS_EVERY_S = 1.0
LATE_NICENESS = 5


@dataclass(slots=True)
class Platform:
    """Everything that runs, for whoever shows it."""

    settings: Settings
    addresses: Addresses
    supervisor: Supervisor
    servers: list[WatchedServer]
    admin_key: AdminKey
    bundle: str
    bundle_is_starter: bool


class WatchedServer:
    """An embedded server that is started again, on its port, when it ends.

    Parameters
    ----------
    name, address
        For people.
    server
        None for one that runs elsewhere.
    """

    def __init__(
        self,
        name: str,
        address: str,
        server: EmbeddedPostgres | EmbeddedValkey | None,
        notify: Callable[[str], None],
    ) -> None:
        self.name = name
        self.address = address
        self.restarts = 0
        self._server = server
        self._notify = notify
        self._restart: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def state(self) -> str:
        """``running``, ``restarting`` or ``elsewhere``."""
        if self._server is None:
            return "elsewhere"
        return "restarting" if self._restart is not None else "running"

    def tick(self) -> None:
        """Look whether it runs; start it again on a thread, because that may take a while."""
        if self._restart is not None and not self._restart.is_alive():
            self._restart = None
        if self._server is None or self._restart is not None or self._stopping.is_set():
            return
        process = self._server.process
        if process is None or process.poll() is not None:
            self._notify(f"{self.name} ended; starting it again")
            self.restarts += 1
            self._restart = threading.Thread(
                target=self._start_again, name=f"restart-{self.name}", daemon=True
            )
            self._restart.start()

    def stop(self) -> None:
        """Stop it for good."""
        self._stopping.set()
        if self._restart is not None:
            self._restart.join()
        if self._server is not None:
            self._server.stop()

    def _start_again(self) -> None:
        assert self._server is not None
        pause_s = 0.2
        while not self._stopping.is_set():
            try:
                self._server.start()
                return
            except (TransientError, ConfigError, OSError) as error:
                # After a crash PostgreSQL refuses to start until its last backend has noticed.
                self._notify(f"{self.name} does not start yet, next try in {pause_s:g} s: {str(error)[:300]}")
                self._stopping.wait(pause_s)
                pause_s = min(10.0, pause_s * 2)


@contextlib.contextmanager
def run_platform(
    settings: Settings, say: Callable[[str], None], notify: Callable[[str], None]
) -> Iterator[Platform]:
    """Start everything; on leaving, stop everything.

    Parameters
    ----------
    say
        Told what is being done, a few words a step.
    notify
        Told when a program ends or is started again.

    Raises
    ------
    ConfigError
        The data folder is in use, a port is taken, or a server cannot run here.
    """
    prepare_folder(settings.data_dir)
    with locked(settings.data_dir), contextlib.ExitStack() as stack:
        check_ports(settings)
        remove_old_code(Path(os.environ.get("NUMBA_CACHE_DIR", "")), time.time())
        say("starting PostgreSQL and Valkey")
        addresses, servers = start_servers(settings, stack, notify)
        publish_addresses(settings.data_dir, addresses)
        stack.callback((settings.data_dir / "runtime.json").unlink, missing_ok=True)
        say("bringing the schema up to date")
        migrate(addresses.postgres_dsn)
        with connect(addresses.postgres_dsn) as connection:
            admin_key = ensure_admin_key(connection, settings)
        say("making topics")
        bus = open_bus(settings, postgres_dsn=addresses.postgres_dsn)
        try:
            bus.ensure_topics(settings.partitions_default)
        finally:
            bus.close()
        bundle, is_starter = bootstrap(settings, addresses, say)
        say("starting the programs")
        supervisor = Supervisor(
            programs(settings, addresses) + late_programs(settings, addresses),
            settings.data_dir / "logs",
            notify,
        )
        stack.callback(supervisor.stop)
        supervisor.tick()
        yield Platform(settings, addresses, supervisor, servers, admin_key, bundle, is_starter)


def watch(platform: Platform, stop: threading.Event, each: Callable[[], None]) -> None:
    """Keep servers and programs running until ``stop`` is set; ``each`` is called between two looks."""
    late = LateStart(platform)
    while not stop.wait(TICK_S):
        late.tick()
        for server in platform.servers:
            server.tick()
        platform.supervisor.tick()
        each()


class LateStart:
    """Lets the late programs start when the others beat, or when these have had their time."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._awaited = {
            s.program.name.split("-")[0] for s in platform.supervisor.states if not s.program.is_late
        }
        self._begun_s = time.monotonic()
        self._next_s = self._begun_s + BEATS_EVERY_S
        self._done = False

    def tick(self) -> None:
        """Look, once a second, whether all of them said that they live since we began."""
        now_s = time.monotonic()
        if self._done or now_s < self._next_s:
            return
        self._next_s = now_s + BEATS_EVERY_S
        if now_s - self._begun_s > LATE_AFTER_S or self._all_beat(now_s - self._begun_s + BEATS_EVERY_S):
            self._platform.supervisor.release_late()
            self._done = True

    def _all_beat(self, within_s: float) -> bool:
        try:
            with connect(self._platform.addresses.postgres_dsn, program="anomalyze up") as connection:
                rows = connection.execute(
                    "SELECT DISTINCT program FROM program_states WHERE started_at > now() - %s * interval '1 second'",
                    [within_s],
                ).fetchall()
        except (TransientError, psycopg.Error):
            return False
        return self._awaited <= {str(program) for (program,) in rows}


def prepare_folder(folder: Path) -> None:
    """Make the data folder; only its owner may read it, and PostgreSQL's user pass through it."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o711 if os.geteuid() == 0 else 0o700)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the data folder's lock file."""
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by `anomalyze up` with process id {file.read().strip() or 'unknown'}: stop that "
                "one, or give this one another folder with ANOMALYZE_DATA_DIR"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_ports(settings: Settings) -> None:
    """Refuse before anything starts when a port is taken."""
    wanted = [
        ("API", "ANOMALYZE_API_PORT", settings.bind, settings.api_port),
        ("dashboard", "ANOMALYZE_DASHBOARD_PORT", settings.bind, settings.dashboard_port),
    ]
    if settings.dagster:
        wanted.append(("Dagster UI", "ANOMALYZE_DAGSTER_PORT", "127.0.0.1", settings.dagster_port))
    for what, variable, bind, port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bind, port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} on {bind}, wanted for the {what}, cannot be used ({error.strerror}): stop the "
                    f"program that has it, or choose another: {variable}={port + 1} anomalyze up"
                ) from None


def start_servers(
    settings: Settings, stack: contextlib.ExitStack, notify: Callable[[str], None]
) -> tuple[Addresses, list[WatchedServer]]:
    """Start what runs embedded; returns the addresses and what to watch."""
    postgres = EmbeddedPostgres(settings.data_dir / "postgresql", free_port())
    valkey = EmbeddedValkey(settings.data_dir / "valkey", free_port())
    with ThreadPoolExecutor(2) as pool:
        starting = {}
        if settings.postgres_dsn is None:
            starting["postgresql"] = pool.submit(postgres.start)
        if settings.redis_url is None:
            starting["valkey"] = pool.submit(valkey.start)
        try:
            started = {name: future.result() for name, future in starting.items()}
        except BaseException:
            for server in (postgres, valkey):
                server.stop()
            raise
    dsn = started.get("postgresql") or (settings.postgres_dsn and settings.postgres_dsn.get_secret_value())
    url = started.get("valkey") or (settings.redis_url and settings.redis_url.get_secret_value())
    assert dsn
    assert url
    watched = [
        WatchedServer(
            "postgresql",
            f"127.0.0.1:{postgres.port}" if "postgresql" in started else "as configured",
            postgres if "postgresql" in started else None,
            notify,
        ),
        WatchedServer(
            "valkey",
            f"127.0.0.1:{valkey.port}" if "valkey" in started else "as configured",
            valkey if "valkey" in started else None,
            notify,
        ),
    ]
    for each in watched:
        stack.callback(each.stop)
    return Addresses(dsn, url), watched


def environment_of(settings: Settings, addresses: Addresses) -> dict[str, str]:
    """What every program is told besides our own environment."""
    return {
        **addresses.environment(),
        "ANOMALYZE_DATA_DIR": str(settings.data_dir),
        "ANOMALYZE_CONFIG_DIR": str(settings.config_dir),
        # Without kept bytecode every start compiles all sources again: 2 to 5 times slower.
        "PYTHONDONTWRITEBYTECODE": "",
        # Their dozens of threads mostly wait: an arena of memory for each would be kept for nothing.
        "MALLOC_ARENA_MAX": "2",
    }


def bootstrap(settings: Settings, addresses: Addresses, say: Callable[[str], None]) -> tuple[str, bool]:
    """Make the first bundle in a process of its own; see ``bootstrap.py``."""
    last: dict[str, Any] = {}
    # A file takes any number of complaints; a pipe that nobody reads yet would stop the child.
    with tempfile.TemporaryFile("w+") as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", "anomalyze.embedded.bootstrap"],
            env={**os.environ, **environment_of(settings, addresses)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        assert child.stdout is not None
        with child:
            for line in child.stdout:
                if not line.startswith("{"):
                    continue
                last = json.loads(line)
                if "step" in last:
                    say(last["step"])
        complaints.seek(0)
        complaint = complaints.read()
    if "bundle" not in last:
        raise ConfigError(last.get("error") or f"the first bundle could not be made:\n{complaint[-2000:]}")
    return str(last["bundle"]), bool(last["is_starter"])


def programs(settings: Settings, addresses: Addresses) -> list[Program]:
    """What runs beside the servers."""
    environment = environment_of(settings, addresses)

    def program(name: str, module: str, *arguments: str, address: str = "") -> Program:
        return Program(name, [sys.executable, "-m", module, *arguments], address, environment)

    host = "localhost" if settings.bind in ("127.0.0.1", "0.0.0.0", "::") else settings.bind  # noqa: S104
    detectors = [
        program(
            f"detector-{n}" if settings.workers > 1 else "detector", "realtime.detector", "--instance", str(n)
        )
        for n in range(settings.workers)
    ]
    return [
        program("api", "realtime.api", address=f"http://{host}:{settings.api_port}"),
        *detectors,
        program("sink", "realtime.sink"),
        program("dashboard", "dashboard", address=f"http://{host}:{settings.dashboard_port}"),
    ]


def late_programs(settings: Settings, addresses: Addresses) -> list[Program]:
    """Dagster, with less right to the processor than those that judge."""
    if not settings.dagster:
        return []
    return [
        Program(
            "dagster",
            [sys.executable, "-m", "anomalyze_dagster", "all"],
            f"http://localhost:{settings.dagster_port}",
            {
                **environment_of(settings, addresses),
                **prepare_dagster(settings, addresses),
            },
            is_late=True,
            niceness=LATE_NICENESS,
        )
    ]
