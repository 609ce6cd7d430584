"""How one metric is treated: keys that hold for a whole batch and may differ by metric."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from anomalyze.config import StrictModel
from anomalyze.metrics.detectors.setting import (
    DETECTORS_MAX,
    PLAIN,
    DetectorSetting,
    check_once,
    from_words,
)
from anomalyze.metrics.duration import Duration, fits_days

__all__ = [
    "FUNCTION",
    "Alerting",
    "Cron",
    "Maintenance",
    "MetricSettings",
    "Preprocessing",
    "Rolling",
    "Thresholds",
    "Word",
]

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Finite = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_truth)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0), BeforeValidator(_no_truth)]
FUNCTION = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
# What came before is read again for each new point.
LAG_MAX = dt.timedelta(days=35)
_YEAR = 2000


def _check_cron(value: str) -> str:
    # A sixth field would be seconds, which nothing here begins by.
    if len(value.split()) == 6:
        raise ValueError(
            "expected minute, hour, day of month, month, day of week, such as 5 * * * *: got six fields"
        )
    try:
        next(CronSim(value, dt.datetime(_YEAR, 1, 1, tzinfo=dt.UTC)))
    except StopIteration:
        raise ValueError("expected a time that comes, got one that never does") from None
    except CronSimError as error:
        raise ValueError(
            f"expected minute, hour, day of month, month, day of week, such as 5 * * * *: {error}"
        ) from None
    return value


def _listed(value: Any) -> Any:
    """Text from the environment, where a list is words with commas between them."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _each_once(value: tuple[DetectorSetting, ...]) -> tuple[DetectorSetting, ...]:
    check_once(value)
    return value


Cron = Annotated[str, StringConstraints(max_length=200), AfterValidator(_check_cron)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_listed)]
Detectors = Annotated[
    tuple[DetectorSetting, ...],
    BeforeValidator(lambda value: from_words(DetectorSetting, value)),
    AfterValidator(_each_once),
]


def _a_lag(value: dt.timedelta) -> dt.timedelta:
    if not dt.timedelta(0) < value <= LAG_MAX:
        raise ValueError(f"expected at most {LAG_MAX.days} days")
    return value


class Rolling(StrictModel):
    """An aggregate of the newest points at each point."""

    points: int = Field(ge=2, le=1_000, description="so many, the point itself among them")
    aggregate: Literal["mean", "sum", "min", "max", "median"] = "mean"


class Preprocessing(StrictModel):
    """What is made of the values before they are judged, in the order of these keys."""

    resample: Annotated[Duration, AfterValidator(fits_days)] | None = Field(
        default=None, description="one value for each so long a time"
    )
    aggregate: Literal["mean", "sum", "min", "max", "median", "first", "last", "count"] = Field(
        default="mean", description="how values of one such time become one"
    )
    fill: Literal["none", "zero", "last"] = Field(
        default="none", description="what stands where the source had no value"
    )
    function: str | None = Field(
        default=None,
        pattern=FUNCTION,
        description="module:function, called with a metric's frame; the module is a file beside the batch's, or installed",
    )
    lag: Annotated[Duration, AfterValidator(_a_lag)] | None = Field(
        default=None, description="against the value so long before: 1d, the same time of the day before"
    )
    difference: int = Field(default=0, ge=0, le=10_000, description="against the value so many points before")
    smooth: int = Field(default=1, ge=1, le=1_000, description="mean of the newest so many points")
    rolling: Rolling | None = Field(default=None, description="another aggregate of the newest points")


class Thresholds(StrictModel):
    """Fixed limits, beside what detectors learn."""

    upper: Finite | None = Field(default=None, description="an alert above it")
    lower: Finite | None = Field(default=None, description="an alert below it")
    change_percent: Positive | None = Field(
        default=None, description="an alert when a value leaves the one before by more"
    )
    flat_for: Duration | None = Field(default=None, description="an alert when nothing changed for so long")
    late_after: Duration | None = Field(default=None, description="an alert when no value came for so long")

    @model_validator(mode="after")
    def _in_order(self) -> Thresholds:
        if self.upper is not None and self.lower is not None and self.lower >= self.upper:
            raise ValueError(f"expected lower below upper, got lower {self.lower} and upper {self.upper}")
        return self


class Maintenance(StrictModel):
    """A time in which nobody is told: it begins by a cron expression in the batch's time zone."""

    begins: Cron
    lasts: Duration


class Alerting(StrictModel):
    """Who is told, and when not."""

    enabled: bool = True
    routes: Annotated[tuple[Literal["log"], ...], BeforeValidator(_listed)] = Field(
        default=("log",),
        max_length=20,
        description="where alerts go, beside their table; log is the only route there is",
    )
    severity_min: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"] = "LOW"
    lasts_min: Duration | None = Field(
        default=None, description="an incident is told of when it lasts so long"
    )
    cooldown: Duration | None = Field(default=None, description="silence after an incident")
    group: bool = Field(
        default=True, description="told in one line with others of the batch that begin or end with it"
    )
    remind_every: Duration | None = Field(default=None, description="told again while it lasts")
    maintenance: tuple[Maintenance, ...] = Field(default=(), max_length=20)


class MetricSettings(StrictModel):
    """What may differ by metric."""

    unit: str = Field(default="", max_length=32, description="shown behind values, such as EUR or %")
    direction: Literal["up", "down", "both"] = Field(default="both", description="which way is bad")
    priority: int = Field(default=3, ge=1, le=5, description="1 is the most important")
    detectors: Detectors = Field(
        default=from_words(DetectorSetting, PLAIN),
        validate_default=True,
        max_length=DETECTORS_MAX,
        description="none: only thresholds judge",
    )
    preprocessing: Preprocessing = Preprocessing()
    thresholds: Thresholds = Thresholds()
    alerts: Alerting = Alerting()
