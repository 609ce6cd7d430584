"""The rules of a batch's metrics, from its file: one for all that say nothing of their own."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anomalyze.metrics.batch import Batch
from anomalyze.metrics.detectors.build import build_detectors
from anomalyze.metrics.judgement import Maintenance, SeriesRules
from anomalyze.metrics.mark import mark_of, mark_of_shape
from anomalyze.metrics.relation import Relation
from anomalyze.metrics.setting import MetricSettings

__all__ = ["BatchRules", "rules_of"]

_SEVERITIES = {"LOW": 1, "MEDIUM": 2, "HIGH": 3, "CRITICAL": 4}


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How a batch is judged.

    Attributes
    ----------
    period_s
        From one point to the next.
    default, named
        Rules of its metrics, and of those that have others, by name.
    zone
        By whose clock a day's and a week's habits go.
    relations
        Metrics that follow from others.
    """

    period_s: float
    default: SeriesRules = field(default_factory=SeriesRules)
    named: dict[str, SeriesRules] = field(default_factory=dict)
    zone: str = "UTC"
    relations: Mapping[str, Relation] = field(default_factory=dict)

    def of(self, metric: str) -> SeriesRules:
        """One metric's rules."""
        return self.named.get(metric, self.default)

    def assign(self, names: Sequence[str]) -> tuple[list[SeriesRules], npt.NDArray[np.int64]]:
        """The rules there are, and which of them is each metric's."""
        rules = [self.default]
        place = np.zeros(len(names), np.int64)
        if self.named:
            for at, name in enumerate(names):
                if name in self.named:
                    place[at] = len(rules)
                    rules.append(self.named[name])
        return rules, place

    def marks(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """By metric (columns) what its scores are made by, and what its values are made by before they are judged."""
        usual = self._marks_of(self.default, None)
        own = self.named.keys() | self.relations.keys()
        found = [
            self._marks_of(self.of(name), self.relations.get(name)) if name in own else usual
            for name in names
        ]
        return np.array(found, np.int64).reshape(-1, 2).T

    def _marks_of(self, rules: SeriesRules, relation: Relation | None) -> tuple[int, int]:
        what = (rules, self.period_s, self.zone, relation)
        return mark_of(*what), mark_of_shape(*what)


def rules_of(batch: Batch, names: Sequence[str]) -> BatchRules:
    """A batch's rules for metrics of these names."""
    own = [
        name
        for name in {*names, *batch.relations}
        if name in batch.metrics or any(fnmatch.fnmatchcase(name, pattern) for pattern in batch.metrics)
    ]
    settings = {name: batch.settings(name) for name in own}
    return BatchRules(
        batch.step.total_seconds(),
        _rules(batch, batch.timezone, _step_s(batch, batch)),
        {name: _rules(one, batch.timezone, _step_s(batch, one)) for name, one in settings.items()},
        batch.timezone,
        batch.relations,
    )


def _step_s(batch: Batch, settings: MetricSettings) -> float:
    """From one point of a metric to the next."""
    return (settings.preprocessing.resample or batch.step).total_seconds()


def _rules(settings: MetricSettings, zone: str, step_s: float) -> SeriesRules:
    limits, alerts, before = settings.thresholds, settings.alerts, settings.preprocessing
    return SeriesRules(
        direction=settings.direction,
        novelty=any(one.novelty for one in settings.detectors),
        rarity=any(one.rarity for one in settings.detectors),
        detectors=build_detectors(settings.detectors, step_s),
        upper=limits.upper,
        lower=limits.lower,
        change_percent=limits.change_percent,
        flat_for_s=limits.flat_for.total_seconds() if limits.flat_for else None,
        late_after_s=limits.late_after.total_seconds() if limits.late_after else None,
        lag_s=before.lag.total_seconds() if before.lag else 0.0,
        difference=before.difference,
        smooth=before.smooth,
        rolling=before.rolling.points if before.rolling else 1,
        rolling_aggregate=before.rolling.aggregate if before.rolling else "mean",
        unit=settings.unit,
        told=alerts.enabled,
        severity_min=_SEVERITIES[alerts.severity_min],
        lasts_min_s=alerts.lasts_min.total_seconds() if alerts.lasts_min else 0.0,
        cooldown_s=alerts.cooldown.total_seconds() if alerts.cooldown else 0.0,
        remind_every_s=alerts.remind_every.total_seconds() if alerts.remind_every else None,
        maintenance=tuple(Maintenance(m.begins, m.lasts.total_seconds(), zone) for m in alerts.maintenance),
        grouped=alerts.group,
        priority=settings.priority,
    )
