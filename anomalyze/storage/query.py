"""A query as a value: its text, its parameters, and what its rows become; run by threads or by asyncio alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.rows import dict_row

__all__ = ["LIMIT_MAX", "Page", "Query", "fetch", "fetch_async"]

LIMIT_MAX = 1000

Result = TypeVar("Result")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Query(Generic[Result]):
    """One statement, its parameters, and how its rows (dictionaries by column) become the answer."""

    text: str
    parameters: Mapping[str, Any]
    build: Callable[[list[dict[str, Any]]], Result]


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows of a list, and the cursor for those after them; an empty page has none and ends the walk."""

    rows: list[Row]
    cursor: str | None


def fetch(connection: psycopg.Connection[Any], query: Query[Result]) -> Result:
    """Run a query; its errors are psycopg's (`anomalyze.storage.pool` names the transient ones)."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return query.build(cursor.execute(query.text, query.parameters).fetchall())


async def fetch_async(connection: psycopg.AsyncConnection[Any], query: Query[Result]) -> Result:
    """As `fetch`, for asyncio."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.text, query.parameters)
        return query.build(await cursor.fetchall())
