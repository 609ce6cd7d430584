"""What the shadowed challenger would have raised, counted by hour and kept where it differs: comparing the last days
reads a few hundred rows of counters and no stored verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

from anomalyze.storage.array import BigintArray, TextArray
from anomalyze.storage.query import Query
from anomalyze.storage.scored import ScoredRows

__all__ = [
    "ShadowCount",
    "ShadowDifference",
    "forget_challenges",
    "list_counts",
    "list_differences",
    "store_challenges",
]

HOUR_US = 3_600_000_000
# Differences that one batch of the sink keeps in full: a challenger that flags everything shall not double the
# tables. The counts have all of them.
DIFFERENCES_MAX = 200
KEPT = "60 days"
# Of the accounts that were ever shadowed, and never later than now: a clock that is ahead must not empty the tables.
_NEWEST = """
SELECT a.account_id, least(now(), max(h.hour)) AS newest
FROM (SELECT DISTINCT account_id FROM challenger_hourly) a JOIN hourly h USING (account_id) GROUP BY a.account_id
"""

_UPSERT_HOURLY = """
INSERT INTO challenger_hourly (account_id, hour, champion, challenger, severity, challenger_severity, transactions)
SELECT account_id, 'epoch'::timestamptz + hour * interval '1 hour', champion, challenger, severity::smallint,
    challenger_severity::smallint, n
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS h (account_id, hour, champion, challenger, severity, challenger_severity, n)
ON CONFLICT (account_id, hour, champion, challenger, severity, challenger_severity)
DO UPDATE SET transactions = challenger_hourly.transactions + excluded.transactions
"""

_INSERT_DIFFERENCES = """
INSERT INTO challenger_differences (account_id, challenger, champion, ts, user_id, tx_id, amount, currency, severity,
    challenger_severity, score, challenger_score, rule_flags, challenger_flags)
SELECT account_id, challenger, champion, 'epoch'::timestamptz + ts_us * interval '1 microsecond', user_id, tx_id,
    amount::numeric, currency, severity::smallint, challenger_severity::smallint, score, challenger_score,
    string_to_array(flags, ','), string_to_array(challenger_flags, ',')
FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::bigint[], %s::bigint[], %s::real[], %s::real[], %s::text[], %s::text[])
    AS d (account_id, challenger, champion, ts_us, user_id, tx_id, amount, currency, severity, challenger_severity,
        score, challenger_score, flags, challenger_flags)
ON CONFLICT DO NOTHING
"""


def store_challenges(connection: psycopg.Connection[Any], rows: ScoredRows, inserted: Iterable[int]) -> None:
    """Count what challengers said of the rows at these positions, as a part of the transaction that inserted them."""
    if not rows.challenges:
        return
    hourly: Counter[tuple[str, int, str, str, int, int]] = Counter()
    differing: list[tuple[str, str, int, str, int]] = []
    for i in inserted:
        found = rows.challenges.get(i)
        if found is None:
            continue
        champion, challenger, says = found
        hourly[rows.account[i], rows.ts_us[i] // HOUR_US, champion, challenger, rows.severity[i], says] += 1
        if i in rows.differences and len(differing) < DIFFERENCES_MAX:
            differing.append((rows.account[i], challenger, rows.ts_us[i], rows.user[i], i))
    if differing:
        connection.execute(_INSERT_DIFFERENCES, _difference_columns(rows, [d[-1] for d in sorted(differing)]))
    if hourly:
        keys = sorted(hourly)
        accounts, hours, champions, challengers, severities, says_ = zip(*keys, strict=True)
        connection.execute(
            _UPSERT_HOURLY,
            [
                TextArray(accounts),
                BigintArray(hours),
                TextArray(champions),
                TextArray(challengers),
                BigintArray(severities),
                BigintArray(says_),
                BigintArray(hourly[key] for key in keys),
            ],
        )


def _difference_columns(rows: ScoredRows, indices: list[int]) -> list[Any]:
    found = [rows.differences[i] for i in indices]
    challenges = [rows.challenges[i] for i in indices]
    return [
        [rows.account[i] for i in indices],
        [challenger for _, challenger, _ in challenges],
        [champion for champion, _, _ in challenges],
        [rows.ts_us[i] for i in indices],
        [rows.user[i] for i in indices],
        [d.tx_id for d in found],
        [d.amount for d in found],
        [d.currency for d in found],
        [rows.severity[i] for i in indices],
        [says for _, _, says in challenges],
        [d.scores[0] for d in found],
        [d.scores[1] for d in found],
        [",".join(d.flags[0]) for d in found],
        [",".join(d.flags[1]) for d in found],
    ]


@dataclass(frozen=True, slots=True)
class ShadowCount:
    """Transactions of which champion and challenger said this; ``since`` is the first hour."""

    severity: int
    challenger_severity: int
    transactions: int
    since: datetime


@dataclass(frozen=True, slots=True)
class ShadowDifference:
    """A transaction of which they said different severities."""

    ts: datetime
    user_id: str
    tx_id: str
    amount: Decimal
    currency: str
    severity: int
    challenger_severity: int
    score: float | None
    challenger_score: float | None
    rule_flags: list[str]
    challenger_flags: list[str]


def list_counts(account_id: str, challenger: str, since: datetime) -> Query[list[ShadowCount]]:
    """What both said of an account's transactions since an hour, by their severities.

    Whichever champion it was: saved settings make a new one of the same model.
    """
    return Query(
        "SELECT severity, challenger_severity, sum(transactions)::bigint AS transactions, min(hour) AS since "
        "FROM challenger_hourly WHERE account_id = %(account)s AND hour > %(since)s - interval '1 hour' "
        "AND challenger = %(challenger)s GROUP BY 1, 2 ORDER BY 1, 2",
        {"account": account_id, "since": since, "challenger": challenger},
        lambda rows: [ShadowCount(**row) for row in rows],
    )


def list_differences(
    account_id: str, challenger: str, since: datetime, limit: int
) -> Query[list[ShadowDifference]]:
    """Transactions since a moment of which they said different severities, the newest first."""
    return Query(
        "SELECT ts, user_id, tx_id, amount, currency, severity, challenger_severity, score, challenger_score, "
        "rule_flags, challenger_flags FROM challenger_differences WHERE account_id = %(account)s "
        "AND challenger = %(challenger)s AND ts >= %(since)s "
        "ORDER BY ts DESC, user_id DESC, tx_id DESC LIMIT %(limit)s",
        {"account": account_id, "since": since, "challenger": challenger, "limit": limit},
        lambda rows: [ShadowDifference(**row) for row in rows],
    )


def forget_challenges(connection: psycopg.Connection[Any]) -> int:
    """Forget what is 60 days older than its account's newest transaction; returns how many rows went."""
    gone = 0
    for statement in (
        f"DELETE FROM challenger_differences c USING ({_NEWEST}) n "  # noqa: S608 - constants
        f"WHERE c.account_id = n.account_id AND c.ts < n.newest - interval '{KEPT}'",
        f"DELETE FROM challenger_hourly c USING ({_NEWEST}) n "  # noqa: S608 - constants
        f"WHERE c.account_id = n.account_id AND c.hour < n.newest - interval '{KEPT}'",
    ):
        gone += connection.execute(statement).rowcount
    return gone
