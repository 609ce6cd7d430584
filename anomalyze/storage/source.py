"""Polled tables: how far each was read, why it cannot be, and its rows that were refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from anomalyze.storage.query import Query

__all__ = [
    "ERRORS_KEPT",
    "SourceState",
    "claim_source",
    "find_due",
    "list_sources",
    "load_source",
    "move_on",
    "note_failure",
    "note_look",
    "stream_source_errors",
    "sync_sources",
]

# Refused rows kept of a source, the newest; older ones are counted only.
ERRORS_KEPT = 10_000
# A source that fails is asked again after 15 s, then twice as long each time.
RETRY_S_MIN, RETRY_S_MAX = 15, 900

COLUMNS = (
    "name, account_id, identity, table_name, position, safe, bound, bound_at, rows_read, rows_published, "
    "rows_refused, looked_at, read_at, error, failures, next_at, run_id"
)
# Held by who reads a source, for as long as his connection lives.
_LOCK = "hashtextextended('source ' || name, 0)"


@dataclass(frozen=True, slots=True)
class SourceState:
    """One row of `sources`."""

    name: str
    account_id: str
    identity: str
    table_name: str
    position: dict[str, Any] | None
    safe: list[str] | None
    bound: list[str] | None
    bound_at: datetime | None
    rows_read: int
    rows_published: int
    rows_refused: int
    looked_at: datetime | None
    read_at: datetime | None
    error: str | None
    failures: int
    next_at: datetime
    run_id: str | None


def sync_sources(connection: psycopg.Connection[Any], sources: Mapping[str, tuple[str, str, str]]) -> None:
    """Make the table name the configured sources: (account, identity, table) by name.

    One whose table, cursor or account changed begins anew; one whose file is gone rests where it stood.
    """
    with connection.transaction():
        for name, (account_id, identity, table) in sources.items():
            connection.execute(
                "INSERT INTO sources (name, account_id, identity, table_name) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (name) DO UPDATE SET active = true, account_id = excluded.account_id, "
                "identity = excluded.identity, table_name = excluded.table_name, position = NULL, safe = NULL, "
                "bound = NULL, bound_at = NULL, error = NULL, failures = 0, next_at = now() "
                "WHERE sources.identity <> excluded.identity OR sources.account_id <> excluded.account_id",
                [name, account_id, identity, table],
            )
        connection.execute(
            "UPDATE sources SET active = name = ANY(%(names)s) WHERE active <> (name = ANY(%(names)s))",
            {"names": list(sources)},
        )


def find_due(connection: psycopg.Connection[Any]) -> list[SourceState]:
    """Sources to look at now: active, not waiting after a failure, and nobody reading them."""
    with connection.transaction(), connection.cursor(row_factory=class_row(SourceState)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM sources WHERE active AND next_at <= now() "  # noqa: S608 - constants
            f"AND pg_try_advisory_xact_lock({_LOCK}) ORDER BY next_at, name"
        ).fetchall()


def claim_source(connection: psycopg.Connection[Any], name: str) -> SourceState | None:
    """Take a source to read it; None when it is not configured, or somebody else has it.

    Held by an advisory lock of this connection: it goes with the connection, whatever ends it.
    """
    row = connection.execute(
        f"SELECT pg_try_advisory_lock({_LOCK}) FROM sources WHERE name = %s AND active",  # noqa: S608 - constants
        [name],
    ).fetchone()
    if row != (True,):
        return None
    with connection.cursor(row_factory=class_row(SourceState)) as cursor:
        return cursor.execute(f"SELECT {COLUMNS} FROM sources WHERE name = %s", [name]).fetchone()  # noqa: S608 - constants


def note_look(
    connection: psycopg.Connection[Any], name: str, newest: Sequence[str] | None, lag_s: int
) -> SourceState:
    """Note the largest cursor that is there now; the one noted before is safe when the lag has passed since.

    A row that was not visible then had drawn a smaller cursor by then, and was committed since.
    """
    with connection.cursor(row_factory=class_row(SourceState)) as cursor:
        row = cursor.execute(
            "UPDATE sources SET looked_at = now(), error = NULL, failures = 0, next_at = now(), "  # noqa: S608 - constants
            "safe = CASE WHEN %(lag)s = 0 THEN %(newest)s ELSE CASE WHEN ripe THEN bound ELSE safe END END, "
            "bound = CASE WHEN ripe OR bound IS NULL THEN %(newest)s ELSE bound END, "
            "bound_at = CASE WHEN ripe OR bound IS NULL THEN now() ELSE bound_at END "
            "FROM (SELECT name AS ripe_name, coalesce(bound_at <= now() - make_interval(secs => %(lag)s), false) "
            "AND bound IS NOT NULL AS ripe FROM sources WHERE name = %(name)s) AS was "
            f"WHERE name = %(name)s AND ripe_name = name RETURNING {COLUMNS}",
            {"name": name, "newest": None if newest is None else Jsonb(list(newest)), "lag": lag_s},
        ).fetchone()
    assert row is not None
    return row


def move_on(
    connection: psycopg.Connection[Any],
    state: SourceState,
    position: Mapping[str, Any],
    *,
    read: int,
    published: int,
    refused: Sequence[tuple[str, str, str]],
    run_id: str | None,
) -> None:
    """Note that the log has all rows up to ``position``, and keep those that were refused, in one transaction.

    Parameters
    ----------
    refused
        (column, reason, row as JSON).
    """
    with connection.transaction():
        connection.execute(
            "UPDATE sources SET position = %(position)s, rows_read = rows_read + %(read)s, "
            "rows_published = rows_published + %(published)s, rows_refused = rows_refused + %(refused)s, "
            "read_at = now(), run_id = coalesce(%(run)s, run_id) WHERE name = %(name)s",
            {
                "name": state.name,
                "position": Jsonb(dict(position)),
                "read": read,
                "published": published,
                "refused": len(refused),
                "run": run_id,
            },
        )
        if not refused:
            return
        columns, reasons, raws = (
            [text.replace("\0", "\ufffd") for text in part] for part in zip(*refused, strict=True)
        )
        connection.execute(
            "INSERT INTO source_errors (source, account_id, column_name, reason, raw) "
            "SELECT %s, %s, c, reason, raw FROM unnest(%s::text[], %s::text[], %s::text[]) AS e (c, reason, raw)",
            [state.name, state.account_id, columns, reasons, raws],
        )
        connection.execute(
            "DELETE FROM source_errors WHERE source = %(name)s AND error_id <= (SELECT error_id FROM source_errors "
            "WHERE source = %(name)s ORDER BY error_id DESC OFFSET %(kept)s LIMIT 1)",
            {"name": state.name, "kept": ERRORS_KEPT},
        )


def note_failure(connection: psycopg.Connection[Any], name: str, error: str) -> None:
    """Say why a source could not be read; it is asked again later, and later each time."""
    connection.execute(
        "UPDATE sources SET error = %(error)s, failures = failures + 1, next_at = now() + make_interval("
        "secs => least(%(most)s, %(least)s * power(2, least(failures, 10)))) WHERE name = %(name)s",
        {"name": name, "error": error[:1000], "least": RETRY_S_MIN, "most": RETRY_S_MAX},
    )


def list_sources(account_id: str) -> Query[list[SourceState]]:
    """An account's sources by name."""
    return Query(
        f"SELECT {COLUMNS} FROM sources WHERE account_id = %(account)s AND active ORDER BY name",  # noqa: S608 - constants
        {"account": account_id},
        lambda rows: [SourceState(**row) for row in rows],
    )


def load_source(account_id: str, name: str) -> Query[SourceState | None]:
    """One source of an account."""
    return Query(
        f"SELECT {COLUMNS} FROM sources WHERE account_id = %(account)s AND name = %(name)s AND active",  # noqa: S608 - constants
        {"account": account_id, "name": name},
        lambda rows: SourceState(**rows[0]) if rows else None,
    )


async def stream_source_errors(
    connection: psycopg.AsyncConnection[Any], account_id: str, name: str
) -> AsyncIterator[tuple[datetime, str, str, str]]:
    """(time, column, reason, row) of every refused row that was kept, the newest first."""
    async with connection.transaction(), connection.cursor(name="source_errors") as cursor:
        cursor.itersize = 1_000
        await cursor.execute(
            "SELECT at, column_name, reason, raw FROM source_errors WHERE source = %s AND account_id = %s "
            "ORDER BY error_id DESC",
            [name, account_id],
        )
        async for row in cursor:
            yield row[0], row[1], row[2], row[3]
