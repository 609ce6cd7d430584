"""A rule set ready to judge micro-batches: what the detector calls.

rules = compile_rules(rule_set, ColumnTypes.of_features(spec.kinds))
fired = rules.evaluate(columns, n, lists, accounts=batch.accounts, account=batch.account, ts_ms=batch.ts_ms)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.config import closest
from anomalyze.errors import ConfigError
from anomalyze.rules.column import ColumnTypes
from anomalyze.rules.compile import Lookup, Program
from anomalyze.rules.evaluate_row import RowValues
from anomalyze.rules.explain import (
    Comparison,
    Template,
    Writer,
    bind_comparisons,
    condition_text,
    parse_template,
)
from anomalyze.rules.expression import ColumnRef, walk
from anomalyze.rules.gate import ExpressionError
from anomalyze.rules.lists import ListTable
from anomalyze.rules.overlay import OverlayTable
from anomalyze.rules.parameter import ParameterValue, kind_of_value
from anomalyze.rules.parse import Expression, parse_expression
from anomalyze.rules.rule import Overlay, Rule, RuleMode, RuleSet

__all__ = ["CheckedRule", "CompiledRules", "RuleMistake", "check_rules", "compile_rules"]

# Sources differ in the columns they lack; more variants than this and programs are built anew.
_PROGRAMS_MAX = 64


@dataclass(frozen=True, slots=True)
class RuleMistake:
    """One mistake of a rule set: whose, in which field, and what.

    ``path`` leads from the rule (``("GEO_FENCE", "expression")``) or from the overlays
    (``("acct_7", "GEO_FENCE", "parameters", "countries")``); ``overlay`` says which.
    """

    overlay: bool
    path: tuple[str, ...]
    error: ExpressionError


def compile_rules(rule_set: RuleSet, columns: ColumnTypes) -> CompiledRules:
    """Check and compile every rule of a set, also those that are off.

    Raises
    ------
    ConfigError
        Every mistake of every rule, a line each; configuration files are checked before, with lines.
    """
    checked, mistakes = check_rules(rule_set, columns)
    if mistakes:
        raise ConfigError("\n".join(f"{'.'.join(m.path)}: {m.error}" for m in mistakes))
    return CompiledRules(rule_set, checked, columns)


def check_rules(rule_set: RuleSet, columns: ColumnTypes) -> tuple[dict[str, CheckedRule], list[RuleMistake]]:
    """Parse every condition and explanation; collect what is wrong instead of raising."""
    checked: dict[str, CheckedRule] = {}
    mistakes: list[RuleMistake] = []
    for rule in rule_set:
        found = _check_rule(rule, columns, mistakes)
        if found is not None:
            checked[rule.id] = found
    for account, overlays in rule_set.overlays.items():
        for rule_id, overlay in overlays.items():
            owner = next((rule for rule in rule_set if rule.id == rule_id), None)
            if owner is None:
                close = closest(rule_id, [rule.id for rule in rule_set])
                error = ExpressionError(f"there is no rule {rule_id}", 0, close)
                mistakes.append(RuleMistake(True, (account, rule_id), error))
            elif rule_id in checked:
                path = (account, rule_id, "parameters")
                _check_overlay(owner, overlay, checked[rule_id].expression, path, mistakes)
    return checked, mistakes


def _check_rule(rule: Rule, columns: ColumnTypes, mistakes: list[RuleMistake]) -> CheckedRule | None:
    try:
        expression = parse_expression(rule.expression, columns, rule.parameters, rule.id)
    except ExpressionError as error:
        mistakes += [RuleMistake(False, (rule.id, "expression"), one) for one in (error, *error.others)]
        return None
    for name in rule.parameters:
        if name in columns:
            wrong = ExpressionError(f"{name} is the name of a column too; give the parameter another")
        elif name not in expression.parameters:
            wrong = ExpressionError(f"the expression never uses :{name}")
        else:
            continue
        mistakes.append(RuleMistake(False, (rule.id, "parameters", name), wrong))
    try:
        template = parse_template(rule.explanation, columns, rule.parameters)
    except ExpressionError as error:
        mistakes += [RuleMistake(False, (rule.id, "explanation"), one) for one in (error, *error.others)]
        return None
    return CheckedRule(expression, template)


def _check_overlay(
    rule: Rule, overlay: Overlay, expression: Expression, path: tuple[str, ...], mistakes: list[RuleMistake]
) -> None:
    for name, value in overlay.parameters.items():
        if name not in expression.parameters:
            error = ExpressionError(
                f"{rule.id} has no parameter {name}", 0, closest(name, expression.parameters)
            )
        elif value is not None and kind_of_value(value) != expression.parameters[name]:
            kind, many = expression.parameters[name]
            error = ExpressionError(
                f"expected {'a list of ' if many else ''}{kind}{'s' if many else ''}, got {value!r}"
            )
        else:
            continue
        mistakes.append(RuleMistake(True, (*path, name), error))


@dataclass(frozen=True, slots=True)
class CheckedRule:
    """A rule's parsed condition and explanation."""

    expression: Expression
    template: Template


@dataclass(frozen=True, slots=True)
class ToldRule:
    """What tells people of a rule, with the parameters of an account in it."""

    sentence: Writer
    comparisons: Callable[[RowValues], list[Comparison]]


class CompiledRules:
    """Compiled rules; made by ``compile_rules``, never changed, free for several threads.

    Attributes
    ----------
    rules
        The rules, in the order of the columns of ``evaluate``'s result.
    ids
        Their ids.
    columns
        Every column that some rule reads: the keys that ``evaluate`` looks for.
    """

    def __init__(self, rule_set: RuleSet, checked: Mapping[str, CheckedRule], columns: ColumnTypes) -> None:
        self.rule_set = rule_set
        self.rules: tuple[Rule, ...] = rule_set.rules
        self.ids = tuple(rule.id for rule in self.rules)
        self._index = {name: i for i, name in enumerate(self.ids)}
        expressions = tuple(checked[rule.id].expression for rule in self.rules)
        self._expressions = expressions
        self._templates = tuple(checked[rule.id].template for rule in self.rules)
        self._types = columns
        self.columns: frozenset[str] = frozenset().union(*(e.columns for e in expressions))
        self._overlays = OverlayTable(
            rule_set,
            {
                (rule.id, name): kind
                for rule, expression in zip(self.rules, expressions, strict=True)
                for name, kind in expression.parameters.items()
            },
        )
        self._programs: dict[tuple[bool, frozenset[str]], Program] = {}
        self._told_rules: dict[tuple[str, int], ToldRule] = {}  # at most rules × accounts with overlays

    def __len__(self) -> int:
        return len(self.rules)

    def needs(self, rule_id: str) -> frozenset[str]:
        """Columns without which the rule cannot fire."""
        return self._expressions[self._index[rule_id]].columns

    def off(self, available: Set[str], account_id: str | None = None) -> dict[str, str]:
        """Rules that cannot fire, each with its reason: ``off``, ``off: needs device_id``, …

        Parameters
        ----------
        available
            Columns that the source has.
        account_id
            Whose overlay holds.
        """
        reasons: dict[str, str] = {}
        for i, rule in enumerate(self.rules):
            missing = sorted(self.needs(rule.id) - available)
            unset = [
                f":{name}"
                for name, value in self._overlays.written(rule.id, account_id).items()
                if value is None
            ]
            if self._overlays.mode(i, account_id) == RuleMode.OFF:
                reasons[rule.id] = "off"
            elif missing or unset:
                reasons[rule.id] = f"off: needs {', '.join(missing + unset)}"
        return reasons

    def evaluate(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        n: int,
        lists: ListTable | None = None,
        *,
        accounts: Sequence[str] = (),
        account: npt.NDArray[np.int32] | None = None,
        ts_ms: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Where each rule's condition is TRUE, for rules that are live or in shadow.

        Parameters
        ----------
        columns
            At least those of ``self.columns`` that the source has: numbers and flags float64 ``[n]`` with
            NaN = NULL, text uint64 ``[n]`` with 0 = NULL. A rule whose column is not there does not fire.
        n
            Rows.
        lists
            For ``in_list``; None when there is no list.
        accounts, account
            Account ids, and each row's index into them; without them overlays do not apply.
        ts_ms
            Time against which entries of lists expire.

        Returns
        -------
        npt.NDArray[np.bool_]
            ``[n, R]``, columns in the order of ``self.ids``.
        """
        fired = np.zeros((len(self.rules), n), dtype=bool)
        slots = self._overlays.slots(accounts, account)
        program = self._program(columns, slots is not None)
        program.run(fired, columns, self._overlays, slots, _lookup(lists, n, accounts, account, ts_ms))
        if slots is not None:
            fired &= (self._overlays.modes[slots] != RuleMode.OFF).T
        return fired.T

    def modes(
        self, accounts: Sequence[str] = (), account: npt.NDArray[np.int32] | None = None
    ) -> npt.NDArray[np.int8]:
        """``RuleMode`` of each rule: int8 ``[1, R]``, or ``[n, R]`` when an account here has an overlay."""
        slots = self._overlays.slots(accounts, account)
        modes: npt.NDArray[np.int8] = (
            self._overlays.modes[:1] if slots is None else self._overlays.modes[slots]
        )
        return modes

    def _program(self, columns: Mapping[str, Any], overlaid: bool) -> Program:
        missing = self.columns.difference(columns)
        found = self._programs.get((overlaid, missing))
        if found is None:
            modes = self._overlays.modes.max(axis=0) if overlaid else self._overlays.modes[0]
            found = Program(
                [
                    (i, expression.root)
                    for i, expression in enumerate(self._expressions)
                    if modes[i] != RuleMode.OFF and not expression.columns & missing
                ]
            )
            if len(self._programs) >= _PROGRAMS_MAX:
                self._programs.clear()
            self._programs[overlaid, missing] = found
        return found

    def values_of(self, rule_id: str) -> tuple[str, ...]:
        """Columns that the rule's condition and explanation show, in their order.

        Beside them, ``explain`` reads ``currency`` and ``base_currency`` for amounts.
        """
        index = self._index[rule_id]
        nodes = walk(self._expressions[index].root)
        used = (node.name for node in nodes if isinstance(node, ColumnRef))
        return tuple(dict.fromkeys((*used, *self._templates[index].columns)))

    def explain(self, rule_id: str, values: RowValues, account_id: str | None = None) -> str:
        """The rule's sentence for one transaction: "5 transactions in 5 minutes".

        Parameters
        ----------
        values
            By column, as a person reads them (text, not hashes); ``base_currency`` names the currency of
            amounts in the account's own. What is not there shows as "–".
        account_id
            Whose parameters hold.
        """
        return self._told(rule_id, account_id).sentence(values)

    def condition(self, rule_id: str, values: RowValues, account_id: str | None = None) -> str:
        """The rule's condition with its values: ``user_tx_count_5m 5 >= 5``."""
        root = self._expressions[self._index[rule_id]].root
        return condition_text(root, values, self.parameters(rule_id, account_id), self._types)

    def comparisons(self, rule_id: str, values: RowValues, account_id: str | None = None) -> list[Comparison]:
        """Each comparison of the condition with both sides' values ("limit was 600.00")."""
        return self._told(rule_id, account_id).comparisons(values)

    def _told(self, rule_id: str, account_id: str | None) -> ToldRule:
        key = (rule_id, self._overlays.slot(account_id))
        found = self._told_rules.get(key)
        if found is None:
            index = self._index[rule_id]
            parameters = self.parameters(rule_id, account_id)
            found = ToldRule(
                self._templates[index].bind(parameters),
                bind_comparisons(self._expressions[index].root, parameters, self._types),
            )
            self._told_rules[key] = found
        return found

    def parameters(self, rule_id: str, account_id: str | None = None) -> dict[str, ParameterValue]:
        """The rule's parameters as they hold for an account."""
        defaults = dict(self.rule_set[rule_id].parameters)
        return defaults | self._overlays.written(rule_id, account_id)


def _lookup(
    lists: ListTable | None,
    n: int,
    accounts: Sequence[str],
    account: npt.NDArray[np.int32] | None,
    ts_ms: npt.NDArray[np.int64] | None,
) -> Lookup:
    if lists is None or not len(lists):
        nothing = np.zeros(n, dtype=bool)
        return lambda list_name, field, hashes: nothing
    if account is None or ts_ms is None:
        raise ValueError("expected account and ts_ms of each row beside lists, got none")
    return lists.bind(accounts, account, ts_ms)
