"""Snowflake, through its connector (``pip install 'anomalyze[snowflake]'``).

Snowflake has no session that only reads: give the role of the address nothing else than SELECT.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import SnowflakeSource
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

# The last three for who reaches Snowflake by another way than its public name.
_OPTIONS = ("warehouse", "role", "host", "port", "protocol")
# A statement that was ended: by whom else, or after its time.
_ENDED = (604, 630)


def fetch(request: Request) -> Table:
    """The answer; the session's time zone is the batch's."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, SnowflakeSource)
    assert statement is not None
    driver = load_driver("snowflake.connector", "snowflake")
    settings = _settings(address_of(source.url), request.name)
    text = statement.written(lambda name: f"%({name})s", lambda sql: sql.replace("%", "%%"))
    secrets = [settings["password"]]
    try:
        with (
            closing(
                driver.connect(
                    **settings,
                    login_timeout=CONNECT_TIMEOUT_S,
                    network_timeout=source.timeout_s + CONNECT_TIMEOUT_S,
                    session_parameters={
                        "STATEMENT_TIMEOUT_IN_SECONDS": source.timeout_s,
                        "TIMEZONE": request.batch.timezone,
                    },
                )
            ) as connection,
            closing(connection.cursor()) as cursor,
        ):
            # Always with parameters, so that %% means % whether there are any or none.
            cursor.execute(text, {"anomalyze": None} | dict(statement.values))
            columns = tuple(column[0] for column in cursor.description or ())
            rows = limited(iter(cursor.fetchone, None), source.rows_max, request.name)
    except driver.errors.Error as error:
        passing = isinstance(error, driver.errors.OperationalError | driver.errors.InterfaceError)
        told = silent if passing or error.errno in _ENDED else broken
        raise told(request, error, secrets) from None
    return Table(columns, rows)


def _settings(address: str, name: str) -> dict[str, Any]:
    url = urlsplit(address)
    path = [unquote(part) for part in url.path.split("/") if part]
    if url.scheme != "snowflake" or not url.hostname or not url.username:
        raise ConfigError(
            f"batch {name}: expected snowflake://user:password@account/database/schema?warehouse=…, got another address"
        )
    settings: dict[str, Any] = {
        "account": url.hostname,
        "user": unquote(url.username),
        "password": unquote(url.password or ""),
    }
    settings |= dict(zip(("database", "schema"), path, strict=False))
    return settings | {key: value for key, value in parse_qsl(url.query) if key in _OPTIONS}
