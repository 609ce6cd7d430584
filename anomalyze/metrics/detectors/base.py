"""What every detector by name has in common: it judges rows of one series on a bounded stretch of the rows before.

It says nothing by what it saw in an earlier call. A row's score is a function of that stretch alone, so however values came, their scores
are those of one run over all of them. All speak on one scale, the *strength*: 3 is where a detector alerts, twice as
far from the ordinary is 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.incident import Incident

__all__ = ["ALERT", "GOES_ON", "STRENGTH_MAX", "VALUE_MAX", "Detector", "Fits", "Found", "Reach", "Stretch"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]

ALERT = 3.0
# An incident goes on while strength stays above it.
GOES_ON = 2.0
STRENGTH_MAX = 1_000.0
# Squares of what lies below stay finite.
VALUE_MAX = 1e150


@dataclass(frozen=True, slots=True)
class Reach:
    """What judging from a row on needs: all rows since ``since_ms``, and so many rows before that time."""

    since_ms: int
    points: int


class Fits(Protocol):
    """Where what was learned of one series is kept, so that it need not be learned again.

    What is kept is found by all that it follows from: with it and without it a detector says the same.
    """

    def load(self, name: str, key: bytes) -> Arrays | None:
        """What was kept under a name, when it was kept with this key; None: learn it."""
        ...

    def keep(self, name: str, key: bytes, arrays: Arrays) -> None:
        """Keep it in the place of what the name had."""
        ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of one series in the order of time.

    Attributes
    ----------
    ts_ms, offset_ms
        int64 ``[N]``; the offset makes local time of it.
    value
        float64 ``[N]``, NaN: missing.
    strengths
        What the default detector said of these rows, on the common scale; NaN where it was not asked.
    band
        What the default detector expected of these rows, and the lower and upper end of its band; None: it was not asked.
    fits
        Where what is learned of the series is kept; None: nowhere.
    """

    ts_ms: Ints
    offset_ms: Ints
    value: Floats
    strengths: Mapping[str, Floats] = field(default_factory=dict)
    fits: Fits | None = None
    band: tuple[Floats, Floats, Floats] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is said of rows ``[n]``; NaN where there is nothing to say.

    Attributes
    ----------
    strength
        0 to `STRENGTH_MAX`; NaN while the series is learnt.
    measure
        In the detector's own unit: deviations, a distance.
    level
        What was held against the expectation: the value, or the level of the newest ones.
    expected, lower, upper
        And the band that it would have to leave.
    since_ms
        When what is told of happened; None: at each row's own time.
    direction
        int64, to which side: -1, 0 (not known), 1; None: to which the level lies of what was expected.
    tail
        The share of what it was trained on that was as strange or stranger, where it is trained; never 0.
    """

    strength: Floats
    measure: Floats
    level: Floats
    expected: Floats
    lower: Floats
    upper: Floats
    since_ms: Ints | None = None
    direction: Ints | None = None
    tail: Floats | None = None


class Detector(Protocol):
    """A detector with its parameters.

    Attributes
    ----------
    kind
        What its scores and incidents are called.
    version
        Another number where it would say something else.
    wants
        Of the default detector's outputs, those whose strengths it is to be given.
    wants_ms
        Also of rows so long before the first one that it judges.
    keeps
        Names under which it keeps what it learned of a series (`Fits`).
    """

    kind: str
    version: int
    wants: tuple[str, ...]
    wants_ms: int
    keeps: tuple[str, ...]

    def reach(self, first_ms: int) -> Reach:
        """What judging rows from ``first_ms`` on needs."""
        ...

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge the rows of a stretch from the place ``first`` on.

        Raises
        ------
        ValueError, ArithmeticError
            These values cannot be judged; other series can.
        """
        ...

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """The sentence, without its end that says since when; ``shown`` writes a number with the metric's unit."""
        ...


def nothing(rows: int) -> Found:
    """Rows of which nothing is said."""
    return spoken(0, np.full((rows, 6), np.nan))


def spoken(first: int, out: Floats, since_ms: Ints | None = None) -> Found:
    """What a kernel wrote: columns strength, measure, level, expected, lower, upper."""
    strength, measure, level, expected, lower, upper = np.ascontiguousarray(out[first:].T)
    times = None if since_ms is None else since_ms[first:]
    return Found(strength, measure, level, expected, lower, upper, times)


def band_told(incident: Incident, shown: Callable[[float], str]) -> str:
    """What is usual, for a sentence behind the value; nothing where it is not known.

    >>> from dataclasses import replace
    >>> one = Incident("x", 0, 1, 2, 0, 0, 0, 1, 0, 0, 7.0, 5.0, 4.0, 6.0, 3.0)
    >>> band_told(one, "{:g} EUR".format), band_told(replace(one, peak_lower=float("nan")), str)
    (' (usual then: 4 EUR to 6 EUR)', '')
    """
    if not incident.peak_lower <= incident.peak_upper:
        return ""
    return f" (usual then: {shown(incident.peak_lower)} to {shown(incident.peak_upper)})"


def times_as_far(strength: float) -> str:
    """How far beyond the point where a detector alerts, for the end of a sentence; nothing where it is just there.

    >>> times_as_far(3.1), times_as_far(6.2)
    ('', ', 2.1 times as far out as that')
    """
    times = strength / ALERT
    return f", {times:,.2g} times as far out as that" if times >= 1.1 else ""


def direction_of(found: Found) -> Ints:
    """To which side each row is strange: -1, 0 where that is not known, 1."""
    if found.direction is not None:
        return found.direction
    return np.sign(np.nan_to_num(found.level - found.expected)).astype(np.int64)


def usable(value: Floats) -> Floats:
    """Values with NaN for all that cannot be reckoned with."""
    return np.where(np.abs(value) <= VALUE_MAX, value, np.nan)
