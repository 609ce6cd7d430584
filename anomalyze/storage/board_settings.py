"""What the page of settings shows beside them: how often each rule fired, and how often it was right."""

from __future__ import annotations

from datetime import datetime

from anomalyze.storage.board import Connection

__all__ = ["load_rule_precision"]

# Newest labels that count: enough for a precision, and few enough to be read at once.
LABELS_MAX = 5_000

_PRECISION = """
WITH labelled AS (
    SELECT DISTINCT ON (user_id, tx_id) user_id, tx_id, fraud FROM (
        SELECT user_id, tx_id, fraud, recorded_at, label_id FROM labels
        WHERE account_id = %(account)s AND recorded_at >= %(since)s ORDER BY label_id DESC LIMIT %(most)s
    ) newest ORDER BY user_id, tx_id, recorded_at DESC, label_id DESC
)
SELECT rule, count(*) FILTER (WHERE l.fraud), count(*)
FROM labelled l
JOIN anomalies a ON a.account_id = %(account)s AND a.user_id = l.user_id AND a.tx_id = l.tx_id AND a.ts >= %(since)s
CROSS JOIN LATERAL unnest(a.rule_flags) rule
WHERE l.fraud IS NOT NULL GROUP BY rule
"""


async def load_rule_precision(
    connection: Connection, account_id: str, since: datetime
) -> dict[str, tuple[int, int]]:
    """Of each rule the firings that proved to be fraud, and those of which anything became known, since then.

    Only labels that name the user count, the newest of each transaction.
    """
    async with connection.cursor() as cursor:
        await cursor.execute(_PRECISION, {"account": account_id, "since": since, "most": LABELS_MAX})
        return {rule: (right, known) async for rule, right, known in cursor}
