"""Servers of others that sources are tried on: each starts when first asked for, once in a run of the tests.

A server that is not installed says so by ``Missing``; ``python -m tests.system_packages`` fetches them all.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import httpx

from anomalyze.embedded.process import GuardedProcess, free_port
from tests.system_packages import ROOT, engines_python, environment, program

__all__ = ["PASSWORD", "USER", "Missing", "Servers"]

USER, PASSWORD = "reader", "right-secret"
# PASSWORD as Prometheus' configuration wants it, at bcrypt's least cost.
PASSWORD_BCRYPT = "$2b$04$abcdefghijklmnopqrstuuxH.muaUGcg6rRuHaKonUCD1AG9nFmPO"
START_S = 60.0
ENGINES = ROOT / "tests" / "engines"
HOW = "python -m tests.system_packages fetches it"


class Missing(Exception):
    """A server that is not installed here."""


class Servers:
    """Addresses of running servers, each on a free port of loopback and in a folder of its own below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[GuardedProcess] = []
        self._prometheus: dict[str, str] = {}  # by what each holds
        self.filled: dict[tuple[str, str], str] = {}  # databases by kind and rows

    def stop(self) -> None:
        """End all that run."""
        for process in self._running:
            process.release()
        for process in self._running:
            process.stop()

    @cached_property
    def mariadb(self) -> int:
        """The port of MariaDB; ``root`` has no password, ``USER`` has ``PASSWORD`` and may read."""
        mariadbd = _found("mariadbd")
        base = Path(mariadbd).parents[1]
        folder = self._folder("mariadb")
        common = [mariadbd, "--no-defaults", f"--basedir={base}", f"--datadir={folder}", "--user=root"]
        common += [
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=4M",
            "--innodb-flush-method=nosync",
        ]
        common += ["--sync-frm=0", f"--lc-messages-dir={base / 'share' / 'mysql'}"]
        tables = [
            (base / "share" / "mysql" / f"mysql_{name}.sql").read_text()
            for name in ("system_tables", "performance_tables", "system_tables_data")
        ]
        users = (
            """REPLACE INTO global_priv VALUES ('127.0.0.1', 'root', '{"access": 18446744073709551615}');\n"""
            f"FLUSH PRIVILEGES;\nCREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT SELECT, EXECUTE ON *.* TO {USER}@'127.0.0.1';\n"
        )
        script = "\n".join(["CREATE DATABASE mysql;\nUSE mysql;", *tables, users])
        made = subprocess.run(
            [*common, "--bootstrap"],
            input=script,
            text=True,
            capture_output=True,
            check=False,
            env=environment(),
        )
        assert made.returncode == 0, made.stderr[-2000:]
        port = free_port()
        own = [f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        own += [f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}"]
        self._start("mariadb", [*common, *own], port, environment())
        return port

    def prometheus(self, samples: str) -> str:
        """``host:port`` of a Prometheus that scrapes nothing and holds ``samples`` (OpenMetrics); asks for a password."""
        if samples in self._prometheus:
            return self._prometheus[samples]
        folder = self._folder("prometheus")
        (folder / "samples").write_text(samples + "# EOF\n")
        (folder / "prometheus.yml").write_text("global: {}\n")
        (folder / "web.yml").write_text(f"basic_auth_users: {{{USER}: '{PASSWORD_BCRYPT}'}}\n")
        promtool = [_found("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
        subprocess.run(
            [*promtool, str(folder / "samples"), str(folder / "data")],
            check=True,
            capture_output=True,
            timeout=START_S,
        )
        port = free_port()
        command = [
            _found("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--web.config.file={folder / 'web.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self._start("prometheus", command, port)
        # It listens before it has read what it holds, and refuses until then.
        deadline = time.monotonic() + START_S
        while httpx.get(f"http://127.0.0.1:{port}/-/ready", auth=(USER, PASSWORD)).status_code != 200:
            assert time.monotonic() < deadline, "prometheus is not ready"
            time.sleep(0.05)
        self._prometheus[samples] = f"127.0.0.1:{port}"
        return self._prometheus[samples]

    @cached_property
    def clickhouse(self) -> str:
        """``host:port`` of ClickHouse's HTTP interface, for ``USER`` and ``PASSWORD``."""
        return self._engine("clickhouse", str(self._folder("clickhouse")), PASSWORD)

    @cached_property
    def snowflake(self) -> str:
        """``host:port`` of fakesnow, for ``PASSWORD``."""
        return self._engine("snowflake", PASSWORD)

    def _engine(self, name: str, *arguments: str) -> str:
        python = engines_python()
        if python is None:
            raise Missing(f"the engine of {name} is not installed: {HOW}")
        port = free_port()
        self._start(name, [str(python), str(ENGINES / f"serve_{name}.py"), str(port), *arguments], port)
        return f"127.0.0.1:{port}"

    def _folder(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def _start(
        self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        process = GuardedProcess(name, command, self.folder / f"{name}.log", env=environment)
        self._running.append(process)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                assert process.poll() is None, process.log_tail()
                assert time.monotonic() < deadline, process.log_tail()
                time.sleep(0.05)


def _found(name: str) -> str:
    found = program(name)
    if found is None:
        raise Missing(f"{name} is not installed: {HOW}")
    return found
