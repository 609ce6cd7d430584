"""The first key: what the operator signs in with before any other key exists.

The setting ``ADMIN_KEY``, or a generated key in the data folder's file ``admin-key`` (mode 600).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.access.keys import KEY_PREFIX, SCOPES, find_key, hash_key, register_key
from anomalyze.errors import ConfigError
from anomalyze.settings import Settings

__all__ = ["ADMIN_KEY_FILE", "DEFAULT_ACCOUNT", "AdminKey", "ensure_admin_key", "load_secret", "store_secret"]

DEFAULT_ACCOUNT = "default"
ADMIN_KEY_FILE = "admin-key"
# A person chose this one: short ones fall to guessing through the API.
ADMIN_KEY_LENGTH_MIN = 8
_BY_SETTING = "setting ADMIN_KEY"
_BY_FILE = "generated"
_LOCK = 0x616E5F61646D696E  # "an_admin": one program at a time makes the first key


@dataclass(frozen=True, slots=True)
class AdminKey:
    """The operator's key.

    Attributes
    ----------
    secret
        The key itself: never to be logged.
    path
        The file it is in; None when it comes from the setting.
    is_new
        Whether it was made just now, and so is to be shown once.
    """

    secret: str = field(repr=False)
    path: Path | None
    is_new: bool


def ensure_admin_key(connection: psycopg.Connection[Any], settings: Settings) -> AdminKey:
    """Make sure that the operator's key exists, for the account `DEFAULT_ACCOUNT` with all scopes.

    Safe when several programs call it at once. With the setting, keys registered from an earlier value of it
    are revoked: the setting says which key counts. A generated key that was revoked is replaced.

    Raises
    ------
    ConfigError
        ``ADMIN_KEY`` is too short, or was revoked.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if settings.admin_key is not None:
            return _ensure_setting(connection, settings.admin_key.get_secret_value())
        return _ensure_file(connection, settings.data_dir / ADMIN_KEY_FILE)


def load_secret(path: Path) -> str | None:
    """The secret in a file, or None; takes away everybody else's right to read it."""
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return path.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def store_secret(path: Path, secret: str, *, replace: bool) -> None:
    """Write a secret with mode 600, whole or not at all; without ``replace`` a file that is there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    if replace:
        new.replace(path)
        return
    with contextlib.suppress(FileExistsError):
        os.link(new, path)
    new.unlink()


def _ensure_setting(connection: psycopg.Connection[Any], secret: str) -> AdminKey:
    if len(secret) < ADMIN_KEY_LENGTH_MIN:
        raise ConfigError(
            f"ANOMALYZE_ADMIN_KEY: expected at least {ADMIN_KEY_LENGTH_MIN} characters (better 32 random ones), "
            f"got {len(secret)}"
        )
    found = find_key(connection, secret)
    if found is not None and found.revoked_at is not None:
        raise ConfigError(
            f"ANOMALYZE_ADMIN_KEY: this key was revoked on {found.revoked_at:%Y-%m-%d}: set another one"
        )
    connection.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE created_by = %s AND revoked_at IS NULL AND key_hash <> %s",
        [_BY_SETTING, hash_key(secret)],
    )
    if found is None:
        # Its first characters may be half of what a person chose: the id is random instead.
        key_id = "key_" + secrets.token_hex(4)
        register_key(connection, secret, key_id, DEFAULT_ACCOUNT, "admin", SCOPES, _BY_SETTING)
    return AdminKey(secret, None, False)


def _ensure_file(connection: psycopg.Connection[Any], path: Path) -> AdminKey:
    secret = load_secret(path)
    found = None if secret is None else find_key(connection, secret)
    if secret is not None and found is not None and found.revoked_at is None:
        return AdminKey(secret, path, False)
    is_new = secret is None or found is not None
    if secret is None or found is not None:
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        # The file first: after a crash between the two the next start registers what the file holds.
        store_secret(path, secret, replace=True)
    key_id = secret[: len(KEY_PREFIX) + 8]
    register_key(connection, secret, key_id, DEFAULT_ACCOUNT, "admin", SCOPES, _BY_FILE)
    return AdminKey(secret, path, is_new)
