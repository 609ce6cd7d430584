"""Anomstack's schedules: cron in UTC, of which the one that ingests is ours."""

from __future__ import annotations

import datetime as dt
import itertools

from cronsim import CronSim, CronSimError

from anomalyze.metrics.duration import format_duration

__all__ = ["DEFAULT", "convert_schedule", "step_of"]

DEFAULT = "0 * * * *"
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SEEN = 500
_DAY = dt.timedelta(days=1)
_BEGIN = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)


def convert_schedule(told: str) -> tuple[str, str]:
    """Our cron expression, and what was changed (empty: nothing).

    Examples
    --------
    >>> convert_schedule("@daily")
    ('0 0 * * *', '')
    """
    cron = _NAMED.get(told.strip().lower(), told.strip())
    note = ""
    if len(cron.split()) == 6:
        cron = " ".join(cron.split()[:5])
        note = f"seconds are left out of the schedule {told}"
    try:
        next(CronSim(cron, _BEGIN))
    except (CronSimError, StopIteration):
        return DEFAULT, f"the schedule {told} is none that can be read; {DEFAULT} stands in its place"
    return cron, note


def step_of(cron: str) -> str:
    """The shortest time between two runs, as a step: whole days, or a part of one.

    Examples
    --------
    >>> step_of("*/45 * * * *"), step_of("30 8 * * *"), step_of("0 9 1 * *")
    ('15m', '1d', '4w')
    """
    times = [at.timestamp() for at in itertools.islice(CronSim(cron, _BEGIN), _SEEN)]
    shortest = min((b - a for a, b in itertools.pairwise(times)), default=_DAY.total_seconds())
    span = dt.timedelta(seconds=max(60.0, shortest))
    return format_duration(dt.timedelta(days=span.days) if span >= _DAY else span)
