"""What pages count, kept beside the rows so that nobody scans them: users, and hours of event time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import psycopg

from anomalyze.storage import statement
from anomalyze.storage.array import BigintArray, TextArray
from anomalyze.storage.scored import ScoredRows

__all__ = ["store_counters"]

HOUR_US = 3_600_000_000


def store_counters(connection: psycopg.Connection[Any], rows: ScoredRows, inserted: Iterable[int]) -> None:
    """Count the rows at these positions, as a part of the transaction that inserted them."""
    users: dict[tuple[str, str], list[int]] = {}
    hourly: Counter[tuple[str, int, int]] = Counter()
    rules: Counter[tuple[str, int, str]] = Counter()
    for i in inserted:
        account, user, ts_us, severity = rows.account[i], rows.user[i], rows.ts_us[i], rows.severity[i]
        hour = ts_us // HOUR_US
        hourly[account, hour, severity] += 1
        found = users.get((account, user))
        if found is None:
            users[account, user] = [ts_us, ts_us, 1, severity > 0]
        else:
            if ts_us > found[1]:
                found[1] = ts_us
            elif ts_us < found[0]:
                found[0] = ts_us
            found[2] += 1
            found[3] += severity > 0
        for rule in rows.flags.get(i, ()):
            rules[account, hour, rule] += 1
    if users:
        keys = sorted(users)
        figures = [users[key] for key in keys]
        connection.execute(
            statement.UPSERT_USERS,
            [
                TextArray(account for account, _ in keys),
                TextArray(user for _, user in keys),
                *(BigintArray(figure[column] for figure in figures) for column in range(4)),
            ],
        )
    # The hottest rows last: other sinks wait for them until this transaction ends.
    if hourly:
        hours = sorted(hourly)
        connection.execute(
            statement.UPSERT_HOURLY,
            [
                TextArray(account for account, _, _ in hours),
                BigintArray(hour for _, hour, _ in hours),
                BigintArray(severity for _, _, severity in hours),
                BigintArray(hourly[key] for key in hours),
            ],
        )
    if rules:
        hits = sorted(rules)
        connection.execute(
            statement.UPSERT_RULE_HOURLY,
            [
                TextArray(account for account, _, _ in hits),
                BigintArray(hour for _, hour, _ in hits),
                TextArray(rule for _, _, rule in hits),
                BigintArray(rules[key] for key in hits),
            ],
        )
