"""Transactions as the dashboard's lists, plots and exports read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.rows import class_row

from anomalyze.storage.board import PAGE_ROWS, Connection

__all__ = [
    "EXPORT_ROWS_MAX",
    "TransactionFilter",
    "TransactionRow",
    "load_history",
    "load_transactions",
    "stream_transactions",
]

# Amounts a plot draws: more points than pixels say nothing.
HISTORY_ROWS_MAX = 1000
EXPORT_ROWS_MAX = 100_000
_FETCH_ROWS = 2000


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """One transaction as lists show it; `anomaly_id` when it is one."""

    user_id: str
    ts: datetime
    tx_id: str
    amount: Decimal
    currency: str
    status: int
    severity: int
    score: float | None
    source: str
    case_id: str | None
    data: dict[str, Any]
    enrichment: dict[str, Any]
    anomaly_id: str | None


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Which transactions; None admits all. `before` is the keyset (ts, user_id, tx_id)."""

    user: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None
    severity_min: int | None = None
    before: tuple[datetime, str, str] | None = None


def _transactions_query(wanted: TransactionFilter) -> tuple[str, dict[str, Any]]:
    conditions, values = ["t.account_id = %(account)s"], dict[str, Any]()
    for condition, name, value in (
        ("t.user_id = %(user)s", "user", wanted.user),
        ("t.ts >= %(start)s", "start", wanted.start),
        ("t.ts < %(end)s", "end", wanted.end),
        ("t.amount >= %(amount_min)s", "amount_min", wanted.amount_min),
        ("t.amount <= %(amount_max)s", "amount_max", wanted.amount_max),
        ("t.severity >= %(severity_min)s", "severity_min", wanted.severity_min),
    ):
        if value is not None:
            conditions.append(condition)
            values[name] = value
    if wanted.before is not None:
        conditions.append("(t.ts, t.user_id, t.tx_id) < (%(ts)s, %(after_user)s, %(after_tx)s)")
        values["ts"], values["after_user"], values["after_tx"] = wanted.before
    query = f"""
        WITH t AS MATERIALIZED (
            SELECT t.account_id, t.user_id, t.ts, t.tx_id, t.amount, t.currency, t.status, t.severity, t.score,
                   t.source, t.case_id, t.data, t.enrichment
            FROM transactions t WHERE {" AND ".join(conditions)}
            ORDER BY t.ts DESC, t.user_id DESC, t.tx_id DESC LIMIT %(limit)s
        )
        SELECT t.user_id, t.ts, t.tx_id, t.amount, t.currency, t.status, t.severity, t.score, t.source, t.case_id,
               t.data, t.enrichment, a.anomaly_id
        FROM t LEFT JOIN anomalies a ON t.severity > 0 AND a.account_id = t.account_id AND a.user_id = t.user_id
            AND a.ts = t.ts AND a.tx_id = t.tx_id
        ORDER BY t.ts DESC, t.user_id DESC, t.tx_id DESC
    """  # noqa: S608 - constants; values are parameters
    return query, values


async def load_transactions(
    connection: Connection, account_id: str, wanted: TransactionFilter, limit: int = PAGE_ROWS
) -> list[TransactionRow]:
    """Transactions by filter, newest first."""
    query, values = _transactions_query(wanted)
    async with connection.cursor(row_factory=class_row(TransactionRow)) as cursor:
        await cursor.execute(query, {"account": account_id, "limit": limit} | values)
        return await cursor.fetchall()


async def stream_transactions(
    connection: Connection, account_id: str, wanted: TransactionFilter
) -> AsyncIterator[TransactionRow]:
    """The same for an export: at most `EXPORT_ROWS_MAX`, never all in memory."""
    query, values = _transactions_query(wanted)
    async with connection.cursor("export", row_factory=class_row(TransactionRow)) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(query, {"account": account_id, "limit": EXPORT_ROWS_MAX} | values)
        async for row in cursor:
            yield row


async def load_history(
    connection: Connection, account_id: str, user_id: str, start: datetime, end: datetime
) -> list[TransactionRow]:
    """A user's transactions in [start, end], oldest first; of more than a plot can draw the newest."""
    wanted = TransactionFilter(user=user_id, start=start, end=end)
    rows = await load_transactions(connection, account_id, wanted, limit=HISTORY_ROWS_MAX)
    return rows[::-1]
