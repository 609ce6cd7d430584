"""Changes of accounts' lists: kept in their order, told to the log in the same, summed up for people.

The detector knows lists from the log alone. A change is stored first and told then; what was stored by a program that
died is told before the next change of anybody, so every partition hears all of them in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from anomalyze.errors import AnomalyzeError
from anomalyze.storage.audit import audit_entry
from anomalyze.storage.pool import postgres_errors
from anomalyze.storage.query import Query

__all__ = [
    "ENTRIES_MAX",
    "ListChange",
    "ListedValue",
    "TooManyEntries",
    "list_entries",
    "store_changes",
    "tell_changes",
]

# Of one account; the detector's table holds a million of all together.
ENTRIES_MAX = 50_000
TOLD_AT_ONCE_MAX = 500
_LOCK = 0x616E5F6C69737473  # "an_lists"


class TooManyEntries(AnomalyzeError):
    """The account's lists are full."""


@dataclass(frozen=True, slots=True)
class ListChange:
    """Put a value on a list (again: with another expiry), or take it off."""

    op: str
    list: str
    field: str
    value: str
    expires_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ListedValue:
    """A value that is on a list."""

    list: str
    field: str
    value: str
    expires_at: datetime | None
    note: str
    changed_at: datetime
    changed_by: str


_NEWEST = """
SELECT DISTINCT ON (list, field, value) list, field, value, op, expires_at, note, changed_at, changed_by
FROM list_changes WHERE account_id = %(account)s ORDER BY list, field, value, change_id DESC
"""


def list_entries(
    account_id: str,
    *,
    list_name: str | None = None,
    field: str | None = None,
    after: tuple[str, str, str] | None = None,
    limit: int = 100,
) -> Query[list[ListedValue]]:
    """What is on an account's lists and has not expired, by list, field and value, those behind ``after``."""
    return Query(
        f"SELECT list, field, value, expires_at, note, changed_at, changed_by FROM ({_NEWEST}) n "  # noqa: S608 - constants
        "WHERE op = 'add' AND (expires_at IS NULL OR expires_at > now()) "
        "AND (%(list)s::text IS NULL OR list = %(list)s) AND (%(field)s::text IS NULL OR field = %(field)s) "
        "AND (%(after)s::text[] IS NULL OR (list, field, value) > "
        "((%(after)s::text[])[1], (%(after)s::text[])[2], (%(after)s::text[])[3])) "
        "ORDER BY list, field, value LIMIT %(limit)s",
        {
            "account": account_id,
            "list": list_name,
            "field": field,
            "after": None if after is None else list(after),
            "limit": limit,
        },
        lambda rows: [ListedValue(**row) for row in rows],
    )


def store_changes(
    connection: psycopg.Connection[Any], account_id: str, changes: Sequence[ListChange], by: str
) -> int:
    """Store changes and a line of the audit log, in one transaction; return how many say something new.

    A value that is taken off and is not on, or put on as it is on already, is no change.

    Raises
    ------
    TooManyEntries
        The account would have more than ``ENTRIES_MAX`` values on its lists: nothing was stored.
    TransientError
        PostgreSQL does not answer now: nothing was stored.
    """
    with postgres_errors(), connection.transaction():
        connection.execute("SELECT 1 FROM accounts WHERE account_id = %s FOR NO KEY UPDATE", [account_id])
        rows = connection.execute(
            "INSERT INTO list_changes (account_id, op, list, field, value, expires_at, note, changed_by) "
            "SELECT %s, v.op, v.list, v.field, v.value, v.expires_at, v.note, %s "
            "FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::text[]) "
            "WITH ORDINALITY AS v (op, list, field, value, expires_at, note, place) LEFT JOIN LATERAL ("
            "  SELECT c.op, c.expires_at FROM list_changes c WHERE c.account_id = %s AND c.list = v.list "
            "  AND c.field = v.field AND c.value = v.value ORDER BY c.change_id DESC LIMIT 1) n ON true "
            "WHERE CASE v.op WHEN 'add' THEN n.op IS DISTINCT FROM 'add' OR n.expires_at IS DISTINCT FROM v.expires_at "
            "ELSE n.op = 'add' END ORDER BY v.place RETURNING op, list, field, value",
            [
                account_id,
                by,
                *(
                    [getattr(change, name) for change in changes]
                    for name in ("op", "list", "field", "value", "expires_at", "note")
                ),
                account_id,
            ],
        ).fetchall()
        if not rows:
            return 0
        held = connection.execute(
            f"SELECT count(*) FROM ({_NEWEST}) n WHERE op = 'add' AND (expires_at IS NULL OR expires_at > now())",  # noqa: S608
            {"account": account_id},
        ).fetchone()
        if held is not None and held[0] > ENTRIES_MAX and any(row[0] == "add" for row in rows):
            raise TooManyEntries(
                f"lists of {account_id}: expected at most {ENTRIES_MAX:,} values on all lists together, "
                f"got {held[0]:,}; take some off first"
            )
        connection.execute(
            *audit_entry(
                account_id,
                by,
                "lists.change",
                account_id,
                {"changes": [f"{op} {name} {field} {value}" for op, name, field, value in rows]},
            )
        )
    return len(rows)


def tell_changes(
    connection: psycopg.Connection[Any], announce: Callable[[Sequence[Mapping[str, Any]]], None]
) -> int:
    """Tell the log of what it was not told of, in order, in portions; return how many.

    ``announce`` gets bodies of control records of kind ``list`` and returns when they are durable. What a teller that
    died had told is told again, which changes nothing: nobody tells later ones before.

    Raises
    ------
    TransientError
        PostgreSQL or the log does not answer: call it again.
    """
    told = 0
    while True:
        with postgres_errors(), connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            rows = connection.execute(
                "SELECT change_id, op, account_id, list, field, value, (extract(epoch FROM expires_at) * 1000)::bigint "
                "FROM list_changes WHERE NOT told ORDER BY change_id LIMIT %s",
                [TOLD_AT_ONCE_MAX],
            ).fetchall()
            if not rows:
                return told
            announce([_body(*row[1:]) for row in rows])
            connection.execute(
                "UPDATE list_changes SET told = true WHERE change_id = ANY(%s)", [[row[0] for row in rows]]
            )
        told += len(rows)


def _body(
    op: str, account_id: str, name: str, field: str, value: str, expires_ms: int | None
) -> dict[str, Any]:
    body = {"op": op, "account_id": account_id, "list": name, "field": field, "value": value}
    return body if expires_ms is None else body | {"expires_ms": expires_ms}
