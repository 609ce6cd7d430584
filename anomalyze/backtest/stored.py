"""Stored transactions as a history: in the order of the log, with what became known of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import psycopg

from anomalyze.backtest.mapping import CHUNK_ROWS, SourceChunk

__all__ = ["newest_stored_ms", "read_stored"]

# By (partition, offset), which is each user's order in the log; of several labels the newest counts, before all
# those that name no user.
QUERY = """
SELECT t.user_id, t.ts, t.data, t.source, (
    SELECT l.fraud FROM labels l
    WHERE l.account_id = t.account_id AND l.user_id IN (t.user_id, '') AND l.tx_id = t.tx_id
    ORDER BY l.user_id DESC, l.recorded_at DESC, l.label_id DESC LIMIT 1
)
FROM transactions t
WHERE t.account_id = %(account)s AND t.ts >= %(start)s AND t.ts < %(end)s
ORDER BY t.src_partition, t.src_offset
"""


def newest_stored_ms(dsn: str, account_id: str) -> int | None:
    """Event time of an account's newest stored transaction, ms since 1970; None without one."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT max(ts) FROM transactions WHERE account_id = %s", [account_id]
        ).fetchone()
    return None if row is None or row[0] is None else int(row[0].timestamp() * 1000)


def read_stored(dsn: str, account_id: str, start_ms: int, end_ms: int) -> Iterator[SourceChunk]:
    """An account's transactions with event times in ``[start_ms, end_ms)``, in chunks.

    Append times are not stored: each row counts as appended when it happened.
    """
    bounds = {
        "account": account_id,
        "start": datetime.fromtimestamp(start_ms / 1000, UTC),
        "end": datetime.fromtimestamp(end_ms / 1000, UTC),
    }
    with psycopg.connect(dsn) as connection, connection.cursor(name="backtest") as cursor:
        cursor.itersize = CHUNK_ROWS
        cursor.execute(QUERY, bounds)
        while rows := cursor.fetchmany(CHUNK_ROWS):
            users, append_ms, values, labels = [], [], [], []
            for user_id, ts, data, source, fraud in rows:
                at = ts.astimezone(UTC)
                meta = {
                    "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "source": source,
                    "user_id": user_id,
                    "account_id": account_id,
                }
                users.append(user_id)
                append_ms.append(int(at.timestamp() * 1000))
                values.append(msgspec.json.encode({"meta": meta, "data": data}))
                labels.append(-1 if fraud is None else int(fraud))
            yield SourceChunk(users, append_ms, values, labels)
