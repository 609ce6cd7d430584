"""Profiles of merchants from what is stored and known now: computed, published, and told to the log.

The log ratio of each transaction is read as its verdict published it, rounded to three decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import psycopg
from psycopg.types.json import Jsonb

from anomalyze.bus.contract import Bus
from anomalyze.bus.control import announce
from anomalyze.events.hashing import text_keys
from anomalyze.features.profile import LABEL_COLUMNS, compute_profiles
from anomalyze.features.snapshot import ProfileStore, Snapshot, merchant_keys
from anomalyze.storage.pool import postgres_errors

__all__ = ["DELAY_DAYS", "HISTORY_DAYS", "publish_profiles", "refresh_instant", "stored_labels"]

# A transaction that nobody complained of counts as genuine after so long.
DELAY_DAYS = 45.0
# A fraud is no news after 99 days, and only what came after the last one is counted.
HISTORY_DAYS = 180
FETCH_ROWS = 50_000
NEVER_MS = int(np.iinfo(np.int64).max)

# Of each source the newest label counts, unless it takes itself back; of several sources the one known last.
_STORED = """
WITH newest AS (
    SELECT DISTINCT ON (account_id, user_id, tx_id, source)
        account_id, user_id, tx_id, source, fraud, known_at, label_id
    FROM labels WHERE known_at < %(as_of)s
    ORDER BY account_id, user_id, tx_id, source, recorded_at DESC, label_id DESC
), known AS (
    SELECT DISTINCT ON (account_id, user_id, tx_id) account_id, user_id, tx_id, fraud, known_at
    FROM newest WHERE fraud IS NOT NULL
    ORDER BY account_id, user_id, tx_id, known_at DESC, label_id DESC
)
SELECT t.account_id, t.data ->> 'merchant_id', (extract(epoch FROM t.ts) * 1000)::bigint,
    (t.enrichment -> 'features' ->> 'user_amount_lr')::float8, coalesce(own.fraud, anyone.fraud, false),
    (extract(epoch FROM coalesce(own.known_at, anyone.known_at, t.ts + d.delay)) * 1000)::bigint
FROM transactions t
CROSS JOIN LATERAL (
    SELECT coalesce((%(delays)s::jsonb ->> t.account_id)::float8 * interval '1 day', %(delay)s) AS delay
) d
LEFT JOIN known own ON own.account_id = t.account_id AND own.user_id = t.user_id AND own.tx_id = t.tx_id
LEFT JOIN known anyone ON anyone.account_id = t.account_id AND anyone.user_id = '' AND anyone.tx_id = t.tx_id
WHERE t.ts >= %(start)s AND t.ts < %(as_of)s AND t.data ? 'merchant_id'
    AND (own.fraud IS NOT NULL OR anyone.fraud IS NOT NULL OR t.ts < %(as_of)s - d.delay)
"""


def refresh_instant(now: datetime, refresh_ms: int) -> datetime:
    """The last instant of profiles at or before now: a multiple of the time between two.

    >>> refresh_instant(datetime(2025, 12, 20, 13, 30, tzinfo=UTC), 6 * 3_600_000).isoformat()
    '2025-12-20T12:00:00+00:00'
    """
    return datetime.fromtimestamp(int(now.timestamp() * 1000) // refresh_ms * refresh_ms / 1000, UTC)


def stored_labels(
    connection: psycopg.Connection[Any],
    as_of: datetime,
    delay: timedelta,
    account_delay_days: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """What is known before an instant of the stored transactions, for `compute_profiles`.

    Parameters
    ----------
    delay, account_delay_days
        After so long a transaction without a label counts as genuine; of the accounts that say so themselves, after
        so many days.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now.
    """
    start = as_of - timedelta(days=HISTORY_DAYS)
    delays = Jsonb(dict(account_delay_days or {}))
    parts = [pl.DataFrame(schema=LABEL_COLUMNS)]
    with (
        postgres_errors(),
        connection.transaction(),
        connection.cursor(name="labels") as cursor,
    ):
        cursor.itersize = FETCH_ROWS
        cursor.execute(_STORED, {"as_of": as_of, "delay": delay, "delays": delays, "start": start})
        while rows := cursor.fetchmany(FETCH_ROWS):
            accounts, merchants, ts_ms, log_ratio, fraud, known_ms = zip(*rows, strict=True)
            columns = {
                "key": merchant_keys(text_keys(list(accounts)), text_keys(list(merchants))),
                "ts_ms": ts_ms,
                "log_ratio": log_ratio,
                "fraud": fraud,
                "known_ms": known_ms,
                "until_ms": np.full(len(rows), NEVER_MS),
            }
            parts.append(pl.DataFrame(columns, schema=LABEL_COLUMNS))
    return pl.concat(parts)


def publish_profiles(labels: pl.DataFrame, as_of: datetime, store: ProfileStore, bus: Bus) -> Snapshot:
    """Compute the snapshot of an instant, write it to the store, then tell every partition of the log.

    Done again with the same labels it changes nothing. Raises `TransientError` when the store or the log does not
    answer: publish them again.
    """
    snapshot = compute_profiles(labels, int(as_of.timestamp() * 1000))
    store.publish(snapshot)
    announce(bus, "profiles", {"profiles": snapshot.id})
    return snapshot
