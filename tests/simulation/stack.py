"""The whole product for tests: `anomalyze up` in a folder of its own, on free ports, and its processes by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from anomalyze.bus import open_bus
from anomalyze.bus.contract import Bus
from anomalyze.embedded.process import free_port
from anomalyze.settings import Settings
from tests.kafka import KafkaBroker

__all__ = ["PROGRAMS", "Stack"]

CHECKOUT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 300.0

# What stands on the command line of each program's process.
PROGRAMS = {
    "api": "realtime.api",
    "detector": "realtime.detector",
    "sink": "realtime.sink",
    "dashboard": "dashboard",
    "postgresql": "postgres",
    "valkey": "valkey-server",
}


class Stack:
    """Everything running, with handles to break it.

    Parameters
    ----------
    folder
        Data folder; must be one that other users may enter.
    bus
        ``kafka`` starts a real broker, ``embedded`` uses the log in PostgreSQL.
    environment
        Further settings.
    """

    def __init__(
        self, folder: Path, bus: str, *, workers: int = 2, partitions: int = 8, **environment: str
    ) -> None:
        self.folder = folder
        self.broker = KafkaBroker(folder / "kafka", free_port()) if bus == "kafka" else None
        self.api_port, self.dashboard_port = free_port(), free_port()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ANOMALYZE_")},
            "ANOMALYZE_DATA_DIR": str(folder / "data"),
            "ANOMALYZE_CONFIG_DIR": str(CHECKOUT / "metrics_config"),
            "ANOMALYZE_API_PORT": str(self.api_port),
            "ANOMALYZE_DASHBOARD_PORT": str(self.dashboard_port),
            "ANOMALYZE_PARTITIONS": str(partitions),
            "ANOMALYZE_WORKERS": str(workers),
            "ANOMALYZE_ADMIN_KEY": "",
            # Three more programs, which only the tests of Dagster need.
            "ANOMALYZE_DAGSTER": "false",
            **environment,
        }
        self.environment.pop("ANOMALYZE_ADMIN_KEY")
        if self.broker is not None:
            self.environment["ANOMALYZE_KAFKA_BOOTSTRAP_SERVERS"] = self.broker.bootstrap_servers
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker and `anomalyze up`; return when the API takes transactions."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o755)
        if self.broker is not None and self.broker.process is None:
            self.broker.start()
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "anomalyze", "up"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`anomalyze up` did not start:\n{self.output()}")
            time.sleep(0.1)

    def stop(self) -> int:
        """Ctrl-C, then the broker; returns the exit code of `anomalyze up`."""
        code = 0
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            code = self.process.wait(60)
        if self.broker is not None:
            self.broker.stop()
        return code

    def output(self) -> str:
        """What `anomalyze up` printed, and the end of each program's log."""
        parts = [(self.folder / "up.log").read_text(errors="replace")[-4000:]]
        for log in sorted((self.folder / "data" / "logs").glob("*.log")):
            parts.append(f"--- {log.name}\n" + log.read_text(errors="replace")[-2000:])
        return "\n".join(parts)

    def ready(self) -> bool:
        """Whether the API answers and all it needs does."""
        with contextlib.suppress(httpx.HTTPError, OSError):
            return httpx.get(f"{self.api}/ready", headers=self.headers, timeout=2.0).status_code == 200
        return False

    @property
    def api(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def dashboard(self) -> str:
        """The dashboard's address."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def key(self) -> str:
        """The admin key that was generated; empty before."""
        with contextlib.suppress(OSError):
            return (self.folder / "data" / "admin-key").read_text().strip()
        return ""

    @property
    def headers(self) -> dict[str, str]:
        """Authorization."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def dsn(self) -> str:
        """PostgreSQL's address."""
        return str(json.loads((self.folder / "data" / "runtime.json").read_text())["postgres_dsn"])

    @property
    def settings(self) -> Settings:
        """Settings as the programs read them."""
        chosen = {
            key.removeprefix("ANOMALYZE_").lower(): value
            for key, value in self.environment.items()
            if key.startswith("ANOMALYZE_")
        }
        return Settings(_env_file=None, **chosen)  # type: ignore[call-arg, arg-type]

    def open_bus(self) -> Bus:
        """The log, for a look from outside."""
        return open_bus(self.settings, postgres_dsn=self.dsn)

    def pids(self, program: str) -> list[int]:
        """Process ids of a program (of PostgreSQL: its postmaster)."""
        return [process.pid for process in self._children(program)]

    def kill(self, program: str, number: int = 0) -> bool:
        """SIGKILL one process of a program; False when it does not run right now."""
        if program == "broker":
            assert self.broker is not None
            self.broker.kill()
            return True
        running = list(self._children(program))
        if not running:
            return False
        running[number % len(running)].kill()
        return True

    def memory_bytes(self) -> int:
        """Proportional set size of everything that `anomalyze up` started, and of itself."""
        assert self.process is not None
        root = psutil.Process(self.process.pid)
        return sum(p.memory_full_info().pss for p in [root, *root.children(recursive=True)])

    def _children(self, program: str) -> Iterator[psutil.Process]:
        if self.process is None:
            return
        wanted = PROGRAMS[program]
        with contextlib.suppress(psutil.NoSuchProcess):
            for guard in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                    child = guard.children()[0]
                    line = child.cmdline()
                    if wanted in line or child.name() == wanted:
                        yield child
