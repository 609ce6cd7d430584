"""The alert budget as days: what was promised, what was delivered. Pure functions of the stored nights and cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from anomalyze.storage.budget import BudgetDay

__all__ = ["SHOWN_DAYS", "BudgetColumn", "BudgetView", "build_budget", "first_day"]

SHOWN_DAYS = 28
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class BudgetColumn:
    """One day (UTC): cases delivered, and what was promised; None while no threshold was in force."""

    day: date
    delivered: int
    promised: float | None


@dataclass(frozen=True, slots=True)
class BudgetView:
    """What pages show of the budget.

    `newest` is the night in force; `columns` 28 days, today (or the newest transaction's day) last. `promised` and `delivered` add up the
    whole days of the last 14 on which a threshold was in force; `whole_days` says how many those are.
    """

    newest: BudgetDay
    columns: Sequence[BudgetColumn]
    promised: float
    delivered: int
    whole_days: int

    @property
    def today(self) -> BudgetColumn:
        """The last day, so far."""
        return self.columns[-1]


def first_day(now: datetime) -> datetime:
    """Beginning of the first day shown."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - (SHOWN_DAYS - 1) * DAY


def build_budget(
    nights: Sequence[BudgetDay],
    delivered: Mapping[date, int],
    now: datetime,
    ranked: Set[date] | None = None,
) -> BudgetView | None:
    """Nights (oldest first) and delivered cases as a view; None where there is no budget.

    Parameters
    ----------
    now
        Its day is the last one.
    ranked
        Of transactions that came long after they happened no night of their days says what was promised: the newest
        promise holds for the days of which a budget ranked anything.

    >>> night = BudgetDay("a", date(2025, 12, 1), 20.0, 3, 0.9, 19.5, 28, "")
    >>> view = build_budget([night], {date(2025, 12, 2): 18}, datetime(2025, 12, 3, 9, tzinfo=UTC))
    >>> (view.promised, view.delivered, view.whole_days, view.today.promised)
    (40.0, 18, 2, 20.0)
    """
    if not nights or nights[-1].cases_per_day is None:
        return None
    today = now.astimezone(UTC).date()
    columns = []
    for back in range(SHOWN_DAYS - 1, -1, -1):
        day = today - back * DAY
        night = next((one for one in reversed(nights) if one.day <= day), None)
        if ranked is not None:
            night = nights[-1] if day in ranked else None
        promised = None if night is None or night.threshold is None else night.cases_per_day
        columns.append(BudgetColumn(day, delivered.get(day, 0), promised))
    whole = [column for column in columns[-15:-1] if column.promised is not None]
    return BudgetView(
        nights[-1],
        columns,
        sum(column.promised or 0.0 for column in whole),
        sum(column.delivered for column in whole),
        len(whole),
    )
