"""What is done to values before they are judged: regular steps, gaps, differences, smoothing, lags. Pure functions.

Nothing looks ahead: a point's result depends on itself and on points before it, so that it stays what it was when
more come. Steps follow the clock on the wall: a day begins at local midnight and lasts 23, 24 or 25 hours; a
shorter step counts real time from that midnight, so that no instant is in two steps or in none, and the last step
of a day ends with it.

Frames are long: ``metric``, ``timestamp`` (UTC, one row a metric and time), ``value`` (null: missing).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Aggregate",
    "Fill",
    "Rolled",
    "difference",
    "fill_gaps",
    "floor_steps",
    "lag",
    "lags",
    "offsets_ms",
    "resample",
    "rolling",
    "smooth",
]

Aggregate = Literal["mean", "sum", "min", "max", "median", "first", "last", "count"]
Fill = Literal["none", "zero", "last"]
Rolled = Literal["mean", "sum", "min", "max", "median"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY = dt.timedelta(days=1)
DAY_MS = 86_400_000
# Weeks begin on a Monday: steps of days are counted from this one.
FIRST_MONDAY = dt.date(1970, 1, 5)
_ROLLING: dict[str, Callable[..., Floats]] = {
    "mean": np.mean,
    "sum": np.sum,
    "min": np.min,
    "max": np.max,
    "median": np.median,
}


def floor_steps(timestamps: pl.Series, step: dt.timedelta, zone: ZoneInfo) -> tuple[pl.Series, pl.Series]:
    """The steps that instants lie in.

    Parameters
    ----------
    timestamps
        Datetimes with time zone, without null.
    step
        Whole days, or less than a day.

    Returns
    -------
    Where each one's step begins and ends (begins ≤ instant < ends), UTC, µs.

    Raises
    ------
    ValueError
        A step that is neither.

    Examples
    --------
    The day on which Berlin's clocks go forward:

    >>> import polars as pl
    >>> noon = pl.Series([dt.datetime(2025, 3, 30, 10, tzinfo=dt.UTC)])
    >>> begins, ends = floor_steps(noon, dt.timedelta(days=1), ZoneInfo("Europe/Berlin"))
    >>> (ends - begins)[0]
    datetime.timedelta(seconds=82800)
    """
    import polars as pl

    days = step // DAY if step >= DAY else 1
    if step <= dt.timedelta(0) or (step > DAY and step % DAY):
        raise ValueError(f"expected a step of whole days or of less than a day, got {step}")
    utc = timestamps.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    local = utc.dt.convert_time_zone(zone.key).dt.date()
    since = (local - FIRST_MONDAY).dt.total_days()
    first = local - pl.select(pl.duration(days=pl.lit(since) % days)).to_series()
    # A midnight costs Python some microseconds; there are few.
    known = first.unique()
    begins_of = [_midnight(day, zone) for day in known]
    ends_of = [_midnight(day + dt.timedelta(days=days), zone) for day in known]
    kind = pl.Datetime("us", "UTC")
    begins = first.replace_strict(known, pl.Series(begins_of, dtype=kind), return_dtype=kind)
    ends = first.replace_strict(known, pl.Series(ends_of, dtype=kind), return_dtype=kind)
    if step >= DAY:
        return begins, ends
    step_us = step // dt.timedelta(microseconds=1)
    past_us = (utc - begins).dt.total_microseconds()
    found = pl.DataFrame({"begins": begins, "ends": ends, "past": past_us // step_us * step_us}).select(
        begins=pl.col("begins") + pl.duration(microseconds="past"),
        ends=pl.min_horizontal("ends", pl.col("begins") + pl.duration(microseconds=pl.col("past") + step_us)),
    )
    return found["begins"], found["ends"]


def resample(
    frame: pl.DataFrame,
    step: dt.timedelta,
    aggregate: Aggregate,
    zone: ZoneInfo,
    within: tuple[dt.datetime, dt.datetime] | None = None,
) -> pl.DataFrame:
    """One value a metric and step, at the time the step begins; in the order of metric and time.

    A step without values has no row; one that has only nulls has null (of ``count``: 0).

    Parameters
    ----------
    within
        What the frame is complete for, ``[from, to)``: a step that reaches out of it is left out, as its value
        would change later.
    """
    import polars as pl

    begins, ends = floor_steps(frame["timestamp"], step, zone)
    rows = frame.with_columns(begins=begins, ends=ends)
    if within is not None:
        rows = rows.filter(pl.col("begins") >= within[0], pl.col("ends") <= within[1])
    value = pl.col("value").sort_by("timestamp").drop_nulls()
    if aggregate == "count":
        combined = value.len().cast(pl.Float64)
    else:
        combined = pl.when(value.len() > 0).then(getattr(value, aggregate)()).cast(pl.Float64)
    return rows.group_by("metric", timestamp="begins").agg(value=combined).sort("metric", "timestamp")


def fill_gaps(
    frame: pl.DataFrame,
    step: dt.timedelta,
    zone: ZoneInfo,
    within: tuple[dt.datetime, dt.datetime],
    fill: Fill,
) -> pl.DataFrame:
    """A row for every step of ``[from, to)`` for every metric of a resampled frame.

    Parameters
    ----------
    fill
        What stands in a step without a value: ``zero``; ``last``, the value before it (none before the first);
        ``none`` leaves the frame as it is.
    """
    import polars as pl

    if fill == "none" or frame.is_empty():
        return frame
    steps = _steps_within(step, zone, within)
    grid = frame.select(pl.col("metric").unique()).join(steps, how="cross")
    full = grid.join(frame, on=["metric", "timestamp"], how="left").sort("metric", "timestamp")
    filled = (
        pl.col("value").fill_null(0.0) if fill == "zero" else pl.col("value").forward_fill().over("metric")
    )
    return full.with_columns(value=filled).filter(pl.col("value").is_not_null())


def difference(values: Floats, points: int) -> Floats:
    """Each value less the one so many points before; NaN for the first ones.

    >>> difference(np.array([1.0, 4.0, 9.0]), 1)
    array([nan,  3.,  5.])
    """
    result = np.full(len(values), np.nan)
    result[points:] = values[points:] - values[: max(0, len(values) - points)]
    return result


def smooth(values: Floats, points: int) -> Floats:
    """The mean of each value and those before it, so many points in all; NaN where one of them is missing.

    >>> smooth(np.array([1.0, 3.0, 8.0]), 2)
    array([nan, 2. , 5.5])
    """
    return rolling(values, points, "mean")


def rolling(values: Floats, points: int, aggregate: Rolled) -> Floats:
    """An aggregate of the newest so many points at each point; NaN where one of them is missing.

    Each window is summed by itself: a running sum would depend, in its last bits, on where it began.
    """
    result = np.full(len(values), np.nan)
    if len(values) >= points:
        windows = np.lib.stride_tricks.sliding_window_view(values, points)
        result[points - 1 :] = _ROLLING[aggregate](windows, axis=1)
    return result


def lag(ts_ms: Ints, values: Floats, span_s: float, zone: str) -> Floats:
    """Each value less the one so long before; NaN where no value has that very time.

    Whole days are days of the calendar: the same time on the wall, so that one o'clock is held against one o'clock
    across daylight saving. An hour that comes twice stands for its first; what is held against an hour that
    never was is NaN. Other spans count real time.

    Parameters
    ----------
    ts_ms, values
        One series, in the order of time.

    Examples
    --------
    Berlin's clocks went forward on 30 March 2025; noon was an hour earlier, in UTC, than on the day before:

    >>> noons = [dt.datetime(2025, 3, day, hour, tzinfo=dt.UTC) for day, hour in ((29, 11), (30, 10), (31, 10))]
    >>> ts_ms = np.array([int(noon.timestamp()) * 1000 for noon in noons])
    >>> lag(ts_ms, np.array([1.0, 4.0, 9.0]), 86_400, "Europe/Berlin")
    array([nan,  3.,  5.])
    """
    result = np.full(len(values), np.nan)
    if not len(values):
        return result
    span_ms = round(span_s * 1000)
    clock = ts_ms + offsets_ms(ts_ms, zone) if span_ms % DAY_MS == 0 else ts_ms
    order = np.argsort(clock, kind="stable")
    wanted = clock - span_ms
    at = order[np.minimum(np.searchsorted(clock[order], wanted), len(order) - 1)]
    found = clock[at] == wanted
    result[found] = values[found] - values[at[found]]
    return result


def lags(frame: pl.DataFrame, points: int) -> pl.DataFrame:
    """The frame, in the order of metric and time, with ``lag_1`` … ``lag_n``: the values so many points before."""
    import polars as pl

    return frame.sort("metric", "timestamp").with_columns(
        pl.col("value").shift(n).over("metric").alias(f"lag_{n}") for n in range(1, points + 1)
    )


def offsets_ms(ts_ms: npt.NDArray[np.int64], zone: str) -> npt.NDArray[np.int64]:
    """What a zone's clocks show beyond UTC at each time, all in ms.

    >>> offsets_ms(np.array([1_742_000_000_000, 1_752_000_000_000]), "Europe/Berlin")
    array([3600000, 7200000])
    """
    import polars as pl

    if zone == "UTC":
        return np.zeros(len(ts_ms), np.int64)
    local = pl.from_epoch(pl.Series(ts_ms), "ms").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    shift = local.dt.base_utc_offset() + local.dt.dst_offset()
    return shift.dt.total_milliseconds().to_numpy().astype(np.int64)


def _midnight(day: dt.date, zone: ZoneInfo) -> dt.datetime:
    """The first instant of a local day, also where clocks skip midnight or pass it twice."""
    return dt.datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(dt.UTC)


def _steps_within(
    step: dt.timedelta, zone: ZoneInfo, within: tuple[dt.datetime, dt.datetime]
) -> pl.DataFrame:
    """The beginnings of the steps that lie wholly in ``[from, to)``."""
    import polars as pl

    moments: list[dt.datetime] = []
    at = within[0].astimezone(dt.UTC)
    while at < within[1]:
        # A day's steps at once; a day lasts 25 hours at most, and overlaps do no harm.
        part = pl.Series([at + step * n for n in range(max(1, int(DAY / step) + 1))])
        begins, ends = floor_steps(part, step, zone)
        inside = (begins >= within[0]) & (ends <= within[1])
        moments.extend(begins.filter(inside))
        latest = ends.max()
        assert isinstance(latest, dt.datetime)
        at = latest
    return pl.DataFrame({"timestamp": pl.Series(moments, dtype=pl.Datetime("us", "UTC")).unique().sort()})
