"""Spans of time as people write them: ``90s``, ``15m``, ``2h``, ``7d``, ``2w``."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

__all__ = ["Duration", "fits_days", "format_duration", "parse_duration"]

_PATTERN = r"^[0-9]{1,6}(s|m|h|d|w)$"
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LONGEST = dt.timedelta(days=36_525)


def parse_duration(value: Any) -> dt.timedelta:
    """A span from its text.

    Raises
    ------
    ValueError
        Not a whole number with one of the units s, m, h, d, w; zero; or beyond a hundred years.

    Examples
    --------
    >>> parse_duration("90m")
    datetime.timedelta(seconds=5400)
    """
    if isinstance(value, dt.timedelta):
        return value
    if not isinstance(value, str) or not re.match(_PATTERN, value):
        raise ValueError("expected a whole number with one of the units s, m, h, d, w, such as 15m")
    found = dt.timedelta(seconds=int(value[:-1]) * _SECONDS[value[-1]])
    if not dt.timedelta(0) < found <= _LONGEST:
        raise ValueError("expected more than nothing and at most a hundred years")
    return found


def format_duration(span: dt.timedelta) -> str:
    """A span in the largest unit that divides it.

    Examples
    --------
    >>> format_duration(dt.timedelta(hours=48))
    '2d'
    """
    seconds = int(span.total_seconds())
    unit = next(unit for unit in ("w", "d", "h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def fits_days(value: dt.timedelta) -> dt.timedelta:
    """A step as it is. Raises ``ValueError`` when it is neither whole days nor less than one."""
    if value > dt.timedelta(days=1) and value % dt.timedelta(days=1):
        raise ValueError("expected whole days, or less than a day")
    return value


Duration = Annotated[
    dt.timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PATTERN}),
    Field(description="a span of time: a whole number with s, m, h, d or w, such as 15m"),
]
