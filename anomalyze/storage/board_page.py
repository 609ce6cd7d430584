"""What the dashboard's pages of one thing read: an anomaly, a user, the system.

Beside `board`, which reads the queue; the same rule holds: every query names the account first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.rows import class_row, dict_row

from anomalyze.storage.board import PAGE_ROWS, Connection

__all__ = [
    "PAGE_ROWS",
    "AnomalyRecord",
    "DeadLetterGroup",
    "QueuePlace",
    "UserRow",
    "load_anomaly",
    "load_dead_letters",
    "load_queue_place",
    "load_storage_size",
    "load_user",
    "load_user_cases",
    "load_users",
]


@dataclass(frozen=True, slots=True)
class AnomalyRecord:
    """One anomaly with its sections, and what only its transaction knows."""

    anomaly_id: str
    user_id: str
    ts: datetime
    tx_id: str
    amount: Decimal
    currency: str
    severity: int
    action: int
    score: float | None
    case_id: str
    explanation: str
    rule_flags: list[str]
    merchant_id: str | None
    country: str | None
    device_id: str | None
    bundle: str
    src_partition: int
    src_offset: int
    late: bool
    data: dict[str, Any]
    enrichment: dict[str, Any]
    analysis: dict[str, Any]
    verdict: dict[str, Any]
    stored_at: datetime
    source: str | None
    trace_id: str | None
    status: int | None


async def load_anomaly(connection: Connection, account_id: str, anomaly_id: str) -> AnomalyRecord | None:
    """One anomaly; None when this account has none of that id."""
    async with connection.cursor(row_factory=class_row(AnomalyRecord)) as cursor:
        await cursor.execute(
            """
            SELECT a.anomaly_id, a.user_id, a.ts, a.tx_id, a.amount, a.currency, a.severity, a.action, a.score,
                   a.case_id, a.explanation, a.rule_flags, a.merchant_id, a.country, a.device_id, a.bundle,
                   a.src_partition, a.src_offset, a.late, a.data, a.enrichment, a.analysis, a.verdict, a.stored_at,
                   t.source, t.trace_id, t.status
            FROM anomalies a LEFT JOIN transactions t
              ON t.account_id = a.account_id AND t.user_id = a.user_id AND t.ts = a.ts AND t.tx_id = a.tx_id
            WHERE a.account_id = %s AND a.anomaly_id = %s ORDER BY a.ts LIMIT 1
            """,
            [account_id, anomaly_id],
        )
        return await cursor.fetchone()


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a case stands among those to review, newest first, and what lies beside it."""

    ahead: int
    total: int
    previous: str | None
    following: str | None


async def load_queue_place(
    connection: Connection, account_id: str, last_at: datetime, case_id: str
) -> QueuePlace:
    """The queue around a case, whether or not it is still in it; neighbours are anomaly ids."""
    values = {"account": account_id, "at": last_at, "id": case_id}
    open_case = "account_id = %(account)s AND state = 'open' AND case_id <> %(id)s"
    newer = "(last_at > %(at)s OR last_at = %(at)s AND case_id < %(id)s)"
    async with connection.cursor() as cursor:
        await cursor.execute(
            f"""
            SELECT (SELECT count(*) FROM cases WHERE {open_case} AND {newer}),
                   (SELECT count(*) FROM cases WHERE account_id = %(account)s AND state = 'open'),
                   (SELECT headline_anomaly_id FROM cases WHERE {open_case} AND {newer}
                    ORDER BY last_at, case_id DESC LIMIT 1),
                   (SELECT headline_anomaly_id FROM cases WHERE {open_case} AND NOT {newer}
                    ORDER BY last_at DESC, case_id LIMIT 1)
            """,  # noqa: S608 - constants; values are parameters
            values,
        )
        row = await cursor.fetchone()
    assert row is not None
    return QueuePlace(*row)


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as the list shows him; `anomalies_30d` counts 30 days."""

    user_id: str
    first_ts: datetime
    last_ts: datetime
    transactions: int
    anomalies: int
    anomalies_30d: int
    severity_max: int


async def load_user(connection: Connection, account_id: str, user_id: str) -> UserRow | None:
    """One user, with the anomalies of 30 days until he was last seen; None when this account has none of that id."""
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            """
            SELECT u.user_id, u.first_ts, u.last_ts, u.transactions, u.anomalies, coalesce(a.n, 0) AS anomalies_30d,
                   coalesce(a.top, 0) AS severity_max
            FROM users u LEFT JOIN LATERAL (
                SELECT count(*) AS n, max(severity) AS top FROM anomalies a
                WHERE a.account_id = u.account_id AND a.user_id = u.user_id
                    AND a.ts > least(now(), u.last_ts) - interval '30 days'
            ) a ON true
            WHERE u.account_id = %s AND u.user_id = %s
            """,
            [account_id, user_id],
        )
        return await cursor.fetchone()


async def load_users(
    connection: Connection, account_id: str, since: datetime, words: str = "", limit: int = PAGE_ROWS
) -> list[UserRow]:
    """Users with the most anomalies since a moment first, then those seen last.

    Parameters
    ----------
    since
        Of the 30 days that count.
    words
        Only ids that contain this.
    """
    async with connection.cursor(row_factory=class_row(UserRow)) as cursor:
        await cursor.execute(
            """
            WITH flagged AS MATERIALIZED (
                SELECT user_id, count(*) AS n, max(severity) AS top FROM anomalies
                WHERE account_id = %(account)s AND ts >= %(since)s
                  AND (%(words)s = '' OR strpos(lower(user_id), %(words)s) > 0)
                GROUP BY user_id ORDER BY n DESC, user_id LIMIT %(limit)s
            ), seen AS MATERIALIZED (
                SELECT user_id FROM users WHERE account_id = %(account)s
                  AND (%(words)s = '' OR strpos(lower(user_id), %(words)s) > 0)
                ORDER BY last_hour DESC, user_id LIMIT %(limit)s
            )
            SELECT u.user_id, u.first_ts, u.last_ts, u.transactions, u.anomalies, coalesce(f.n, 0) AS anomalies_30d,
                   coalesce(f.top, 0) AS severity_max
            FROM users u LEFT JOIN flagged f USING (user_id)
            WHERE u.account_id = %(account)s
              AND (u.user_id IN (SELECT user_id FROM flagged) OR u.user_id IN (SELECT user_id FROM seen))
            ORDER BY coalesce(f.n, 0) DESC, u.last_ts DESC, u.user_id LIMIT %(limit)s
            """,
            {"account": account_id, "since": since, "words": words.lower(), "limit": limit},
        )
        return await cursor.fetchall()


async def load_user_cases(
    connection: Connection, account_id: str, user_id: str, limit: int = 50
) -> list[dict[str, Any]]:
    """A user's cases, newest first, as dictionaries of the columns of `cases` and ``decider``."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT c.*, k.name AS decider FROM cases c
            LEFT JOIN api_keys k ON k.key_id = c.decided_by AND k.account_id = c.account_id
            WHERE c.account_id = %s AND c.user_id = %s ORDER BY c.last_at DESC, c.case_id LIMIT %s
            """,
            [account_id, user_id, limit],
        )
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Records refused for one reason, in the last 7 days; `unowned` when they name no account."""

    unowned: bool
    reason: str
    field: str
    expected: str
    got: str
    count: int
    last_at: datetime
    src_partition: int
    src_offset: int


async def load_dead_letters(connection: Connection, account_id: str) -> list[DeadLetterGroup]:
    """Dead letters by reason and field with the newest example, the most first.

    Records that name no account are counted too, but what came in them stays unseen: it may be anybody's.
    """
    async with connection.cursor(row_factory=class_row(DeadLetterGroup)) as cursor:
        await cursor.execute(
            """
            SELECT DISTINCT ON (account_id IS NULL, reason, field) account_id IS NULL AS unowned, reason, field,
                   expected, CASE WHEN account_id IS NULL THEN '' ELSE got END AS got,
                   count(*) OVER (PARTITION BY account_id IS NULL, reason, field) AS count, stored_at AS last_at,
                   src_partition, src_offset
            FROM dead_letters
            WHERE (account_id = %s OR account_id IS NULL) AND stored_at > now() - interval '7 days'
            ORDER BY account_id IS NULL, reason, field, stored_at DESC
            """,
            [account_id],
        )
        found = await cursor.fetchall()
    return sorted(found, key=lambda group: -group.count)


async def load_storage_size(connection: Connection) -> tuple[str, int]:
    """PostgreSQL's version and the database's size in bytes."""
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT current_setting('server_version'), pg_database_size(current_database())")
        row: tuple[str, int] | None = await cursor.fetchone()
    assert row is not None
    return row[0].split()[0], row[1]
