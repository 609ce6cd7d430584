"""Reading a table by its cursor: what was added or changed since the last row that the log has.

Rows are read in the order of (cursor, tie-break) behind a stored position, which moves on only when the log has
acknowledged them: whatever ends a run, the next one reads at most one batch again, and the detector knows its rows by
their identity. A row whose transaction commits late would be passed by, so nothing is read beyond a cursor value that
was the largest a lag ago (``note_look``): no clock of the other system is needed for that, nor one of its time zones.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql import quoted_name

from anomalyze.errors import AnomalyzeError, ConfigError, TransientError
from anomalyze.ingestion.source import SourceFile
from anomalyze.log import get
from anomalyze.settings import find_secret
from anomalyze.storage import source as store
from anomalyze.storage.alarms import Alarm, raise_alarm
from anomalyze.storage.source import SourceState

__all__ = ["PolledTable", "look_at_source", "open_table", "tell_failure"]

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 60
RAW_CHARACTERS_MAX = 2_000
REASON_CHARACTERS_MAX = 300

_TO_TEXT: dict[str, Callable[[Any], str]] = {
    "int": str,
    "float": repr,
    "decimal": str,
    "text": str,
    "uuid": str,
    "time": dt.datetime.isoformat,
    "day": dt.date.isoformat,
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "decimal": Decimal,
    "text": str,
    "uuid": uuid.UUID,
    "time": dt.datetime.fromisoformat,
    "day": dt.date.fromisoformat,
}
_KINDS: tuple[tuple[type, str], ...] = (
    (int, "int"),
    (float, "float"),
    (Decimal, "decimal"),
    (str, "text"),
    (uuid.UUID, "uuid"),
    (dt.datetime, "time"),
    (dt.date, "day"),
)


def encode_value(value: Any) -> list[str]:
    """A cursor's value as it is stored.

    >>> encode_value(dt.date(2025, 11, 3)), decode_value(["decimal", "1.50"])
    (['day', '2025-11-03'], Decimal('1.50'))
    """
    for type_, kind in _KINDS:
        if isinstance(value, type_) and not isinstance(value, bool):
            return [kind, _TO_TEXT[kind](value)]
    raise ConfigError(f"expected numbers, times or text in cursor and tie_break, got {type(value).__name__}")


def decode_value(stored: Sequence[str]) -> Any:
    """What ``encode_value`` was given."""
    return _FROM_TEXT[stored[0]](stored[1])


class PolledTable:
    """A table of another system, read only.

    Parameters
    ----------
    engine
        How to reach it.
    source
        Which columns it has for us; their names are quoted, all values are parameters.
    """

    def __init__(self, engine: sa.Engine, source: SourceFile) -> None:
        self._engine = engine
        names = dict.fromkeys([*source.mapping.fields.values(), source.cursor, source.tie_break])
        self.columns = tuple(names)
        columns: list[sa.ColumnClause[Any]] = [sa.column(quoted_name(name, quote=True)) for name in names]
        schema = quoted_name(source.table_schema, quote=True) if source.table_schema else None
        self._table = sa.table(quoted_name(source.table, quote=True), *columns, schema=schema)
        self._cursor = self._table.c[source.cursor]
        self._tie = self._table.c[source.tie_break]
        self._cursor_at, self._tie_at = (
            self.columns.index(source.cursor),
            self.columns.index(source.tie_break),
        )

    def newest(self) -> list[str] | None:
        """The largest cursor, encoded; None in an empty table."""
        found = self._fetch(sa.select(sa.func.max(self._cursor)))[0][0]
        return None if found is None else encode_value(found)

    def read(self, position: dict[str, Any] | None, safe: Sequence[str], limit: int) -> list[tuple[Any, ...]]:
        """Rows (``columns``) behind a position up to a cursor, in their order; rows without a cursor are none."""
        query = sa.select(*(self._table.c[name] for name in self.columns)).where(
            self._cursor <= decode_value(safe)
        )
        if position is not None:
            cursor, tie = decode_value(position["cursor"]), decode_value(position["tie"])
            query = query.where(
                sa.or_(self._cursor > cursor, sa.and_(self._cursor == cursor, self._tie > tie))
            )
        return self._fetch(query.order_by(self._cursor, self._tie).limit(limit))

    def position_of(self, row: tuple[Any, ...]) -> dict[str, Any]:
        """A row's place in the order."""
        return {"cursor": encode_value(row[self._cursor_at]), "tie": encode_value(row[self._tie_at])}

    def _fetch(self, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query).fetchall()]


@contextmanager
def open_table(source: SourceFile) -> Iterator[PolledTable]:
    """The table of a source, for a ``with`` block.

    Raises
    ------
    ConfigError
        No address, no driver for it, no such table or column.
    TransientError
        It does not answer now.
    """
    secret = find_secret(source.url)
    if secret is None:
        raise ConfigError(
            f"expected the table's address in the environment variable {source.url}, got nothing: set it where Dagster "
            "runs, such as postgresql://reader:…@host/db"
        )
    address, shown = secret.get_secret_value(), ""
    try:
        url = sa.make_url(address)
        shown = (url.password and str(url.password)) or ""
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=_limits(url))
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, ValueError) as error:
        # Its text may hold the address.
        raise ConfigError(
            f"{source.url}: expected an address of SQLAlchemy whose driver is installed, got one that gives "
            f"{type(error).__name__}"
        ) from None
    try:
        yield PolledTable(engine, source)
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise TransientError(_reason(error, shown), retry_after_s=15.0) from None
    except exc.SQLAlchemyError as error:
        raise ConfigError(_reason(error, shown)) from None
    finally:
        engine.dispose()


def _limits(url: sa.URL) -> dict[str, Any]:
    """How long to wait, in the words of the drivers we know."""
    if url.get_backend_name() == "postgresql":
        options = f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000} -c default_transaction_read_only=on"
        return {"connect_timeout": CONNECT_TIMEOUT_S, "options": options}
    if url.get_backend_name() == "sqlite":
        return {"timeout": CONNECT_TIMEOUT_S}
    if url.get_backend_name() in ("mysql", "mariadb"):
        return {"connect_timeout": CONNECT_TIMEOUT_S}
    return {}


def _reason(error: exc.SQLAlchemyError, password: str) -> str:
    said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    if password:
        said = said.replace(password, "…")
    return f"the table cannot be read: {said[:REASON_CHARACTERS_MAX]}"


def look_at_source(
    connection: psycopg.Connection[Any], name: str, source: SourceFile, table: PolledTable
) -> tuple[SourceState, bool]:
    """See whether there are rows to read; its state afterwards."""
    known = connection.execute("SELECT 1 FROM accounts WHERE account_id = %s", [source.account]).fetchone()
    if known is None:
        raise ConfigError(f"expected an account that exists, got {source.account}")
    state = store.note_look(connection, name, table.newest(), source.lag_s)
    return state, state.safe is not None and bool(table.read(state.position, state.safe, 1))


def tell_failure(
    connection: psycopg.Connection[Any], name: str, account_id: str, error: AnomalyzeError
) -> None:
    """Keep why a source cannot be read, and raise an alarm, once a day."""
    store.note_failure(connection, name, str(error))
    summary = f"The table of source {name} cannot be polled: {str(error).removeprefix('the table cannot be read: ')}"
    raise_alarm(
        connection,
        Alarm("source", f"source:{name}:{time.strftime('%Y-%m-%d', time.gmtime())}", summary, account_id),
    )
    get().warning("source_failed", source=name, reason=str(error))


def text_of(value: Any) -> str | None:
    """A value of a row as a file would write it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="replace")
    return str(value)


def raw_of(columns: Sequence[str], row: Sequence[Any]) -> str:
    """A row as JSON, for its owner to read."""
    content = dict(zip(columns, map(text_of, row), strict=True))
    return msgspec.json.encode(content).decode()[:RAW_CHARACTERS_MAX]
