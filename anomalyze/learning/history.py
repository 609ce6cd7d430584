"""Which stored transactions a candidate learns from, and how they are cut by time.

The cuts are found in the hourly counts that the sink keeps, so that nothing is scanned to decide that there is
too little. Rows are cut 60 : 20 : 20 in the order of their event times: the model learns from the oldest part,
is calibrated on the next, and is held against the champion on the newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

__all__ = ["DAYS_MIN", "HISTORY_ROWS_MAX", "ROWS_MIN", "History", "Span", "TooLittle", "choose_history"]

# 2,000 rows to calibrate on and 2,000 to be judged by: below, thresholds are set by chance.
ROWS_MIN = 10_000
# A baseline is made of purchases older than a day, ten of them; a week has its weekend.
DAYS_MIN = 7
DAYS_MAX = 180
# Training reads at most 400,000 rows; this many leave it 360,000.
HISTORY_ROWS_MAX = 600_000
TRAIN_SHARE, CALIBRATE_SHARE = 0.6, 0.8
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of event time, ``[start, end)``, and the rows in it."""

    start: datetime
    end: datetime
    rows: int

    @property
    def bounds_ms(self) -> tuple[int, int]:
        """Start and end in ms since 1970."""
        return int(self.start.timestamp() * 1000), int(self.end.timestamp() * 1000)

    @property
    def days(self) -> float:
        """Its length."""
        return (self.end - self.start) / timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M}, {self.rows:,} rows"


@dataclass(frozen=True, slots=True)
class History:
    """What to learn from: accounts, and the three parts."""

    accounts: tuple[str, ...]
    train: Span
    calibrate: Span
    evaluate: Span


@dataclass(frozen=True, slots=True)
class TooLittle:
    """Why nothing can be learned yet, in words."""

    reason: str


def choose_history(
    connection: psycopg.Connection[Any],
    *,
    rows_min: int = ROWS_MIN,
    days_min: float = DAYS_MIN,
    rows_max: int = HISTORY_ROWS_MAX,
) -> History | TooLittle:
    """The newest stored history that is enough, or why there is none."""
    counts: list[tuple[datetime, int]] = connection.execute(
        "SELECT hour, sum(transactions)::bigint FROM hourly "
        "WHERE hour >= (SELECT max(hour) FROM hourly) - %s * interval '1 day' GROUP BY hour ORDER BY hour DESC",
        [DAYS_MAX],
    ).fetchall()
    taken: list[tuple[datetime, int]] = []
    rows = 0
    for hour, count in counts:
        if rows + count > rows_max and rows >= rows_min:
            break
        taken.append((hour.astimezone(UTC), count))
        rows += count
    taken.reverse()
    days = (taken[-1][0] + HOUR - taken[0][0]) / timedelta(days=1) if taken else 0.0
    if rows < rows_min or days < days_min:
        return TooLittle(
            f"{rows:,} transactions over {days:.1f} days are stored; a model of your own needs at least "
            f"{rows_min:,} over {days_min:g} days. Send more, or upload a history as CSV"
        )
    first = cut_at(taken, rows * TRAIN_SHARE)
    second = max(cut_at(taken, rows * CALIBRATE_SHARE), first + 1)
    if first == 0 or second >= len(taken):
        return TooLittle(
            f"{rows:,} transactions are stored, but nearly all in one hour: they cannot be cut by time"
        )
    accounts = connection.execute(
        "SELECT account_id FROM hourly WHERE hour >= %s AND hour <= %s GROUP BY account_id ORDER BY account_id",
        [taken[0][0], taken[-1][0]],
    ).fetchall()
    return History(
        tuple(name for (name,) in accounts),
        span(taken[:first]),
        span(taken[first:second]),
        span(taken[second:]),
    )


def cut_at(hours: list[tuple[datetime, int]], rows: float) -> int:
    """How many hours hold the first ``rows`` rows."""
    total = 0
    for place, (_, count) in enumerate(hours):
        total += count
        if total >= rows:
            return place + 1
    return len(hours)


def span(hours: list[tuple[datetime, int]]) -> Span:
    """Consecutive hours as one stretch."""
    return Span(hours[0][0], hours[-1][0] + HOUR, sum(count for _, count in hours))
