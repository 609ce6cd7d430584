"""The daily look at what came in: each account's day against what its model learned from, and the stream itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.detection.bundle import Bundle
from anomalyze.learning.drift import FeatureDrift, RuleDrift, compare_features, compare_rules

__all__ = ["ROWS_MIN", "DayReport", "StreamHealth", "load_stream_health", "report_day"]

# Below, a day says nothing of a distribution.
ROWS_MIN = 500
SAMPLE_ROWS = 20_000
ACCOUNTS_MAX = 20
BASELINE_DAYS = 7
SCORE = "score"
# For how long somebody has been known, and how many purchases a baseline is made of, grow by themselves: they
# always drift, and say nothing.
GROWING = re.compile(r"_age_|_n$")
DAY = timedelta(days=1)
LAG_RECORDS_MAX = 10_000
SILENT_S_MAX = 60.0
# An account that sent something on each of seven days and nothing on the next has lost its source.
STEADY_DAYS = 7

# A part of the rows that is the same each time, whatever their order.
_SAMPLE = (
    "SELECT score, (enrichment->'features')::text FROM transactions "
    "WHERE account_id = %s AND ts >= %s AND ts < %s AND (hashtext(tx_id) & 2147483647) %% %s = 0 LIMIT %s"
)


@dataclass(frozen=True, slots=True)
class DayReport:
    """One account's day.

    Attributes
    ----------
    baseline
        What it was held against, in words.
    features
        Published features and the score, by name.
    """

    account_id: str
    rows: int
    rows_before: int
    baseline: str
    features: Sequence[FeatureDrift]
    rules: Sequence[RuleDrift]


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """Whether it flows.

    Attributes
    ----------
    lag
        Records that each program has not done yet, by program, where it says so.
    silent
        Programs that judge or store and have not said that they live for a minute.
    age_h
        Hours since each account's newest transaction (event time), by account.
    stopped
        Accounts that sent something on each of the seven days before and nothing in the last 24 hours.
    """

    lag: Mapping[str, int]
    silent: Sequence[str]
    age_h: Mapping[str, float]
    stopped: Sequence[str]

    @property
    def behind(self) -> Sequence[str]:
        """Programs with more than `LAG_RECORDS_MAX` records before them."""
        return [name for name, lag in self.lag.items() if lag > LAG_RECORDS_MAX]


def report_day(
    connection: psycopg.Connection[Any], day: datetime, champion: Bundle | None
) -> Sequence[DayReport]:
    """Every account with enough rows on a day (midnight UTC on), at most the 20 largest."""
    accounts: list[tuple[str, int]] = connection.execute(
        "SELECT account_id, sum(transactions)::bigint AS rows FROM hourly WHERE hour >= %s AND hour < %s "
        "GROUP BY account_id HAVING sum(transactions) >= %s ORDER BY rows DESC, account_id LIMIT %s",
        [day, day + DAY, ROWS_MIN, ACCOUNTS_MAX],
    ).fetchall()
    reports = []
    for account, rows in accounts:
        found = choose_baseline(connection, account, day, champion)
        if found is None:
            continue
        (start, end), rows_before, words = found
        before = load_sample(connection, account, start, end, rows_before)
        now = load_sample(connection, account, day, day + DAY, rows)
        names = sorted({name for sample in (before, now) for row in sample for name in row})
        features = compare_features(names, matrix(before, names), matrix(now, names))
        hits_before = load_rule_hits(connection, account, start, end)
        rules = compare_rules(
            hits_before, rows_before, load_rule_hits(connection, account, day, day + DAY), rows
        )
        reports.append(DayReport(account, rows, rows_before, words, features, rules))
    return reports


def choose_baseline(
    connection: psycopg.Connection[Any], account: str, day: datetime, champion: Bundle | None
) -> tuple[tuple[datetime, datetime], int, str] | None:
    """The training window of a champion trained on stored data, else the seven days before; None: too few rows."""
    choices = [(day - BASELINE_DAYS * DAY, day, f"the {BASELINE_DAYS} days before")]
    if champion is not None and champion.kind == "trained" and champion.training_window is not None:
        start, end = (datetime.fromisoformat(text) for text in champion.training_window)
        choices.insert(
            0, (start, min(end, day), f"the model's training window, {start:%Y-%m-%d} to {end:%Y-%m-%d}")
        )
    for start, end, words in choices:
        row = connection.execute(
            "SELECT coalesce(sum(transactions), 0)::bigint FROM hourly "
            "WHERE account_id = %s AND hour >= %s AND hour < %s",
            [account, start, end],
        ).fetchone()
        if row is not None and row[0] >= ROWS_MIN:
            return (start, end), int(row[0]), words
    return None


def load_sample(
    connection: psycopg.Connection[Any], account: str, start: datetime, end: datetime, rows: int
) -> list[dict[str, float | None]]:
    """About 20,000 rows of a stretch: their published features and score."""
    modulus = max(1, rows // SAMPLE_ROWS)
    found = connection.execute(_SAMPLE, [account, start, end, modulus, 2 * SAMPLE_ROWS])
    return [
        {SCORE: score, **numbers(features)} for score, features in found.fetchall() if features is not None
    ]


def numbers(text: str) -> dict[str, float | None]:
    """Numeric and boolean features of one row that have a distribution to compare: no text, and
    nothing that only grows."""
    values: dict[str, Any] = msgspec.json.decode(text)
    return {
        name: None if value is None else float(value)
        for name, value in values.items()
        if not GROWING.search(name) and (value is None or isinstance(value, (bool, int, float)))
    }


def matrix(rows: Sequence[Mapping[str, float | None]], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """float64 ``[n, len(names)]``, NaN where a row lacks a value."""
    return np.array([[row.get(name) for name in names] for row in rows], dtype=np.float64).reshape(
        -1, len(names)
    )


def load_rule_hits(
    connection: psycopg.Connection[Any], account: str, start: datetime, end: datetime
) -> dict[str, int]:
    """How often each rule fired."""
    return dict(
        connection.execute(
            "SELECT rule_id, sum(hits)::bigint FROM rule_hourly "
            "WHERE account_id = %s AND hour >= %s AND hour < %s GROUP BY rule_id",
            [account, start, end],
        ).fetchall()
    )


def load_stream_health(connection: psycopg.Connection[Any], now: datetime) -> StreamHealth:
    """Lag, silence and age, as of a moment."""
    programs = connection.execute(
        "SELECT program, instance, state->>'lag', extract(epoch FROM %s - seen_at)::float8 FROM program_states "
        "WHERE program IN ('api', 'detector', 'sink')",
        [now],
    ).fetchall()
    newest: list[tuple[str, datetime, int]] = connection.execute(
        "SELECT account_id, max(hour), count(DISTINCT date_trunc('day', hour)) "
        "FILTER (WHERE hour >= %(now)s - interval '8 days' AND hour < %(now)s - interval '1 day') "
        "FROM hourly GROUP BY account_id",
        {"now": now},
    ).fetchall()
    age_h = {account: (now - at.astimezone(UTC)) / timedelta(hours=1) for account, at, _ in newest}
    return StreamHealth(
        lag={f"{program} {instance}": int(lag) for program, instance, lag, _ in programs if lag is not None},
        silent=[
            f"{program} {instance}" for program, instance, _, silent_s in programs if silent_s > SILENT_S_MAX
        ],
        age_h=age_h,
        stopped=[account for account, _, days in newest if days >= STEADY_DAYS and age_h[account] > 25.0],
    )
