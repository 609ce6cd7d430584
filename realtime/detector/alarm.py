"""Alarms of the worker, written to PostgreSQL by a thread: a database that is away holds up no verdict."""

from __future__ import annotations

import contextlib
import queue
import threading

import psycopg

from anomalyze.errors import TransientError
from anomalyze.log import get
from anomalyze.storage.alarms import Alarm, raise_alarm
from anomalyze.storage.pool import connect

__all__ = ["AlarmPost"]

# Beyond this many unsent ones PostgreSQL has been away for long; the log has all of them.
WAITING_MAX = 100
RETRY_S = 5.0


class AlarmPost:
    """Raises alarms in the order given, each once, as soon as PostgreSQL takes them.

    Those that are not written when the worker ends are raised again when the log is replayed.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: queue.Queue[Alarm] = queue.Queue(WAITING_MAX)
        threading.Thread(target=self._run, name="alarms", daemon=True).start()

    def bundle_refused(self, pointer: str, bundle: str, reason: str) -> None:
        """A bundle that the log names cannot judge, once for a bundle; ``pointer`` is ``bundle`` or ``challenger``."""
        short = bundle.removeprefix("sha256:")[:12]
        what = (
            f"The challenger {short} is not shadowed: "
            if pointer == "challenger"
            else f"The bundle {short} cannot judge, the last good one stays: "
        )
        alarm = Alarm(
            "bundle",
            f"refused:{pointer}:{bundle}",
            what + reason,
            detail={"bundle": bundle, "reason": reason},
        )
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(alarm)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            alarm = self._waiting.get()
            while True:
                try:
                    with connect(self._dsn, program="anomalyze-detector") as connection:
                        raise_alarm(connection, alarm)
                    break
                except (TransientError, psycopg.Error, OSError) as error:
                    get().warning("alarm_waits", key=alarm.key, reason=str(error))
                    pause.wait(RETRY_S)
