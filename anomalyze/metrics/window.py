"""The span of time that a run reads, cut at whole steps of the batch's own clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from zoneinfo import ZoneInfo

__all__ = ["Window", "floor_to_step", "go_back"]

_DAY = dt.timedelta(days=1)
_MONDAY = dt.date(1970, 1, 5)


@dataclass(frozen=True, slots=True)
class Window:
    """From ``start`` (read) to ``end`` (no longer read), both UTC; ``step`` from one point to the next."""

    start: dt.datetime
    end: dt.datetime
    step: dt.timedelta


def floor_to_step(at: dt.datetime, step: dt.timedelta, zone: ZoneInfo) -> dt.datetime:
    """The last beginning of a step not after ``at``, in UTC.

    Steps follow the clock on the wall: those of whole days begin at local midnight, counted from a Monday; a shorter
    one counts real time from the day's midnight, and the last of a day ends with it. ``preprocess.floor_steps`` does
    the same for many.

    Examples
    --------
    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> floor_to_step(dt.datetime(2025, 3, 30, 12, tzinfo=dt.UTC), dt.timedelta(days=1), berlin).isoformat()
    '2025-03-29T23:00:00+00:00'
    """
    day = at.astimezone(zone).date()
    if step >= _DAY:
        day -= dt.timedelta(days=(day - _MONDAY).days % step.days)
    begin = dt.datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(dt.UTC)
    return begin if step >= _DAY else begin + (at.astimezone(dt.UTC) - begin) // step * step


def go_back(at: dt.datetime, span: dt.timedelta, zone: ZoneInfo) -> dt.datetime:
    """So long before ``at``, in UTC; whole days are days of the calendar, which daylight saving makes 23 or 25 hours."""
    if span % _DAY != dt.timedelta(0):
        return at - span
    # Arithmetic on an aware local time is arithmetic on its wall clock.
    return (at.astimezone(zone) - span).astimezone(dt.UTC)
