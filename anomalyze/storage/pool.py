"""Connections to PostgreSQL: with limits on every wait, and with errors named after the reaction they ask for.

Connections are in autocommit mode; who writes more than one statement opens ``connection.transaction()``.
What PostgreSQL cannot answer now (away, starting, recovering, shutting down, out of connections or disk, a
statement or lock that took too long) is a `TransientError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import anomalyze.storage.array  # noqa: F401 - registers its types with each connection made from here on
from anomalyze.errors import TransientError

__all__ = ["AsyncPool", "Pool", "connect", "postgres_errors"]

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30.0
# Below the load balancer's or client's patience: a request rather hears 503 than waits for a connection.
POOL_WAIT_S = 2.0
# Failed attempts to connect back off for this long at most; the next request starts a new round, so that a
# pool finds a server that was away for hours within a second of its return.
RECONNECT_TIMEOUT_S = 2.0
RETRY_AFTER_S = 1.0


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Turn "PostgreSQL does not answer now" into `TransientError`; other errors pass."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise _transient(error) from error
    except psycopg.InterfaceError as error:
        # psycopg's word for a connection that broke earlier; a wrong call of ours says something else.
        if "closed" in str(error) or "lost" in str(error):
            raise _transient(error) from error
        raise


def connect(
    dsn: str, *, program: str = "anomalyze", statement_timeout_s: float = STATEMENT_TIMEOUT_S
) -> psycopg.Connection[Any]:
    """One connection, in autocommit mode.

    Parameters
    ----------
    dsn
        ``postgresql://`` address.
    program
        Shown in ``pg_stat_activity``.
    statement_timeout_s
        When PostgreSQL gives up on a statement; 0 = never.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now.
    """
    with postgres_errors():
        return psycopg.connect(
            dsn, autocommit=True, **connection_arguments(dsn, program, statement_timeout_s)
        )


class Pool:
    """Connections for threads.

    Parameters
    ----------
    dsn, program, statement_timeout_s
        As `connect`.
    size_max
        Connections at most; opened as needed. The constructor does not wait for PostgreSQL.
    """

    def __init__(
        self,
        dsn: str,
        *,
        program: str = "anomalyze",
        size_max: int = 8,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    ) -> None:
        self._pool = ConnectionPool(
            dsn,
            kwargs={"autocommit": True, **connection_arguments(dsn, program, statement_timeout_s)},
            min_size=0,
            max_size=size_max,
            timeout=POOL_WAIT_S,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            # Costs one round trip; without it each kept connection fails once after a restart of PostgreSQL.
            check=ConnectionPool.check_connection,
            open=True,
        )

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection for a ``with`` block. Raises `TransientError`."""
        with postgres_errors(), self._pool.connection() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class AsyncPool:
    """`Pool` for asyncio. Made anywhere, opened within the loop by ``await open()``."""

    def __init__(
        self,
        dsn: str,
        *,
        program: str = "anomalyze",
        size_max: int = 8,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    ) -> None:
        self._pool = AsyncConnectionPool(
            dsn,
            kwargs={"autocommit": True, **connection_arguments(dsn, program, statement_timeout_s)},
            min_size=0,
            max_size=size_max,
            timeout=POOL_WAIT_S,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def open(self) -> None:
        """Start the pool's workers; does not wait for PostgreSQL."""
        await self._pool.open()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Lend a connection for an ``async with`` block. Raises `TransientError`."""
        with postgres_errors():
            async with self._pool.connection() as connection:
                yield connection

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


def connection_arguments(dsn: str, program: str, statement_timeout_s: float) -> dict[str, Any]:
    """What every connection of ours has besides its address."""
    options = str(conninfo_to_dict(dsn).get("options") or "")
    timeout_ms = int(statement_timeout_s * 1000)
    return {
        "application_name": program,
        "connect_timeout": CONNECT_TIMEOUT_S,
        # A server that vanished without a word is found within half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
        "options": f"{options} -c timezone=UTC -c statement_timeout={timeout_ms} "
        "-c idle_in_transaction_session_timeout=60000".strip(),
    }


def _transient(error: psycopg.Error) -> TransientError:
    said = " ".join(str(error).split()) or type(error).__name__
    return TransientError(f"PostgreSQL does not answer now: {said[:300]}", retry_after_s=RETRY_AFTER_S)
