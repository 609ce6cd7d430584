"""Where a page's stretch of days ends: now, or with the newest stored transaction when that is of an earlier day.

Somebody who sent a file of last year would else be shown ninety empty days.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from anomalyze.storage.query import Query

__all__ = ["load_period_end", "period_end"]

HOUR = timedelta(hours=1)


def load_period_end(account_id: str, now: datetime) -> Query[datetime]:
    """Until when an account's last days are shown (exclusive); read from the hours that the sink counts."""
    return Query(
        "SELECT max(hour) AS newest FROM hourly WHERE account_id = %(account)s",
        {"account": account_id},
        lambda rows: period_end(rows[0]["newest"], now),
    )


def period_end(newest_hour: datetime | None, now: datetime) -> datetime:
    """Now while the newest transaction is of today (UTC) or there is none, else the end of its hour.

    >>> now = datetime(2025, 12, 20, 12, 30, tzinfo=UTC)
    >>> period_end(datetime(2025, 12, 20, 3, tzinfo=UTC), now) == period_end(None, now) == now
    True
    >>> period_end(datetime(2018, 6, 30, 23, tzinfo=UTC), now)
    datetime.datetime(2018, 7, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    if newest_hour is None or newest_hour.astimezone(UTC).date() >= now.astimezone(UTC).date():
        return now
    return newest_hour.astimezone(UTC) + HOUR
