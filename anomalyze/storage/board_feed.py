"""What the dashboard asks again and again: the newest cases, heartbeats, whether data comes, who a key is.

Beside `board`; every query of an account names the account first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from anomalyze.storage.board import OF_CASE, Connection

__all__ = [
    "AccountPulse",
    "FeedEntry",
    "ProgramState",
    "find_key_end",
    "load_account_name",
    "load_feed",
    "load_feed_values",
    "load_open_count",
    "load_programs",
    "load_pulse",
]

# More new cases than this between two looks are counted when the page is loaded again.
FEED_CASES_MAX = 500


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """A case as the live feed compares it from one second to the next."""

    case_id: str
    user_id: str
    severity: int
    anomalies: int
    state: str
    last_at: datetime
    stored_at: datetime
    headline: str
    rule_flags: list[str]


async def load_feed(connection: Connection, account_id: str) -> list[FeedEntry]:
    """The newest cases, decided ones too."""
    async with connection.cursor(row_factory=class_row(FeedEntry)) as cursor:
        await cursor.execute(
            "SELECT case_id, user_id, severity, anomalies, state, last_at, stored_at, headline, rule_flags FROM cases "
            "WHERE account_id = %s ORDER BY last_at DESC, case_id LIMIT %s",
            [account_id, FEED_CASES_MAX],
        )
        return await cursor.fetchall()


async def load_feed_values(
    connection: Connection, account_id: str, case_ids: Sequence[str]
) -> dict[str, set[tuple[str, str]]]:
    """Merchants, countries and devices of some cases, for the filters of a page that is open."""
    found: dict[str, set[tuple[str, str]]] = {case_id: set() for case_id in case_ids}
    async with connection.cursor() as cursor:
        await cursor.execute(
            f"""
            SELECT DISTINCT c.case_id, x.kind, x.value FROM cases c JOIN anomalies a ON {OF_CASE},
            LATERAL (VALUES ('merchant', a.merchant_id), ('country', a.country), ('device', a.device_id)) x(kind, value)
            WHERE c.account_id = %s AND c.case_id = ANY(%s) AND x.value IS NOT NULL
            """,  # noqa: S608 - constants only
            [account_id, list(case_ids)],
        )
        async for case_id, kind, value in cursor:
            found[case_id].add((kind, value))
    return found


async def load_open_count(connection: Connection, account_id: str) -> int:
    """Cases to review."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT count(*) FROM cases WHERE account_id = %s AND state = 'open'", [account_id]
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True, slots=True)
class ProgramState:
    """The last heartbeat of one running program; `state` is as that program wrote it."""

    program: str
    instance: str
    pid: int
    started_at: datetime
    seen_at: datetime
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AccountPulse:
    """Whether data comes for an account: event time of its last transaction, transactions of 24 hours, and
    whether a starter bundle judged its last anomaly."""

    last_at: datetime | None
    judged_day: int
    starter: bool = False


async def load_programs(connection: Connection) -> list[ProgramState]:
    """Every program that ever sent a heartbeat."""
    async with connection.cursor(row_factory=class_row(ProgramState)) as cursor:
        await cursor.execute(
            "SELECT program, instance, pid, started_at, seen_at, state FROM program_states ORDER BY program, instance"
        )
        return await cursor.fetchall()


async def load_pulse(connection: Connection, account_id: str) -> AccountPulse:
    """When the account's last transaction was, and how many were judged in 24 hours."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT (SELECT ts FROM transactions WHERE account_id = %(account)s ORDER BY ts DESC LIMIT 1), "
            "(SELECT coalesce(sum(transactions), 0)::bigint FROM hourly "
            " WHERE account_id = %(account)s AND hour > now() - interval '24 hours'), "
            "coalesce((SELECT analysis->'model'->>'starter' = 'true' FROM anomalies "
            " WHERE account_id = %(account)s ORDER BY ts DESC LIMIT 1), false)",
            {"account": account_id},
        )
        row = await cursor.fetchone()
    assert row is not None
    return AccountPulse(*row)


async def load_account_name(connection: Connection, account_id: str) -> str:
    """What the account is called."""
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT name FROM accounts WHERE account_id = %s", [account_id])
        row = await cursor.fetchone()
    return row[0] if row else account_id


async def find_key_end(connection: Connection, key_hash: bytes) -> datetime | None:
    """When the key with this hash was revoked; None when it was not, or there is none."""
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT revoked_at FROM api_keys WHERE key_hash = %s", [key_hash])
        row = await cursor.fetchone()
    return row[0] if row else None
