"""MySQL and MariaDB, through PyMySQL (``pip install 'anomalyze[mysql]'``). Sessions have UTC as their time zone."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import MySQLSource
from anomalyze.metrics.sources.contract import (
    CONNECT_TIMEOUT_S,
    Request,
    Table,
    address_of,
    broken,
    limited,
    load_driver,
    silent,
)

__all__ = ["fetch"]

PORT = 3306
_UNKNOWN_VARIABLE = 1193
# Too many connections, shutting down, the network, of a user too many connections, lock timeout, deadlock, a user's hourly
# limits, interrupted, killed, MariaDB's and MySQL's time limits.
_PASSING = (1040, 1053, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1226, 1317, 1927, 1969, 3024)
# What the client says of a server that is gone or was never there.
_CLIENT = range(2000, 3000)


def fetch(request: Request) -> Table:
    """The answer, row by row from the server in a read-only session."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, MySQLSource)
    assert statement is not None
    driver = load_driver("pymysql", "mysql")
    cursors = load_driver("pymysql.cursors", "mysql")
    url = urlsplit(address_of(source.url))
    if not url.scheme.startswith(("mysql", "mariadb")) or not url.hostname:
        raise ConfigError(
            f"batch {request.name}: expected mysql://user:password@host/database in {source.url}, got another"
        )
    password = unquote(url.password or "")
    text = statement.written(lambda name: f"%({name})s", lambda sql: sql.replace("%", "%%"))
    try:
        with closing(
            driver.connect(
                host=url.hostname,
                port=url.port or PORT,
                user=unquote(url.username or ""),
                password=password,
                database=url.path.strip("/") or None,
                ssl={"ca": None} if "ssl" in dict(parse_qsl(url.query)) else None,
                connect_timeout=CONNECT_TIMEOUT_S,
                # The server ends a statement; the socket's own limit is for a server that is gone.
                read_timeout=source.timeout_s + CONNECT_TIMEOUT_S,
                charset="utf8mb4",
                cursorclass=cursors.SSCursor,
            )
        ) as connection:
            _limit(connection, driver, source.timeout_s)
            with connection.cursor() as cursor:
                cursor.execute(text, {name: _bound(value) for name, value in statement.values.items()})
                columns = tuple(column[0] for column in cursor.description or ())
                rows = limited(cursor.fetchall_unbuffered(), source.rows_max, request.name)
    except driver.err.Error as error:
        # PyMySQL calls most refusals of the server operational, too.
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        told = silent if code in _PASSING or code in _CLIENT else broken
        raise told(request, error, [password]) from None
    # A TIMESTAMP comes without its zone, which is the session's: UTC.
    return Table(columns, [tuple(map(_zoned, row)) for row in rows])


def _limit(connection: Any, driver: Any, timeout_s: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute("SET time_zone = '+00:00'")
        try:
            cursor.execute(f"SET SESSION max_execution_time = {timeout_s * 1000:d}")
        except driver.err.Error as error:
            if error.args[0] != _UNKNOWN_VARIABLE:
                raise
            cursor.execute(f"SET SESSION max_statement_time = {timeout_s:d}")  # MariaDB's


def _bound(value: Any) -> Any:
    return value.astimezone(dt.UTC).replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _zoned(value: Any) -> Any:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value
