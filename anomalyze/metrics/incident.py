"""From points to incidents: one that lasts is one, however many points it has. Pure; no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["OPEN", "OVER", "PENDING", "Incident", "Track", "follow"]

# States: shorter than its minimum yet; told of, or about to be; past.
PENDING, OPEN, OVER = range(3)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident of a metric; times in ms.

    Attributes
    ----------
    seen_ms
        The newest point that was looked at: the same one again counts once.
    strange_points, calm_points
        How many points it has, and how many calm ones came since the last of them.
    peak_tail
        Share of the values kept at the peak that were as far out; NaN: not known.
    """

    kind: str
    direction: int
    state: int
    severity: int
    opened_ms: int
    last_ms: int
    seen_ms: int
    strange_points: int
    calm_points: int
    peak_ms: int
    peak_value: float
    peak_expected: float
    peak_lower: float
    peak_upper: float
    peak_strength: float
    resolution: str | None = None
    peak_tail: float = math.nan


@dataclass(frozen=True, slots=True)
class Track:
    """New points of one metric in the order of time, as one kind of incident sees them; columns ``[n]``.

    Attributes
    ----------
    tail
        As `Incident.peak_tail`, where it is known.
    begins, goes_on
        Points at which an incident begins; at which one that began goes on (those that begin one included).
    peak_ms
        When what a point tells of happened; None: at its own time.
    """

    ts_ms: Ints
    begins: npt.NDArray[np.bool_]
    goes_on: npt.NDArray[np.bool_]
    direction: Ints
    severity: Ints
    value: Floats
    expected: Floats
    lower: Floats
    upper: Floats
    strength: Floats
    tail: Floats | None = None
    peak_ms: Ints | None = None


def follow(
    kind: str, before: Incident | None, track: Track, *, calm_points: int, lasts_min_ms: float = 0.0
) -> list[Incident]:
    """What becomes of the incident that goes on, and of those that begin: in the order of time.

    Cutting a track at any point and following its parts gives the same as following it whole.

    Parameters
    ----------
    before
        The incident that was going on.
    calm_points
        An incident is over after so many in a row.
    lasts_min_ms
        One that is over before it lasted so long never was: it is left out.
    """
    current, found = before, list[Incident]()
    last = -1
    if before is not None and len(track.ts_ms) and track.ts_ms[0] <= before.seen_ms and not track.goes_on[0]:
        # The newest point again, with another value: it was counted.
        last = 0

    def calmed(incident: Incident, upto: int) -> Incident:
        calm = incident.calm_points + upto - last - 1
        if upto == last + 1:
            return incident
        seen = int(track.ts_ms[upto - 1])
        if calm < calm_points:
            return replace(incident, calm_points=calm, seen_ms=seen)
        return replace(incident, calm_points=calm, seen_ms=seen, state=OVER, resolution="calm")

    # Seldom: only points that say something are looked at one by one.
    for row in np.flatnonzero(track.begins | track.goes_on).tolist():
        if row <= last:
            continue
        if current is not None:
            current = calmed(current, row)
            if current.state == OVER:
                _keep(found, current, lasts_min_ms)
                current = None
        if current is None and not track.begins[row]:
            continue
        current = _taken(kind, current, track, row, lasts_min_ms)
        last = row
    if current is not None:
        _keep(found, calmed(current, len(track.ts_ms)), lasts_min_ms)
    return found


def _keep(found: list[Incident], incident: Incident, lasts_min_ms: float) -> None:
    if incident.state != OVER or incident.last_ms - incident.opened_ms >= lasts_min_ms:
        found.append(incident)


def _taken(kind: str, incident: Incident | None, track: Track, row: int, lasts_min_ms: float) -> Incident:
    ts = int(track.ts_ms[row])
    severity = int(track.severity[row])
    if incident is None:
        state = OPEN if lasts_min_ms <= 0 else PENDING
        return Incident(
            kind, int(track.direction[row]), state, severity, ts, ts, ts, 1, 0, _peak_ms(track, row), *_peak(track, row),
            peak_tail=_tail(track, row),
        )  # fmt: skip
    grown = replace(
        incident,
        severity=max(incident.severity, severity),
        last_ms=ts,
        seen_ms=ts,
        calm_points=0,
        strange_points=incident.strange_points + (ts > incident.last_ms),
        state=OPEN if ts - incident.opened_ms >= lasts_min_ms else incident.state,
    )
    if track.strength[row] > incident.peak_strength:
        value, expected, lower, upper, strength = _peak(track, row)
        grown = replace(
            grown,
            direction=int(track.direction[row]),
            peak_ms=_peak_ms(track, row),
            peak_value=value,
            peak_expected=expected,
            peak_lower=lower,
            peak_upper=upper,
            peak_strength=strength,
            peak_tail=_tail(track, row),
        )
    return grown


def _peak_ms(track: Track, row: int) -> int:
    return int((track.ts_ms if track.peak_ms is None else track.peak_ms)[row])


def _peak(track: Track, row: int) -> tuple[float, float, float, float, float]:
    columns = (track.value, track.expected, track.lower, track.upper, track.strength)
    value, expected, lower, upper, strength = (float(column[row]) for column in columns)
    return value, expected, lower, upper, strength


def _tail(track: Track, row: int) -> float:
    return math.nan if track.tail is None else float(track.tail[row])
