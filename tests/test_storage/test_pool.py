"""Pools while PostgreSQL comes and goes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest

from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.errors import TransientError
from anomalyze.storage.pool import AsyncPool, Pool, connect
from tests.folders import passable_folder


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with passable_folder() as folder:
        server = EmbeddedPostgres(folder / "pg", free_port())
        yield server
        server.stop()


def test_a_pool_outlives_its_server(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    pool, async_pool = Pool(dsn, size_max=2), AsyncPool(dsn, size_max=2)

    async def ask() -> None:
        async with async_pool.connection() as connection:
            await connection.execute("SELECT 1")

    async def run() -> None:
        await async_pool.open()
        try:
            with pool.connection() as connection:
                connection.execute("SELECT 1")
            await ask()
            server.stop()
            begun_s = time.monotonic()
            with (
                pytest.raises(TransientError, match="PostgreSQL does not answer now") as raised,
                pool.connection(),
            ):
                pass
            assert raised.value.retry_after_s > 0
            with pytest.raises(TransientError):
                await ask()
            assert time.monotonic() - begun_s < 20  # a refusal in seconds, not a hang
            server.start()
            # Kept connections are dead now; nobody is given one of them.
            deadline = time.monotonic() + 20
            while True:
                try:
                    with pool.connection() as connection:
                        connection.execute("SELECT 1")
                    await ask()
                    return
                except TransientError:
                    assert time.monotonic() < deadline
        finally:
            await async_pool.close()
            pool.close()
            server.stop()

    asyncio.run(run())


def test_limits_and_mistakes(empty_database: str) -> None:
    with connect(empty_database, program="a test", statement_timeout_s=0.1) as connection:
        shown = connection.execute(
            "SELECT current_setting('statement_timeout'), current_setting('application_name'), current_setting('timezone')"
        ).fetchone()
        assert shown == ("100ms", "a test", "UTC")
    pool = Pool(empty_database, size_max=1, statement_timeout_s=0.1)
    try:
        with pytest.raises(TransientError, match="statement timeout"), pool.connection() as connection:
            connection.execute("SELECT pg_sleep(5)")
        # A mistake of ours is no reason to try again.
        with pytest.raises(psycopg.errors.UndefinedTable), pool.connection() as connection:
            connection.execute("SELECT * FROM nowhere")
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        pool.close()


CONNECTS_FIRST = """
import sys
from anomalyze.storage.pool import connect
with connect(sys.argv[1]) as connection:
    connection.execute("SELECT 1")
    from anomalyze.storage.array import BigintArray, TextArray
    values = [TextArray(["a", "é"]), BigintArray([7, -1])]
    print(connection.execute("SELECT %s::text[], %s::bigint[]", values).fetchone())
"""


def test_a_connection_knows_arrays_that_are_imported_after_it(database: str) -> None:
    """In a process of its own: here everything is imported already."""
    ran = subprocess.run(
        [sys.executable, "-c", CONNECTS_FIRST, database],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.strip() == "(['a', 'é'], [7, -1])", ran.stderr
