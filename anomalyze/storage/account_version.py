"""Versions of what accounts say of how they are judged: written once, with a line in the audit log each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from anomalyze.errors import AnomalyzeError
from anomalyze.storage.audit import audit_entry
from anomalyze.storage.pool import postgres_errors
from anomalyze.storage.query import Query

__all__ = [
    "SAVES_A_DAY_MAX",
    "StoredVersion",
    "TooManySaves",
    "VersionConflict",
    "list_versions",
    "load_version",
    "newest_versions",
    "note_bundle",
    "store_version",
]

# Each save makes a bundle, and every detector loads it.
SAVES_A_DAY_MAX = 500
_COLUMNS = "account_id, version, document, changes, saved_at, saved_by, note, bundle"
_INSERT = (
    "INSERT INTO account_versions (account_id, version, document, changes, saved_by, note) "  # noqa: S608 - constants
    f"VALUES (%s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}"
)


class VersionConflict(AnomalyzeError):
    """Somebody else saved in between."""

    def __init__(self, account_id: str, expected: int, found: int, by: str | None) -> None:
        self.expected, self.found = expected, found
        who = f", saved by {by}" if by else ""
        super().__init__(
            f"settings of {account_id}: expected version {expected} to be the newest, it is {found}{who}: "
            "read it, then save again what you still want to change"
        )


class TooManySaves(AnomalyzeError):
    """An account saved more often today than anybody needs."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version.

    Attributes
    ----------
    document, changes
        Plain values, and what differs from the version before, a line each.
    saved_by
        The key.
    bundle
        The first champion that had it; None: it is not in force yet.
    """

    account_id: str
    version: int
    document: Mapping[str, Any]
    changes: Sequence[str]
    saved_at: datetime
    saved_by: str
    note: str
    bundle: str | None


def load_version(account_id: str, version: int | None = None) -> Query[StoredVersion | None]:
    """One version of an account, the newest unless another is named."""
    return Query(
        f"SELECT {_COLUMNS} FROM account_versions WHERE account_id = %(account)s "  # noqa: S608 - constants
        "AND (%(version)s::int IS NULL OR version = %(version)s) ORDER BY version DESC LIMIT 1",
        {"account": account_id, "version": version},
        lambda rows: StoredVersion(**rows[0]) if rows else None,
    )


def list_versions(
    account_id: str, *, before: int | None = None, limit: int = 50
) -> Query[list[StoredVersion]]:
    """Versions of an account, newest first, those below ``before``."""
    return Query(
        f"SELECT {_COLUMNS} FROM account_versions WHERE account_id = %(account)s "  # noqa: S608 - constants
        "AND (%(before)s::int IS NULL OR version < %(before)s) ORDER BY version DESC LIMIT %(limit)s",
        {"account": account_id, "before": before, "limit": limit},
        lambda rows: [StoredVersion(**row) for row in rows],
    )


def newest_versions(connection: psycopg.Connection[Any]) -> dict[str, StoredVersion]:
    """The newest version of every account that has one."""
    with postgres_errors(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            f"SELECT DISTINCT ON (account_id) {_COLUMNS} FROM account_versions "  # noqa: S608 - constants
            "ORDER BY account_id, version DESC"
        )
        return {row["account_id"]: StoredVersion(**row) for row in cursor}


def store_version(
    connection: psycopg.Connection[Any],
    account_id: str,
    document: Mapping[str, Any],
    changes: Sequence[str],
    *,
    by: str,
    note: str,
    after: int,
) -> StoredVersion:
    """Store the version that follows ``after`` (0: the first), and say so in the audit log, in one transaction.

    Raises
    ------
    VersionConflict
        Another version is the newest.
    TooManySaves
        More than ``SAVES_A_DAY_MAX`` within a day.
    TransientError
        PostgreSQL does not answer now.
    """
    with postgres_errors(), connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        # One saver of an account after the other: who comes second sees what the first has stored.
        cursor.execute("SELECT 1 FROM accounts WHERE account_id = %s FOR NO KEY UPDATE", [account_id])
        cursor.execute(
            "SELECT version, saved_by, (SELECT count(*) FROM account_versions WHERE account_id = %(account)s "
            "AND saved_at > now() - interval '1 day') AS today FROM account_versions "
            "WHERE account_id = %(account)s ORDER BY version DESC LIMIT 1",
            {"account": account_id},
        )
        newest = cursor.fetchone() or {"version": 0, "saved_by": None, "today": 0}
        if newest["version"] != after:
            raise VersionConflict(account_id, after, newest["version"], newest["saved_by"])
        if newest["today"] >= SAVES_A_DAY_MAX:
            raise TooManySaves(
                f"settings of {account_id}: expected at most {SAVES_A_DAY_MAX} saves a day, got one more"
            )
        cursor.execute(
            _INSERT,
            [account_id, after + 1, Jsonb(dict(document)), Jsonb(list(changes)), by, note],
        )
        row = cursor.fetchone()
        assert row is not None
        cursor.execute(
            *audit_entry(
                account_id,
                by,
                "account.save",
                f"{account_id}@{after + 1}",
                {"version": after + 1, "changes": list(changes), "note": note},
            )
        )
    return StoredVersion(**row)


def note_bundle(connection: psycopg.Connection[Any], versions: Mapping[str, int], bundle: str) -> None:
    """Note of these versions that a champion has them; of those noted before the first stays."""
    if versions:
        with postgres_errors():
            connection.execute(
                "UPDATE account_versions v SET bundle = %s FROM unnest(%s::text[], %s::int[]) AS n (account_id, version) "
                "WHERE v.account_id = n.account_id AND v.version <= n.version AND v.bundle IS NULL",
                [bundle, list(versions), list(versions.values())],
            )
