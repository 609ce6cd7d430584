"""What one account changes about how its transactions are judged: one document an account, part of the bundle.

A document comes from ``accounts/<account>.yaml`` or was saved by an admin of the account; then it has a version, and
takes the place of whatever files say. ``account_overlay`` lays it over a bundle.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator

from anomalyze.config import ConfigProblems, Document, Problem, StrictModel, load_document, validate
from anomalyze.config.tables import RatesFile
from anomalyze.detection.policy import Level, Policy, SeverityName, TailLevel
from anomalyze.errors import ConfigError
from anomalyze.events.batch import Severity
from anomalyze.events.money import CURRENCY_INDEX, RateTable
from anomalyze.rules.column import ColumnTypes
from anomalyze.rules.compiled import check_rules
from anomalyze.rules.file import OverlayEntry, RuleId
from anomalyze.rules.rule import MAX_RULES, Overlay, RuleMode, RuleSet

__all__ = [
    "ACCOUNTS",
    "DOCUMENT_BYTES_MAX",
    "AccountDocument",
    "Thresholds",
    "Versioned",
    "check_document",
    "load_account_files",
    "read_account_folder",
]

# Folder of the files, beside rules/.
ACCOUNTS = "accounts"
DOCUMENT_BYTES_MAX = 65_536
# More steps than severities say nothing new.
LEVELS_MAX = 5
RATE_DAYS_MAX = 1_000
LABEL_DELAY_DAYS_MAX = 365.0


class Caps(StrictModel):
    """The most that one kind of finding reaches alone; lower than the platform's, never higher."""

    statistics_alone: SeverityName | None = None
    model_alone: SeverityName | None = None
    model_proven: SeverityName | None = None


Levels = Annotated[tuple[Level, ...], Field(max_length=LEVELS_MAX)]
TailLevels = Annotated[tuple[TailLevel, ...], Field(max_length=LEVELS_MAX)]


class Thresholds(StrictModel):
    """Levels of ``policy.yaml`` that are the account's own; what is not given stays the platform's."""

    amount_base_min: float | None = Field(
        default=None, ge=0, le=1e12, description="smaller amounts are never flagged by a statistic"
    )
    robust_z: Levels | None = Field(default=None, description="as statistics.robust_z of policy.yaml")
    iqr: Levels | None = Field(default=None, description="as statistics.iqr")
    two_quantile: TailLevels | None = Field(default=None, description="as statistics.two_quantile")
    model: TailLevels | None = Field(default=None, description="as model.levels")
    supervised: TailLevels | None = Field(default=None, description="as supervised.levels")
    caps: Caps = Caps()


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("expected a time zone such as Europe/Berlin") from error
    return name


def _currency(code: str) -> str:
    if code not in CURRENCY_INDEX:
        raise ValueError("expected an ISO 4217 code such as EUR")
    return code


class AccountDocument(StrictModel):
    """What an account changes; whatever is not named stays as the platform has it.

    Examples
    --------
    >>> AccountDocument(time_zone="Europe/Riga").to_json()
    {'time_zone': 'Europe/Riga'}
    """

    model_config = ConfigDict(extra="forbid", frozen=True, title="accounts/<account>.yaml")

    version: Literal[1] = Field(default=1, description="of the format")
    rules: dict[RuleId, OverlayEntry] = Field(
        default={}, max_length=MAX_RULES, description="mode and parameters by rule"
    )
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(_time_zone)] | None = Field(
        default=None, description="of local hours, such as Europe/Berlin"
    )
    base_currency: Annotated[str, Field(max_length=3), AfterValidator(_currency)] | None = Field(
        default=None, description="ISO 4217; amounts are compared in it"
    )
    currency_rates: RatesFile | None = Field(
        default=None, description="a dated table in the place of currency_rates.yaml"
    )
    population_amount_median: float | None = Field(
        default=None, gt=0, le=1e12, description="usual amount before a user has a history"
    )
    thresholds: Thresholds = Thresholds()
    label_delay_days: float | None = Field(
        default=None,
        ge=0,
        le=LABEL_DELAY_DAYS_MAX,
        description="after so long a payment that nobody complained of counts as genuine",
    )

    @field_validator("currency_rates")
    @classmethod
    def _rates_can_be_read(cls, value: RatesFile | None) -> RatesFile | None:
        if value is None:
            return None
        if len(value.tables) > RATE_DAYS_MAX:
            raise ValueError(f"expected at most {RATE_DAYS_MAX:,} days of rates, got {len(value.tables):,}")
        try:
            RateTable.parse(value.model_dump(mode="json"), "currency_rates")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    def to_json(self) -> dict[str, Any]:
        """What was given, as plain values; equal documents give equal ones."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def rule_overlays(self) -> dict[str, Overlay]:
        """What it says of rules."""
        return {
            rule_id: Overlay(None if entry.mode is None else RuleMode[entry.mode.upper()], entry.parameters)
            for rule_id, entry in self.rules.items()
        }


@dataclass(frozen=True, slots=True)
class Versioned:
    """A document and its version: 1, 2, …; 0 for one that comes from files."""

    version: int
    document: AccountDocument


def check_document(
    document: Document, rules: RuleSet, columns: ColumnTypes, policy: Policy
) -> AccountDocument:
    """Read a document and hold it against what judges.

    Raises
    ------
    ConfigProblems
        Every mistake, with its place; a rule or parameter that is not there with the one that was probably meant.
    """
    problems: list[Problem] = []
    try:
        made = validate(document, AccountDocument)
    except ConfigProblems as error:
        problems += error.problems
        # A mistake must not hide those elsewhere.
        made = _sound_parts(document)
    laid = RuleSet(rules.rules, {"account": made.rule_overlays()})
    _, mistakes = check_rules(laid, columns)
    problems += [
        document.problem(("rules", *m.path[1:]), m.error.message, m.error.suggestion)
        for m in mistakes
        if m.overlay
    ]
    for rule_id, entry in made.rules.items():
        for name, value in entry.parameters.items():
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(text, str) and not text.isprintable() for text in texts):
                problems.append(
                    document.problem(
                        ("rules", rule_id, "parameters", name), "expected text without control characters"
                    )
                )
    for name, asked in made.thresholds.caps.model_dump().items():
        most = getattr(policy.caps, name)
        if asked is not None and Severity[asked] > Severity[most]:
            message = f"expected at most the platform's {most}, got {asked}"
            problems.append(document.problem(("thresholds", "caps", name), message))
    if problems:
        raise ConfigProblems(sorted(problems))
    return made


def _sound_parts(document: Document) -> AccountDocument:
    """What can be read of a document with mistakes."""
    given = document.data if isinstance(document.data, dict) else {}
    parts = [{name: value} for name, value in given.items() if name != "rules"]
    rules = given.get("rules")
    parts += (
        [{"rules": {rule_id: entry}} for rule_id, entry in rules.items()] if isinstance(rules, dict) else []
    )
    found: dict[str, Any] = {}
    for part in parts:
        with contextlib.suppress(ValidationError):
            sound = AccountDocument.model_validate(part)
            for name in sound.model_fields_set:
                value = getattr(sound, name)
                found[name] = {**found.get(name, {}), **value} if name == "rules" else value
    return AccountDocument.model_construct(**found)


def load_account_files(
    documents: list[Document], rules: RuleSet, columns: ColumnTypes, policy: Policy
) -> dict[str, AccountDocument]:
    """Documents by account; a file's name without ending is the account's.

    Raises
    ------
    ConfigProblems
        Every mistake of every file.
    """
    found: dict[str, AccountDocument] = {}
    problems: list[Problem] = []
    for document in documents:
        try:
            found[Path(document.file).stem] = check_document(document, rules, columns, policy)
        except ConfigProblems as error:
            problems += error.problems
    if problems:
        raise ConfigProblems(sorted(problems))
    return found


def read_account_folder(
    config_dir: Path, rules: RuleSet, columns: ColumnTypes, policy: Policy
) -> dict[str, AccountDocument]:
    """What ``accounts/*.yaml`` of a configuration folder say. Raises as `load_account_files`."""
    paths = sorted((config_dir / ACCOUNTS).glob("*.yaml"))
    return load_account_files([load_document(path) for path in paths], rules, columns, policy)
