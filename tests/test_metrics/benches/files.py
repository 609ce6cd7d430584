"""Files on this machine: of databases, of tables, of Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import duckdb

from anomalyze.errors import ConfigError
from tests.test_metrics.benches.bench import Bench, Row, SqlBench

__all__ = ["DuckDB", "Parquet", "Python", "Sqlite"]


class Sqlite(SqlBench):
    kind = "sqlite"
    gone = ConfigError
    has_password = False
    has_instants = False
    writes = ("SELECT load_extension('x') AS a", "WITH one AS (SELECT 1) DELETE FROM points")

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


class DuckDB(SqlBench):
    """A DuckDB file."""

    kind = "duckdb"
    gone = ConfigError
    has_password = False
    day = "SELECT date_trunc('day', ts) AS timestamp, count(*) AS n FROM points WHERE ts < :end GROUP BY 1"

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (
            f"FROM (COPY points TO '{self.folder / 'new.csv'}')",
            "WITH one AS (SELECT 1) DELETE FROM points",
            "SELECT nextval('counter') AS a",
        )

    def store(self, rows: Sequence[Row]) -> None:
        with duckdb.connect(str(self.folder / "shop.duckdb")) as connection:
            connection.execute("CREATE TABLE points (ts TIMESTAMPTZ, metric VARCHAR, value DOUBLE)")
            connection.execute("CREATE SEQUENCE counter")
            connection.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)

    def source(self) -> dict[str, Any]:
        return {"path": "shop.duckdb"}

    def slow(self) -> dict[str, Any]:
        endless = "SELECT sum(a.range * b.range) AS a FROM range(1000000) a, range(1000000) b"
        return self.batch(timeout_s=1) | {"sql": endless}

    def vanish(self) -> None:
        (self.folder / "shop.duckdb").unlink()


class Parquet(DuckDB):
    """A parquet file as a table."""

    sql = "SELECT ts AS timestamp, metric, value FROM 'points.parquet' WHERE ts >= :start AND ts < :end"
    named = "'points.parquet'"
    day = DuckDB.day.replace("points", named)

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"FROM (COPY (FROM {self.named}) TO '{self.folder / 'new.csv'}')",)

    def store(self, rows: Sequence[Row]) -> None:
        super().store(rows)
        with duckdb.connect(str(self.folder / "shop.duckdb")) as connection:
            connection.execute(f"COPY points TO '{self.folder / 'points.parquet'}'")

    def source(self) -> dict[str, Any]:
        return {}

    def vanish(self) -> None:
        (self.folder / "points.parquet").unlink()


class Python(Bench):
    kind = "python"
    wrong_named = "'no'"
    gone = ConfigError
    has_password = False

    def store(self, rows: Sequence[Row]) -> None:
        text = (
            "import datetime\nfrom math import inf, nan\n\n\ndef values(window, params):\n"
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
