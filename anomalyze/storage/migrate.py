"""Brings a database to this version's schema.

Migrations are Alembic's (``migrations/versions``): numbered, expanding first and contracting a release later,
so that a database ahead of a program is no reason for it to stop. When nothing is to be done, which is almost
always, one query says so and Alembic is not even imported.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.errors import ConfigError, ContractError, TransientError
from anomalyze.storage.partition import ensure_partitions_ahead
from anomalyze.storage.pool import connect, connection_arguments, postgres_errors

__all__ = ["HEAD", "expect_current", "load_revision", "migrate"]

# The newest revision in migrations/versions (a test compares).
HEAD = "0016"
MIGRATIONS = Path(__file__).with_name("migrations")
# A statement that waits for a lock makes all who come after it wait: it gives up first, and tries again.
LOCK_TIMEOUT_MS = 2_000
ATTEMPTS_MAX = 15
RETRY_S = 1.0
_LOCK = 0x616E5F6D69677261  # "an_migra"


def migrate(dsn: str) -> str:
    """Bring the schema to `HEAD` and make the coming months' partitions; return the revision found or made.

    May be called by several programs at once and at every start: one of them works, the others wait.

    Raises
    ------
    TransientError
        PostgreSQL is away, or somebody held a lock on a table for too long.
    ContractError
        The database names a revision that is none of ours.
    """
    with connect(dsn, program="anomalyze migrate", statement_timeout_s=0) as connection, postgres_errors():
        revision = load_revision(connection)
        if not _is_current(revision):
            connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
            # Released with the connection, also when this process is killed.
            revision = load_revision(connection)
            if not _is_current(revision):
                _upgrade(dsn)
                revision = load_revision(connection)
        ensure_partitions_ahead(connection)
    assert revision is not None
    return revision


def load_revision(connection: psycopg.Connection[Any]) -> str | None:
    """The schema's revision, or None for an empty database."""
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def expect_current(connection: psycopg.Connection[Any]) -> None:
    """For commands that stand alone: `anomalyze up` may be of an older version, or never have been.

    Raises
    ------
    ConfigError
        The schema is older than this version's.
    """
    revision = load_revision(connection)
    if not _is_current(revision):
        raise ConfigError(
            f"expected a database with the schema {HEAD} of this version, got {revision or 'an empty one'}: start "
            "`anomalyze up` again, or run `anomalyze migrate`"
        )


def _is_current(revision: str | None) -> bool:
    if revision is None:
        return False
    if not revision.isdecimal():
        raise ContractError(
            f"schema revision: expected a number such as {HEAD}, got {revision!r} in alembic_version: "
            "this database belongs to another program"
        )
    return int(revision) >= int(HEAD)


def _upgrade(dsn: str) -> None:
    # Imported here: 0.3 s that only a new database or a new release needs.
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    arguments = connection_arguments(dsn, "anomalyze migrate", 0)
    arguments["options"] += f" -c lock_timeout={LOCK_TIMEOUT_MS}"
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn, **arguments),
        poolclass=sqlalchemy.NullPool,
    )
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with engine.connect() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            return
        except (sqlalchemy.exc.OperationalError, psycopg.OperationalError) as error:
            cause = error.orig if isinstance(error, sqlalchemy.exc.OperationalError) else error
            if not isinstance(cause, psycopg.errors.LockNotAvailable):
                raise TransientError(f"PostgreSQL does not answer now: {cause}") from error
            if attempt == ATTEMPTS_MAX:
                raise TransientError(
                    f"schema change: a table was locked for {ATTEMPTS_MAX * (LOCK_TIMEOUT_MS / 1000 + RETRY_S):.0f} s "
                    "by another session: end that session, or try again later",
                    retry_after_s=30,
                ) from error
            time.sleep(RETRY_S)
