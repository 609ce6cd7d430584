"""Several detectors as one.

All speak on one scale, on which each alerts at 3 by quantiles or deviations of its own past: what they say can be added
up or compared. One that is still learning is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from anomalyze.metrics.detectors.base import Detector, Floats, Found, Reach, Stretch, nothing, times_as_far
from anomalyze.metrics.detectors.setting import Ensemble
from anomalyze.metrics.incident import Incident

__all__ = ["EnsembleDetector"]

# So that one that is beside itself does not speak for all: ten times what alerts.
MEMBER_MAX = 30.0
_COMBINED: dict[str, Callable[..., Floats]] = {"mean": np.nanmean, "max": np.nanmax, "median": np.nanmedian}


class EnsembleDetector:
    """As configured, with detectors built of its members; ``wants`` are those of the default detector's outputs."""

    def __init__(
        self, kind: str, version: int, setting: Ensemble, members: Sequence[Detector], wants: tuple[str, ...]
    ) -> None:
        self.kind, self.version, self.wants = kind, version, wants
        self._setting, self._members = setting, members

    def reach(self, first_ms: int) -> Reach:
        """What its members need."""
        reaches = [member.reach(first_ms) for member in self._members]
        return Reach(
            min([first_ms, *(one.since_ms for one in reaches)]), max([0, *(one.points for one in reaches)])
        )

    def judge(self, stretch: Stretch, first: int) -> Found:
        """Judge rows from ``first`` on."""
        said = [stretch.strengths[name][first:] for name in self.wants]
        said += [member.judge(stretch, first).strength for member in self._members]
        found = nothing(len(stretch.value) - first)
        strengths = np.minimum(np.array(said), MEMBER_MAX)
        known = np.flatnonzero((~np.isnan(strengths)).any(axis=0))
        if len(known):
            found.strength[known] = _COMBINED[self._setting.combine](strengths[:, known], axis=0)
            found.measure[known] = found.strength[known]
        found.level[:] = stretch.value[first:]
        return found

    def describe(self, incident: Incident, metric: str, shown: Callable[[float], str]) -> str:
        """See the protocol."""
        names = [one.kind.replace("_", " ") for one in self._setting.of]
        who = f"{', '.join(names[:-1])} and {names[-1]}"
        said = {
            "mean": f"{who} find it strange on average",
            "max": f"one of {who} finds it strange",
            "median": f"half of {who} find it strange",
        }[self._setting.combine]
        return f"{metric} = {shown(incident.peak_value)}: {said}{times_as_far(incident.peak_strength)}"
