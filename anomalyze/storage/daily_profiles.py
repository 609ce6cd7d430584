"""Profiles of whole days in PostgreSQL: which versions there are, and what the newest of them say."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import psycopg

from anomalyze.features.catalogue import DAILY_MEASURES
from anomalyze.storage.pool import postgres_errors

__all__ = [
    "ROW_DAYS",
    "ROW_MEASURES",
    "find_version_before",
    "forget_versions",
    "list_versions",
    "store_version",
]

# So many days' versions have their rows here; older ones have their file only.
ROW_DAYS = 3
# The columns of ``entity_profiles`` after ``first_seen``, which stands for the last measure.
ROW_MEASURES = tuple(name for name in DAILY_MEASURES if name != "first_seen_days")
_COPY = f"COPY entity_profiles (version, account_id, entity, id, first_seen, {', '.join(ROW_MEASURES)}) FROM STDIN CSV"


def store_version(
    connection: psycopg.Connection[Any],
    version: str,
    as_of: datetime,
    *,
    transactions: int,
    entities: int,
    file_bytes: int,
    rows: Iterable[bytes],
) -> bool:
    """Store a version with its rows, whole or not at all; False when it is there already.

    Parameters
    ----------
    rows
        CSV in the order of ``entity_profiles``' columns; not read for a day that is older than the newest
        ``ROW_DAYS``.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now: nothing was stored.
    """
    with postgres_errors(), connection.transaction():
        added = connection.execute(
            "INSERT INTO profile_versions (version, day, as_of, transactions, entities, file_bytes) "
            "VALUES (%(version)s, (%(as_of)s AT TIME ZONE 'UTC')::date - 1, %(as_of)s, %(transactions)s, %(entities)s, "
            "%(bytes)s) ON CONFLICT DO NOTHING",
            {
                "version": version,
                "as_of": as_of,
                "transactions": transactions,
                "entities": entities,
                "bytes": file_bytes,
            },
        ).rowcount
        if not added:
            return False
        newest = connection.execute(
            "SELECT as_of FROM profile_versions GROUP BY as_of ORDER BY as_of DESC LIMIT %s", [ROW_DAYS]
        ).fetchall()
        if (as_of,) in newest:
            with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                for part in rows:
                    copy.write(part)
        connection.execute(_FORGET_ROWS, {"days": ROW_DAYS})
    return True


# What stays: of each of the newest days the version computed last.
_FORGET_ROWS = """
DELETE FROM entity_profiles WHERE version IN (
    SELECT version FROM (
        SELECT version, row_number() OVER (PARTITION BY as_of ORDER BY computed_at DESC, version) AS turn,
            dense_rank() OVER (ORDER BY as_of DESC) AS day
        FROM profile_versions
    ) v WHERE turn > 1 OR day > %(days)s
)
"""


def find_version_before(connection: psycopg.Connection[Any], as_of: datetime) -> str | None:
    """The newest version of an earlier day, of one day the one computed last."""
    with postgres_errors():
        row = connection.execute(
            "SELECT version FROM profile_versions WHERE as_of < %s ORDER BY as_of DESC, computed_at DESC LIMIT 1",
            [as_of],
        ).fetchone()
    return None if row is None else str(row[0])


def list_versions(connection: psycopg.Connection[Any], first: datetime, end: datetime) -> list[str]:
    """Versions that transactions in ``[first, end)`` are judged by, oldest first; of one day the last computed."""
    with postgres_errors():
        rows = connection.execute(
            "SELECT DISTINCT ON (as_of) version FROM profile_versions WHERE as_of < %(end)s AND as_of >= coalesce("
            "(SELECT max(as_of) FROM profile_versions WHERE as_of <= %(first)s), %(first)s) "
            "ORDER BY as_of, computed_at DESC",
            {"first": first, "end": end},
        ).fetchall()
    return [str(version) for (version,) in rows]


def forget_versions(connection: psycopg.Connection[Any], before: datetime) -> list[str]:
    """Remove the versions of instants before one; returns them, for their files to be removed."""
    with postgres_errors():
        rows = connection.execute(
            "DELETE FROM profile_versions WHERE as_of < %s RETURNING version", [before]
        ).fetchall()
    return [str(version) for (version,) in rows]
