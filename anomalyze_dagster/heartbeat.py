"""A line for each of Dagster's programs on the System page and in `anomalyze status`."""

import socket
import threading
import time
from datetime import UTC, datetime
from typing import Any

import psycopg

from anomalyze.errors import TransientError
from anomalyze.settings import Settings
from anomalyze.storage.heartbeat import beat
from anomalyze.storage.pool import connect

__all__ = ["start_heartbeat"]

HEARTBEAT_S = 2.0


def start_heartbeat(program: str, dsn: str, settings: Settings) -> None:
    """Say every two seconds that this process lives, on a thread that ends with it."""
    state = {"address": f"http://localhost:{settings.dagster_port}"} if program == "dagster" else {}
    threading.Thread(target=_keep_beating, args=(program, dsn, state), name="heartbeat", daemon=True).start()


def _keep_beating(program: str, dsn: str, state: dict[str, Any]) -> None:
    started_at = datetime.now(UTC)
    instance = f"{socket.gethostname()}-0"
    connection: psycopg.Connection[Any] | None = None
    while True:
        try:
            if connection is None:
                connection = connect(dsn, program=f"anomalyze-{program}", statement_timeout_s=HEARTBEAT_S)
            beat(connection, program=program, instance=instance, started_at=started_at, state=state)
        except (psycopg.Error, TransientError, OSError):
            # PostgreSQL away means silence, which is what the page then says.
            if connection is not None:
                connection.close()
            connection = None
        time.sleep(HEARTBEAT_S)
