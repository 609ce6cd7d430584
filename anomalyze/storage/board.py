"""The queue of cases as the dashboard reads it.

Every query names the account first, which comes from the session, so that no page can show another
account's rows. Lists are read by keyset. A number that a page shows as a count over a whole table comes from
tables that the sink keeps for that purpose (`users`, `hourly`, `rule_hourly`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from anomalyze.storage.upload import CASE_OF_UPLOAD

__all__ = [
    "CASE_STATES",
    "OF_CASE",
    "PAGE_ROWS",
    "Case",
    "CaseFilter",
    "Connection",
    "QueueFigures",
    "load_case",
    "load_cases",
    "load_hourly",
    "load_queue_figures",
]

Connection = psycopg.AsyncConnection[Any]

CASE_STATES = ("open", "confirmed", "dismissed")
PAGE_ROWS = 100
SPARK_AMOUNTS = 20


@dataclass(frozen=True, slots=True)
class CaseFilter:
    """Which cases a list shows; a field left empty admits all.

    `hour` is the start of an hour in which the case last grew, `upload` a file that a transaction of it came with.
    `before` is the keyset: the last row's
    (severity, last_at, case_id).
    """

    state: str = "open"
    severities: tuple[int, ...] = ()
    words: str = ""
    rule: str = ""
    merchant: str = ""
    country: str = ""
    device: str = ""
    user: str = ""
    hour: datetime | None = None
    upload: str = ""
    worst_first: bool = False
    before: tuple[int, datetime, str] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One row of Now: a user's anomalies within 24 hours.

    `amount` is the sum over its anomalies when they share a `currency`; else `value_base` has the sum.
    `recent` holds the user's last amounts, oldest first, each with the severity of its verdict.
    """

    case_id: str
    user_id: str
    opened_at: datetime
    last_at: datetime
    stored_at: datetime
    severity: int
    score: float | None
    anomalies: int
    value_base: Decimal
    headline: str
    headline_anomaly_id: str
    rule_flags: list[str]
    state: str
    decided_at: datetime | None
    decided_by: str | None
    decider: str | None
    note: str | None
    amount: Decimal | None = None
    currency: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    country: str | None = None
    new_device: bool = False
    recent: list[tuple[float, int]] = field(default_factory=list)


_CASE_COLUMNS = """
    c.case_id, c.user_id, c.opened_at, c.last_at, c.stored_at, c.severity, c.score, c.anomalies, c.value_base,
    c.headline, c.headline_anomaly_id, c.rule_flags, c.state, c.decided_at, c.decided_by, c.note,
    k.name AS decider
"""
_CASE_TABLES = "cases c LEFT JOIN api_keys k ON k.key_id = c.decided_by AND k.account_id = c.account_id"

# The anomalies of a case lie between its two times: the planner then reads those months only.
OF_CASE = "a.account_id = c.account_id AND a.case_id = c.case_id AND a.ts BETWEEN c.opened_at AND c.last_at"

_CASE_DETAILS = f"""
SELECT c.*, s.amount, s.currency, coalesce(h.data, '{{}}') AS data,
       h.country, coalesce((h.enrichment->'features'->>'is_new_device')::float = 1, false) AS new_device,
       coalesce(r.recent, '[]'::json) AS recent
FROM picked c
LEFT JOIN LATERAL (
    SELECT CASE WHEN count(DISTINCT a.currency) = 1 THEN sum(a.amount) END AS amount,
           CASE WHEN count(DISTINCT a.currency) = 1 THEN min(a.currency) END AS currency
    FROM anomalies a WHERE {OF_CASE}
) s ON true
LEFT JOIN LATERAL (
    SELECT a.data, a.enrichment, a.country FROM anomalies a
    WHERE {OF_CASE} AND a.anomaly_id = c.headline_anomaly_id LIMIT 1
) h ON true
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_array(t.amount, t.severity) ORDER BY t.ts, t.tx_id) AS recent
    FROM (SELECT t.amount, t.severity, t.ts, t.tx_id FROM transactions t
          WHERE t.account_id = c.account_id AND t.user_id = c.user_id AND t.ts <= c.last_at
          ORDER BY t.ts DESC, t.tx_id DESC LIMIT {SPARK_AMOUNTS}) t
) r ON true
"""  # noqa: S608 - constants only


def _case_conditions(wanted: CaseFilter) -> tuple[str, dict[str, Any]]:
    conditions = ["c.account_id = %(account)s"]
    values: dict[str, Any] = {}

    def add(condition: str, **named: Any) -> None:
        conditions.append(condition)
        values.update(named)

    if wanted.state in CASE_STATES:
        add("c.state = %(state)s", state=wanted.state)
    if wanted.severities:
        add("c.severity = ANY(%(severities)s)", severities=list(wanted.severities))
    if wanted.user:
        add("c.user_id = %(user)s", user=wanted.user)
    if wanted.rule:
        add("%(rule)s = ANY(c.rule_flags)", rule=wanted.rule)
    if wanted.hour is not None:
        add("c.last_at >= %(hour)s AND c.last_at < %(hour)s + interval '1 hour'", hour=wanted.hour)
    if wanted.upload:
        add(CASE_OF_UPLOAD, upload=wanted.upload)
    for column in ("merchant", "country", "device"):
        value = getattr(wanted, column)
        if value:
            name = "country" if column == "country" else f"{column}_id"
            add(
                f"EXISTS (SELECT FROM anomalies a WHERE {OF_CASE} AND a.{name} = %({column})s)",
                **{column: value},
            )
    if wanted.words:
        add(
            "(strpos(lower(c.user_id), %(words)s) > 0 OR strpos(lower(c.headline), %(words)s) > 0"
            " OR strpos(lower(array_to_string(c.rule_flags, ' ')), %(words)s) > 0"
            f" OR EXISTS (SELECT FROM anomalies a WHERE {OF_CASE} AND strpos(lower(a.merchant_id), %(words)s) > 0))",
            words=wanted.words.lower(),
        )
    if wanted.before is not None:
        severity, last_at, case_id = wanted.before
        if wanted.worst_first:
            add(
                "(c.severity < %(severity)s OR c.severity = %(severity)s AND (c.last_at < %(last_at)s"
                " OR c.last_at = %(last_at)s AND c.case_id > %(case_id)s))",
                severity=severity,
            )
        else:
            conditions.append(
                "(c.last_at < %(last_at)s OR c.last_at = %(last_at)s AND c.case_id > %(case_id)s)"
            )
        values.update(last_at=last_at, case_id=case_id)
    return " AND ".join(conditions), values


async def load_cases(
    connection: Connection,
    account_id: str,
    wanted: CaseFilter,
    *,
    case_ids: Sequence[str] | None = None,
    limit: int = PAGE_ROWS,
) -> list[Case]:
    """Cases by filter, newest (or worst) first, at most ``limit``.

    Parameters
    ----------
    case_ids
        Only these.
    """
    where, values = _case_conditions(wanted)
    if case_ids is not None:
        where += " AND c.case_id = ANY(%(case_ids)s)"
        values["case_ids"] = list(case_ids)
    order = (
        "c.severity DESC, c.last_at DESC, c.case_id" if wanted.worst_first else "c.last_at DESC, c.case_id"
    )
    query = f"""
        WITH picked AS MATERIALIZED (
            SELECT c.account_id, {_CASE_COLUMNS} FROM {_CASE_TABLES} WHERE {where} ORDER BY {order} LIMIT %(limit)s
        ) {_CASE_DETAILS} ORDER BY {order}"""  # noqa: S608 - constants; values are parameters
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, {"account": account_id, "limit": limit} | values)
        return [_read_case(row) async for row in cursor]


async def load_case(connection: Connection, account_id: str, case_id: str) -> Case | None:
    """One case, in whatever state; None when this account has none of that id."""
    found = await load_cases(connection, account_id, CaseFilter(state="all"), case_ids=[case_id], limit=1)
    return found[0] if found else None


def _read_case(row: dict[str, Any]) -> Case:
    del row["account_id"]
    row["recent"] = [(float(amount), severity) for amount, severity in row["recent"]]
    return Case(**row)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What the strip of Now counts.

    `waiting` by severity (1 to 4) of cases to review; `decided` and `decided_before` are
    (confirmed, reviewed) in the last 7 days and the 7 before.
    """

    waiting: dict[int, int]
    oldest_at: datetime | None
    confirmed: int
    dismissed: int
    decided: tuple[int, int]
    decided_before: tuple[int, int]

    @property
    def open(self) -> int:
        """Cases to review."""
        return sum(self.waiting.values())


async def load_queue_figures(connection: Connection, account_id: str) -> QueueFigures:
    """Counts of the queue as it stands."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT severity, count(*), min(stored_at) FROM cases "
            "WHERE account_id = %s AND state = 'open' GROUP BY severity",
            [account_id],
        )
        waiting: dict[int, int] = {}
        oldest: datetime | None = None
        async for severity, count, since in cursor:
            waiting[severity] = count
            oldest = since if oldest is None else min(oldest, since)
        await cursor.execute(
            """
            SELECT count(*) FILTER (WHERE state = 'confirmed'), count(*) FILTER (WHERE state = 'dismissed'),
                   count(*) FILTER (WHERE state = 'confirmed' AND decided_at > now() - interval '7 days'),
                   count(*) FILTER (WHERE decided_at > now() - interval '7 days'),
                   count(*) FILTER (WHERE state = 'confirmed' AND decided_at <= now() - interval '7 days'
                                    AND decided_at > now() - interval '14 days'),
                   count(*) FILTER (WHERE decided_at <= now() - interval '7 days'
                                    AND decided_at > now() - interval '14 days')
            FROM cases WHERE account_id = %s AND state IN ('confirmed', 'dismissed')
            """,
            [account_id],
        )
        row = await cursor.fetchone()
        assert row is not None
    return QueueFigures(waiting, oldest, row[0], row[1], (row[2], row[3]), (row[4], row[5]))


async def load_hourly(
    connection: Connection, account_id: str, start: datetime, end: datetime
) -> dict[datetime, list[int]]:
    """Transactions of each hour in [start, end) by severity 0 to 4; hours without any are left out."""
    hours: dict[datetime, list[int]] = {}
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT hour, severity, transactions FROM hourly WHERE account_id = %s AND hour >= %s AND hour < %s",
            [account_id, start, end],
        )
        async for hour, severity, count in cursor:
            hours.setdefault(hour, [0] * 5)[severity] = count
    return hours
