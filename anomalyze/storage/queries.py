"""Lists that the API shows, read by keyset: a page costs the same wherever it lies, and a walk stays right while
rows arrive.

A walk shows each row that was there when it began, once. Transactions and anomalies go by event time, newest
first: what arrives meanwhile lies before the walk's place, or, when its event time is older, is met on the way.
Cases go by the time of their last anomaly: one that grows meanwhile moves to the front and is met in the next
walk. Every text and number of a client's is a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec

from anomalyze.storage.cursor import FilterError, check_text, decode_cursor, encode_cursor
from anomalyze.storage.query import LIMIT_MAX, Page, Query
from anomalyze.storage.row import AnomalyRow, CaseRow, DeadLetterRow, ProgramRow, TransactionRow, UserRow

__all__ = [
    "WINDOW_DEFAULT",
    "anomalies",
    "anomaly",
    "case",
    "case_anomalies",
    "cases",
    "dead_letters",
    "programs",
    "transactions",
    "user",
    "users",
]

WINDOW_DEFAULT = timedelta(days=30)
LIMIT_DEFAULT = 100

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Row = TypeVar("Row")

_TRANSACTION = (
    "t.account_id, t.user_id, t.ts, t.tx_id, t.amount, t.currency, t.status, t.severity, t.action, t.score, "
    "t.case_id, t.source, t.trace_id, t.bundle, t.src_partition, t.src_offset, t.stored_at, "
    "t.data::text, t.enrichment::text, t.analysis::text, t.verdict::text"
)
_ANOMALY = (
    "a.account_id, a.anomaly_id, a.user_id, a.ts, a.tx_id, a.amount, a.currency, a.amount_base, a.severity, a.action, "
    "a.score, a.case_id, a.explanation, a.rule_flags, a.merchant_id, a.country, a.device_id, a.bundle, "
    "a.src_partition, a.src_offset, a.late, a.stored_at, a.data::text, a.enrichment::text, a.analysis::text, "
    "a.verdict::text, coalesce(c.state, 'open') AS state, c.decided_at, c.decided_by"
)
_ANOMALY_FROM = "anomalies a LEFT JOIN cases c ON c.account_id = a.account_id AND c.case_id = a.case_id"
_CASE = (
    "account_id, case_id, user_id, opened_at, last_at, stored_at, severity, score, anomalies, value_base, headline, "
    "headline_anomaly_id, rule_flags, state, decided_at, decided_by, note"
)
_DEAD_LETTER = "log_id, src_partition, src_offset, account_id, reason, field, expected, got, value, stored_at"


def transactions(
    account_id: str,
    *,
    user_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    amount_min: Decimal | None = None,
    amount_max: Decimal | None = None,
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    now: datetime | None = None,
) -> Query[Page[TransactionRow]]:
    """Transactions of an account, newest first.

    Parameters
    ----------
    since, until
        Event time, both ends included. Without ``since``: the last 30 days, counted from the walk's first page.
    amount_min, amount_max
        In units of each transaction's own currency, both ends included.

    Raises
    ------
    FilterError, CursorError
        A filter or cursor that cannot be.
    """
    filters = {
        "user_id": user_id,
        "amount_min": None if amount_min is None else str(amount_min),
        "amount_max": None if amount_max is None else str(amount_max),
    }
    where = _Where("t.account_id", account_id)
    where.add("t.user_id = %(user_id)s", user_id=user_id)
    where.add("t.amount >= %(amount_min)s", amount_min=amount_min)
    where.add("t.amount <= %(amount_max)s", amount_max=amount_max)
    where.add("t.ts <= %(until)s", until=until)
    after = None
    if cursor is not None:
        begun, *after = decode_cursor(cursor, "transactions", filters, tuple[Moment, Moment, str, str])
        since = since or begun
        # The bare comparison lets PostgreSQL leave out partitions, which it does not for the comparison of rows.
        where.add(
            "t.ts <= %(at)s AND (t.ts, t.user_id, t.tx_id) < (%(at)s, %(at_user)s, %(at_tx)s)",
            at=after[0],
            at_user=after[1],
            at_tx=after[2],
        )
    begun = since or (now or datetime.now(UTC)) - WINDOW_DEFAULT
    where.add("t.ts >= %(since)s", since=begun)
    return Query(
        f"SELECT {_TRANSACTION} FROM transactions t WHERE {where} "  # noqa: S608 - constants
        "ORDER BY t.ts DESC, t.user_id DESC, t.tx_id DESC LIMIT %(limit)s",
        where.parameters | {"limit": _limit(limit)},
        _page(
            TransactionRow,
            lambda r: encode_cursor("transactions", filters, (begun, r.ts, r.user_id, r.tx_id)),
        ),
    )


def anomalies(
    account_id: str,
    *,
    user_id: str | None = None,
    severities: Sequence[int] | None = None,
    rule: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    score_min: float | None = None,
    reviewed: bool | None = None,
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    now: datetime | None = None,
) -> Query[Page[AnomalyRow]]:
    """Anomalies of an account, newest first; as `transactions`.

    Parameters
    ----------
    severities
        Any of these (``Severity``).
    rule
        Only those that this rule flagged.
    reviewed
        Whether somebody has decided their case.
    """
    filters = {
        "user_id": user_id,
        "severities": None if severities is None else sorted(severities),
        "rule": rule,
        "score_min": score_min,
        "reviewed": reviewed,
    }
    where = _Where("a.account_id", account_id)
    where.add("a.user_id = %(user_id)s", user_id=user_id)
    where.add("a.severity = ANY(%(severities)s)", severities=None if severities is None else list(severities))
    where.add("%(rule)s = ANY(a.rule_flags)", rule=rule)
    where.add("a.score >= %(score_min)s", score_min=score_min)
    where.add("(coalesce(c.state, 'open') <> 'open') = %(reviewed)s", reviewed=reviewed)
    where.add("a.ts <= %(until)s", until=until)
    if cursor is not None:
        begun, at, at_id = decode_cursor(cursor, "anomalies", filters, tuple[Moment, Moment, str])
        since = since or begun
        where.add(
            "a.ts <= %(at)s AND (a.ts, a.anomaly_id) < (%(at)s, %(at_id)s)",
            at=at,
            at_id=at_id,
        )
    begun = since or (now or datetime.now(UTC)) - WINDOW_DEFAULT
    where.add("a.ts >= %(since)s", since=begun)
    return Query(
        f"SELECT {_ANOMALY} FROM {_ANOMALY_FROM} WHERE {where} "  # noqa: S608 - constants
        "ORDER BY a.ts DESC, a.anomaly_id DESC LIMIT %(limit)s",
        where.parameters | {"limit": _limit(limit)},
        _page(AnomalyRow, lambda r: encode_cursor("anomalies", filters, (begun, r.ts, r.anomaly_id))),
    )


def anomaly(account_id: str, anomaly_id: str) -> Query[AnomalyRow | None]:
    """One anomaly of an account; None when it has none of that id."""
    where = _Where("a.account_id", account_id)
    where.add("a.anomaly_id = %(anomaly_id)s", anomaly_id=anomaly_id)
    return Query(
        f"SELECT {_ANOMALY} FROM {_ANOMALY_FROM} WHERE {where} LIMIT 1",  # noqa: S608 - constants
        where.parameters,
        _first(AnomalyRow),
    )


def cases(
    account_id: str,
    *,
    state: str | None = None,
    severities: Sequence[int] | None = None,
    user_id: str | None = None,
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
) -> Query[Page[CaseRow]]:
    """Cases of an account, those that grew last first.

    Parameters
    ----------
    state
        ``open``, ``confirmed`` or ``dismissed``.
    """
    filters = {
        "state": state,
        "severities": None if severities is None else sorted(severities),
        "user_id": user_id,
    }
    where = _Where("account_id", account_id)
    where.add("state = %(state)s", state=state)
    where.add("severity = ANY(%(severities)s)", severities=None if severities is None else list(severities))
    where.add("user_id = %(user_id)s", user_id=user_id)
    if cursor is not None:
        at, at_id = decode_cursor(cursor, "cases", filters, tuple[Moment, str])
        where.add(
            "last_at <= %(at)s AND (last_at < %(at)s OR case_id > %(at_id)s)",
            at=at,
            at_id=at_id,
        )
    return Query(
        f"SELECT {_CASE} FROM cases WHERE {where} ORDER BY last_at DESC, case_id LIMIT %(limit)s",  # noqa: S608
        where.parameters | {"limit": _limit(limit)},
        _page(CaseRow, lambda r: encode_cursor("cases", filters, (r.last_at, r.case_id))),
    )


def case(account_id: str, case_id: str) -> Query[CaseRow | None]:
    """One case of an account; None when it has none of that id."""
    where = _Where("account_id", account_id)
    where.add("case_id = %(case_id)s", case_id=case_id)
    return Query(
        f"SELECT {_CASE} FROM cases WHERE {where}",  # noqa: S608 - constants
        where.parameters,
        _first(CaseRow),
    )


def case_anomalies(account_id: str, case_id: str, limit: int = LIMIT_MAX) -> Query[list[AnomalyRow]]:
    """The anomalies of a case, newest first."""
    where = _Where("a.account_id", account_id)
    where.add("a.case_id = %(case_id)s", case_id=case_id)
    return Query(
        f"SELECT {_ANOMALY} FROM {_ANOMALY_FROM} WHERE {where} ORDER BY a.ts DESC, a.anomaly_id LIMIT %(limit)s",  # noqa: S608
        where.parameters | {"limit": _limit(limit)},
        lambda rows: [AnomalyRow(**row) for row in rows],
    )


def users(account_id: str, *, limit: int = LIMIT_DEFAULT, cursor: str | None = None) -> Query[Page[UserRow]]:
    """Users of an account in the order of their ids."""
    where = _Where("account_id", account_id)
    if cursor is not None:
        (at,) = decode_cursor(cursor, "users", {}, tuple[str])
        where.add("user_id > %(at)s", at=at)
    return Query(
        "SELECT user_id, first_ts, last_ts, transactions, anomalies FROM users "  # noqa: S608 - constants
        f"WHERE {where} ORDER BY user_id LIMIT %(limit)s",
        where.parameters | {"limit": _limit(limit)},
        _page(UserRow, lambda r: encode_cursor("users", {}, (r.user_id,))),
    )


def user(account_id: str, user_id: str) -> Query[UserRow | None]:
    """One user of an account; None when nothing of him is stored."""
    where = _Where("account_id", account_id)
    where.add("user_id = %(user_id)s", user_id=user_id)
    return Query(
        f"SELECT user_id, first_ts, last_ts, transactions, anomalies FROM users WHERE {where}",  # noqa: S608
        where.parameters,
        _first(UserRow),
    )


def dead_letters(
    account_id: str | None, *, limit: int = LIMIT_DEFAULT, cursor: str | None = None
) -> Query[Page[DeadLetterRow]]:
    """Dead letters, newest first: those that name this account; with None all, for the operator."""
    where = _Where("account_id", account_id)
    if cursor is not None:
        at = decode_cursor(cursor, "dead_letters", {}, tuple[Moment, str, int, int])
        where.add(
            "(stored_at, log_id, src_partition, src_offset) < (%(at)s, %(at_log)s, %(at_partition)s, %(at_offset)s)",
            at=at[0],
            at_log=at[1],
            at_partition=at[2],
            at_offset=at[3],
        )
    return Query(
        f"SELECT {_DEAD_LETTER} FROM dead_letters WHERE {where} "  # noqa: S608 - constants
        "ORDER BY stored_at DESC, log_id DESC, src_partition DESC, src_offset DESC LIMIT %(limit)s",
        where.parameters | {"limit": _limit(limit)},
        _page(
            DeadLetterRow,
            lambda r: encode_cursor(
                "dead_letters", {}, (r.stored_at, r.log_id, r.src_partition, r.src_offset)
            ),
        ),
    )


def programs() -> Query[list[ProgramRow]]:
    """Every program that sent a heartbeat lately."""
    return Query(
        "SELECT program, instance, pid, started_at, seen_at, state FROM program_states ORDER BY program, instance",
        {},
        lambda rows: [ProgramRow(**row) for row in rows],
    )


class _Where:
    """Conditions joined by AND, with their parameters; one whose value is None asks for nothing."""

    def __init__(self, account_column: str, account_id: str | None) -> None:
        self._conditions: list[str] = []
        self.parameters: dict[str, Any] = {}
        self.add(f"{account_column} = %(account)s", account=account_id)

    def add(self, condition: str, **parameters: Any) -> None:
        if all(value is None for value in parameters.values()):
            return
        for name, value in parameters.items():
            if isinstance(value, str):
                check_text(name, value)
        self._conditions.append(condition)
        self.parameters |= parameters

    def __str__(self) -> str:
        return " AND ".join(self._conditions) or "true"


def _limit(limit: int) -> int:
    if not 1 <= limit <= LIMIT_MAX:
        raise FilterError("limit", f"1 to {LIMIT_MAX}", str(limit))
    return limit


def _page(
    row_type: Callable[..., Row], cursor_after: Callable[[Row], str]
) -> Callable[[list[dict[str, Any]]], Page[Row]]:
    def build(found: list[dict[str, Any]]) -> Page[Row]:
        rows = [row_type(**row) for row in found]
        return Page(rows, cursor_after(rows[-1]) if rows else None)

    return build


def _first(row_type: Callable[..., Row]) -> Callable[[list[dict[str, Any]]], Row | None]:
    return lambda found: row_type(**found[0]) if found else None
