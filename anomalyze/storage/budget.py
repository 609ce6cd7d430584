"""The alert budget as it was promised, kept and exceeded: a row an account and night, and what verdicts say.

A day is one in UTC, as in the fit. Verdicts say what the budget did with them (``analysis.budget``), so that
delivered cases and overflow are read from the anomalies of those days alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg

__all__ = [
    "BudgetDay",
    "Overflow",
    "load_budget_days",
    "load_delivered",
    "load_overflow",
    "load_ranked_days",
    "store_budget_day",
    "withdraw_budgets",
]

OVERFLOW_MAX = 100


@dataclass(frozen=True, slots=True)
class BudgetDay:
    """What a night's fit found for an account.

    Attributes
    ----------
    day
        In force from this day on (UTC).
    cases_per_day
        What was promised; None once the policy has no budget any more.
    severity
        Cases of at least this ``Severity`` count.
    threshold
        In force after that night; None while there is too little history.
    expected
        Cases a day that it would have shown on the days of the fit; None without a threshold.
    days
        Days of history that the fit read.
    says
        What was done, in a sentence.
    """

    account_id: str
    day: date
    cases_per_day: float | None
    severity: int
    threshold: float | None
    expected: float | None
    days: int
    says: str


@dataclass(frozen=True, slots=True)
class Overflow:
    """A case that the budget had no room for, by its riskiest anomaly."""

    case_id: str
    anomaly_id: str
    user_id: str
    ts: datetime
    risk: float
    severity_before: str
    explanation: str
    state: str


_COLUMNS = "account_id, day, cases_per_day, severity, threshold, expected, days, says"


def store_budget_day(connection: psycopg.Connection[Any], found: BudgetDay) -> None:
    """Keep a night's result; a second run of that night replaces it."""
    connection.execute(
        f"INSERT INTO budget_days ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "  # noqa: S608 - a constant
        "ON CONFLICT (account_id, day) DO UPDATE SET cases_per_day = excluded.cases_per_day, "
        "severity = excluded.severity, threshold = excluded.threshold, expected = excluded.expected, "
        "days = excluded.days, says = excluded.says",
        [
            found.account_id,
            found.day,
            found.cases_per_day,
            found.severity,
            found.threshold,
            found.expected,
            found.days,
            found.says,
        ],
    )


def withdraw_budgets(connection: psycopg.Connection[Any], day: date) -> int:
    """Note that there is no budget any more, for each account that had one; returns how many."""
    return connection.execute(
        f"INSERT INTO budget_days ({_COLUMNS}) "  # noqa: S608 - a constant
        "SELECT account_id, %(day)s, NULL, severity, NULL, NULL, 0, 'The policy has no budget any more.' FROM ("
        "  SELECT DISTINCT ON (account_id) * FROM budget_days ORDER BY account_id, day DESC"
        ") newest WHERE cases_per_day IS NOT NULL "
        "ON CONFLICT (account_id, day) DO UPDATE SET cases_per_day = NULL, threshold = NULL, expected = NULL, "
        "days = 0, says = excluded.says",
        {"day": day},
    ).rowcount


async def load_budget_days(
    connection: psycopg.AsyncConnection[Any], account_id: str, since: date
) -> list[BudgetDay]:
    """An account's nights since a day, oldest first, and the newest one before."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS} FROM budget_days WHERE account_id = %(account)s AND day >= coalesce("  # noqa: S608
            "  (SELECT max(day) FROM budget_days WHERE account_id = %(account)s AND day < %(since)s), %(since)s) "
            "ORDER BY day",
            {"account": account_id, "since": since},
        )
        return [BudgetDay(*row) async for row in cursor]


async def load_delivered(
    connection: psycopg.AsyncConnection[Any], account_id: str, since: datetime, severity: int
) -> dict[date, int]:
    """Cases that counted towards the budget, by the day (UTC) of the first anomaly that did."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT (first AT TIME ZONE 'UTC')::date, count(*) FROM ("
            "  SELECT min(ts) AS first FROM anomalies"
            "  WHERE account_id = %s AND ts >= %s AND severity >= %s"
            "  AND analysis->'budget'->>'effect' IN ('kept', 'raised') GROUP BY case_id"
            ") shown GROUP BY 1",
            [account_id, since, severity],
        )
        return {day: count async for day, count in cursor}


async def load_ranked_days(
    connection: psycopg.AsyncConnection[Any], account_id: str, since: datetime
) -> set[date]:
    """Days (UTC) of anomalies that a budget had something to say of."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT DISTINCT (ts AT TIME ZONE 'UTC')::date FROM anomalies "
            "WHERE account_id = %s AND ts >= %s AND analysis->'budget'->>'effect' IS NOT NULL",
            [account_id, since],
        )
        return {day async for (day,) in cursor}


async def load_overflow(
    connection: psycopg.AsyncConnection[Any], account_id: str, since: datetime, severity: int
) -> Sequence[Overflow]:
    """Cases that would have reached ``severity`` but for the budget, the riskiest first."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "WITH capped AS ("
            "  SELECT DISTINCT ON (case_id) case_id, anomaly_id, user_id, ts,"
            "    (analysis->'budget'->>'risk')::float8 AS risk, analysis->'budget'->>'severity_before' AS before,"
            "    explanation"
            "  FROM anomalies WHERE account_id = %(account)s AND ts >= %(since)s AND severity = %(capped)s"
            "  AND analysis->'budget'->>'effect' = 'capped' ORDER BY case_id, risk DESC, anomaly_id"
            ") SELECT a.case_id, a.anomaly_id, a.user_id, a.ts, a.risk, a.before, a.explanation, c.state "
            "FROM capped a JOIN cases c ON c.account_id = %(account)s AND c.case_id = a.case_id "
            "WHERE c.severity < %(severity)s ORDER BY a.risk DESC, a.case_id LIMIT %(limit)s",
            {
                "account": account_id,
                "since": since,
                "capped": severity - 1,
                "severity": severity,
                "limit": OVERFLOW_MAX,
            },
        )
        return [Overflow(*row) async for row in cursor]
