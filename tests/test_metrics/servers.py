"""Servers of others, where this machine has them: their tests are skipped elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomalyze.embedded.process import free_port

__all__ = ["mariadb_server", "prometheus_server"]

START_S = 30.0


@contextmanager
def mariadb_server(folder: Path) -> Iterator[int]:
    """Its port on loopback; user root, no password."""
    data, port = folder / "data", free_port()
    data.mkdir()
    program = shutil.which("mariadbd")
    assert program is not None
    base = ["--no-defaults", f"--basedir={Path(program).parents[1]}", f"--datadir={data}", "--user=root"]
    subprocess.run(
        ["mariadb-install-db", *base, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        capture_output=True,
        env=os.environ,
    )
    own = [
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 's'}",
        "--innodb-buffer-pool-size=32M",
    ]
    with _running([program, *base, *own, f"--pid-file={folder / 'pid'}"], port):
        yield port


@contextmanager
def prometheus_server(folder: Path) -> Iterator[str]:
    """Its address; it scrapes nothing."""
    port = free_port()
    (folder / "prometheus.yml").write_text("global: {}\n")
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with _running(command, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, command[0]
                assert time.monotonic() < deadline, command[0]
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)
