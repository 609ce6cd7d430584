"""Conditions in the language of a WHERE clause: from text to a checked tree.

sqlglot reads the text that the gate let pass; of its nodes only those that ``typecheck`` names are taken
over into our own tree (``anomalyze.rules.expression``). Nothing of the text reaches an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from anomalyze.rules import expression as tree
from anomalyze.rules.column import ColumnTypes, Kind
from anomalyze.rules.expression import Node, walk
from anomalyze.rules.gate import ALLOWED, ExpressionError, Token, scan
from anomalyze.rules.parameter import ParameterValue
from anomalyze.rules.typecheck import Checker

__all__ = [
    "MAX_DEPTH",
    "MAX_LITERALS",
    "MAX_TERMS",
    "Expression",
    "parse_expression",
    "parse_value",
]

# A person reads a rule: more than this is a table in disguise.
MAX_TERMS = 64
MAX_LITERALS = 200
MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked condition.

    Attributes
    ----------
    root
        Its tree; a flag.
    columns
        Columns it reads.
    parameters
        Parameters it uses, each with its kind and whether it stands for a list of values.
    lists
        ``(column, list name)`` of every ``in_list``.
    """

    root: Node
    columns: frozenset[str]
    parameters: Mapping[str, tuple[Kind, bool]]
    lists: frozenset[tuple[str, str]]


def parse_expression(
    text: str, columns: ColumnTypes, parameters: Mapping[str, ParameterValue] | None = None, rule_id: str = ""
) -> Expression:
    """Parse and check a condition.

    Parameters
    ----------
    text
        The condition, as in ``amount_base > 3 * user_amount_p95 AND NOT is_night``.
    columns
        What it may name.
    parameters
        Default of each ``:parameter``; None when an account must give it (until then it is NULL).
    rule_id
        Owner of the parameters: equal names in two rules are two parameters.

    Raises
    ------
    ExpressionError
        With the position and, where a name is close, a suggestion.
    """
    parsed, tokens = _parse(text)
    root = Checker(columns, parameters or {}, rule_id, tokens).check(parsed)
    nodes = list(walk(root))
    names = frozenset(node.name for node in nodes if isinstance(node, tree.ColumnRef))
    if not names:
        raise ExpressionError("the condition names no column, so it is always or never true")
    return Expression(
        root,
        names,
        {node.name: (node.kind, node.many) for node in nodes if isinstance(node, tree.Parameter)},
        frozenset((node.column.name, node.list_name) for node in nodes if isinstance(node, tree.InList)),
    )


def parse_value(text: str, columns: ColumnTypes, parameters: Mapping[str, ParameterValue]) -> Node:
    """Parse a value to show: a column, a parameter or arithmetic, in the same language.

    Raises
    ------
    ExpressionError
        As ``parse_expression``.
    """
    parsed, tokens = _parse(text)
    return Checker(columns, parameters, "", tokens).value(parsed)


def _parse(text: str) -> tuple[exp.Expression, list[Token]]:
    tokens = scan(text)
    try:
        parsed = sqlglot.parse_one(text, into=exp.Condition)
    except sqlglot.ParseError as error:
        raise _syntax_error(error, tokens) from None
    except RecursionError:
        raise ExpressionError(f"the condition nests too deep; {ALLOWED}") from None
    _check_size(parsed)
    return parsed, tokens


def _syntax_error(error: sqlglot.ParseError, tokens: list[Token]) -> ExpressionError:
    details = error.errors[0] if error.errors else {}
    after = str(details.get("highlight") or "")
    start = len(str(details.get("start_context") or ""))
    position = start if len(str(details.get("start_context") or "")) < 100 else tokens[-1].position
    if "Required keyword" in str(details.get("description", "")):
        return ExpressionError(f"something is missing beside {after}; {ALLOWED}", position)
    return ExpressionError(f"{after or 'the condition'} is not expected here; {ALLOWED}", position)


def _check_size(parsed: exp.Expression) -> None:
    """Refuse by size before anything recurses over the tree."""
    terms = literals = 0
    stack: list[tuple[exp.Expression, int]] = [(parsed, 1)]
    while stack:
        node, depth = stack.pop()
        literals += isinstance(node, exp.Literal)
        joins = isinstance(node, exp.And | exp.Or)
        terms += joins
        if depth > MAX_DEPTH:
            raise ExpressionError(f"a condition nests at most {MAX_DEPTH} deep; split it into several rules")
        for child in node.iter_expressions():
            stack.append((child, depth + (not (joins and isinstance(child, type(node))))))
    if terms + 1 > MAX_TERMS:
        raise ExpressionError(
            f"a condition joins at most {MAX_TERMS} terms, this one {terms + 1}; use IN or a list"
        )
    if literals > MAX_LITERALS:
        raise ExpressionError(
            f"a condition holds at most {MAX_LITERALS} literals, this one {literals}; use a list"
        )
