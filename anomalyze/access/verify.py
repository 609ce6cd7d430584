"""From a key's secret to a principal, many times a second, without asking PostgreSQL each time.

Answers are kept for `CACHE_TTL_S`. The look-up is by hash: what an attacker can time is how far a SHA-256 of
his choice agrees with a stored one, which tells nothing about a key.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

from anomalyze.access.keys import KEY_COLUMNS, SECRET_LENGTH_MAX, Principal, hash_key, read_key

__all__ = ["CACHE_TTL_S", "AsyncKeyVerifier", "KeyVerifier"]

# How long a revoked key may still pass.
CACHE_TTL_S = 0.25
# Strangers' guesses must not grow the cache.
CACHE_ENTRIES_MAX = 4096
# last_used_at is for people: one write a minute for a key in use.
_TOUCH = (
    "UPDATE api_keys SET last_used_at = now() WHERE key_id = (SELECT key_id FROM api_keys WHERE key_id = %s "
    "AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute') "
    "FOR UPDATE SKIP LOCKED)"  # whoever holds the row notes the same minute
)
_BY_HASH = f"SELECT {KEY_COLUMNS} FROM api_keys WHERE key_hash = %s AND revoked_at IS NULL"  # noqa: S608
_BY_ID = f"SELECT {KEY_COLUMNS} FROM api_keys WHERE key_id = %s AND revoked_at IS NULL"  # noqa: S608


class ConnectionSource(Protocol):
    """A pool, as far as verifying needs one (`anomalyze.storage.pool`)."""

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        """Lend a connection; commits at the end."""


class AsyncConnectionSource(Protocol):
    """The same for asyncio."""

    def connection(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        """Lend a connection; commits at the end."""


class _Cache:
    """Principals by key hash or key id, each for a moment; also that there is none."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._entries: dict[bytes | str, tuple[float, Principal | None]] = {}

    def get(self, name: bytes | str) -> tuple[bool, Principal | None]:
        entry = self._entries.get(name)
        if entry is None or entry[0] < time.monotonic():
            return False, None
        return True, entry[1]

    def put(self, name: bytes | str, asked_at: float, principal: Principal | None) -> None:
        # Its age counts from before the question: a revocation committed since then may be missing in it.
        if len(self._entries) >= CACHE_ENTRIES_MAX:
            self._entries.clear()
        self._entries[name] = (asked_at + self._ttl_s, principal)

    def clear(self) -> None:
        self._entries.clear()


class KeyVerifier:
    """Verifies keys for threads.

    Parameters
    ----------
    pool
        Gives connections; its errors pass through (PostgreSQL away: nobody is let in).
    ttl_s
        How long an answer is kept.
    """

    def __init__(self, pool: ConnectionSource, ttl_s: float = CACHE_TTL_S) -> None:
        self._pool = pool
        self._cache = _Cache(ttl_s)

    def verify_key(self, secret: str) -> Principal | None:
        """Who holds this secret; None when nobody does or the key was revoked."""
        if not 0 < len(secret) <= SECRET_LENGTH_MAX:
            return None
        return self._find(hash_key(secret), _BY_HASH)

    def verify_key_id(self, key_id: str) -> Principal | None:
        """The principal of a key that was verified before (a signed session names it), if it still lives."""
        return self._find(key_id, _BY_ID)

    def forget(self) -> None:
        """Drop what is kept: after a revocation in this process."""
        self._cache.clear()

    def _find(self, name: bytes | str, query: str) -> Principal | None:
        known, principal = self._cache.get(name)
        if known:
            return principal
        asked_at = time.monotonic()
        with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, [name])
            key = read_key(cursor.fetchone())
            if key is not None:
                cursor.execute(_TOUCH, [key.key_id])
        principal = None if key is None else key.principal
        self._cache.put(name, asked_at, principal)
        return principal


class AsyncKeyVerifier:
    """`KeyVerifier` for asyncio; a remembered answer never yields to the loop."""

    def __init__(self, pool: AsyncConnectionSource, ttl_s: float = CACHE_TTL_S) -> None:
        self._pool = pool
        self._ttl_s = ttl_s
        self._cache = _Cache(ttl_s)
        self._asking: dict[bytes | str, tuple[float, asyncio.Task[Principal | None]]] = {}

    async def verify_key(self, secret: str) -> Principal | None:
        """As `KeyVerifier.verify_key`."""
        if not 0 < len(secret) <= SECRET_LENGTH_MAX:
            return None
        return await self._find(hash_key(secret), _BY_HASH)

    async def verify_key_id(self, key_id: str) -> Principal | None:
        """As `KeyVerifier.verify_key_id`."""
        return await self._find(key_id, _BY_ID)

    def forget(self) -> None:
        """As `KeyVerifier.forget`."""
        self._cache.clear()

    async def _find(self, name: bytes | str, query: str) -> Principal | None:
        known, principal = self._cache.get(name)
        if known:
            return principal
        # However many requests find the answer gone at once, one question is asked.
        asked_at, question = self._asking.get(name, (-math.inf, None))
        if question is None or asked_at + self._ttl_s < time.monotonic():
            asked_at = time.monotonic()
            question = asyncio.create_task(self._ask(name, query, asked_at))
            self._asking[name] = asked_at, question
            question.add_done_callback(partial(self._answered, name))
        return await asyncio.shield(question)  # whoever asked first may be gone before the answer

    def _answered(self, name: bytes | str, question: asyncio.Task[Principal | None]) -> None:
        if self._asking.get(name, (0.0, None))[1] is question:
            del self._asking[name]
        if not question.cancelled():
            question.exception()  # each who waits gets it; when nobody does, nobody is told

    async def _ask(self, name: bytes | str, query: str, asked_at: float) -> Principal | None:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, [name])
            key = read_key(await cursor.fetchone())
            if key is not None:
                await cursor.execute(_TOUCH, [key.key_id])
        principal = None if key is None else key.principal
        self._cache.put(name, asked_at, principal)
        return principal
