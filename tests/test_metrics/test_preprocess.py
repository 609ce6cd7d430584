"""Steps follow the wall clock over daylight saving and leap days, and nothing looks ahead."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.metrics.preprocess import (
    Aggregate,
    difference,
    fill_gaps,
    floor_steps,
    lag,
    lags,
    offsets_ms,
    resample,
    rolling,
    smooth,
)

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
# Clocks that skip midnight (Beirut, Havana), move by half an hour (Lord Howe) or by two (Troll), lie at odd
# offsets (Kathmandu), and a day that never was (Apia, 2011-12-30).
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Beirut", "America/Havana", "Australia/Lord_Howe",
    "Antarctica/Troll", "Asia/Kathmandu", "Pacific/Apia",
]  # fmt: skip
STEPS = [dt.timedelta(minutes=m) for m in (1, 5, 15, 60, 90, 180, 360, 720)] + [
    DAY * n for n in (1, 2, 7, 30)
]

zones = st.sampled_from(ZONES).map(ZoneInfo)
steps = st.sampled_from(STEPS)
moments = st.datetimes(dt.datetime(2010, 1, 1), dt.datetime(2028, 12, 31), timezones=st.just(dt.UTC))


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[arg-type]


def long(metric: str, times: list[dt.datetime], values: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {"metric": [metric] * len(times), "timestamp": times, "value": values},
        schema={"metric": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64},
    )


@settings(max_examples=300, deadline=None)
@given(moments, steps, zones)
def test_every_instant_is_in_one_step(at: dt.datetime, step: dt.timedelta, zone: ZoneInfo) -> None:
    begins, ends = (found[0] for found in floor_steps(pl.Series([at]), step, zone))
    assert begins <= at < ends
    # The step's own beginning and last instant are in it, its end and the instant before it are not.
    probes = pl.Series(
        [begins, ends - dt.timedelta(microseconds=1), ends, begins - dt.timedelta(microseconds=1)]
    )
    again, until = floor_steps(probes, step, zone)
    assert again[0] == again[1] == begins
    assert again[2] == ends
    assert until[3] == begins


@settings(max_examples=200, deadline=None)
@given(moments, st.integers(1, 9), zones)
def test_days_begin_at_local_midnight(at: dt.datetime, days: int, zone: ZoneInfo) -> None:
    begins = floor_steps(pl.Series([at]), DAY * days, zone)[0][0]
    local = begins.astimezone(zone)
    midnight = dt.datetime(local.year, local.month, local.day, tzinfo=zone)
    # Where midnight is skipped, the day begins with its first instant.
    assert begins == midnight.astimezone(dt.UTC)
    assert (local.date() - dt.date(1970, 1, 5)).days % days == 0 or zone.key == "Pacific/Apia"


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2025-03-30", 23), ("2025-10-26", 25), ("2024-02-29", 24), ("2025-06-01", 24)],
)
def test_a_days_sum_has_all_its_hours(day: str, hours: int) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    date = dt.date.fromisoformat(day)
    start = dt.datetime(date.year, date.month, date.day, tzinfo=berlin).astimezone(dt.UTC)
    times = [start - DAY + HOUR * n for n in range(72)]
    found = resample(long("m", times, [1.0] * 72), DAY, "sum", berlin)
    assert found.filter(timestamp=start)["value"].to_list() == [hours]


def test_the_hour_that_comes_twice_is_two_steps() -> None:
    times = [utc(2025, 10, 26, 0, 30), utc(2025, 10, 26, 1, 30)]  # both 02:30 in Berlin
    found = resample(long("m", times, [1.0, 2.0]), HOUR, "sum", ZoneInfo("Europe/Berlin"))
    assert found["value"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("mean", 3), ("sum", 9), ("min", 1), ("max", 6), ("median", 2), ("first", 6), ("last", 2), ("count", 3)],
)
def test_aggregates_pass_over_missing_values(aggregate: Aggregate, expected: float) -> None:
    times = [utc(2025, 1, 1, 0, minute) for minute in (0, 10, 20, 30)]
    # Out of order on purpose.
    rows = long("m", times, [6.0, None, 1.0, 2.0]).reverse()
    assert resample(rows, HOUR, aggregate, ZoneInfo("UTC"))["value"].to_list() == [expected]


@pytest.mark.parametrize(("aggregate", "expected"), [("sum", None), ("mean", None), ("count", 0.0)])
def test_only_missing_values_are_missing(aggregate: Aggregate, expected: float | None) -> None:
    rows = long("m", [utc(2025, 1, 1)], [None])
    assert resample(rows, HOUR, aggregate, ZoneInfo("UTC"))["value"].to_list() == [expected]


@settings(max_examples=100, deadline=None)
@given(st.data(), steps.filter(lambda step: step <= 7 * DAY), zones)
def test_a_step_that_is_not_complete_is_left_out(
    data: st.DataObject, step: dt.timedelta, zone: ZoneInfo
) -> None:
    """What is read in overlapping windows never disagrees."""
    start = data.draw(moments)
    times = [start + step / 3 * n for n in range(40)]
    rows = long("m", times, [float(n) for n in range(40)])
    cut = data.draw(st.integers(5, 35))
    lower, upper = times[cut - 5], times[cut]
    part = rows.filter(pl.col("timestamp").is_between(lower, upper, closed="left"))
    whole = resample(rows, step, "sum", zone)
    for row in resample(part, step, "sum", zone, (lower, upper)).iter_rows(named=True):
        assert whole.filter(timestamp=row["timestamp"])["value"].to_list() == [row["value"]]


@pytest.mark.parametrize(
    ("fill", "expected"), [("zero", [0, 0, 5, 0, 0]), ("last", [5, 5, 5]), ("none", [5])]
)
def test_gaps_are_filled_step_by_step(fill: str, expected: list[float]) -> None:
    within = utc(2025, 1, 1), utc(2025, 1, 1, 5, 30)
    rows = long("m", [utc(2025, 1, 1, 2)], [5.0])
    found = fill_gaps(rows, HOUR, ZoneInfo("UTC"), within, fill)  # type: ignore[arg-type]
    assert found["value"].to_list() == expected


@settings(max_examples=60, deadline=None)
@given(moments, steps.filter(lambda step: step >= HOUR), zones)
def test_filled_steps_follow_each_other(start: dt.datetime, step: dt.timedelta, zone: ZoneInfo) -> None:
    within = start, start + 10 * step + 2 * DAY
    rows = resample(long("m", [start + 4 * step], [1.0]), step, "sum", zone)
    found = fill_gaps(rows, step, zone, within, "zero")["timestamp"]
    begins, ends = floor_steps(found, step, zone)
    assert begins.to_list() == found.to_list()
    assert ends.to_list()[:-1] == found.to_list()[1:]
    assert found[0] >= start


values = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=60).map(np.array)


@given(values, st.integers(1, 12), st.integers(1, 59))
def test_nothing_looks_ahead_nor_further_back_than_it_says(x: np.ndarray, points: int, cut: int) -> None:
    for function, context in (
        (lambda v: difference(v, points), points),
        (lambda v: smooth(v, points), points - 1),
        (lambda v: rolling(v, points, "median"), points - 1),
    ):
        whole = function(x)
        np.testing.assert_array_equal(function(x[:cut]), whole[:cut])
        # With its context a piece has the same bits as within the whole.
        since = max(0, cut - context)
        np.testing.assert_array_equal(function(x[since:])[cut - since :], whole[cut:])


def test_lags_stay_within_their_metric() -> None:
    times = [utc(2025, 1, 1, hour) for hour in range(3)]
    rows = pl.concat([long("b", times, [4.0, 5.0, 6.0]), long("a", times, [1.0, 2.0, 3.0])])
    found = lags(rows, 2)
    assert found["lag_1"].to_list() == [None, 1.0, 2.0, None, 4.0, 5.0]
    assert found["lag_2"].to_list() == [None, None, 1.0, None, None, 4.0]


def slow_lag(
    times: list[dt.datetime], values: list[float], span: dt.timedelta, zone: ZoneInfo
) -> list[float]:
    """Each value less the first one whose clock showed the same, so long before."""

    def clock(at: dt.datetime) -> dt.datetime:
        return at.astimezone(zone).replace(tzinfo=None, fold=0) if span % DAY == dt.timedelta(0) else at

    first: dict[dt.datetime, float] = {}
    for at, value in zip(times, values, strict=True):
        first.setdefault(clock(at), value)
    return [
        value - first.get(clock(at) - span, float("nan")) for at, value in zip(times, values, strict=True)
    ]


@settings(max_examples=200, deadline=None)
@given(st.data(), moments, zones, st.sampled_from([HOUR, 3 * HOUR, DAY, 7 * DAY]))
def test_a_lag_goes_by_the_clock_on_the_wall(
    data: st.DataObject, start: dt.datetime, zone: ZoneInfo, span: dt.timedelta
) -> None:
    start = start.replace(minute=0, second=0, microsecond=0)
    # Near a change of the clocks more often than chance has it.
    month = data.draw(st.sampled_from([3, 4, 10, 11, start.month]))
    start = start.replace(month=month, day=min(start.day, 28))
    hours = sorted(data.draw(st.sets(st.integers(0, 24 * 9), min_size=1, max_size=120)))
    times = [start + HOUR * n for n in hours]
    values = [float(n * n % 101) for n in hours]
    ts_ms = np.array([int(at.timestamp()) * 1000 for at in times])
    found = lag(ts_ms, np.array(values), span.total_seconds(), zone.key)
    np.testing.assert_array_equal(found, slow_lag(times, values, span, zone))
    # Nothing looks ahead, and what lies further back than the span and a day changes nothing.
    cut = data.draw(st.integers(0, len(times) - 1))
    np.testing.assert_array_equal(
        lag(ts_ms[:cut], np.array(values[:cut]), span.total_seconds(), zone.key), found[:cut]
    )
    since = np.searchsorted(ts_ms, ts_ms[cut] - (span + DAY).total_seconds() * 1000)
    piece = lag(ts_ms[since:], np.array(values[since:]), span.total_seconds(), zone.key)
    np.testing.assert_array_equal(piece[cut - since :], found[cut:])


def test_noon_is_held_against_noon_when_clocks_move() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start = dt.datetime(2025, 10, 20, tzinfo=berlin).astimezone(dt.UTC)
    times = [start + HOUR * n for n in range(24 * 14)]
    # A day's habit by the local clock: against the day before nothing is left, but for the hour that comes twice.
    values = np.array([float(at.astimezone(berlin).hour) for at in times])
    ts_ms = np.array([int(at.timestamp()) * 1000 for at in times])
    by_clock = lag(ts_ms, values, 86_400, "Europe/Berlin")[24:]
    by_points = difference(values, 24)[24:]
    assert (by_clock == 0).all()
    assert (by_points != 0).sum() > 20


@pytest.mark.parametrize("step", [dt.timedelta(0), -HOUR, dt.timedelta(hours=36)])
def test_a_step_without_meaning_is_refused(step: dt.timedelta) -> None:
    with pytest.raises(ValueError, match="whole days or of less than a day"):
        floor_steps(pl.Series([utc(2025, 1, 1)]), step, ZoneInfo("UTC"))


@given(st.lists(moments, min_size=1, max_size=5), zones)
def test_offsets_are_those_of_the_local_clock(times: list[dt.datetime], zone: ZoneInfo) -> None:
    ts_ms = np.array([int(at.timestamp() * 1000) for at in times])
    expected = [at.astimezone(zone).utcoffset() for at in times]
    found = offsets_ms(ts_ms, zone.key)
    assert [dt.timedelta(milliseconds=int(one)) for one in found] == expected
