"""What Dagster's programs need before they start: a home, a database of their own, a socket.

Dagster keeps runs, events and schedules in a database beside ours, because both number their migrations in a
table of the same name. The home lies in the data folder; its configuration is the checkout's ``dagster.yaml``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from anomalyze.embedded.runtime import Addresses
from anomalyze.errors import ConfigError
from anomalyze.settings import Settings
from anomalyze.storage.pool import connect, postgres_errors

__all__ = ["CHECKOUT", "dagster_dsn", "prepare_dagster"]

CHECKOUT = Path(__file__).resolve().parents[2]
# The kernel's limit for a socket's path is 107 bytes.
SOCKET_PATH_LENGTH_MAX = 100


def prepare_dagster(settings: Settings, addresses: Addresses) -> dict[str, str]:
    """Make home and database where they are missing; returns the environment of Dagster's programs.

    Raises
    ------
    ConfigError
        The database is missing and cannot be made.
    TransientError
        PostgreSQL does not answer now.
    """
    home = settings.data_dir / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    os.chmod(home, 0o700)
    (home / "dagster.yaml").write_text((CHECKOUT / "dagster.yaml").read_text("utf-8"), "utf-8")
    dsn = dagster_dsn(settings, addresses)
    ensure_database(dsn, addresses.postgres_dsn)
    return {
        "DAGSTER_HOME": str(home),
        "ANOMALYZE_DAGSTER_DSN": dsn,
        "ANOMALYZE_DAGSTER_LOGS": str(home / "logs"),
        "ANOMALYZE_DAGSTER_SOCKET": str(socket_path(home)),
    }


def dagster_dsn(settings: Settings, addresses: Addresses) -> str:
    """Address of Dagster's database: the setting, else ``<our database>_dagster`` on the same server."""
    if settings.dagster_dsn is not None:
        return settings.dagster_dsn.get_secret_value()
    parts = urlsplit(addresses.postgres_dsn)
    return urlunsplit(parts._replace(path=f"{parts.path}_dagster"))


def ensure_database(dsn: str, beside: str) -> None:
    """Make the database of a DSN, by a connection to one that is there, unless it exists."""
    name = urlsplit(dsn).path.removeprefix("/")
    with connect(beside, program="anomalyze up") as connection, postgres_errors():
        if urlsplit(dsn)[:2] != urlsplit(beside)[:2]:
            return  # another server, which its operator prepares
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        if found is not None:
            return
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.DuplicateDatabase:
            return
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigError(
                f"Dagster needs a database of its own and {name!r} is missing: have it created, name another one with "
                "ANOMALYZE_DAGSTER_DSN, or go without with ANOMALYZE_DAGSTER=false"
            ) from None


def socket_path(home: Path) -> Path:
    """Where the code server listens: in the home, which only its owner may enter, if the path is short enough."""
    path = home / "code.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LENGTH_MAX:
        return path
    return Path(tempfile.mkdtemp(prefix="anomalyze-")) / "code.sock"
