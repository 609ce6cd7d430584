"""A condition's parts for one transaction, in the values that a person reads.

Only for transactions that somebody looks at; judging goes through ``anomalyze.rules.compile``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from anomalyze.rules import expression as tree
from anomalyze.rules.expression import Node
from anomalyze.rules.parameter import ParameterValue

__all__ = ["RowValue", "RowValues", "row_value"]

RowValue = float | str | bool | None
RowValues = Mapping[str, float | str | None]

_COMPARE: Mapping[str, Callable[[RowValue, RowValue], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: float(a or 0) < float(b or 0),
    "<=": lambda a, b: float(a or 0) <= float(b or 0),
    ">": lambda a, b: float(a or 0) > float(b or 0),
    ">=": lambda a, b: float(a or 0) >= float(b or 0),
}


def row_value(node: Node, values: RowValues, parameters: Mapping[str, ParameterValue]) -> RowValue:
    """Value of a node; None = NULL, also for ``in_list``, whose answer is not among the values."""

    def value(child: Node) -> RowValue:
        return row_value(child, values, parameters)

    match node:
        case tree.Number(value=number):
            return number
        case tree.Text(value=text):
            return text
        case tree.Flag(value=flag):
            return flag
        case tree.ColumnRef(name=name, kind=kind):
            return _known(values.get(name), kind)
        case tree.Parameter(name=name, kind=kind):
            given = parameters.get(name)
            return None if isinstance(given, tuple) else _known(given, kind)
        case tree.Arithmetic(operator=operator, left=left, right=right):
            return _arithmetic(operator, value(left), value(right))
        case tree.Negative(value=child):
            number_value = value(child)
            return None if number_value is None else -float(number_value)
        case tree.Call(function=function, arguments=arguments):
            return _call(function, [value(argument) for argument in arguments])
        case tree.Compare(operator=sign, left=left, right=right):
            one, other = value(left), value(right)
            return None if one is None or other is None else _COMPARE[sign](one, other)
        case tree.Between(value=child, low=low, high=high):
            return _all([value(tree.Compare(">=", child, low)), value(tree.Compare("<=", child, high))])
        case tree.Member(value=child, items=items):
            return _member(value(child), items, parameters, value)
        case tree.IsNull(value=child):
            return value(child) is None
        case tree.And(terms=terms):
            return _all([value(term) for term in terms])
        case tree.Or(terms=terms):
            return _opposite(_all([_opposite(value(term)) for term in terms]))
        case tree.Not(term=term):
            return _opposite(value(term))
        case tree.InList():
            return None


def _known(value: ParameterValue, kind: str) -> RowValue:
    if value is None or isinstance(value, tuple):
        return None
    if isinstance(value, str):
        return value or None
    if math.isnan(value):
        return None
    return value > 0 if kind == "flag" else float(value)


def _arithmetic(operator: str, left: RowValue, right: RowValue) -> RowValue:
    if left is None or right is None:
        return None
    one, other = float(left), float(right)
    if operator == "/":
        result = one / other if other else math.nan
    else:
        result = {"+": one + other, "-": one - other, "*": one * other}[operator]
    return None if math.isnan(result) else result


def _call(function: str, given: list[RowValue]) -> RowValue:
    if function == "coalesce":
        return next((value for value in given if value is not None), None)
    numbers = [float(value) for value in given if value is not None]
    if len(numbers) < len(given):
        return None
    return abs(numbers[0]) if function == "abs" else min(numbers) if function == "least" else max(numbers)


def _member(
    value: RowValue,
    items: tuple[Node, ...],
    parameters: Mapping[str, ParameterValue],
    value_of: Callable[[Node], RowValue],
) -> bool | None:
    if value is None:
        return None
    known: list[RowValue] = []
    for item in items:
        given = parameters.get(item.name) if isinstance(item, tree.Parameter) else None
        known += list(given) if isinstance(given, tuple) else [value_of(item)]
    return True if value in [item for item in known if item is not None] else None if None in known else False


def _all(terms: list[RowValue]) -> bool | None:
    if any(term is False for term in terms):
        return False
    return None if any(term is None for term in terms) else True


def _opposite(value: RowValue) -> bool | None:
    return None if value is None else not value
