"""Alerts of metrics whose settings changed, brought to what the new ones say of the newest points.

What goes on by them is kept or begins, what no longer is anything ends; of what was over nobody hears, it stands in the
scores alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.metrics.incident import OPEN, OVER, PENDING, Incident, Track, follow
from anomalyze.metrics.judgement import CALM_POINTS
from anomalyze.metrics.rules import BatchRules
from anomalyze.storage.metrics_alerts import StoredIncident, load_open
from anomalyze.storage.metrics_scores import SeriesState

__all__ = ["RESOLUTION", "Settled", "build_settled", "settle"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Why an incident is over that is none by the new settings.
RESOLUTION = "settings changed"
# How far back an incident's begin is looked for: a day, or so many steps of slow metrics; further where one is open.
LOOK_BACK_S = 86_400.0
LOOK_BACK_STEPS = 100


@dataclass(frozen=True, slots=True)
class Settled:
    """Which series, by place, are brought to other settings, and from which time on (ms) their points are asked."""

    series: Flags
    since_ms: Ints

    def looks_at(self, at: Ints, ts_ms: Ints) -> Flags:
        """Of rows of series and times, those that are asked."""
        return self.series[at] & (ts_ms >= self.since_ms[at])


def build_settled(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, anew: Flags
) -> Settled:
    """What is asked of series whose settings changed: from the begin of what is open on, or some way back."""
    since_ms = series.newest_ms - int(1000 * max(LOOK_BACK_S, LOOK_BACK_STEPS * rules.period_s))
    if anew.any():
        places = {name: place for place, name in enumerate(series.names)}
        for one in load_open(connection, batch):
            if one.metric in places and one.incident.kind != "late":
                place = places[one.metric]
                since_ms[place] = min(since_ms[place], one.incident.opened_ms)
    return Settled(anew, since_ms)


def settle(
    kind: str, before: Incident | None, track: Track, newest_ms: int, lasts_min_ms: float
) -> tuple[Incident | None, list[Incident]]:
    """What becomes of an open incident by other settings, and those that go on or began since.

    Parameters
    ----------
    track
        All points from its begin on.
    newest_ms
        Of the points known before: what was over by then is left out.

    Returns
    -------
    The open one as it is now (None: there was none), and the others.
    """
    found = follow(kind, None, track, calm_points=CALM_POINTS, lasts_min_ms=lasts_min_ms)
    own = [one for one in found if before is not None and _overlap(one, before.opened_ms, before.last_ms)]
    others = [one for one in found if one not in own and (one.state != OVER or one.last_ms > newest_ms)]
    if before is None:
        return None, others
    if not own:
        return replace(before, state=OVER, resolution=RESOLUTION), others
    last = own[-1]
    # It was told of, or is to be: it does not become one again that waits.
    state = OPEN if last.state == PENDING and before.state == OPEN else last.state
    return replace(last, opened_ms=before.opened_ms, state=state), others


def is_told_already(one: Incident, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether an incident of the same metric and kind is known that lasted into it (from and until, in ms)."""
    return any(_overlap(one, since, until) for since, until in spans)


def covers(track: Track, before: StoredIncident | None) -> bool:
    """Whether a track has the points of an open incident: of a detector that scored new ones alone it has not."""
    return before is None or bool(len(track.ts_ms) and track.ts_ms[0] <= before.incident.last_ms)


def _overlap(one: Incident, since_ms: int, until_ms: int) -> bool:
    return one.opened_ms <= until_ms and one.last_ms >= since_ms
