"""Kinds of sources for tests: what each is given and asked; the real thing, or a real server's recorded words."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from anomalyze.metrics.library import BatchEntry, load_batches
from anomalyze.metrics.sources import Reading, read
from anomalyze.metrics.window import Window
from tests.test_metrics.servers import mariadb_server
from tests.test_metrics.web import web_server

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
WINDOW = Window(START, START + dt.timedelta(hours=4), dt.timedelta(hours=1))
ODD = 'o\'clock "é" 数%s {}:end'
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


class Bench:
    """What a kind of source is given and asked.

    ``store`` puts rows where the source reads them; ``batch`` is the batch's text for them, with more keys of
    ``source``; ``slow`` and ``wrong`` are batches that never end and that ask for what there is not.
    """

    kind = ""
    sql = "SELECT ts AS timestamp, metric, value FROM points WHERE ts >= :start AND ts < :end"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.folder, self.monkeypatch, self.stack = folder, monkeypatch, stack
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
        return self.batch() | {"sql": "SELECT nothing FROM nowhere"}

    def vanish(self) -> None:
        raise AssertionError

    def entry(self, document: dict[str, Any]) -> BatchEntry:
        (self.folder / "metrics" / "one.yaml").write_text(json.dumps(document))
        loaded = load_batches(self.folder, {})
        assert loaded.problems == ()
        return loaded.batches["one"]

    def read(self, document: dict[str, Any]) -> Reading:
        return read(self.entry(document), WINDOW)


class Postgres(Bench):
    kind = "postgres"
    variable = "ANOMALYZE_SOURCE_TEST"

    def connect_to(self, dsn: str) -> None:
        self.dsn = dsn
        self.monkeypatch.setenv(self.variable, dsn)

    def store(self, rows: Sequence[Row]) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute("CREATE TABLE points (ts timestamptz, metric text, value numeric)")
            connection.cursor().executemany("INSERT INTO points VALUES (%s, %s, %s)", rows)

    def source(self) -> dict[str, Any]:
        return {"url": self.variable}

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT now() AS timestamp, 1 AS a FROM pg_sleep(30)"}

    def vanish(self) -> None:
        self.monkeypatch.setenv(self.variable, "postgresql://reader:hush-hush@127.0.0.1:1/none")


class MySQL(Bench):
    """MariaDB, where it and PyMySQL are installed."""

    kind = "mysql"
    variable = "ANOMALYZE_SOURCE_TEST"

    def connect(self) -> Any:
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database="shop", autocommit=True
        )

    def store(self, rows: Sequence[Row]) -> None:
        self.port = self.stack.enter_context(mariadb_server(self.folder))
        self.monkeypatch.setenv(self.variable, f"mysql://root@127.0.0.1:{self.port}/shop")
        import pymysql

        with (
            pymysql.connect(host="127.0.0.1", port=self.port, user="root") as opened,
            opened.cursor() as cursor,
        ):
            cursor.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE points (ts DATETIME, metric VARCHAR(200), value DECIMAL(9, 3))")
            cursor.executemany(
                "INSERT INTO points VALUES (%s, %s, %s)",
                [(ts.replace(tzinfo=None), metric, value) for ts, metric, value in rows],
            )

    def source(self) -> dict[str, Any]:
        return {"url": self.variable}

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT SLEEP(30) AS a"}

    def vanish(self) -> None:
        self.monkeypatch.setenv(self.variable, "mysql://reader:hush-hush@127.0.0.1:1/none")


class Sqlite(Bench):
    kind = "sqlite"

    def store(self, rows: Sequence[Row]) -> None:
        self.path = self.folder / "it's.db"
        with sqlite3.connect(self.path) as connection:
            connection.execute("CREATE TABLE points (ts TEXT, metric TEXT, value REAL)")
            told = [(ts.strftime("%Y-%m-%d %H:%M:%S"), metric, value) for ts, metric, value in rows]
            connection.executemany("INSERT INTO points VALUES (?, ?, ?)", told)

    def source(self) -> dict[str, Any]:
        return {"path": self.path.name}

    def slow(self) -> dict[str, Any]:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS a FROM n"
        return self.batch(timeout_s=1) | {"sql": endless}

    def vanish(self) -> None:
        self.path.unlink()


class DuckDB(Bench):
    kind = "duckdb"
    sql = "SELECT ts AS timestamp, metric, value FROM 'points.parquet' WHERE ts >= :start AND ts < :end"

    def store(self, rows: Sequence[Row]) -> None:
        with duckdb.connect() as connection:
            connection.execute("CREATE TABLE points (ts TIMESTAMPTZ, metric VARCHAR, value DOUBLE)")
            connection.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)
            connection.execute(f"COPY points TO '{self.folder / 'points.parquet'}'")

    def source(self) -> dict[str, Any]:
        return {}

    def slow(self) -> dict[str, Any]:
        endless = "SELECT sum(a.range * b.range) AS a FROM range(1000000) a, range(1000000) b"
        return self.batch(timeout_s=1) | {"sql": endless}

    def vanish(self) -> None:
        (self.folder / "points.parquet").unlink()


class Http(Bench):
    kind = "http"
    rows: Sequence[Row] = ()
    pause_s = 0.0

    def store(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        if not hasattr(self, "address"):
            self.server = ExitStack()
            self.address = self.server.enter_context(web_server(self.answer))
            self.stack.push(self.server)

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        time.sleep(self.pause_s)
        if path != "/data":
            return 404, "nothing here"
        assert query == {"from": "2025-11-03T00:00:00Z", "until": "1762142400"}
        rows = [
            {"at": ts.isoformat(), "n": {"name": metric}, "v": value}
            for ts, metric, value in self.rows
            if ts < WINDOW.end
        ]
        return 200, json.dumps({"data": {"points": rows}})

    def source(self) -> dict[str, Any]:
        return {
            "url": f"{self.address}/data",
            "query": {"from": "{{ start | iso }}", "until": "{{ end | unix }}"},
            "items": "data.points",
            "columns": {"timestamp": "at", "metric": "n.name", "value": "v"},
        }

    def batch(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source() | {"kind": self.kind} | more}

    def slow(self) -> dict[str, Any]:
        self.pause_s = 3
        return self.batch(timeout_s=1)

    def wrong(self) -> dict[str, Any]:
        return self.batch(url=f"{self.address}/nowhere")

    def vanish(self) -> None:
        self.server.close()


class Prometheus(Http):
    kind = "prometheus"

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        time.sleep(self.pause_s)
        if path != "/api/v1/query_range" or query["query"] == "nothing(":
            # As Prometheus 3 words it.
            return (
                400,
                '{"status":"error","errorType":"bad_data","error":"1:9: parse error: unclosed left parenthesis"}',
            )
        assert float(query["start"]) == WINDOW.start.timestamp()
        assert float(query["end"]) == hour(3).timestamp()
        assert query["step"] == "3600"
        values = [
            [ts.timestamp(), "NaN" if value is None else str(value)]
            for ts, metric, value in sorted(self.rows, key=lambda row: row[0])
            if metric == query["query"] and ts < WINDOW.end
        ]
        matrix = [{"metric": {"__name__": "x"}, "values": values}] if values else []
        return 200, json.dumps({"status": "success", "data": {"resultType": "matrix", "result": matrix}})

    def source(self) -> dict[str, Any]:
        return {"url": self.address, "queries": {"orders": "orders", ODD: ODD}}

    def wrong(self) -> dict[str, Any]:
        return self.batch(queries={"a": "nothing("})


class Python(Bench):
    kind = "python"

    def store(self, rows: Sequence[Row]) -> None:
        text = (
            "import datetime\n\n\ndef values(window, params):\n"
            f"    rows = {[(ts.isoformat(), metric, value) for ts, metric, value in rows]!r}\n"
            "    return [dict(zip(('timestamp', 'metric', 'value'), row)) for row in rows\n"
            "            if window.start <= datetime.datetime.fromisoformat(row[0]) < window.end]\n\n\n"
            "def wrong(window, params):\n    return params['no']\n\n\n"
            "def slow(window, params):\n    import time\n    time.sleep(30)\n"
        )
        (self.folder / "metrics" / "shop.py").write_text(text)

    def batch(self, **more: Any) -> dict[str, Any]:
        limits = {"source": {"kind": "python"} | more} if more else {}
        return {"python": "shop:values"} | limits

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"python": "shop:slow"}

    def wrong(self) -> dict[str, Any]:
        return {"python": "shop:wrong"}

    def vanish(self) -> None:
        (self.folder / "metrics" / "shop.py").unlink()
