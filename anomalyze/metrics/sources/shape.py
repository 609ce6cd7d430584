"""From rows to one long frame: metric, timestamp, value.

Rows are long (``timestamp``, ``metric``, ``value``) or wide (``timestamp`` and a column a metric). Without a timestamp
they tell of now: the end of the window.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from anomalyze.errors import ConfigError
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX
from anomalyze.metrics.preprocess import floor_steps
from anomalyze.metrics.sources.contract import Reading, Table
from anomalyze.metrics.window import Window

__all__ = ["build_reading"]

# Numbers at least so large are milliseconds: as seconds they would lie beyond the year 5000.
_MILLISECONDS_FROM = 1e11
EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# Of names that are none: nearly always all of one query's.
NAMES_TOLD, NAME_SHOWN = 20, 80
_TIMESTAMP = ("timestamp", "metric_timestamp")
_METRIC = ("metric", "metric_name")
_VALUE = ("value", "metric_value")
_SCHEMA = {"metric": pl.String(), "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64()}


def build_reading(
    table: Table, name: str, zone: ZoneInfo, window: Window, metrics_max: int, *, is_measured: bool = False
) -> Reading:
    """The frame of an answer, and what was put right in it.

    Parameters
    ----------
    is_measured
        Timestamps tell when values were measured: each counts for its step, also for the one that is not over.

    Raises
    ------
    ConfigError
        Columns that are neither form, what is no time, a name too long, or too many metrics.
    """
    where = f"batch {name}"
    lowered = [column.lower() for column in table.columns]
    at_time, at_metric, at_value = (_find(lowered, names) for names in (_TIMESTAMP, _METRIC, _VALUE))
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    count = len(table.rows)
    if at_time is None:
        _check_now(table, columns, at_metric, where)
    times = [window.end] * count if at_time is None else _times(columns[at_time], zone, where)
    if at_metric is not None and at_value is not None:
        others = set(range(len(lowered))) - {at_time, at_metric, at_value}
        if others:
            extra = ", ".join(table.columns[index] for index in sorted(others))
            raise ConfigError(f"{where}: expected the columns timestamp, metric and value, got also {extra}")
        names = [None if text is None else str(text) for text in columns[at_metric]]
        values = _numbers(columns[at_value])
    else:
        wide = [index for index in range(len(lowered)) if index != at_time]
        if not wide and (table.columns or count):
            got = ", ".join(table.columns) or "none"
            raise ConfigError(
                f"{where}: expected a timestamp and a column of numbers for each metric, got {got}"
            )
        names = [table.columns[index] for index in wide for _ in range(count)]
        values = [one for index in wide for one in _numbers(columns[index])]
        times = times * len(wide)
    failures = _left_out(names, values)
    kept = [index for index, value in enumerate(values) if not isinstance(value, _NoNumber)]
    if len(kept) < len(values):
        names, times = [names[index] for index in kept], [times[index] for index in kept]
        values = [values[index] for index in kept]
    frame = pl.DataFrame({"metric": names, "timestamp": times, "value": values}, schema=_SCHEMA, strict=False)
    # A point is named by its step's begin: one that begins where the window ends is not over yet.
    past = window.end if at_time is not None and not is_measured else window.end + window.step
    if is_measured and at_time is not None:
        # A time at either end of the calendar has no step around it; it is left out below.
        near = pl.col("timestamp").is_between(EARLIEST, past).fill_null(False)
        known, far = frame.filter(near), frame.filter(~near)
        begins = floor_steps(known["timestamp"], window.step, zone)[0]
        frame = pl.concat([known.with_columns(begins.alias("timestamp")), far])
    cleaned = _cleaned(frame, where, past, metrics_max)
    return replace(cleaned, failures=failures | dict(cleaned.failures), is_of_now=at_time is None)


def _check_now(table: Table, columns: Sequence[Sequence[Any]], at_metric: int | None, where: str) -> None:
    """Rows without a time tell of now: a metric that has several was meant to have times, under another name."""
    count = len(table.rows)
    once = count <= 1 if at_metric is None else len(set(map(str, columns[at_metric]))) == count
    timed = [
        name for name, own in zip(table.columns, columns, strict=True) if any(map(_is_like_time, own[:1]))
    ]
    if timed or not once:
        meant = f": is it {timed[0]}? Then write {timed[0]} AS timestamp" if timed else ""
        raise ConfigError(
            f"{where}: expected a column timestamp, got {count:,} {'row' if count == 1 else 'rows'} of "
            f"{', '.join(table.columns)}{meant}"
        )


def _is_like_time(value: Any) -> bool:
    if isinstance(value, str) and "-" in value:
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return False
    return isinstance(value, dt.date)


def _find(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _cleaned(frame: pl.DataFrame, where: str, past: dt.datetime, metrics_max: int) -> Reading:
    notes: list[str] = []
    whole = frame.drop_nulls(["metric", "timestamp"])
    if len(whole) < len(frame):
        notes.append(_told(len(frame) - len(whole), "row without a name or a time is", "left out"))
    bad = whole.filter(
        (pl.col("metric").str.len_chars() == 0)
        | (pl.col("metric").str.len_chars() > METRIC_CHARACTERS_MAX)
        | pl.col("metric").str.contains(r"[\x00-\x1f\x7f]")
    )
    named: dict[str, str] = {}
    if len(bad):
        reason = (
            f"expected a name of 1 to {METRIC_CHARACTERS_MAX} characters on one line: its rows are left out"
        )
        named = {_shown(name): reason for name in bad["metric"].unique(maintain_order=True)[:NAMES_TOLD]}
        whole = whole.join(bad.select("metric").unique(), on="metric", how="anti", maintain_order="left")
    early = whole.filter(pl.col("timestamp") < EARLIEST)
    if len(early):
        first = early["timestamp"].to_list()[0].date()
        reason = f"expected times from 1970 on, got {len(early):,} rows such as {first}: they are left out"
        named |= dict.fromkeys(early["metric"].unique(maintain_order=True)[:NAMES_TOLD].to_list(), reason)
        whole = whole.filter(pl.col("timestamp") >= EARLIEST)
    ahead = int((whole["timestamp"] >= past).sum())
    if ahead:
        notes.append(
            _told(ahead, "row from the end of the window or after it is", "left out until its step is over")
        )
        whole = whole.filter(pl.col("timestamp") < past)
    metrics = whole["metric"].n_unique()
    if metrics > metrics_max:
        raise ConfigError(
            f"{where}: expected at most {metrics_max:,} metrics, got {metrics:,}: is a column of ids among the names? "
            "Else raise metrics_max"
        )
    strange = whole["value"].is_finite().not_() & whole["value"].is_not_null()
    if strange.any():
        notes.append(_told(int(strange.sum()), "value is not finite and", "counts as missing"))
        whole = whole.with_columns(pl.when(strange).then(None).otherwise(pl.col("value")).alias("value"))
    # The last of equal ones counts: sources append what is newer.
    once = whole.unique(["metric", "timestamp"], keep="last", maintain_order=True)
    if len(once) < len(whole):
        notes.append(
            _told(len(whole) - len(once), "row repeats a metric and time:", "the last of them counts")
        )
    return Reading(once.sort("metric", "timestamp"), tuple(notes), named)


def _shown(name: str) -> str:
    """A name that is none, as a run may tell it."""
    return repr(name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}…")


def _told(count: int, what: str, then: str) -> str:
    return f"{count:,} × {what} {then}"


@dataclass(frozen=True, slots=True)
class _NoNumber:
    """What stood where a number belongs."""

    got: str


def _left_out(names: Sequence[str | None], values: Sequence[float | _NoNumber | None]) -> dict[str, str]:
    counts: dict[str, int] = {}
    first: dict[str, str] = {}
    for name, value in zip(names, values, strict=True):
        if isinstance(value, _NoNumber) and name is not None:
            counts[name] = counts.get(name, 0) + 1
            first.setdefault(name, value.got)
    return {
        name: f"expected numbers: {count:,} rows, such as {first[name]!r}, left out"
        for name, count in counts.items()
    }


def _numbers(values: Sequence[Any]) -> list[float | _NoNumber | None]:
    found: list[float | _NoNumber | None] = []
    for value in values:
        if value is None:
            found.append(None)
        elif isinstance(value, int | float | Decimal):
            found.append(_float(value))
        elif hasattr(value, "dtype") and hasattr(value, "item"):  # a numpy scalar
            found += _numbers([value.item()])
        elif isinstance(value, dt.timedelta):
            found.append(value.total_seconds())
        else:
            found.append(_parsed(value))
    return found


def _float(value: int | float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _parsed(value: Any) -> float | _NoNumber:
    try:
        return float(str(value))
    except ValueError:
        return _NoNumber(str(value)[:80])


def _times(values: Sequence[Any], zone: ZoneInfo, where: str) -> list[dt.datetime | None]:
    return [None if value is None else _time(value, zone, where) for value in values]


def _time(value: Any, zone: ZoneInfo, where: str) -> dt.datetime:
    try:
        if isinstance(value, str):
            value = dt.datetime.fromisoformat(value.strip())
        if isinstance(value, dt.datetime):
            # One that names no zone is the batch's own; of the two readings of a doubled hour the first.
            return _in_utc(value if value.tzinfo else value.replace(tzinfo=zone))
        if isinstance(value, dt.date):
            return _in_utc(dt.datetime(value.year, value.month, value.day, tzinfo=zone))
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            seconds = float(value)
            seconds = seconds / 1000 if abs(seconds) >= _MILLISECONDS_FROM else seconds
            return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise ConfigError(
        f"{where}: expected times in the timestamp's column (ISO 8601, or seconds since 1970), got {str(value)[:80]!r}"
    )


def _in_utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        # 9999-12-31 stands for never in many tables; nothing of such a time is kept anyway.
        return value.replace(tzinfo=dt.UTC)
