"""``rules/*.yaml``: rules, and what accounts change about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, WithJsonSchema

from anomalyze.config import ConfigProblems, Document, Problem, StrictModel, load_document, validate
from anomalyze.errors import ConfigError
from anomalyze.events.batch import Severity
from anomalyze.rules.column import ColumnTypes
from anomalyze.rules.compiled import RuleMistake, check_rules
from anomalyze.rules.explain import MAX_TEMPLATE_CHARS
from anomalyze.rules.gate import MAX_CHARS
from anomalyze.rules.parameter import MAX_PARAMETER_VALUES, ParameterValue
from anomalyze.rules.rule import MAX_RULES, Effect, Group, Overlay, Rule, RuleMode, RuleSet

__all__ = ["RulesFile", "load_rule_set", "parse_rule_files"]

ModeName = Literal["live", "shadow", "off"]
RuleId = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


def _parameter(value: Any) -> ParameterValue:
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not 1 <= len(value) <= MAX_PARAMETER_VALUES:
        raise ValueError(f"expected a list of 1 to {MAX_PARAMETER_VALUES:,} values")
    numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in items)
    if numbers and all(abs(item) < 1e300 and not math.isnan(item) for item in items):
        return tuple(float(item) for item in items) if isinstance(value, list) else float(value)
    if all(isinstance(item, str) and 0 < len(item) <= 128 for item in items):
        return tuple(items) if isinstance(value, list) else str(value)
    if value is None or isinstance(value, bool):
        return value
    raise ValueError("expected a number, text, true or false, null, or a list of numbers or of text")


_PARAMETER_SCHEMA = {
    "anyOf": [
        {"type": ["number", "string", "boolean", "null"]},
        {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": MAX_PARAMETER_VALUES},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PARAMETER_VALUES},
    ]
}
Parameter = Annotated[Any, AfterValidator(_parameter), WithJsonSchema(_PARAMETER_SCHEMA)]


class RuleEntry(StrictModel):
    """One rule."""

    id: RuleId = Field(description="upper-case name, unique over all files")
    group: Group = Field(
        description="rules of one group count once; two groups that agree raise the severity"
    )
    severity: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"] = Field(description="what one firing is worth")
    expression: str = Field(min_length=1, max_length=MAX_CHARS, description="a WHERE condition")
    explanation: str = Field(
        min_length=1, max_length=MAX_TEMPLATE_CHARS, description="the sentence shown; {columns} in braces"
    )
    description: str = Field(default="", max_length=1000, description="what the rule is for")
    weight: float = Field(default=1.0, gt=0, le=100, description="the heavier is explained first")
    mode: ModeName = Field(default="live", description="live decides, shadow only counts, off rests")
    parameters: dict[ParameterName, Parameter] = Field(
        default={}, max_length=20, description="defaults of the :parameters; null until an account gives one"
    )
    effect: Effect = Field(default="flag", description="allow and block settle the verdict (lists)")


class OverlayEntry(StrictModel):
    """What an account changes about a rule."""

    mode: ModeName | None = None
    parameters: dict[ParameterName, Parameter] = Field(default={}, max_length=20)


class RulesFile(StrictModel):
    """A file of ``rules/``."""

    version: Literal[1]
    rules: list[RuleEntry] = Field(default=[], max_length=MAX_RULES)
    accounts: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=128)], dict[RuleId, OverlayEntry]
    ] = Field(default={}, description="by account, then by rule")


def load_rule_set(folder: Path, columns: ColumnTypes) -> RuleSet:
    """Every ``*.yaml`` of a folder as one checked rule set.

    Raises
    ------
    ConfigProblems
        Every mistake of every file.
    """
    problems: list[Problem] = []
    documents: list[Document] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            documents.append(load_document(path))
        except ConfigProblems as error:
            problems += error.problems
    rule_set, found = parse_rule_files(documents, columns)
    if problems or found:
        raise ConfigProblems([*problems, *found])
    return rule_set


def parse_rule_files(documents: list[Document], columns: ColumnTypes) -> tuple[RuleSet, list[Problem]]:
    """Rules of parsed files, and every mistake in them; with mistakes the set is not for use."""
    collector = _Collector()
    for document in documents:
        try:
            content = validate(document, RulesFile)
            collector.add(document, content.rules, content.accounts)
        except ConfigProblems as error:
            collector.problems += error.problems
            collector.add(document, *_salvage(document.data))
    try:
        rule_set = RuleSet(tuple(collector.rules.values()), collector.overlays)
    except ConfigError as error:
        problem = Problem(documents[0].file, 1, 1, "rules", str(error))
        return RuleSet(), [*collector.problems, problem]
    _, mistakes = check_rules(rule_set, columns)
    return rule_set, sorted([*collector.problems, *(collector.problem(mistake) for mistake in mistakes)])


# Stand-ins for wrong values, so that the other values of the same rule are still checked.
_STAND_INS = {"group": "amount", "severity": "LOW", "explanation": "-", "expression": "amount > 0"}


def _salvage(data: Any) -> tuple[list[RuleEntry | None], dict[str, dict[str, OverlayEntry]]]:
    """What is sound in a file with mistakes: a mistake in one value must not hide those in others.

    A rule that cannot be read at all is None, which keeps the indexes of the others.
    """
    raw_rules = data.get("rules") if isinstance(data, dict) else None
    raw_accounts = data.get("accounts") if isinstance(data, dict) else None
    rules = [_sound(RuleEntry, raw, _STAND_INS) for raw in (raw_rules if isinstance(raw_rules, list) else [])]
    accounts = {
        str(account): {
            str(rule_id): _sound(OverlayEntry, raw, {}) or OverlayEntry() for rule_id, raw in by_rule.items()
        }
        for account, by_rule in (raw_accounts if isinstance(raw_accounts, dict) else {}).items()
        if isinstance(by_rule, dict)
    }
    return rules, accounts


Entry = TypeVar("Entry", RuleEntry, OverlayEntry)


def _sound(model: type[Entry], raw: Any, stand_ins: Mapping[str, str]) -> Entry | None:
    if not isinstance(raw, dict):
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        wrong = {item["loc"][0] for item in error.errors()}
    try:
        return model.model_validate({**stand_ins, **{k: v for k, v in raw.items() if k not in wrong}})
    except ValidationError:
        return None


class _Collector:
    """Rules and overlays of all files, each with its place."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self.overlays: dict[str, dict[str, Overlay]] = {}
        self.problems: list[Problem] = []
        self._rule_places: dict[str, tuple[Document, int]] = {}
        self._overlay_places: dict[tuple[str, str], Document] = {}

    def add(
        self,
        document: Document,
        rules: Sequence[RuleEntry | None],
        accounts: Mapping[str, Mapping[str, OverlayEntry]],
    ) -> None:
        for index, entry in enumerate(rules):
            if entry is None:
                continue
            if entry.id in self.rules:
                other, other_index = self._rule_places[entry.id]
                first = f"{other.file}:{other.place(('rules', other_index, 'id'))[0]}"
                message = f"expected every id once, got {entry.id} already at {first}"
                self.problems.append(document.problem(("rules", index, "id"), message))
                continue
            self._rule_places[entry.id] = (document, index)
            self.rules[entry.id] = _rule(entry)
        for account, by_rule in accounts.items():
            for rule_id, overlay in by_rule.items():
                if (account, rule_id) in self._overlay_places:
                    message = f"expected one entry of {account} for {rule_id}, got another"
                    self.problems.append(document.problem(("accounts", account, rule_id), message))
                    continue
                self._overlay_places[account, rule_id] = document
                mode = None if overlay.mode is None else RuleMode[overlay.mode.upper()]
                self.overlays.setdefault(account, {})[rule_id] = Overlay(mode, overlay.parameters)

    def problem(self, mistake: RuleMistake) -> Problem:
        error = mistake.error
        if mistake.overlay:
            document = self._overlay_places[mistake.path[0], mistake.path[1]]
            return document.problem(("accounts", *mistake.path), error.message, error.suggestion)
        document, index = self._rule_places[mistake.path[0]]
        path: tuple[str | int, ...] = ("rules", index, *mistake.path[1:])
        offset = error.position if mistake.path[-1] in ("expression", "explanation") else None
        problem = document.problem(path, error.message, error.suggestion, offset)
        named = ".".join(mistake.path)
        return Problem(problem.file, problem.line, problem.column, named, problem.message, problem.suggestion)


def _rule(entry: RuleEntry) -> Rule:
    fields: Mapping[str, Any] = entry.model_dump(exclude={"severity", "mode"})
    return Rule(**fields, severity=Severity[entry.severity], mode=RuleMode[entry.mode.upper()])
