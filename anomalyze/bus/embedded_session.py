"""Connections of the embedded log, and the signals that new records and new members give.

Errors of PostgreSQL are sorted in one place: ``AWAY`` is what a new connection may mend.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
import structlog

from anomalyze.errors import TransientError

__all__ = ["AWAY", "CHANNEL", "Metadata", "Signals", "connect", "quiet_close"]

log = structlog.get_logger(__name__)

AWAY = (psycopg.OperationalError, psycopg.InterfaceError)
CHANNEL = "anomalyze_bus"
RECONNECT_S_MIN = 0.05
RECONNECT_S_MAX = 1.0
LISTEN_S = 0.5
ANSWER_S_MAX = 10.0

T = TypeVar("T")


def connect(dsn: str, role: str, timeout_s: float = 5.0) -> psycopg.Connection[Any]:
    """A session in autocommit mode that prepares what it says twice."""
    connection = psycopg.connect(
        dsn,
        autocommit=True,
        # libpq counts whole seconds, and takes 1 for 2
        connect_timeout=max(2, round(timeout_s)),
        application_name=f"anomalyze-bus {role}",
    )
    connection.prepare_threshold = 1
    return connection


def quiet_close(connection: psycopg.Connection[Any] | None) -> None:
    """Close what may be broken already."""
    if connection is not None:
        with contextlib.suppress(psycopg.Error, OSError):
            connection.close()


class Metadata:
    """One shared connection for short questions; reconnects by itself. Any thread may ask."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None

    def ask(
        self, query: str, parameters: Sequence[Any] = (), *, timeout_s: float = ANSWER_S_MAX
    ) -> list[tuple[Any, ...]]:
        """All rows of an answer. Raises ``TransientError`` when PostgreSQL is away."""

        def execute(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

        return self.run(execute, timeout_s=timeout_s)

    def run(self, work: Callable[[psycopg.Connection[Any]], T], *, timeout_s: float = ANSWER_S_MAX) -> T:
        """Do something with the connection, once more when it had gone stale."""
        with self._lock:
            for last_attempt in (self._connection is None, True):
                try:
                    if self._connection is None:
                        self._connection = connect(self._dsn, "metadata", timeout_s)
                    return work(self._connection)
                except AWAY as error:
                    quiet_close(self._connection)
                    self._connection = None
                    if last_attempt:
                        raise TransientError(
                            f"the embedded log's PostgreSQL does not answer: {error}"
                        ) from None
            raise AssertionError("unreachable")

    def close(self) -> None:
        """Release the connection."""
        with self._lock:
            quiet_close(self._connection)
            self._connection = None


class Signals:
    """Listens on one connection for the whole process and wakes who waits.

    A signal only shortens a wait: one that is missed while the connection is away costs a poll interval.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._condition = threading.Condition()
        self._counts: dict[str, int] = {}
        self._closed = False
        self._thread: threading.Thread | None = None

    def count(self, names: Sequence[str]) -> int:
        """How many signals of these names came so far; to be read before looking, and given to ``wait``."""
        with self._condition:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._listen, name="bus-signals", daemon=True)
                self._thread.start()
            return sum(self._counts.get(name, 0) for name in names)

    def wait(self, names: Sequence[str], seen: int, timeout_s: float) -> None:
        """Return when a signal came after ``seen`` was counted, or after the timeout."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or sum(self._counts.get(name, 0) for name in names) != seen, timeout_s
            )

    def close(self) -> None:
        """Stop listening and wake everyone; a signal of any name lets the thread see it at once."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread is not None:
            self._thread.join(LISTEN_S + 5)

    def _listen(self) -> None:
        pause_s = RECONNECT_S_MIN
        while not self._closed:
            connection = None
            try:
                connection = connect(self._dsn, "signals")
                connection.execute(f"LISTEN {CHANNEL}")
                pause_s = RECONNECT_S_MIN
                while not self._closed:
                    for notification in connection.notifies(timeout=LISTEN_S, stop_after=1):
                        self._signal(notification.payload)
            except AWAY:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_S_MAX)
            finally:
                quiet_close(connection)

    def _signal(self, name: str) -> None:
        with self._condition:
            self._counts[name] = self._counts.get(name, 0) + 1
            self._condition.notify_all()
