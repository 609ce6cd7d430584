"""The span of time that a run reads, cut at whole steps of the batch's own clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from zoneinfo import ZoneInfo

__all__ = ["Window", "floor_to_step", "go_back"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """From ``start`` (read) to ``end`` (no longer read), both UTC; ``step`` from one point to the next."""

    start: dt.datetime
    end: dt.datetime
    step: dt.timedelta


def floor_to_step(at: dt.datetime, step: dt.timedelta, zone: ZoneInfo) -> dt.datetime:
    """The last beginning of a step not after ``at``, in UTC.

    Steps of whole days begin at local midnight, counted from Monday, 5 January 1970; shorter ones count from
    1970 in real time, shifted by the zone's offset, so that an hour lost or doubled by daylight saving moves none.

    Examples
    --------
    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> floor_to_step(dt.datetime(2025, 3, 30, 12, tzinfo=dt.UTC), dt.timedelta(days=1), berlin).isoformat()
    '2025-03-29T23:00:00+00:00'
    """
    local = at.astimezone(zone)
    if step % _DAY == dt.timedelta(0):
        first = dt.date(1970, 1, 5)
        day = local.date()
        day -= dt.timedelta(days=(day - first).days % step.days)
        return dt.datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(dt.UTC)
    offset = local.utcoffset() or dt.timedelta(0)
    since = at.astimezone(dt.UTC) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + offset
    return at.astimezone(dt.UTC) - since % step


def go_back(at: dt.datetime, span: dt.timedelta, zone: ZoneInfo) -> dt.datetime:
    """So long before ``at``, in UTC; whole days are days of the calendar, which daylight saving makes 23 or 25 hours."""
    if span % _DAY != dt.timedelta(0):
        return at - span
    # Arithmetic on an aware local time is arithmetic on its wall clock.
    return (at.astimezone(zone) - span).astimezone(dt.UTC)
