"""A condition's parts for one transaction, in the values that a person reads.

Only for transactions that somebody looks at; judging goes through ``anomalyze.rules.compile``. A node becomes
a function of the transaction's values, made once for a rule and an account's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from anomalyze.rules import expression as tree
from anomalyze.rules.expression import Node
from anomalyze.rules.parameter import ParameterValue

__all__ = ["Reader", "RowValue", "RowValues", "read_by", "row_value"]

RowValue = float | str | bool | None
RowValues = Mapping[str, float | str | None]
Reader = Callable[[RowValues], RowValue]

_COMPARE: Mapping[str, Callable[[RowValue, RowValue], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: float(a or 0) < float(b or 0),
    "<=": lambda a, b: float(a or 0) <= float(b or 0),
    ">": lambda a, b: float(a or 0) > float(b or 0),
    ">=": lambda a, b: float(a or 0) >= float(b or 0),
}
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.nan,
}


def row_value(node: Node, values: RowValues, parameters: Mapping[str, ParameterValue]) -> RowValue:
    """Value of a node; None = NULL, also for ``in_list``, whose answer is not among the values."""
    return read_by(node, parameters)(values)


def read_by(node: Node, parameters: Mapping[str, ParameterValue]) -> Reader:
    """A function that gives the node's value (as ``row_value``) for any transaction.

    Parameters
    ----------
    parameters
        The rule's, as they hold for an account.
    """
    match node:
        case tree.Number(value=constant) | tree.Text(value=constant) | tree.Flag(value=constant):
            return lambda values: constant
        case tree.ColumnRef(name=name, kind=kind):
            return lambda values: _known(values.get(name), kind)
        case tree.Parameter(name=name, kind=kind):
            given = _known(parameters.get(name), kind)
            return lambda values: given
        case tree.Arithmetic() | tree.Negative() | tree.Call():
            return _read_number(node, parameters)
        case tree.Compare(operator=sign, left=left, right=right):
            return _read_comparison(_COMPARE[sign], read_by(left, parameters), read_by(right, parameters))
        case tree.Between(value=child, low=low, high=high):
            both = tree.And((tree.Compare(">=", child, low), tree.Compare("<=", child, high)))
            return read_by(both, parameters)
        case tree.Member(value=child, items=items):
            return _read_member(read_by(child, parameters), items, parameters)
        case tree.IsNull(value=child):
            inner = read_by(child, parameters)
            return lambda values: inner(values) is None
        case tree.And(terms=terms):
            readers = [read_by(term, parameters) for term in terms]
            return lambda values: _all([read(values) for read in readers])
        case tree.Or(terms=terms):
            readers = [read_by(term, parameters) for term in terms]
            return lambda values: _opposite(_all([_opposite(read(values)) for read in readers]))
        case tree.Not(term=term):
            opposed = read_by(term, parameters)
            return lambda values: _opposite(opposed(values))
        case tree.InList():
            return lambda values: None


def _known(value: ParameterValue, kind: str) -> RowValue:
    if value is None or isinstance(value, tuple):
        return None
    if isinstance(value, str):
        return value or None
    if value != value:
        return None
    return value > 0 if kind == "flag" else float(value)


def _read_number(
    node: tree.Arithmetic | tree.Negative | tree.Call, parameters: Mapping[str, ParameterValue]
) -> Reader:
    match node:
        case tree.Arithmetic(operator=operator, left=left, right=right):
            return _read_arithmetic(
                _ARITHMETIC[operator], read_by(left, parameters), read_by(right, parameters)
            )
        case tree.Negative(value=child):
            inner = read_by(child, parameters)

            def negative(values: RowValues) -> RowValue:
                value = inner(values)
                return None if value is None else -float(value)

            return negative
        case tree.Call(function=function, arguments=arguments):
            readers = [read_by(argument, parameters) for argument in arguments]
            return lambda values: _call(function, [read(values) for read in readers])


def _read_arithmetic(compute: Callable[[float, float], float], left: Reader, right: Reader) -> Reader:
    def read(values: RowValues) -> RowValue:
        one, other = left(values), right(values)
        if one is None or other is None:
            return None
        result = compute(float(one), float(other))
        return None if result != result else result

    return read


def _read_comparison(holds: Callable[[RowValue, RowValue], bool], left: Reader, right: Reader) -> Reader:
    def read(values: RowValues) -> RowValue:
        one, other = left(values), right(values)
        return None if one is None or other is None else holds(one, other)

    return read


def _call(function: str, given: list[RowValue]) -> RowValue:
    if function == "coalesce":
        return next((value for value in given if value is not None), None)
    numbers = [float(value) for value in given if value is not None]
    if len(numbers) < len(given):
        return None
    return abs(numbers[0]) if function == "abs" else min(numbers) if function == "least" else max(numbers)


def _read_member(value: Reader, items: Sequence[Node], parameters: Mapping[str, ParameterValue]) -> Reader:
    readers: list[Reader] = []
    listed: list[RowValue] = []
    for item in items:
        given = parameters.get(item.name) if isinstance(item, tree.Parameter) else None
        if isinstance(given, tuple):
            listed += given
        else:
            readers.append(read_by(item, parameters))

    def read(values: RowValues) -> RowValue:
        found = value(values)
        if found is None:
            return None
        known = listed + [item(values) for item in readers]
        if found in [item for item in known if item is not None]:
            return True
        return None if None in known else False

    return read


def _all(terms: list[RowValue]) -> bool | None:
    result: bool | None = True
    for term in terms:
        if term is False:
            return False
        if term is None:
            result = None
    return result


def _opposite(value: RowValue) -> bool | None:
    return None if value is None else not value
