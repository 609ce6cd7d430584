"""What cases to review have in common, and how usual that is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from anomalyze.storage.board import OF_CASE, Connection

__all__ = ["load_rule_shares", "load_shared_counts", "load_shared_values", "load_value_shares"]

# Values in common are looked for among so many cases to review, newest first.
SHARED_CASES_MAX = 500
# A share "of all" is taken over so many of the newest transactions.
SAMPLE_TRANSACTIONS = 2000


async def load_shared_values(connection: Connection, account_id: str) -> list[tuple[str, str, int]]:
    """(kind, value, cases) that at least two cases to review have in common, most common first of each kind.

    Kinds: rule, merchant, country, device, hour (ISO text of its start, UTC).
    """
    async with connection.cursor() as cursor:
        await cursor.execute(
            f"""
            WITH c AS MATERIALIZED (
                SELECT account_id, case_id, opened_at, last_at, rule_flags FROM cases
                WHERE account_id = %(account)s AND state = 'open' ORDER BY last_at DESC, case_id LIMIT %(most)s
            ), v AS (
                SELECT DISTINCT c.case_id, x.kind, x.value FROM c JOIN anomalies a ON {OF_CASE},
                LATERAL (VALUES ('merchant', a.merchant_id), ('country', a.country), ('device', a.device_id)) x(kind, value)
                WHERE x.value IS NOT NULL
                UNION ALL SELECT c.case_id, 'rule', unnest(c.rule_flags) FROM c
                UNION ALL SELECT c.case_id, 'hour',
                    to_char(date_trunc('hour', c.last_at AT TIME ZONE 'UTC'), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM c
            )
            SELECT kind, value, count(*) FROM v GROUP BY kind, value HAVING count(*) > 1
            ORDER BY count(*) DESC, value LIMIT 60
            """,  # noqa: S608 - constants only
            {"account": account_id, "most": SHARED_CASES_MAX},
        )
        return [(kind, value, count) async for kind, value, count in cursor]


async def load_rule_shares(connection: Connection, account_id: str, since: datetime) -> dict[str, int]:
    """Hits of each rule since an hour."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT rule_id, sum(hits)::bigint FROM rule_hourly WHERE account_id = %s AND hour >= %s GROUP BY rule_id",
            [account_id, since],
        )
        return {rule: hits async for rule, hits in cursor}


async def load_value_shares(
    connection: Connection, account_id: str, values: Sequence[tuple[str, str]]
) -> tuple[int, dict[tuple[str, str], int]]:
    """How many of the newest transactions have each (kind, value); also how many were looked at."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            """
            WITH t AS MATERIALIZED (
                SELECT data->>'merchant_id' AS merchant, data->>'country' AS country, data->>'device_id' AS device
                FROM transactions WHERE account_id = %(account)s ORDER BY ts DESC, user_id DESC, tx_id DESC
                LIMIT %(sample)s
            )
            SELECT 'all', '', count(*) FROM t
            UNION ALL SELECT x.kind, x.value, count(*) FROM t,
                LATERAL (VALUES ('merchant', merchant), ('country', country), ('device', device)) x(kind, value)
                WHERE x.value = ANY(%(values)s) GROUP BY x.kind, x.value
            """,
            {"account": account_id, "sample": SAMPLE_TRANSACTIONS, "values": [value for _, value in values]},
        )
        total, counts = 0, {}
        async for kind, value, count in cursor:
            if kind == "all":
                total = count
            else:
                counts[kind, value] = count
        return total, counts


async def load_shared_counts(
    connection: Connection, account_id: str, merchant: str | None, country: str | None, device: str | None
) -> dict[str, int]:
    """Cases to review that share these values (this one among them), by kind."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            f"""
            SELECT count(DISTINCT c.case_id) FILTER (WHERE a.merchant_id = %(merchant)s),
                   count(DISTINCT c.case_id) FILTER (WHERE a.country = %(country)s),
                   count(DISTINCT c.case_id) FILTER (WHERE a.device_id = %(device)s)
            FROM (SELECT account_id, case_id, opened_at, last_at FROM cases
                  WHERE account_id = %(account)s AND state = 'open' ORDER BY last_at DESC, case_id LIMIT %(most)s) c
            JOIN anomalies a ON {OF_CASE}
            """,  # noqa: S608 - constants only
            {
                "account": account_id,
                "merchant": merchant,
                "country": country,
                "device": device,
                "most": SHARED_CASES_MAX,
            },
        )
        row = await cursor.fetchone()
    assert row is not None
    return dict(zip(("merchant", "country", "device"), row, strict=True))
