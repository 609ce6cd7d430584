"""What rules of a metric say of its points, beside what its detector says; for all series of a call at once.

A point is *flagged* when something begins at it, and *strange* when something that began goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Literal

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.bank import Scores
from anomalyze.metrics.detectors.base import Detector
from anomalyze.metrics.preprocess import Rolled

__all__ = [
    "CALM_POINTS",
    "CRITICAL",
    "KINDS",
    "LOW",
    "NONE",
    "RARITY_HALF",
    "RARITY_WEIGHT",
    "SEVERITY_OF_KIND",
    "Flag",
    "Judgement",
    "Maintenance",
    "SeriesRules",
    "flat_runs",
    "judge",
    "severity_of",
    "strangeness",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NONE, LOW, MEDIUM, HIGH, CRITICAL = range(5)
# e = novelty / (1 - novelty): an alert begins at 3; three times and ten times that.
NOVELTY_HIGH, NOVELTY_CRITICAL = 0.9, 0.968
# Of strangeness: the rarity that counts for half, and the weight of rarity beside novelty.
RARITY_HALF, RARITY_WEIGHT = 4.0, 6.0
# An incident is over after so many calm points. A value that came once is no longer new: it calms at once.
CALM_POINTS = 3


class Flag(IntFlag):
    """Why a point is flagged; ``OUTSIDE``: strange without beginning anything; ``DETECTOR``: by one that was asked by name."""

    NOVELTY = 1
    RARITY = 2
    UPPER = 4
    LOWER = 8
    CHANGE = 16
    FLAT = 32
    OUTSIDE = 64
    DETECTOR = 128


# What incidents there are, and the flags that begin each.
KINDS: dict[str, Flag] = {
    "unusual": Flag.NOVELTY | Flag.RARITY,
    "upper": Flag.UPPER,
    "lower": Flag.LOWER,
    "change": Flag.CHANGE,
    "flat": Flag.FLAT,
}
# Those of which every one weighs the same.
SEVERITY_OF_KIND = {"upper": HIGH, "lower": HIGH, "change": MEDIUM, "flat": MEDIUM, "late": MEDIUM}


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A time, again and again, in which nobody is told: from a cron expression's moment on."""

    begins: str
    lasts_s: float
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class SeriesRules:
    """How one metric is judged, and who is told when.

    Attributes
    ----------
    direction
        Which way is bad: what is unusual the other way is scored and begins no incident.
    novelty, rarity, detectors
        Which of the default detector's outputs alert, and which detectors judge beside it.
    upper, lower, change_percent
        Limits of the value, and of its distance to the value before in per cent of that one.
    flat_for_s, late_after_s
        How long a value may stay the same, and how old the newest may be.
    lag_s, difference, smooth, rolling, rolling_aggregate
        A span and points, as in `anomalyze.metrics.preprocess`: done before all else, in this order.
    told
        Whether anybody is told at all.
    severity_min, lasts_min_s, cooldown_s, remind_every_s
        Incidents below it, shorter ones and those so soon after another are kept and not told of; one that lasts is
        told of again.
    grouped
        Whether it is told of together with others of its batch that begin, grow or end with it.
    priority
        1 to 5, 1 the most important.
    """

    direction: Literal["up", "down", "both"] = "both"
    novelty: bool = True
    rarity: bool = True
    detectors: tuple[Detector, ...] = ()
    upper: float | None = None
    lower: float | None = None
    change_percent: float | None = None
    flat_for_s: float | None = None
    late_after_s: float | None = None
    lag_s: float = 0.0
    difference: int = 0
    smooth: int = 1
    rolling: int = 1
    rolling_aggregate: Rolled = "mean"
    unit: str = ""
    told: bool = True
    severity_min: int = LOW
    lasts_min_s: float = 0.0
    cooldown_s: float = 0.0
    remind_every_s: float | None = None
    maintenance: tuple[Maintenance, ...] = ()
    grouped: bool = True
    priority: int = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of each row, columns ``[N]``.

    Attributes
    ----------
    flags, severity
        `Flag`, and 0 to 4.
    direction
        1: above what was expected, -1: below, 0: nothing was.
    unusual_severity, unusual_strength
        Of novelty and rarity alone; the strength as a multiple of what is usual, an alert at 3.
    change_percent
        From the value before, of its size.
    """

    flags: Ints
    severity: Ints
    direction: Ints
    unusual_severity: Ints
    unusual_strength: Floats
    change_percent: Floats


def judge(
    rules: Sequence[SeriesRules],
    rule: Ints,
    scores: Scores,
    value: Floats,
    previous: Floats,
    flat: Ints,
    period_s: float,
) -> Judgement:
    """Judge rows.

    Parameters
    ----------
    rules, rule
        Rules, and which of them holds for each row ``[N]``.
    value, previous
        The value judged and the one before it (NaN: none).
    flat
        For how many points the value has not changed.
    """

    def limits(name: str, missing: float) -> Floats:
        found = [getattr(one, name) for one in rules]
        return np.array([missing if one is None else one for one in found], np.float64)[rule]

    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        direction = np.sign(np.nan_to_num(value - scores.expected)).astype(np.int64)
        bad = np.array([{"up": 1, "down": -1, "both": 0}[one.direction] for one in rules], np.int64)[rule]
        is_bad_way = (bad == 0) | (direction == 0) | (direction == bad)
        novelty = scores.novelty_alert & is_bad_way & (limits("novelty", 0) > 0)
        rarity = scores.rarity_alert & is_bad_way & (limits("rarity", 0) > 0)
        outside = ((value < scores.lower) | (value > scores.upper)) & is_bad_way
        above, below = limits("upper", np.inf), limits("lower", -np.inf)
        change = (value - previous) / np.abs(previous) * 100.0
        is_change = np.abs(change) > limits("change_percent", np.inf)
        is_flat = flat * period_s >= limits("flat_for_s", np.inf)
        flags = (
            novelty * int(Flag.NOVELTY)
            + rarity * int(Flag.RARITY)
            + (value > above) * int(Flag.UPPER)
            + (value < below) * int(Flag.LOWER)
            + is_change * int(Flag.CHANGE)
            + is_flat * int(Flag.FLAT)
            + outside * int(Flag.OUTSIDE)
        ).astype(np.int64)
        of_novelty = severity_of(scores.novelty)
        excess = scores.novelty / np.maximum(1.0 - scores.novelty, 1e-9)
    unusual = np.where(novelty, of_novelty, np.where(rarity | outside, LOW, NONE))
    severity = np.where(rarity | novelty, unusual, NONE)
    for is_so, kind in (
        (is_flat, "flat"),
        (is_change, "change"),
        (value > above, "upper"),
        (value < below, "lower"),
    ):
        severity = np.where(is_so, np.maximum(severity, SEVERITY_OF_KIND[kind]), severity)
    strength = np.fmax(np.nan_to_num(excess), np.nan_to_num(scores.rarity_score))
    return Judgement(flags, severity, direction, unusual, strength, change)


def severity_of(novelty: Floats) -> Ints:
    """How much what begins an incident weighs, by its score from 0.75 to 1."""
    return np.where(novelty >= NOVELTY_CRITICAL, CRITICAL, np.where(novelty >= NOVELTY_HIGH, HIGH, MEDIUM))


def strangeness(novelty: Floats, rarity: Floats) -> Floats:
    """How strange points are beside each other, 0 to 1: rarity ranks, novelty weighs a sixth of it.

    Over labelled series this finds points better than either alone; alerts are decided otherwise (`Scores`).

    Examples
    --------
    >>> strangeness(np.array([0.0, 0.75, 0.75]), np.array([0.5, 0.5, 12.0])).round(2)
    array([0.1 , 0.2 , 0.75])
    """
    return (RARITY_WEIGHT * rarity / (rarity + RARITY_HALF) + novelty) / (RARITY_WEIGHT + 1.0)


def flat_runs(series: Ints, value: Floats, newest: Floats, flat_before: Ints) -> Ints:
    """For how many points each value has not changed.

    Parameters
    ----------
    series, value
        Rows in the order of series and time; ``series`` are places in the next two.
    newest, flat_before
        Each series' value before these rows (NaN: none), and for how long that had not changed.

    Examples
    --------
    >>> flat_runs(np.array([0, 0, 0, 1]), np.array([5.0, 5.0, 6.0, 1.0]), np.array([5.0, 2.0]), np.array([3, 0]))
    array([4, 5, 0, 0])
    """
    rows = np.arange(len(series))
    first = np.ones(len(series), bool)
    first[1:] = series[1:] != series[:-1]
    before = np.empty(len(series))
    before[1:] = value[:-1]
    before[first] = newest[series[first]]
    same = value == before
    began = np.maximum.accumulate(np.where(~same | first, rows, 0))
    carried = np.where(same[began], flat_before[series] + 1, 0)
    return (rows - began + carried).astype(np.int64)
