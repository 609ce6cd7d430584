"""Anomalies an hour and what is usual for that hour: pure functions of the hourly counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from dashboard.formatters import format_clock, plural
from dashboard.plots import HourColumn

__all__ = ["HISTORY_DAYS", "HoursView", "build_hours", "quantile"]

HOURS_SHOWN = 24
# The usual range of an hour comes from the same hour of so many days, at least:
HISTORY_DAYS = 28
DAYS_MIN = 7
# and spans the middle 80 %.
LOW, HIGH = 0.1, 0.9

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class HoursView:
    """What Now shows of the hours.

    `usual_now` is this hour's usual range by this minute; `today` counts severity HIGH or above since the
    reader's midnight, `today_usual` its usual range by this hour. Ranges are None with too little history.
    """

    columns: list[HourColumn]
    this_hour: int
    usual_now: tuple[float, float] | None
    today: int
    today_usual: tuple[float, float] | None
    days: int


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between order statistics.

    >>> quantile([4, 1, 3, 2], 0.5)
    2.5
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def build_hours(hourly: Mapping[datetime, Sequence[int]], now: datetime, zone: ZoneInfo) -> HoursView:
    """The last 24 hours beside the same hours of earlier days.

    Parameters
    ----------
    hourly
        Start of each hour (UTC) to transactions by severity 0 to 4; hours without any may be left out.
    """
    this = now.replace(minute=0, second=0, microsecond=0)
    first = min(hourly, default=this)
    days = max(0, (this - first).days)
    columns: list[HourColumn] = []
    for back in range(HOURS_SHOWN - 1, -1, -1):
        hour = this - back * HOUR
        counts = hourly.get(hour, (0, 0, 0, 0, 0))
        history = [
            sum(hourly.get(hour - d * DAY, (0, 0))[1:])
            for d in range(1, HISTORY_DAYS + 1)
            if hour - d * DAY >= first
        ]
        usual = _range(history)
        gap = hour > first and back > 0 and not sum(counts)
        columns.append(
            HourColumn(
                "now" if back == 0 else format_clock(hour, zone),
                (counts[1], counts[2], counts[3], counts[4]),
                usual,
                _readout(hour, counts, usual, gap, zone),
                gap,
            )
        )
    part = (now - this) / HOUR
    usual_hour = columns[-1].usual
    today, today_usual = _today(hourly, this, part, first, zone)
    return HoursView(
        columns,
        sum(columns[-1].counts),
        (usual_hour[0] * part, usual_hour[1] * part) if usual_hour else None,
        today,
        today_usual,
        days,
    )


def _range(history: Sequence[float]) -> tuple[float, float] | None:
    return (quantile(history, LOW), quantile(history, HIGH)) if len(history) >= DAYS_MIN else None


def _today(
    hourly: Mapping[datetime, Sequence[int]], this: datetime, part: float, first: datetime, zone: ZoneInfo
) -> tuple[int, tuple[float, float] | None]:
    local = this.astimezone(zone)
    midnight = local.replace(hour=0).astimezone(this.tzinfo)
    hours = max(0, round((this - midnight) / HOUR))

    def severe(hour: datetime) -> int:
        return sum(hourly.get(hour, (0,) * 5)[3:])

    def day(back: int) -> float:
        whole = sum(severe(midnight - back * DAY + h * HOUR) for h in range(hours))
        return whole + severe(this - back * DAY) * (part if back else 1)

    past = [day(back) for back in range(1, HISTORY_DAYS + 1) if midnight - back * DAY >= first]
    return round(day(0)), _range(past)


def _readout(
    hour: datetime, counts: Sequence[int], usual: tuple[float, float] | None, gap: bool, zone: ZoneInfo
) -> str:
    words = ", ".join(
        f"{counts[level]} {word}"
        for level, word in ((4, "critical"), (3, "high"), (2, "medium"), (1, "low"))
        if counts[level]
    )
    span = f"{format_clock(hour, zone)} to {format_clock(hour + HOUR, zone)}"
    if gap:
        return f"{span}: no transaction"
    text = f"{span}: {plural(sum(counts[1:]), 'anomaly', 'anomalies')}"
    if words:
        text += f" ({words})"
    return text + (f"; usual {usual[0]:.0f} to {usual[1]:.0f}" if usual else "")
