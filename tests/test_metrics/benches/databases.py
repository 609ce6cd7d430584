"""Databases with servers of their own."""

from __future__ import annotations

import urllib.request
from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql

from tests.test_metrics.benches.bench import START, AddressBench, Row
from tests.test_metrics.servers import PASSWORD, USER

__all__ = ["ClickHouse", "MySQL", "Postgres", "Snowflake"]


class Postgres(AddressBench):
    kind = "postgres"
    has_sessions = True
    day = "SELECT date_trunc('day', ts) AS timestamp, count(*) AS n FROM points WHERE ts < :end GROUP BY 1"
    writes = (
        "WITH gone AS (DELETE FROM points RETURNING *) SELECT now() AS timestamp, count(*) AS a FROM gone",
        "WITH one AS (SELECT 1) DELETE FROM points",
        # A function writes inside a plain SELECT: the transaction is read-only, not only the text.
        "SELECT nextval('counter') AS a",
    )

    def connect_to(self, dsn: str) -> None:
        self.dsn = dsn

    def reach(self) -> tuple[str, str, str]:
        url = urlsplit(self.dsn)
        return f"{url.hostname}:{url.port}", url.username or "", url.password or ""

    def address(self, host: str, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{host}/{self.database}"

    def fill(self, rows: Sequence[Row]) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self.database}")
        with psycopg.connect(self.address(*self.reach())) as connection:
            connection.execute("CREATE TABLE points (ts timestamptz, metric text, value numeric)")
            connection.execute("CREATE SEQUENCE counter")
            connection.cursor().executemany("INSERT INTO points VALUES (%s, %s, %s)", rows)

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT now() AS timestamp, 1 AS a FROM pg_sleep(30)"}

    def end_sessions(self) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'FETCH%%' "
                "AND application_name = 'anomalyze metrics' AND datname = %s",
                [self.database],
            ).rowcount


class MySQL(AddressBench):
    """MariaDB."""

    kind = "mysql"
    has_sessions = True
    quote = "`"
    has_strange_values = False
    # Its session's zone is UTC.
    midnight = START
    day = (
        "SELECT CAST(DATE(ts) AS DATETIME) AS timestamp, count(*) AS n FROM points WHERE ts < :end GROUP BY 1"
    )
    writes = ("SELECT points_gone() AS a", "SELECT 1 AS a FROM (SELECT points_gone()) x")

    def address(self, host: str, user: str, password: str) -> str:
        return f"mysql://{user}:{password}@{host}/{self.database}"

    def reach(self) -> tuple[str, str, str]:
        return f"127.0.0.1:{self.servers.mariadb}", USER, PASSWORD

    def own(self) -> Any:
        """A connection of its owner's."""
        return closing(
            pymysql.connect(host="127.0.0.1", port=self.servers.mariadb, user="root", autocommit=True)
        )

    def fill(self, rows: Sequence[Row]) -> None:
        with self.own() as opened, opened.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4")
            cursor.execute(f"USE {self.database}")
            cursor.execute("CREATE TABLE points (ts DATETIME, metric VARCHAR(200), value DECIMAL(9, 3))")
            cursor.executemany(
                "INSERT INTO points VALUES (%s, %s, %s)",
                [(ts.replace(tzinfo=None), metric, value) for ts, metric, value in rows],
            )
            # With the rights of who made it, which are all of them.
            cursor.execute(
                "CREATE FUNCTION points_gone() RETURNS INT MODIFIES SQL DATA BEGIN DELETE FROM points; RETURN 1; END"
            )

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT SLEEP(30) AS a"}

    def end_sessions(self) -> int:
        with self.own() as opened, opened.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE user = %s AND info LIKE '%%SLEEP(30)%%'",
                USER,
            )
            found = cursor.fetchall()
            for (name,) in found:
                cursor.execute("KILL %s", name)
            return len(found)


class ClickHouse(AddressBench):
    """Its engine, behind its HTTP interface."""

    kind = "clickhouse"
    quote = "`"
    day = "SELECT toStartOfDay(ts) AS timestamp, count() AS n FROM points WHERE ts < :end GROUP BY 1"
    writes = (
        "WITH 1 AS one SELECT one AS a SETTINGS readonly = 0",
        "WITH 1 AS one DELETE FROM points WHERE 1",
    )

    def address(self, host: str, user: str, password: str) -> str:
        return f"http://{user}:{password}@{host}/{self.database}"

    def reach(self) -> tuple[str, str, str]:
        return self.servers.clickhouse, USER, PASSWORD

    def fill(self, rows: Sequence[Row]) -> None:
        self._say(f"CREATE DATABASE {self.database}")
        self._say(
            f"CREATE TABLE {self.database}.points (ts DateTime64(3), metric String, value Nullable(Float64)) "
            "ENGINE = MergeTree ORDER BY ts"
        )
        told = ", ".join(
            f"({int(ts.timestamp())}, '{_escaped(metric)}', {'NULL' if value is None else value})"
            for ts, metric, value in rows
        )
        self._say(f"INSERT INTO {self.database}.points VALUES {told}")

    def slow(self) -> dict[str, Any]:
        endless = "SELECT count() AS a FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"
        return self.batch(timeout_s=1) | {"sql": endless}

    def _say(self, statement: str) -> None:
        told = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host}/", statement.encode(), {"Authorization": f"Basic {told}"}
        )
        urllib.request.urlopen(request, timeout=30).close()


class Snowflake(AddressBench):
    """fakesnow: Snowflake's SQL on DuckDB, behind Snowflake's protocol."""

    kind = "snowflake"
    # Names without quotes are large in Snowflake.
    table = "POINTS"
    # It has no session that only reads, and fakesnow no zone of a session.

    def address(self, host: str, user: str, password: str) -> str:
        name, port = host.split(":")
        gateway = f"host={name}&port={port}&protocol=http"
        return f"snowflake://{user}:{password}@fakesnow/{self.database}/public?warehouse=small&{gateway}"

    def reach(self) -> tuple[str, str, str]:
        return self.servers.snowflake, USER, PASSWORD

    def fill(self, rows: Sequence[Row]) -> None:
        import snowflake.connector  # takes its second

        name, port = self.host.split(":")
        with (
            closing(
                snowflake.connector.connect(
                    account="fakesnow",
                    user=USER,
                    password=PASSWORD,
                    host=name,
                    port=int(port),
                    protocol="http",
                    database=self.database,
                    schema="public",
                )
            ) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute("CREATE TABLE points (ts TIMESTAMP_TZ, metric VARCHAR, value FLOAT)")
            for ts, metric, value in rows:
                told = "NULL" if value is None else f"'{value}'::FLOAT"
                cursor.execute(
                    f"INSERT INTO points SELECT %s::TIMESTAMP_TZ, %s, {told}", (ts.isoformat(), metric)
                )

    def slow(self) -> dict[str, Any]:
        many = "(SELECT row_number() OVER (ORDER BY 1) AS n FROM TABLE(GENERATOR(ROWCOUNT => 1000000)))"
        return self.batch(timeout_s=1) | {"sql": f"SELECT sum(a.n * b.n) AS a FROM {many} a, {many} b"}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
