"""Local time without an object per event: a zone's offsets from UTC as two sorted arrays.

Zones are read from the ``tzdata`` package that the lock pins, never from the machine: two workers must not
disagree on an hour because their systems were updated on different days.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

__all__ = ["load_zone", "local_offset_ms", "offset_table"]

_YEARS = (1970, 2070)
# No zone has changed its offset twice within so short a time.
_STEP = dt.timedelta(days=7)


@lru_cache(maxsize=600)
def offset_table(zone: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """When a zone's offset changes, and to what.

    Returns
    -------
    tuple
        int64 ``[k]`` instants (ms since 1970 UTC, ascending; the first is far in the past) and int64
        ``[k]`` offsets (ms to add to UTC) from each instant on.

    Raises
    ------
    ZoneInfoNotFoundError
        No such zone in the pinned data.

    >>> changes, offsets = offset_table("Europe/Berlin")
    >>> int(offsets[np.searchsorted(changes, 1_735_689_600_000, side="right") - 1]) // 3_600_000
    1
    """
    info = load_zone(zone)
    start = dt.datetime(_YEARS[0], 1, 1, tzinfo=dt.UTC)
    end = dt.datetime(_YEARS[1], 1, 1, tzinfo=dt.UTC)
    changes, offsets = [-(1 << 62)], [_offset_ms(info, start)]
    while start < end:
        later = start + _STEP
        if (offset := _offset_ms(info, later)) != offsets[-1]:
            changes.append(_first_with(info, start, later, offset))
            offsets.append(offset)
        start = later
    return np.array(changes, dtype=np.int64), np.array(offsets, dtype=np.int64)


def local_offset_ms(zone: str, ts_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Offset of a zone from UTC at each instant, int64 ms."""
    changes, offsets = offset_table(zone)
    if len(changes) == 1:
        return np.full(len(ts_ms), offsets[0], dtype=np.int64)
    return offsets[np.searchsorted(changes, ts_ms, side="right") - 1]


def load_zone(zone: str) -> ZoneInfo:
    """A zone of the pinned data; ``ZoneInfoNotFoundError`` when there is none of that name."""
    parts = zone.split("/")
    if not all(part and part.replace("_", "").replace("-", "").replace("+", "").isalnum() for part in parts):
        raise ZoneInfoNotFoundError(f"no time zone {zone!r}")
    try:
        with resources.files("tzdata.zoneinfo").joinpath(*parts).open("rb") as file:
            return ZoneInfo.from_file(file, key=zone)
    except (OSError, ValueError) as error:
        raise ZoneInfoNotFoundError(f"no time zone {zone!r}") from error


def _offset_ms(info: ZoneInfo, instant: dt.datetime) -> int:
    offset = instant.astimezone(info).utcoffset()
    assert offset is not None
    return int(offset.total_seconds() * 1000)


def _first_with(info: ZoneInfo, before: dt.datetime, after: dt.datetime, offset: int) -> int:
    """First second (as ms since 1970) at which the zone has ``offset``, by bisection."""
    low, high = int(before.timestamp()), int(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_ms(info, dt.datetime.fromtimestamp(middle, dt.UTC)) == offset:
            high = middle
        else:
            low = middle
    return high * 1000
