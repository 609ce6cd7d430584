"""Which days a page shows, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

__all__ = ["days_between", "describe_days"]


def days_between(start: datetime, end: datetime, zone: tzinfo = UTC) -> str:
    """First and last day of [start, end), with the year of the last.

    >>> days_between(datetime(2018, 4, 2, tzinfo=UTC), datetime(2018, 7, 1, tzinfo=UTC))
    '2 Apr to 30 Jun 2018'
    >>> days_between(datetime(2017, 12, 1, 9, tzinfo=UTC), datetime(2018, 1, 5, 9, tzinfo=UTC))
    '1 Dec 2017 to 5 Jan 2018'
    """
    first, last = start.astimezone(zone), (end - timedelta(microseconds=1)).astimezone(zone)
    return f"{first:%-d %b}{f' {first.year}' if first.year != last.year else ''} to {last:%-d %b %Y}"


def describe_days(days: int, end: datetime, now: datetime, zone: tzinfo = UTC) -> str:
    """The last so many days; where they end before today, which ones, and why those.

    >>> now = datetime(2025, 12, 20, tzinfo=UTC)
    >>> describe_days(90, now, now)
    'Last 90 days'
    >>> describe_days(30, datetime(2018, 7, 1, tzinfo=UTC), now)
    '1 to 30 Jun 2018, where the newest transaction is'
    """
    if end >= now:
        return f"Last {days} days"
    start = end - timedelta(days=days)
    first, last = start.astimezone(zone), (end - timedelta(microseconds=1)).astimezone(zone)
    same = (first.year, first.month) == (last.year, last.month)
    shown = f"{first.day} to {last:%-d %b %Y}" if same else days_between(start, end, zone)
    return f"{shown}, where the newest transaction is"
