"""PostgreSQL, our own or another; Redshift and others that speak its wire."""

from __future__ import annotations

import psycopg

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import AnomalyzeSource, PostgresSource
from anomalyze.metrics.sources.contract import (
    CONNECT_TIMEOUT_S,
    Request,
    Table,
    address_of,
    broken,
    limited,
    silent,
)

__all__ = ["fetch"]

CHUNK_ROWS = 5_000
# What a server says that will not have us; a connection that never was carries no code to tell by.
_REFUSALS = ("authentication failed", "no pg_hba.conf entry", "does not exist")


def fetch(request: Request) -> Table:
    """The answer, through a cursor of the server in a read-only transaction, so that no row beyond the limit is sent.

    The session's time zone is the batch's: ``date_trunc('day', …)`` cuts at its midnight.
    """
    source, statement = request.batch.source, request.statement
    assert isinstance(source, AnomalyzeSource | PostgresSource)
    assert statement is not None
    if isinstance(source, PostgresSource):
        address = address_of(source.url).replace("postgresql+psycopg://", "postgresql://", 1)
    elif request.own_dsn:
        address = request.own_dsn
    else:
        raise ConfigError(f"batch {request.name}: expected our own database, got no address of it")
    secrets: list[str] = [address]
    try:
        secrets.append(str(psycopg.conninfo.conninfo_to_dict(address).get("password") or ""))
        text = statement.written(lambda name: f"%({name})s", lambda sql: sql.replace("%", "%%"))
        with psycopg.connect(
            address, connect_timeout=CONNECT_TIMEOUT_S, application_name="anomalyze metrics", autocommit=True
        ) as connection:
            connection.execute(f"SET statement_timeout = {source.timeout_s * 1000:d}")
            connection.execute("SELECT set_config('TimeZone', %s, false)", [request.batch.timezone])
            connection.read_only = True
            connection.autocommit = False
            with connection.cursor(name="anomalyze") as cursor:
                cursor.itersize = CHUNK_ROWS
                cursor.execute(text, statement.values)
                columns = tuple(column.name for column in cursor.description or ())
                rows = limited(cursor, source.rows_max, request.name)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        refused = error.sqlstate is None and any(said in str(error) for said in _REFUSALS)
        raise (broken if refused else silent)(request, error, secrets) from None
    except psycopg.Error as error:
        raise broken(request, error, secrets) from None
    return Table(columns, rows)
