"""The nightly refit: thresholds of the alert budget from the last four weeks, into a bundle with the same model.

The stored rows are judged again by the champion, in the order of the log and with the profiles that were in force,
because what they once scored was perhaps another bundle's. Thirty days before the window only make the histories.
What a list settled then is left out now. Labels of that time are not applied to the histories again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.backtest.run import Replay
from anomalyze.backtest.stored import read_stored
from anomalyze.bus.contract import Bus
from anomalyze.detection.budget import load_thresholds, with_thresholds
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import Detector
from anomalyze.errors import ContractError
from anomalyze.events.batch import Severity
from anomalyze.events.hashing import text_keys
from anomalyze.features.daily_store import DailyStore
from anomalyze.features.snapshot import Profiles, ProfileStore
from anomalyze.learning.budget import (
    DAY_MS,
    DAYS_MAX,
    DAYS_MIN,
    Fit,
    RankedRows,
    fit_threshold,
    keep_ranked,
)
from anomalyze.learning.daily import load_profiles_of
from anomalyze.learning.promotion import CHAMPION, promote
from anomalyze.storage.budget import BudgetDay, store_budget_day, withdraw_budgets

__all__ = ["AccountFit", "Refit", "Window", "choose_window", "refit_budget"]

# Days before the window that only make the users' histories.
WARM_DAYS = 30
# Rows that one account's fit reads, about two minutes of work; of more than that fewer days count.
ROWS_MAX = 3_000_000
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Whole days in UTC that a fit counts, and from when on rows are read for it."""

    read_from: datetime
    start: datetime
    days: int

    @property
    def end(self) -> datetime:
        """Exclusive."""
        return self.start + self.days * DAY


@dataclass(frozen=True, slots=True)
class AccountFit:
    """What a night's fit found for an account; ``fit`` is None with too little history."""

    account: str
    days: int
    fit: Fit | None
    threshold: float | None
    says: str


@dataclass(frozen=True, slots=True)
class Refit:
    """What a night's run did: the champion before and after it, and what it found of each account."""

    champion: str
    bundle: str
    accounts: tuple[AccountFit, ...]


def refit_budget(
    connection: psycopg.Connection[Any],
    dsn: str,
    store: BundleStore,
    profiles: ProfileStore,
    daily: DailyStore,
    bus: Bus,
    now: datetime,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Refit | None:
    """Fit every account's threshold; where one moved enough, promote a bundle with the new ones.

    Run again in the same night it changes nothing. A champion that somebody changed meanwhile is left alone: the
    next night fits that one.

    Parameters
    ----------
    dsn
        Where the transactions are.
    profiles, daily
        What labels said, and the profiles of days.
    say
        Told what is being done.

    Returns
    -------
    What was done; None without a champion, or when its policy has no budget.
    """
    champion_id = store.pointer(CHAMPION)
    champion = None if champion_id is None else store.load(champion_id)
    if champion is None:
        say("There is no champion yet.")
        return None
    detector = Detector(champion)
    if detector.policy.budget is None:
        gone = withdraw_budgets(connection, now.date())
        say(f"The policy has no budget{f': withdrawn for {gone} accounts' if gone else ''}.")
        return None
    thresholds = load_thresholds(champion)
    found = []
    for (account,) in connection.execute("SELECT DISTINCT account_id FROM hourly ORDER BY 1").fetchall():
        fitted = _fit_account(connection, dsn, (profiles, daily), detector, account, thresholds.get(account))
        say(f"{account}: {fitted.says}")
        found.append(fitted)
    moved = {one.account: one.threshold for one in found if one.threshold is not None}
    bundle = with_thresholds(champion, thresholds | moved)
    if bundle.id != champion.id:
        store.publish(bundle)
        promote(store, bus, bundle.id, expected=champion.id, note="alert budget refitted")
    for one in found:
        _keep(connection, detector, one, now)
    return Refit(champion.id, bundle.id, tuple(found))


def _fit_account(
    connection: psycopg.Connection[Any],
    dsn: str,
    stores: tuple[ProfileStore, DailyStore],
    detector: Detector,
    account: str,
    previous: float | None,
) -> AccountFit:
    policy = detector.policy
    assert policy.budget is not None
    window = choose_window(connection, account)
    if window is None or window.days < DAYS_MIN:
        days = 0 if window is None else window.days
        return AccountFit(
            account, days, None, previous, f"{days} whole days are stored, {DAYS_MIN} are needed."
        )
    rows = _rank_again(connection, dsn, stores, detector, account, window)
    fit = fit_threshold(rows, round(window.start.timestamp() * 1000), window.days, policy, previous)
    wanted = policy.budget.cases_per_day
    if not fit.moves(wanted):
        says = f"stays at {previous:.4f}: {fit.before:.1f} cases a day of {wanted:g} over {window.days} days."
        return AccountFit(account, window.days, fit, previous, says)
    before = "" if previous is None else f" (until now {previous:.4f}: {fit.before:.1f} a day)"
    bounded = " It rises further in the coming nights." if fit.limited else ""
    says = f"{fit.threshold:.4f}: {fit.expected:.1f} cases a day of {wanted:g} over {window.days} days{before}.{bounded}"
    return AccountFit(account, window.days, fit, fit.threshold, says)


def choose_window(connection: psycopg.Connection[Any], account: str) -> Window | None:
    """The newest whole days of an account, at most 28, by event time; None when it has no whole day.

    Found in the hourly counts that the sink keeps. Where the days and those before them hold too many rows, fewer
    days are read, at least a week of them.
    """
    counts: list[tuple[datetime, int]] = connection.execute(
        "SELECT date_trunc('day', hour, 'UTC') AS day, sum(transactions)::bigint FROM hourly "
        "WHERE account_id = %(account)s AND hour >= (SELECT max(hour) FROM hourly WHERE account_id = %(account)s)"
        " - %(days)s * interval '1 day' GROUP BY 1 ORDER BY 1",
        {"account": account, "days": DAYS_MAX + WARM_DAYS + 1},
    ).fetchall()
    if len(counts) < 2:
        return None
    # The first and the newest day may be parts of days.
    first, end = counts[0][0].astimezone(UTC) + DAY, counts[-1][0].astimezone(UTC)
    days = min(DAYS_MAX, (end - first) // DAY)
    rows = {day.astimezone(UTC): count for day, count in counts[:-1]}

    def read(days: int) -> tuple[datetime, int]:
        read_from = max(end - (days + WARM_DAYS) * DAY, first - DAY)
        return read_from, sum(count for day, count in rows.items() if day >= read_from)

    while days > DAYS_MIN and read(days)[1] > ROWS_MAX:
        days -= 1
    return Window(read(days)[0], end - days * DAY, days)


def _rank_again(
    connection: psycopg.Connection[Any],
    dsn: str,
    stores: tuple[ProfileStore, DailyStore],
    detector: Detector,
    account: str,
    window: Window,
) -> RankedRows:
    """The window's rows as the champion ranks them."""
    snapshots = _load_profiles(connection, stores, account, window)
    settled = _settled_by_lists(connection, detector, account, window)
    replay = Replay(detector)
    start_ms = round(window.start.timestamp() * 1000)
    parts = []
    bounds = (round(window.read_from.timestamp() * 1000), round(window.end.timestamp() * 1000))
    for chunk in read_stored(dsn, account, *bounds):
        batch = replay.decode(chunk)
        verdicts = detector.process(batch, replay.states, snapshots)
        assert verdicts.ranked is not None
        verdicts.ranked.risk[np.isin(batch.tx_key, settled)] = np.nan
        part = keep_ranked(batch, verdicts)
        parts.append(part.at(part.ts_ms >= start_ms - DAY_MS))  # a case of the day before may go on
    return RankedRows.join(parts)


def _load_profiles(
    connection: psycopg.Connection[Any],
    stores: tuple[ProfileStore, DailyStore],
    account: str,
    window: Window,
) -> Profiles | None:
    """The snapshots of labels that the verdicts of the window name, and those of its days.

    One that is gone or damaged is done without.
    """
    named = connection.execute(
        "SELECT DISTINCT analysis->>'profiles' FROM transactions "
        "WHERE account_id = %s AND ts >= %s AND ts < %s AND analysis->>'profiles' IS NOT NULL",
        [account, window.start, window.end],
    ).fetchall()
    found = []
    for (snapshot_id,) in named:
        try:
            found.append(stores[0].load(snapshot_id))
        except ContractError:
            continue
    bounds = (round(window.start.timestamp() * 1000), round(window.end.timestamp() * 1000))
    profiles = Profiles(found).joined(load_profiles_of(connection, stores[1], *bounds))
    return profiles if profiles.ids else None


def _settled_by_lists(
    connection: psycopg.Connection[Any], detector: Detector, account: str, window: Window
) -> npt.NDArray[np.uint64]:
    """Hashes of the window's transactions that a list blocked or allowed when they came."""
    rules = [rule.id for rule in detector.rules.rules if rule.effect != "flag"]
    hits = connection.execute(
        "SELECT coalesce(sum(hits), 0) FROM rule_hourly "
        "WHERE account_id = %s AND hour >= %s AND hour < %s AND rule_id = ANY(%s)",
        [account, window.start, window.end, rules],
    ).fetchone()
    if hits is None or not hits[0]:
        return np.empty(0, dtype=np.uint64)
    rows = connection.execute(
        "SELECT tx_id FROM transactions WHERE account_id = %s AND ts >= %s AND ts < %s AND EXISTS ("
        "SELECT FROM json_array_elements_text(analysis->'rule_flags') f WHERE f = ANY(%s))",
        [account, window.start, window.end, rules],
    ).fetchall()
    return text_keys([tx_id for (tx_id,) in rows])


def _keep(connection: psycopg.Connection[Any], detector: Detector, one: AccountFit, now: datetime) -> None:
    budget = detector.policy.budget
    assert budget is not None
    expected = None if one.fit is None else one.fit.expected
    if one.fit is not None and one.threshold != one.fit.threshold:
        expected = one.fit.before
    store_budget_day(
        connection,
        BudgetDay(
            account_id=one.account,
            day=now.date(),
            cases_per_day=budget.cases_per_day,
            severity=int(Severity[budget.severity]),
            threshold=one.threshold,
            expected=expected,
            days=one.days,
            says=one.says,
        ),
    )
