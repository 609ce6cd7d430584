"""The decision policy: thresholds, caps, lists and actions, read from ``policy.yaml``.

It holds what an operator may change about a verdict; ``decision`` applies it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from anomalyze.config import StrictModel, load_document, parse_document, validate
from anomalyze.events.batch import Action, Severity
from anomalyze.models.detector import DETECTORS, FOREST, check_detector

__all__ = ["Level", "Policy", "TailLevel", "load_policy", "parse_policy", "policy_schema"]

SeverityName = Literal["NONE", "LOW", "MEDIUM", "HIGH", "CRITICAL"]
ActionName = Literal["ALLOW", "REVIEW", "BLOCK"]


class Level(StrictModel):
    """A severity from a value on: ``over`` is exclusive."""

    over: float = Field(gt=0, allow_inf_nan=False, description="the severity holds above this value")
    severity: SeverityName


class TailLevel(StrictModel):
    """A severity from a rarity on: ``tail`` is the share of the training history that is as strange."""

    tail: float = Field(ge=0.00001, le=0.05, description="0.001: one in 1,000 of the history is as strange")
    severity: SeverityName


class Statistics(StrictModel):
    """What the amount is held against without rules or model."""

    group: str = Field(
        default="amount", pattern=r"^[a-z][a-z0-9_]{0,39}$", description="rule group they count in"
    )
    amount_base_min: float = Field(
        default=0.0, ge=0, description="smaller amounts are never flagged by a statistic"
    )
    robust_z: tuple[Level, ...] = Field(
        default=(), description="distance from the median in robust deviations"
    )
    iqr: tuple[Level, ...] = Field(default=(), description="interquartile ranges above the upper quartile")
    two_quantile: tuple[TailLevel, ...] = Field(default=(), description="the day-one detector, by rarity")


class Model(StrictModel):
    """Which unsupervised model training makes, and what its calibrated score is worth."""

    detector: str = Field(
        default=FOREST,
        description="from the next training on: the isolation forest, or one of PyOD's by its name",
        json_schema_extra={"enum": list(DETECTORS)},
    )
    levels: tuple[TailLevel, ...] = ()
    learning_rows_min: int = Field(
        default=2000, ge=0, description="history an account needs for its own judgement"
    )

    @field_validator("detector")
    @classmethod
    def _detector_can_serve(cls, value: str) -> str:
        return check_detector(value)


class SupervisedModel(StrictModel):
    """What the score of the model that learned from labels is worth."""

    levels: tuple[TailLevel, ...] = (
        TailLevel(tail=0.005, severity="LOW"),
        TailLevel(tail=0.002, severity="MEDIUM"),
        TailLevel(tail=0.001, severity="HIGH"),
    )


class Caps(StrictModel):
    """The most that one kind of finding reaches alone."""

    model_alone: SeverityName = "MEDIUM"
    model_proven: SeverityName = Field(
        default="HIGH",
        description="a supervised model that has beaten rules and statistics on 50 known frauds",
    )
    statistics_alone: SeverityName = "MEDIUM"
    model_learning: SeverityName = "NONE"

    @field_validator("model_alone", "model_learning")
    @classmethod
    def _model_stays_below_high(cls, value: SeverityName) -> SeverityName:
        # An isolation forest is near chance on labelled fraud until it is shown to beat the rules.
        if Severity[value] > Severity.MEDIUM:
            raise ValueError("a model alone reaches at most MEDIUM")
        return value


class Raise(StrictModel):
    """Agreement of independent findings raises the verdict one level."""

    groups: int = Field(default=2, ge=2, le=20, description="how many rule groups must agree")
    at: SeverityName = Field(default="MEDIUM", description="severity that each of them must have at least")


class Lists(StrictModel):
    """What being on a list means."""

    block: SeverityName = "CRITICAL"
    allow: SeverityName = "NONE"


class Case(StrictModel):
    """How anomalies are grouped."""

    window_hours: float = Field(default=24.0, gt=0, le=24 * 31)


class Budget(StrictModel):
    """How many cases a day people want to be shown."""

    cases_per_day: float = Field(
        gt=0, le=100_000, allow_inf_nan=False, description="of each account, block lists apart; on average"
    )
    # Below MEDIUM what overflows would be no anomaly and lost from sight; CRITICAL blocks by default.
    severity: Literal["MEDIUM", "HIGH"] = Field(
        default="HIGH", description="cases of this severity or above count; what overflows is one level below"
    )


class Actions(StrictModel):
    """Action by severity."""

    NONE: ActionName = "ALLOW"
    LOW: ActionName = "ALLOW"
    MEDIUM: ActionName = "REVIEW"
    HIGH: ActionName = "REVIEW"
    CRITICAL: ActionName = "BLOCK"

    @model_validator(mode="after")
    def _never_milder(self) -> Actions:
        order = [Action[getattr(self, severity.name)] for severity in Severity]
        if order != sorted(order):
            raise ValueError("a higher severity cannot have a milder action (ALLOW < REVIEW < BLOCK)")
        return self


class Policy(StrictModel):
    """The whole of ``policy.yaml``.

    Examples
    --------
    >>> policy = parse_policy("version: 1")
    >>> policy.action(Severity.CRITICAL).name, policy.case_window_ms
    ('BLOCK', 86400000)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, title="policy.yaml")

    version: Literal[1]
    statistics: Statistics = Statistics()
    model: Model = Model()
    supervised: SupervisedModel = SupervisedModel()
    caps: Caps = Caps()
    raised: Raise = Field(default=Raise(), alias="raise")
    lists: Lists = Lists()
    actions: Actions = Actions()
    score_timeout_action: ActionName = "REVIEW"
    case: Case = Case()
    budget: Budget | None = Field(default=None, description="without one, severities are as they come")
    notify_age_max_minutes: float = Field(default=60.0, ge=0, le=60 * 24 * 31)

    @model_validator(mode="after")
    def _budget_blocks_nothing(self) -> Policy:
        if self.budget is not None and self.action(Severity[self.budget.severity]) == Action.BLOCK:
            name = self.budget.severity
            raise ValueError(
                f"a budget fills up to its number with the most suspicious cases, which must not block payments: "
                f"expected actions.{name} ALLOW or REVIEW beside a budget at {name}"
            )
        return self

    def action(self, severity: Severity) -> Action:
        """What is done about a verdict of this severity."""
        return Action[getattr(self.actions, severity.name)]

    @property
    def case_window_ms(self) -> int:
        """Span of a case in ms."""
        return round(self.case.window_hours * 3_600_000)

    @property
    def notify_age_max_ms(self) -> int:
        """Age in ms (append time less event time) beyond which nobody is told."""
        return round(self.notify_age_max_minutes * 60_000)

    def to_json(self) -> dict[str, Any]:
        """The policy as plain values, with every default written out; ``parse_policy`` reads it again."""
        return self.model_dump(mode="json", by_alias=True)


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises
    ------
    ConfigProblems
        Every mistake, with file and line; or that the file cannot be read.
    """
    return validate(load_document(path), Policy)


def parse_policy(text: str, name: str = "policy.yaml") -> Policy:
    """Read a policy from YAML (or JSON) text; ``name`` is what mistakes are reported under.

    Raises
    ------
    ConfigProblems
        Every mistake, with its line.
    """
    return validate(parse_document(text, name), Policy)


def policy_schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors."""
    return Policy.model_json_schema(by_alias=True)
