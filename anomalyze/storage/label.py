"""Labels: what became known of a transaction, by whom and when. Kept as a history, never updated.

On the topic `labels` (key: ``tx_id``) each is one JSON object. A chargeback often names the transaction only; its
``user_id`` is then empty, and stands for whoever made that transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from anomalyze.errors import ContractError
from anomalyze.log import get
from anomalyze.storage.position import advancing
from anomalyze.storage.query import Query

__all__ = [
    "Label",
    "decode_label",
    "encode_label",
    "known_labels",
    "newest_label",
    "read_labels",
    "store_labels",
    "suspects",
]


class Label(msgspec.Struct, frozen=True):
    """One label on its way into the table.

    Attributes
    ----------
    fraud
        True: fraud; False: verified legitimate; None takes an earlier one of this source back.
    known_at_given
        Whether the sender said when; else it is when the API took it, and no part of what it says.
    """

    account_id: str
    tx_id: str
    fraud: bool | None
    known_at: datetime
    source: str
    recorded_by: str
    user_id: str = ""
    reason: str | None = None
    known_at_given: bool = True


def encode_label(label: Label) -> bytes:
    """The record for the topic `labels`."""
    return msgspec.json.encode(label)


def decode_label(value: bytes) -> Label:
    """A record of the topic `labels`. Raises ``ContractError`` when it is none."""
    try:
        label = msgspec.json.decode(value, type=Label)
    except msgspec.MsgspecError as error:
        raise ContractError(f"a record of the topic labels: got {value[:120]!r} ({error})") from error
    if label.known_at.tzinfo is None or "\0" in "".join(
        (label.account_id, label.tx_id, label.user_id, label.source, label.recorded_by, label.reason or "")
    ):
        raise ContractError(
            f"a record of the topic labels: expected times with offset and no NUL, got {value[:120]!r}"
        )
    return label


def read_labels(values: Sequence[bytes]) -> list[Label]:
    """Records of the topic; one that is none is logged and left out, so that it holds nobody up."""
    found = []
    for value in values:
        try:
            found.append(decode_label(value))
        except ContractError as error:
            get().error("label_unreadable", reason=str(error))
    return found


_INSERT = """
INSERT INTO labels (account_id, user_id, tx_id, fraud, reason, known_at, source, recorded_by)
SELECT v.account_id, v.user_id, v.tx_id, v.fraud, v.reason, v.known_at, v.source, v.recorded_by
FROM unnest(%s::text[], %s::text[], %s::text[], %s::boolean[], %s::text[], %s::timestamptz[], %s::text[], %s::text[],
            %s::boolean[]) WITH ORDINALITY
     AS v (account_id, user_id, tx_id, fraud, reason, known_at, source, recorded_by, given, place)
LEFT JOIN LATERAL (
    SELECT true AS there, l.fraud, l.reason, l.known_at FROM labels l
    WHERE l.account_id = v.account_id AND l.user_id = v.user_id AND l.tx_id = v.tx_id AND l.source = v.source
    ORDER BY l.recorded_at DESC, l.label_id DESC LIMIT 1
) n ON true
WHERE n.there IS NULL OR n.fraud IS DISTINCT FROM v.fraud OR n.reason IS DISTINCT FROM v.reason
    OR (v.given AND n.known_at <> v.known_at)
ORDER BY v.place
"""


def store_labels(
    connection: psycopg.Connection[Any],
    labels: Sequence[Label],
    *,
    consumer: str,
    log_id: str,
    topic: str,
    next_offsets: Mapping[int, int],
) -> int:
    """Store labels and how far their topic was read, in one transaction; return how many say something new.

    One that says what the newest of its source says already (sent again) is no news.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now: nothing was stored, try again.
    """
    with advancing(connection, consumer, log_id, topic, next_offsets):
        return sum(_insert(connection, turn) for turn in _turns(labels))


def _turns(labels: Sequence[Label]) -> list[list[Label]]:
    """Labels in turns, so that of one transaction and source each turn has one: a later one sees the earlier."""
    turns: list[list[Label]] = []
    seen: dict[tuple[str, str, str, str], int] = {}
    for label in labels:
        name = (label.account_id, label.user_id, label.tx_id, label.source)
        turn = seen[name] = seen.get(name, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(label)
    return turns


def _insert(connection: psycopg.Connection[Any], labels: Sequence[Label]) -> int:
    columns = zip(
        *(
            (
                x.account_id, x.user_id, x.tx_id, x.fraud, x.reason, x.known_at, x.source, x.recorded_by,
                x.known_at_given,
            )
            for x in labels
        ),
        strict=True,
    )  # fmt: skip
    return connection.execute(_INSERT, [list(column) for column in columns]).rowcount


def known_labels(account_id: str, known_before: datetime) -> Query[list[dict[str, Any]]]:
    """What was known of each transaction at a moment: ``user_id`` (may be empty), ``tx_id``, ``fraud``, ``known_at``.

    Of each source the newest counts, unless it takes itself back; of several sources the one known last.
    """
    return Query(
        """
        WITH newest AS (
            SELECT DISTINCT ON (user_id, tx_id, source) user_id, tx_id, source, fraud, known_at, label_id
            FROM labels WHERE account_id = %(account)s AND known_at < %(before)s
            ORDER BY user_id, tx_id, source, recorded_at DESC, label_id DESC
        )
        SELECT DISTINCT ON (user_id, tx_id) user_id, tx_id, fraud, known_at FROM newest WHERE fraud IS NOT NULL
        ORDER BY user_id, tx_id, known_at DESC, label_id DESC
        """,
        {"account": account_id, "before": known_before},
        list,
    )


def suspects(account_id: str, severity_min: int, since: datetime) -> Query[list[dict[str, Any]]]:
    """Transactions of cases that nobody has decided yet: ``user_id`` and ``tx_id``, of cases from a severity on."""
    return Query(
        """
        SELECT a.user_id, a.tx_id FROM cases c
        JOIN anomalies a ON a.account_id = c.account_id AND a.case_id = c.case_id
            AND a.ts BETWEEN c.opened_at AND c.last_at
        WHERE c.account_id = %(account)s AND c.state = 'open' AND c.severity >= %(severity)s
            AND c.last_at >= %(since)s
        """,
        {"account": account_id, "severity": severity_min, "since": since},
        list,
    )


def newest_label(connection: psycopg.Connection[Any]) -> int:
    """Number of the label that was stored last; 0 while there is none."""
    row = connection.execute("SELECT coalesce(max(label_id), 0) FROM labels").fetchone()
    assert row is not None
    return int(row[0])
