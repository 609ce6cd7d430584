"""API keys: 256 random bits, shown once, kept as SHA-256, owned by one account, limited by scopes.

A key is ``az_`` and 43 characters. Its id, which may be shown and logged, is its first eleven characters; the
208 bits after them stay secret. A key's hash needs no salt and no slow function, because nobody can guess or
tabulate 256 random bits.

Revocation holds at once: a verifier remembers an answer for `CACHE_TTL_S` only, so that a revoked key is
refused everywhere 250 ms after the revocation is committed, and each process asks PostgreSQL at most four
times a second for a key in use. A notification would be a few ms faster and would fail open whenever its
connection drops.

Scopes: ``ingest`` sends transactions, ``read`` sees them, ``admin`` decides, manages keys and lists, and
includes the other two.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from anomalyze.errors import ConfigError

__all__ = [
    "KEY_PREFIX",
    "SCOPES",
    "Key",
    "Principal",
    "create_key",
    "find_key",
    "hash_key",
    "list_keys",
    "register_key",
    "revoke_key",
]

KEY_PREFIX = "az_"
SCOPES = ("ingest", "read", "admin")
# A stranger's "key" is hashed before anything else: longer ones are no keys.
SECRET_LENGTH_MAX = 512
NAME_LENGTH_MAX = 100
ACCOUNT_LENGTH_MAX = 128

KEY_COLUMNS = "key_id, account_id, name, scopes, created_at, created_by, last_used_at, revoked_at"
_INSERT = (
    "INSERT INTO api_keys (key_id, account_id, key_hash, name, scopes, created_by) "  # noqa: S608 - constants
    f"VALUES (%s, %s, %s, %s, %s, %s) RETURNING {KEY_COLUMNS}"
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the key, the account whose data it opens, and what it may do."""

    key_id: str
    account_id: str
    scopes: frozenset[str]
    name: str = ""

    def allows(self, scope: str) -> bool:
        """Whether this key has the scope; ``admin`` includes the others.

        >>> Principal("az_1", "acct_7", frozenset({"read"})).allows("ingest")
        False
        >>> Principal("az_1", "acct_7", frozenset({"admin"})).allows("ingest")
        True
        """
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is listed: everything but the secret."""

    key_id: str
    account_id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    created_by: str | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @property
    def principal(self) -> Principal:
        """What this key may do, whether or not it was revoked."""
        return Principal(self.key_id, self.account_id, self.scopes, self.name)


def create_key(
    connection: psycopg.Connection[Any], account_id: str, name: str, scopes: Iterable[str], by: str
) -> tuple[Key, str]:
    """Make a key and return it with its secret, which is stored nowhere and cannot be shown again.

    Parameters
    ----------
    connection
        The key is committed on return, unless the caller has begun a transaction.
    account_id
        Owner; the account is made when it is new.
    name
        What its owner calls it.
    scopes
        One or more of `SCOPES`.
    by
        Who makes it, for the audit log.

    Raises
    ------
    ConfigError
        A scope, a name or an account id that cannot be.
    """
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key_id = secret[: len(KEY_PREFIX) + 8]
    return register_key(connection, secret, key_id, account_id, name, scopes, by), secret


def register_key(
    connection: psycopg.Connection[Any],
    secret: str,
    key_id: str,
    account_id: str,
    name: str,
    scopes: Iterable[str],
    by: str,
) -> Key:
    """Store a key whose secret was made elsewhere (`create_key`, the setting ``ADMIN_KEY``).

    Raises
    ------
    ConfigError
        As `create_key`.
    """
    wanted = sorted(set(scopes), key=lambda s: SCOPES.index(s) if s in SCOPES else -1)
    unknown = [s for s in wanted if s not in SCOPES]
    if not wanted or unknown:
        raise ConfigError(
            f"scopes of a key: expected one or more of {', '.join(SCOPES)}, got {', '.join(unknown) or 'none'}"
        )
    _check_text("name of a key", name, NAME_LENGTH_MAX)
    _check_text("account_id", account_id, ACCOUNT_LENGTH_MAX)
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "INSERT INTO accounts (account_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [account_id, account_id],
        )
        cursor.execute(_INSERT, [key_id, account_id, hash_key(secret), name, wanted, by])
        key = read_key(cursor.fetchone())
        assert key is not None
        _audit(cursor, key, by, "key.create", {"name": name, "scopes": wanted})
    return key


def find_key(connection: psycopg.Connection[Any], secret: str) -> Key | None:
    """The key with this secret, revoked or not; None when there is none.

    For the sign-in page, which tells the holder of a revoked key since when it is so.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            f"SELECT {KEY_COLUMNS} FROM api_keys WHERE key_hash = %s",  # noqa: S608 - a constant
            [hash_key(secret)],
        )
        return read_key(cursor.fetchone())


def list_keys(connection: psycopg.Connection[Any], account_id: str | None = None) -> list[Key]:
    """Keys of one account, or of all, oldest first, revoked ones too."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            f"SELECT {KEY_COLUMNS} FROM api_keys "  # noqa: S608 - a constant
            "WHERE %(account)s::text IS NULL OR account_id = %(account)s ORDER BY created_at, key_id",
            {"account": account_id},
        )
        return [key for row in cursor if (key := read_key(row)) is not None]


def revoke_key(
    connection: psycopg.Connection[Any], key_id: str, by: str, account_id: str | None = None
) -> Key | None:
    """End a key for good; again does nothing more.

    Parameters
    ----------
    account_id
        Only when the key belongs to this account (None: any).

    Returns
    -------
    The key with ``revoked_at``, or None when there is no such key (of that account).
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE key_id = %(key)s AND revoked_at IS NULL "
            "AND (%(account)s::text IS NULL OR account_id = %(account)s)",
            {"key": key_id, "account": account_id},
        )
        changed = cursor.rowcount
        cursor.execute(
            f"SELECT {KEY_COLUMNS} FROM api_keys WHERE key_id = %(key)s "  # noqa: S608 - a constant
            "AND (%(account)s::text IS NULL OR account_id = %(account)s)",
            {"key": key_id, "account": account_id},
        )
        key = read_key(cursor.fetchone())
        if changed and key is not None:
            _audit(cursor, key, by, "key.revoke", {})
    return key


def hash_key(secret: str) -> bytes:
    """SHA-256 of the whole key: all that is stored of it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def read_key(row: dict[str, Any] | None) -> Key | None:
    """A row of `KEY_COLUMNS` as a `Key`."""
    return None if row is None else Key(**(row | {"scopes": frozenset(row["scopes"])}))


def _check_text(what: str, value: str, length_max: int) -> None:
    if not 1 <= len(value) <= length_max or not value.isprintable():
        raise ConfigError(f"{what}: expected 1 to {length_max} printable characters, got {value[:120]!r}")


def _audit(cursor: psycopg.Cursor[Any], key: Key, by: str, action: str, detail: dict[str, Any]) -> None:
    cursor.execute(
        "INSERT INTO audit_log (account_id, actor, action, target, detail) VALUES (%s, %s, %s, %s, %s)",
        [key.account_id, by, action, key.key_id, Jsonb(detail)],
    )
