"""What every kind of source is given, and what it can be asked."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from anomalyze.errors import AnomalyzeError, TransientError
from anomalyze.metrics.library import BatchEntry, load_batches
from anomalyze.metrics.sources import Reading, read
from anomalyze.metrics.window import Window
from tests.test_metrics.servers import Servers

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
WINDOW = Window(START, START + dt.timedelta(hours=4), dt.timedelta(hours=1))
ODD = 'o\'clock "é" 数%s {}:end'
# In every address that cannot be reached or is refused; never in a message.
SECRET = "hush-hush"
Row = tuple[dt.datetime, str, float | None]


def hour(count: int) -> dt.datetime:
    return START + dt.timedelta(hours=count)


ROWS: list[Row] = [
    (hour(1), "orders", 3.0),
    (hour(0), "orders", 2.5),
    (hour(0), ODD, 7.0),
    (hour(1), ODD, None),
    (hour(9), "orders", 99.0),
]
# Values that are none.
STRANGE: list[Row] = [
    (hour(0), "a", math.nan),
    (hour(1), "b", math.inf),
    (hour(2), "c", -math.inf),
    (hour(3), "d", None),
]


class Bench:
    """What a kind of source is given and asked.

    ``store`` puts rows where the source reads them; ``batch`` is the batch's text for them, with more keys of
    ``source``; ``slow`` and ``wrong`` are batches that never end and that ask for what there is not; ``vanish`` takes
    away what it reads, ``lock`` gives it the password ``SECRET``, which is wrong.
    """

    kind = ""
    sql = "SELECT ts AS timestamp, metric, value FROM points WHERE ts >= :start AND ts < :end"
    # What its refusal of ``wrong`` names, in small letters, and how it ends when what it reads is gone.
    wrong_named = "nowhere"
    gone: type[AnomalyzeError] = TransientError
    # Whether it asks for a password, keeps instants (else times of the batch's own zone), and knows NaN and infinity.
    has_password = True
    has_instants = True
    has_strange_values = True
    # Whether its server knows sessions that can be ended.
    has_sessions = False
    # Queries that would write.
    writes: tuple[str, ...] = ()

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack, servers: Servers
    ) -> None:
        self.folder, self.monkeypatch, self.stack, self.servers = folder, monkeypatch, stack, servers
        (folder / "metrics").mkdir(exist_ok=True)

    def store(self, rows: Sequence[Row]) -> None:
        raise AssertionError

    def source(self) -> dict[str, Any]:
        raise AssertionError

    def batch(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source() | {"kind": self.kind} | more, "sql": self.sql}

    def slow(self) -> dict[str, Any]:
        raise AssertionError

    def wrong(self) -> dict[str, Any]:
        return self.batch() | {"sql": "SELECT a FROM nowhere"}

    def vanish(self) -> None:
        raise AssertionError

    def lock(self) -> None:
        raise AssertionError

    def end_sessions(self) -> int:
        """End what asks now, as its server's owner may; how many that were."""
        raise AssertionError

    def entry(self, document: dict[str, Any]) -> BatchEntry:
        (self.folder / "metrics" / "one.yaml").write_text(json.dumps(document))
        loaded = load_batches(self.folder, {})
        assert loaded.problems == ()
        return loaded.batches["one"]

    def read(self, document: dict[str, Any]) -> Reading:
        return read(self.entry(document), WINDOW)


class SqlBench(Bench):
    """A kind that is asked in SQL.

    Attributes
    ----------
    table, quote
        What the table of points is called, and what quotes a name.
    named
        How a query names that table.
    day
        A query of rows by day; None where days are not cut by a session's zone.
    midnight
        Where the day of the rows begins for a batch of Berlin's.
    """

    table = "points"
    named = "{{ params.table | ident }}"
    quote = '"'
    day: str | None = None
    midnight = dt.datetime(2025, 11, 2, 23, tzinfo=dt.UTC)

    def quoted(self, name: str) -> str:
        return self.quote + name.replace(self.quote, self.quote * 2) + self.quote


class AddressBench(SqlBench):
    """A kind with an address in a variable."""

    variable = "ANOMALYZE_SOURCE_TEST"

    def source(self) -> dict[str, Any]:
        return {"url": self.variable}

    def store(self, rows: Sequence[Row]) -> None:
        """Into a database that all tests of these rows share: none of them may write."""
        host, user, password = self.reach()
        known, key = self.servers.filled, (self.kind, str(rows))
        self.host, self.database = host, known.get(key, f"shop{len(known)}")
        if key not in known:
            self.fill(rows)
            known[key] = self.database
        self.point_to(host, user, password)

    def reach(self) -> tuple[str, str, str]:
        """Host with port, user and password of the running server."""
        raise AssertionError

    def fill(self, rows: Sequence[Row]) -> None:
        """Make ``database`` at ``host``, with a table of the rows."""
        raise AssertionError

    def address(self, host: str, user: str, password: str) -> str:
        """Of the kind's own form; ``host`` has a port."""
        raise AssertionError

    def point_to(self, host: str, user: str, password: str) -> None:
        self.host, self.user = host, user
        self.monkeypatch.setenv(self.variable, self.address(host, user, password))

    def vanish(self) -> None:
        self.point_to("127.0.0.1:1", self.user, SECRET)

    def lock(self) -> None:
        self.point_to(self.host, self.user, SECRET)
