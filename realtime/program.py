"""What every long-running program shares: settings, logs, signals, heartbeat, Prometheus port."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from wsgiref.simple_server import WSGIServer

import psycopg
from prometheus_client import CollectorRegistry, start_http_server

from anomalyze.bus import open_bus
from anomalyze.bus.contract import Bus
from anomalyze.embedded.runtime import Addresses, find_addresses
from anomalyze.errors import TransientError
from anomalyze.log import configure, get
from anomalyze.settings import Settings
from anomalyze.storage.heartbeat import beat

__all__ = ["Heartbeat", "Program", "retry_until_stopped", "start_program"]

HEARTBEAT_S = 2.0


@dataclass(slots=True)
class Program:
    """A program's surroundings."""

    name: str
    instance: str
    settings: Settings
    addresses: Addresses
    registry: CollectorRegistry
    stop: threading.Event

    def open_bus(self) -> Bus:
        """The event log."""
        return open_bus(self.settings, postgres_dsn=self.addresses.postgres_dsn)

    def serve_metrics(self) -> int:
        """Serve Prometheus metrics on loopback (or ``BIND``); returns the port."""
        server: WSGIServer
        server, _ = start_http_server(
            self.settings.metrics_port, addr=self.settings.bind, registry=self.registry
        )
        return int(server.server_port)


def start_program(name: str, instance: str = "0") -> Program:
    """Read settings, set up logs, and turn SIGTERM and SIGINT into ``stop``."""
    settings = Settings()
    configure(name if instance == "0" else f"{name}-{instance}", settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    get().info("started", pid=os.getpid())
    return Program(
        name,
        f"{socket.gethostname()}-{instance}",
        settings,
        find_addresses(settings),
        CollectorRegistry(),
        stop,
    )


class Heartbeat(threading.Thread):
    """Writes this program's state to PostgreSQL every two seconds, when PostgreSQL is there."""

    def __init__(self, program: Program, state: Callable[[], dict[str, Any]]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._program = program
        self._state = state
        self._started_at = datetime.now(UTC)

    def run(self) -> None:
        """Until the program stops."""
        connection: psycopg.Connection[Any] | None = None
        while not self._program.stop.is_set():
            try:
                if connection is None:
                    connection = psycopg.connect(
                        self._program.addresses.postgres_dsn, autocommit=True, connect_timeout=5
                    )
                beat(
                    connection,
                    program=self._program.name,
                    instance=self._program.instance,
                    started_at=self._started_at,
                    state=self._state(),
                )
            except (psycopg.Error, OSError):
                if connection is not None:
                    connection.close()
                connection = None
            self._program.stop.wait(HEARTBEAT_S)


def retry_until_stopped(stop: threading.Event, what: str, attempt: Callable[[], Any]) -> Any:
    """Call ``attempt`` until it does not raise ``TransientError``; None when stopped meanwhile."""
    pause_s = 0.1
    while not stop.is_set():
        try:
            return attempt()
        except TransientError as error:
            get().warning("waiting", what=what, reason=str(error))
            stop.wait(max(pause_s, error.retry_after_s))
            pause_s = min(10.0, pause_s * 2)
    return None
