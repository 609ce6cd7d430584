"""Rules, sets of rules, and what accounts change about them (overlays).

A rule set is plain data: it comes from ``rules/*.yaml``, travels in a bundle as canonical JSON, and is
compiled by ``anomalyze.rules.compile``. Rules are held in the order of their ids, so that neither the names
of files nor their order change a bundle's hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, get_args

from anomalyze.errors import ConfigError, ContractError
from anomalyze.events.batch import Severity
from anomalyze.rules.parameter import ParameterValue

__all__ = ["GROUPS", "MAX_RULES", "Effect", "Group", "Overlay", "Rule", "RuleMode", "RuleSet"]

Group = Literal["amount", "speed", "place", "device", "merchant", "time", "list"]
Effect = Literal["flag", "allow", "block"]
GROUPS: tuple[Group, ...] = get_args(Group)

# Beyond this nobody knows what a rule set does; it also bounds the work for one transaction.
MAX_RULES = 500


class RuleMode(IntEnum):
    """Whether a rule decides (live), is only counted (shadow) or rests (off)."""

    OFF = 0
    SHADOW = 1
    LIVE = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as written.

    Attributes
    ----------
    id
        Upper-case name, unique in its set.
    group
        Rules of one group count once: the verdict takes the group's highest severity.
    severity, weight
        What one firing is worth; weight orders the rules in an explanation, the heavier first.
    mode
        Live, shadow or off, unless the account's overlay says otherwise.
    expression
        The condition.
    explanation
        Template of the sentence shown when it fires: ``{user_tx_count_5m} transactions in 5 minutes``.
    description
        What it is for.
    parameters
        Defaults of the condition's ``:parameters``; None when each account must give its own.
    effect
        ``flag``; ``allow`` and ``block`` for rules that settle the verdict (a list).
    """

    id: str
    group: Group
    severity: Severity
    expression: str
    explanation: str
    description: str = ""
    weight: float = 1.0
    mode: RuleMode = RuleMode.LIVE
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    effect: Effect = "flag"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {
            "id": self.id,
            "group": self.group,
            "severity": self.severity.name,
            "expression": self.expression,
            "explanation": self.explanation,
            "description": self.description,
            "weight": self.weight,
            "mode": self.mode.name.lower(),
            "parameters": {name: _plain(value) for name, value in sorted(self.parameters.items())},
            "effect": self.effect,
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Rule:
        """The rule that ``to_dict`` wrote."""
        return cls(
            **{
                **body,
                "severity": Severity[body["severity"]],
                "mode": RuleMode[body["mode"].upper()],
                "parameters": {name: _frozen(value) for name, value in body["parameters"].items()},
            }
        )


@dataclass(frozen=True, slots=True)
class Overlay:
    """What one account changes about one rule; ``mode`` None leaves it."""

    mode: RuleMode | None = None
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Every rule of a bundle, in the order of their ids, and the overlays by account and rule."""

    rules: tuple[Rule, ...] = ()
    overlays: Mapping[str, Mapping[str, Overlay]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [rule.id for rule in self.rules]
        if len(ids) > MAX_RULES:
            raise ConfigError(f"expected at most {MAX_RULES} rules, got {len(ids)}")
        if len(set(ids)) != len(ids):
            double = sorted({name for name in ids if ids.count(name) > 1})
            raise ConfigError(f"expected every rule id once, got {', '.join(double)} more than once")
        object.__setattr__(self, "rules", tuple(sorted(self.rules, key=lambda rule: rule.id)))

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __getitem__(self, rule_id: str) -> Rule:
        return next(rule for rule in self.rules if rule.id == rule_id)

    def to_json(self) -> bytes:
        """Canonical JSON: equal sets give equal bytes."""
        body = {
            "rules": [rule.to_dict() for rule in self.rules],
            "overlays": {
                account: {
                    rule_id: {
                        "mode": None if overlay.mode is None else overlay.mode.name.lower(),
                        "parameters": {name: _plain(value) for name, value in overlay.parameters.items()},
                    }
                    for rule_id, overlay in overlays.items()
                }
                for account, overlays in self.overlays.items()
            },
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, content: bytes) -> RuleSet:
        """The set that ``to_json`` wrote.

        Raises
        ------
        ContractError
            Not such bytes.
        """
        try:
            body = json.loads(content)
            overlays = {
                account: {
                    rule_id: Overlay(
                        None if overlay["mode"] is None else RuleMode[overlay["mode"].upper()],
                        {name: _frozen(value) for name, value in overlay["parameters"].items()},
                    )
                    for rule_id, overlay in by_rule.items()
                }
                for account, by_rule in body["overlays"].items()
            }
            return cls(tuple(Rule.from_dict(rule) for rule in body["rules"]), overlays)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContractError(
                f"expected a rule set as written by RuleSet.to_json, got {content[:80]!r}: {error}"
            ) from error


def _plain(value: ParameterValue) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> ParameterValue:
    return tuple(value) if isinstance(value, list) else value
