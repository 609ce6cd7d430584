"""Several detectors as one.

All speak on one scale, on which each alerts at 3 by quantiles or deviations of its own past: what they say can be added
up or compared. One that is still learning is left out.

``rank`` asks for order alone (the mean of ranks, as combined by Aggarwal and Sathe, Outlier Ensembles, 2017, where scores
have unlike scales): of each member the share of its own past that was at least as strange, the mean of these shares, and 3
where that is `TAIL_ALERT`. A member's past is what it said of the 1,000 steps before; of one that is trained, of what it
was trained on. Equal ones count for half, so that a member that never says anything stands in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from anomalyze.metrics.detectors.base import (
    ALERT,
    STRENGTH_MAX,
    Detector,
    Floats,
    Found,
    Ints,
    Reach,
    Stretch,
    band_told,
    direction_of,
    nothing,
    times_as_far,
)
from anomalyze.metrics.detectors.setting import Ensemble
from anomalyze.metrics.incident import Incident

__all__ = ["RANKED_STEPS", "TAIL_ALERT", "EnsembleDetector"]

# So that one that is beside itself does not speak for all: ten times what alerts.
MEMBER_MAX = 30.0
# Steps that a member's word is ranked among, and how many words have to be known.
RANKED_STEPS, RANKED_MIN = 1_000, 200
# On average one in two hundred of what each member said was as strange. At one in a thousand, strength is 3.9.
TAIL_ALERT = 0.005
_COMBINED: dict[str, Callable[..., Floats]] = {"mean": np.nanmean, "max": np.nanmax, "median": np.nanmedian}


class EnsembleDetector:
    """As configured, with detectors built of its members; ``wants`` are those of the default detector's outputs."""

    def __init__(
        self, kind: str, version: int, setting: Ensemble, members: Sequence[Detector], wants: tuple[str, ...],
        period_s: float,
    ) -> None:  # fmt: skip
        self.kind, self.version, self.wants = kind, version, wants
        self._setting, self._members = setting, members
        self.keeps = tuple(name for member in members for name in member.keeps)
        self.wants_ms = int(RANKED_STEPS * period_s * 1000) if setting.combine == "rank" else 0

    def reach(self, first_ms: int) -> Reach:
        """What its members need, also of the rows that they are ranked among."""
        begin_ms = first_ms - self.wants_ms
        reaches = [member.reach(begin_ms) for member in self._members]
        return Reach(
            min([begin_ms, *(one.since_ms for one in reaches)]), max([0, *(one.points for one in reaches)])
        )

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        said = [_of_default(stretch, name, first) for name in self.wants]
        said += [member.judge(stretch, first) for member in self._members]
        strengths = np.minimum(np.array([one.strength for one in said]), MEMBER_MAX)
        count = len(stretch.value) - first
        found = replace(nothing(count), direction=_vote(said, strengths))
        found.level[:] = stretch.value[first:]
        for name in ("expected", "lower", "upper"):
            column = np.array([getattr(one, name) for one in said])
            banded = np.flatnonzero((~np.isnan(column)).any(axis=0))
            getattr(found, name)[banded] = np.nanmean(column[:, banded], axis=0)
        if self._setting.combine == "rank":
            found.strength[:], found.measure[:] = self._ranked(stretch, first, said)
            return found
        known = np.flatnonzero((~np.isnan(strengths)).any(axis=0))
        if len(known):
            found.strength[known] = _COMBINED[self._setting.combine](strengths[:, known], axis=0)
            found.measure[known] = found.strength[known]
        return found

    def _ranked(self, stretch: Stretch, first: int, found: Sequence[Found]) -> tuple[Floats, Floats]:
        """Strengths, and the mean share of what was as strange."""
        begin = (
            int(np.searchsorted(stretch.ts_ms, stretch.ts_ms[first] - self.wants_ms))
            if len(stretch.ts_ms) > first
            else first
        )
        tails = [
            _tails(stretch.ts_ms[begin:], stretch.strengths[name][begin:], first - begin, self.wants_ms)
            for name in self.wants
        ]
        for member, own in zip(self._members, found[len(self.wants) :], strict=True):
            if own.tail is not None:
                tails.append(own.tail)
            else:
                said = member.judge(stretch, begin).strength
                tails.append(_tails(stretch.ts_ms[begin:], said, first - begin, self.wants_ms))
        shares = np.array(tails)
        known = np.flatnonzero((~np.isnan(shares)).any(axis=0))
        tail = np.full(shares.shape[1], np.nan)
        tail[known] = np.nanmean(shares[:, known], axis=0)
        return np.clip(ALERT * np.log(tail) / math.log(TAIL_ALERT), 0.0, STRENGTH_MAX), tail

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        names = [one.kind.replace("_", " ") for one in self._setting.of]
        who = f"{', '.join(names[:-1])} and {names[-1]}"
        said = {
            "mean": f"{who} find it strange on average",
            "max": f"one of {who} finds it strange",
            "median": f"half of {who} find it strange",
            "rank": f"{who} rank it among the strangest of what each has seen",
        }[self._setting.combine]
        value = f"{metric} = {shown(incident.peak_value)}{band_told(incident, shown)}"
        return f"{value}: {said}{times_as_far(incident.peak_strength)}"


def _of_default(stretch: Stretch, name: str, first: int) -> Found:
    """What the default detector said, as if a member had."""
    found = nothing(len(stretch.value) - first)
    found.strength[:], found.level[:] = stretch.strengths[name][first:], stretch.value[first:]
    if stretch.band is not None:
        for column, told in zip((found.expected, found.lower, found.upper), stretch.band, strict=True):
            column[:] = told[first:]
    return found


def _vote(said: Sequence[Found], strengths: Floats) -> Ints:
    """To which side most of what the members say goes, each with its strength."""
    ways = np.array([direction_of(one) for one in said])
    return np.sign((ways * np.nan_to_num(strengths)).sum(axis=0)).astype(np.int64)


def _tails(ts_ms: Ints, said: Floats, first: int, span_ms: int) -> Floats:
    """Of rows from ``first`` on, the share of the words within ``span_ms`` before that say as much or more, equal ones
    for half, and never 0; NaN while few are known.
    """
    found = np.full(len(said) - first, np.nan)
    begins = np.searchsorted(ts_ms, ts_ms[first:] - span_ms)
    for place, begin in enumerate(begins.tolist()):
        row = first + place
        before = said[begin:row]
        count = np.count_nonzero(~np.isnan(before))
        if count >= RANKED_MIN and not np.isnan(said[row]):
            as_much = np.count_nonzero(before > said[row]) + 0.5 * np.count_nonzero(before == said[row])
            found[place] = (as_much + 0.5) / (count + 1)
    return found
