"""DuckDB: parquet, CSV and JSON files, objects in S3, a DuckDB file, MotherDuck. Relative files begin at the
configuration folder."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import duckdb

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import DuckDBSource, S3Access
from anomalyze.metrics.sources.contract import (
    Request,
    Table,
    address_of,
    broken,
    limited,
    path_of,
    silent,
)

__all__ = ["fetch", "s3_secret"]

THREADS = 2
CHUNK_ROWS = 5_000
# What httpfs says of a host that does not answer; the class of its error is that of a missing file.
_UNREACHED = "error for HTTP "


def fetch(request: Request) -> Table:
    """The answer of one SELECT. A file is opened for reading only; nothing else than SELECT is begun at all."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, DuckDBSource)
    assert statement is not None
    text = statement.written(lambda name: f"${name}")
    secrets: list[str] = []
    late = threading.Event()
    try:
        with closing(_connect(source, request, secrets)) as connection:
            kinds = [one.type for one in connection.extract_statements(text)]
            if kinds != [duckdb.StatementType.SELECT]:
                got = ", ".join(kind.name for kind in kinds)
                raise ConfigError(f"batch {request.name}: expected one SELECT, got {got}")

            def stop() -> None:
                late.set()
                connection.interrupt()

            timer = threading.Timer(source.timeout_s, stop)
            timer.daemon = True
            timer.start()
            try:
                cursor = connection.execute(text, dict(statement.values))
                columns = tuple(column[0] for column in cursor.description or ())
                rows = limited(_rows(cursor), source.rows_max, request.name)
            finally:
                timer.cancel()
    except duckdb.Error as error:
        if late.is_set():
            raise silent(request, TimeoutError(f"it took longer than {source.timeout_s} s")) from None
        if isinstance(error, duckdb.ConnectionException | duckdb.HTTPException) or _UNREACHED in str(error):
            raise silent(request, error, secrets) from None
        raise broken(request, error, secrets) from None
    return Table(columns, rows)


def _connect(source: DuckDBSource, request: Request, secrets: list[str]) -> duckdb.DuckDBPyConnection:
    path, remote = ":memory:", source.path is not None and source.path.startswith("md:")
    if source.path is not None:
        path = source.path if remote else str(path_of(request, source.path))
    settings: dict[str, Any] = {
        "memory_limit": f"{source.memory_mb}MB",
        "threads": str(THREADS),
        "autoinstall_known_extensions": str(remote or source.s3 is not None).lower(),
    }
    connection = duckdb.connect(path, read_only=source.path is not None and not remote, config=settings)
    try:
        connection.execute(f"SET file_search_path = {_quoted(str(request.config_dir))}")
        connection.execute(f"SET TimeZone = {_quoted(request.batch.timezone)}")
        if source.s3 is not None:
            connection.execute(s3_secret(source.s3, secrets))
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def s3_secret(access: S3Access, secrets: list[str]) -> str:
    """The statement that gives DuckDB the keys; both are added to ``secrets``, for errors to leave out."""
    key_id, secret = address_of(access.key_id), address_of(access.secret)
    secrets += [key_id, secret]
    parts = ["TYPE s3", f"KEY_ID {_quoted(key_id)}", f"SECRET {_quoted(secret)}"]
    if access.region:
        parts.append(f"REGION {_quoted(access.region)}")
    if access.endpoint:
        scheme, _, host = access.endpoint.rpartition("://")
        parts += [f"ENDPOINT {_quoted(host)}", "URL_STYLE 'path'", f"USE_SSL {scheme != 'http'}"]
    return f"CREATE SECRET anomalyze ({', '.join(parts)})"


def _rows(cursor: duckdb.DuckDBPyConnection) -> Any:
    while chunk := cursor.fetchmany(CHUNK_ROWS):
        yield from chunk


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
