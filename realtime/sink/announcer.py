"""Tells the log what became known of transactions, so that a confirmed fraud does not become its user's normal.

Every label ends in the table `labels`, whoever gave it; from there each goes into its user's partition of
`transactions` as a control record, in the order of the table. The record is sent before the place is stored: after
a crash some are sent again, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from anomalyze.bus.contract import Producer
from anomalyze.bus.control import encode_control
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.storage.pool import postgres_errors
from anomalyze.storage.position import Position, lock_positions, store_positions

__all__ = ["LABELS_MAX", "announce_labels"]

LABELS_MAX = 1_000
FLUSH_TIMEOUT_S = 30.0
ANNOUNCER, TABLE = "label-announcer", "table labels"

# A label without a user names a transaction that may be anybody's: it counts in training only.
_NEW = """
SELECT label_id, account_id, user_id, tx_id, coalesce(fraud, false)
FROM labels WHERE label_id >= %s ORDER BY label_id LIMIT %s
"""


def announce_labels(
    connection: psycopg.Connection[Any], producer: Producer, partitions: int, log_id: str
) -> int:
    """Send the labels that this log has not been told of, at most `LABELS_MAX`; return how many were read.

    Raises
    ------
    TransientError
        PostgreSQL or the log does not answer: call it again.
    """
    with postgres_errors(), connection.transaction():
        place = lock_positions(connection, ANNOUNCER, log_id, TABLE, [0])[0].next_offset
        if (
            connection.execute("SELECT 1 FROM labels WHERE label_id >= %s LIMIT 1", [place]).fetchone()
            is None
        ):
            return 0
        # Ids are drawn before they are committed: with no writer at work none below the newest is still to come.
        # What is rolled back is the lock, before anybody waits for the log.
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL lock_timeout = '2s'")
            connection.execute("LOCK TABLE labels IN SHARE MODE")
            rows = connection.execute(_NEW, [place, LABELS_MAX]).fetchall()
        send([row[1:] for row in rows if row[2]], producer, partitions)
        store_positions(connection, ANNOUNCER, log_id, TABLE, {0: Position(-1, rows[-1][0] + 1)})
    return len(rows)


def send(labels: Sequence[tuple[str, str, str, bool]], producer: Producer, partitions: int) -> None:
    """Append a control record for each (account, user, transaction, fraud); returns when they are durable."""
    # With numba: 50 MB that a sink without labels does without.
    from anomalyze.bus.partitioner import murmur2_partitions

    values = [
        encode_control(
            "label", {"account_id": account, "user_id": user, "tx_id": tx_id, "fraud": bool(fraud)}
        )
        for account, user, tx_id, fraud in labels
    ]
    places = murmur2_partitions([user.encode() for _, user, _, _ in labels], partitions)
    producer.send_many(TRANSACTIONS, places, [None] * len(values), values)
    producer.flush(FLUSH_TIMEOUT_S)
