"""What analysts decide: the one thing that the dashboard writes, and what it shows of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import dict_row

from anomalyze.storage.audit import audit_entry
from anomalyze.storage.board import CASE_STATES, Connection

__all__ = ["Decision", "decide_case", "load_decisions"]


async def decide_case(
    connection: Connection,
    account_id: str,
    case_id: str,
    state: str,
    key_id: str,
    note: str | None = None,
    *,
    verified: bool = False,
) -> bool:
    """Confirm or dismiss a case, or take that back, in one transaction.

    Writes the case's state, one label for each of its anomalies and a line of the audit log. A label says fraud
    when confirmed, no fraud when dismissed as ``verified`` to be legitimate, and nothing (null) when dismissed for
    another reason or taken back: what nobody looked into must not teach that it was right. Deciding the same again
    changes nothing.

    Parameters
    ----------
    state
        ``confirmed``, ``dismissed``, or ``open`` to take a decision back.
    key_id
        The key whose holder decides.
    verified
        Of a dismissal: somebody found out that the payments were the user's own.

    Returns
    -------
    Whether the account has such a case.
    """
    assert state in CASE_STATES, state
    fraud = {"confirmed": True, "dismissed": False if verified else None, "open": None}[state]
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.execute(
            "SELECT state, opened_at, last_at FROM cases WHERE account_id = %s AND case_id = %s FOR UPDATE",
            [account_id, case_id],
        )
        row = await cursor.fetchone()
        if row is None:
            return False
        before, opened_at, last_at = row
        if before == state:
            return True
        decided = state != "open"
        await cursor.execute(
            "UPDATE cases SET state = %s, decided_at = CASE WHEN %s THEN now() END, decided_by = %s, note = %s "
            "WHERE account_id = %s AND case_id = %s",
            [state, decided, key_id if decided else None, note if decided else None, account_id, case_id],
        )
        await cursor.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, reason, known_at, source, recorded_by) "
            "SELECT account_id, user_id, tx_id, %s, %s, now(), 'analyst', %s FROM anomalies "
            "WHERE account_id = %s AND case_id = %s AND ts BETWEEN %s AND %s ORDER BY ts, tx_id",
            [fraud, note, key_id, account_id, case_id, opened_at, last_at],
        )
        await cursor.execute(
            *audit_entry(
                account_id,
                key_id,
                f"case.{state}",
                case_id,
                {"before": before, "labels": cursor.rowcount, "note": note, "fraud": fraud},
            )
        )
    return True


@dataclass(frozen=True, slots=True)
class Decision:
    """One label of a transaction: who said what of it, when."""

    fraud: bool | None
    reason: str | None
    source: str
    recorded_by: str
    name: str | None
    recorded_at: datetime


async def load_decisions(
    connection: Connection, account_id: str, user_id: str, tx_id: str | None = None, limit: int = 50
) -> list[tuple[str, Decision]]:
    """Labels of one transaction, or of all of a user's, newest first, each with its tx_id."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT l.tx_id, l.fraud, l.reason, l.source, l.recorded_by, k.name, l.recorded_at
            FROM labels l LEFT JOIN api_keys k ON k.key_id = l.recorded_by AND k.account_id = l.account_id
            WHERE l.account_id = %(account)s AND l.user_id = %(user)s
              AND (%(tx)s::text IS NULL OR l.tx_id = %(tx)s)
            ORDER BY l.recorded_at DESC, l.label_id DESC LIMIT %(limit)s
            """,
            {"account": account_id, "user": user_id, "tx": tx_id, "limit": limit},
        )
        return [(row.pop("tx_id"), Decision(**row)) async for row in cursor]
