"""One file below ``metrics_config/metrics``: a batch of metrics, read together on one schedule.

Its name is the file's: ``metrics/shop/orders.yaml`` is the batch ``orders``.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from anomalyze.config import closest
from anomalyze.metrics.duration import Duration, fits_days, format_duration
from anomalyze.metrics.limits import METRIC_CHARACTERS_MAX, METRICS_MAX
from anomalyze.metrics.relation import RELATIONS_MAX, MetricName, Relation
from anomalyze.metrics.setting import FUNCTION, Cron, MetricSettings, Words
from anomalyze.metrics.source_file import SQL_KINDS, Source
from anomalyze.metrics.window import Window, floor_to_step, go_back

__all__ = ["NAME", "Batch", "BatchDefaults", "merge"]

NAME = r"^[a-z0-9]+(_[a-z0-9]+)*$"
SQL_CHARACTERS_MAX = 100_000
_WILD = frozenset("*?[")
RESERVED_PARAMETERS = ("start", "end", "account")

ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]
Parameter = bool | int | float | str


def _known_zone(value: str) -> str:
    if value not in available_timezones():
        meant = closest(value, available_timezones())
        raise ValueError(
            "expected a time zone of the IANA database, such as Europe/Berlin"
            + (f"; perhaps {meant}" if meant else "")
        )
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values where ``above`` wins: mappings are merged, all else is replaced.

    A ``source`` of another kind replaces the one below: their keys have nothing to do with each other.

    Examples
    --------
    >>> merge({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2]})
    {'a': {'x': 1, 'y': 3}, 'b': [2]}
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            another = key == "source" and value.get("kind", old.get("kind")) != old.get("kind")
            merged[key] = dict(value) if another else merge(old, value)
        else:
            merged[key] = value
    return merged


class BatchDefaults(MetricSettings):
    """``_defaults.yaml``: what holds for every batch that does not say otherwise."""

    enabled: bool = True
    account: str = Field(default="default", min_length=1, max_length=128, description="who may see it")
    owner: str = Field(default="", max_length=200, description="whom to ask")
    tags: Words = Field(default=(), max_length=50)
    source: Source | None = None
    params: dict[ParameterName, Parameter] = Field(
        default={}, max_length=100, description="values bound to :name in the SQL, also seen by templates"
    )
    schedule: Cron = Field(default="5 * * * *", description="when it is read, in its time zone (cron)")
    timezone: Annotated[str, AfterValidator(_known_zone)] = Field(
        default="UTC", description="of the schedule, of days, and of times that name none"
    )
    step: Annotated[Duration, AfterValidator(fits_days)] = Field(
        default=dt.timedelta(hours=1), description="from one point to the next: whole days, or less than one"
    )
    window: Duration = Field(
        default=dt.timedelta(days=2),
        description="how far back each run reads: values that come late or are corrected are seen so long",
    )
    delay: Duration | None = Field(
        default=None, description="how long after its end a step is complete in the source"
    )
    history: Duration = Field(default=dt.timedelta(days=90), description="how far back the first run reads")
    retention: Duration = Field(
        default=dt.timedelta(days=730), description="how long values and scores are kept"
    )
    metrics_max: int = Field(
        default=10_000, ge=1, le=METRICS_MAX, description="an answer with more metrics is refused"
    )


class Batch(BatchDefaults):
    """A batch, with all defaults and overrides in place."""

    description: str = Field(default="", max_length=2_000)
    sql: str | None = Field(default=None, min_length=1, max_length=SQL_CHARACTERS_MAX)
    sql_file: str | None = Field(
        default=None, min_length=1, max_length=500, description="file with the SQL, relative to this one"
    )
    python: str | None = Field(
        default=None,
        pattern=FUNCTION,
        description="module:function; the module is a file beside this one, or installed",
    )
    timestamps: Literal["begin", "measured"] = Field(
        default="begin",
        description="what they tell: when a point's step begins, or when it was measured; that counts for the step it lies in",
    )
    metrics: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=METRIC_CHARACTERS_MAX)], MetricSettings
    ] = Field(default={}, max_length=2_000, description="what differs, by name or by pattern with * and ?")

    relations: dict[MetricName, Relation] = Field(
        default={},
        max_length=RELATIONS_MAX,
        description="metrics that follow from two others of the batch, by name",
    )

    @model_validator(mode="after")
    def _relates_once(self) -> Batch:
        chained = {name: one for name, one in self.relations.items() if set(one.of) & set(self.relations)}
        if chained:
            raise ValueError(
                f"relations: expected metrics that the source gives, got a relation in {' and '.join(chained)}"
            )
        return self

    @model_validator(mode="after")
    def _asks_once(self) -> Batch:
        told = [key for key in ("sql", "sql_file", "python") if getattr(self, key) is not None]
        kind = self.source.kind if self.source else None
        if len(told) > 1:
            raise ValueError(f"expected one of sql, sql_file and python, got {' and '.join(told)}")
        if told and told[0] != "python" and kind not in SQL_KINDS:
            raise ValueError(
                f"expected a source that is asked in SQL ({', '.join(SQL_KINDS)}), got {kind or 'none'}"
            )
        if told and kind == "push":
            raise ValueError(
                f"expected nothing to ask the source push, which is sent its values, got {told[0]}"
            )
        if not told and (kind is None or kind == "python" or kind in SQL_KINDS):
            raise ValueError(f"expected sql, sql_file or python{f' for the source {kind}' if kind else ''}")
        taken = [name for name in RESERVED_PARAMETERS if name in self.params]
        if taken:
            raise ValueError(f"params: {' and '.join(taken)} are set by the run")
        return self

    @model_validator(mode="after")
    def _fits_each_metric(self) -> Batch:
        for name in (*self.metrics, ""):
            span = self.settings(name).preprocessing.resample
            if span is not None and 2 * span > self.window:
                raise ValueError(
                    f"expected a window of at least twice preprocessing.resample, got {format_duration(self.window)} "
                    f"and {format_duration(span)}{f' of {name}' if name else ''}"
                )
        return self

    @cached_property
    def _patterns(self) -> list[tuple[str, Callable[[str], object], MetricSettings]]:
        """Keys of ``metrics`` that match more than themselves: most are plain names, and there may be thousands."""
        return [
            (pattern, re.compile(fnmatch.translate(pattern)).match, own)
            for pattern, own in self.metrics.items()
            if not _WILD.isdisjoint(pattern)
        ]

    def settings(self, metric: str) -> MetricSettings:
        """How a metric is treated: the batch's own keys, then what its name or a pattern of it overrides.

        A name beats patterns; of patterns the later one wins.
        """
        keys = set(MetricSettings.model_fields)
        merged = self.model_dump(include=keys, exclude_unset=True)
        overrides = [
            own
            for pattern, matches, own in self._patterns
            if pattern != metric and matches(metric) is not None
        ]
        if metric in self.metrics:
            overrides.append(self.metrics[metric])
        for own in overrides:
            merged = merge(merged, own.model_dump(exclude_unset=True))
        return MetricSettings.model_validate(merged)

    def window_at(self, now: dt.datetime, back: dt.timedelta | None = None) -> Window:
        """What a run at ``now`` reads: up to the newest complete step, ``window`` (or ``back``) far.

        Parameters
        ----------
        now
            Aware.
        """
        zone = ZoneInfo(self.timezone)
        end = floor_to_step(now - (self.delay or dt.timedelta(0)), self.step, zone)
        start = floor_to_step(go_back(end, back or self.window, zone), self.step, zone)
        return Window(start, end, self.step)
