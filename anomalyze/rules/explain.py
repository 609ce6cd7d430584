"""Why a rule fired, in words and numbers that a person can check.

Explanations are templates such as ``{user_tx_count_5m} transactions in 5 minutes``. Between the braces
stands a column, a parameter, or arithmetic in the language of the rules, and after a colon maybe a unit:
``{amount_base / user_amount_median} times the usual {user_amount_median:base_money}``. Nothing is looked up
by attribute or index, and values are never read as templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anomalyze.rules import expression as tree
from anomalyze.rules.column import ColumnTypes, Unit
from anomalyze.rules.evaluate_row import Reader, RowValue, RowValues, read_by, row_value
from anomalyze.rules.expression import Node, walk
from anomalyze.rules.gate import ExpressionError
from anomalyze.rules.parameter import ParameterValue, kind_of_value
from anomalyze.rules.parse import parse_value
from anomalyze.rules.show import UNITS, show

__all__ = [
    "MAX_TEMPLATE_CHARS",
    "Comparison",
    "Template",
    "Writer",
    "bind_comparisons",
    "condition_text",
    "parse_template",
]

Writer = Callable[[RowValues], str]

MAX_TEMPLATE_CHARS = 500

_PLACE = re.compile(r"\{([^{}]*)\}")
_UNIT = re.compile(rf"^(.*\S)\s*:({'|'.join(map(re.escape, UNITS))})\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed explanation: texts, and between them values with the unit to show them in."""

    parts: tuple[str | tuple[Node, Unit], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the template shows, in its order."""
        nodes = (node for part in self.parts if not isinstance(part, str) for node in walk(part[0]))
        return tuple(dict.fromkeys(node.name for node in nodes if isinstance(node, tree.ColumnRef)))

    def bind(self, parameters: Mapping[str, ParameterValue]) -> Writer:
        """A function that gives the sentence for any transaction; what is missing shows as "–"."""
        return _joined(
            [
                _constant(part) if isinstance(part, str) else _bind_part(*part, parameters)
                for part in self.parts
            ]
        )


def parse_template(text: str, types: ColumnTypes, parameters: Mapping[str, ParameterValue]) -> Template:
    """Check and parse an explanation.

    Raises
    ------
    ExpressionError
        Too long, a brace that is not closed, an unknown name, or not an expression.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise ExpressionError(
            f"an explanation has at most {MAX_TEMPLATE_CHARS} characters, this one {len(text)}"
        )
    parts: list[str | tuple[Node, Unit]] = []
    end = 0
    for place in _PLACE.finditer(text):
        parts += [text[end : place.start()], _parse_place(place, types, parameters)]
        end = place.end()
    parts.append(text[end:])
    for part in parts:
        if isinstance(part, str) and ("{" in part or "}" in part):
            raise ExpressionError(
                "braces stand only around a column, a parameter or arithmetic, as in {amount_base}",
                text.index(part),
            )
    return Template(tuple(part for part in parts if part))


def _parse_place(
    place: re.Match[str], types: ColumnTypes, parameters: Mapping[str, ParameterValue]
) -> tuple[Node, Unit]:
    inside, start = place.group(1), place.start(1)
    found = _UNIT.match(inside)
    written = found.group(1) if found else inside
    unit = next((known for known in UNITS if found and known == found.group(2)), None)
    bare = written.strip()
    if bare in parameters and bare not in types:
        kind, many = kind_of_value(parameters[bare])
        return tree.Parameter(bare, kind or "text", many=many), unit or "plain"
    try:
        node = parse_value(written, types, parameters)
    except ExpressionError as error:
        raise ExpressionError(error.message, start + error.position, error.suggestion) from None
    if not any(isinstance(part, tree.ColumnRef | tree.Parameter) for part in walk(node)):
        raise ExpressionError("braces hold a column or a parameter; write constants out", start)
    return node, unit or unit_of(node, types)


class Comparison(NamedTuple):
    """One comparison of a condition, with what stood on both sides.

    Attributes
    ----------
    left, operator, right
        As written: ``amount_base``, ``>``, ``3 * user_amount_p95``. A condition of one part (a flag, a list)
        has it in ``left``, with ``right`` empty.
    left_value, right_value
        Their values for this transaction; None = unknown.
    left_shown, right_shown
        The same as a person reads them: ``4,500.50 USD``, ``600.00 USD``.
    holds
        Whether it was true here; None when unknown.
    """

    left: str
    operator: str
    right: str
    left_value: float | str | bool | None
    right_value: float | str | bool | None
    left_shown: str
    right_shown: str
    holds: bool | None


def bind_comparisons(
    root: Node, parameters: Mapping[str, ParameterValue], types: ColumnTypes
) -> Callable[[RowValues], list[Comparison]]:
    """A function that reads each comparison of a condition, in written order, for any transaction."""
    readers = [_bind_comparison(node, parameters, types) for node in _conditions(root)]
    return lambda values: [read(values) for read in readers]


def _conditions(node: Node) -> Iterator[Node]:
    if isinstance(node, tree.And | tree.Or):
        for term in node.terms:
            yield from _conditions(term)
    elif isinstance(node, tree.Not) and isinstance(node.term, tree.And | tree.Or | tree.Not):
        yield from _conditions(node.term)
    elif isinstance(node, tree.Not) and isinstance(node.term, tree.Compare):
        yield tree.opposite(node.term)
    else:
        yield node


def _bind_comparison(
    node: Node, parameters: Mapping[str, ParameterValue], types: ColumnTypes
) -> Callable[[RowValues], Comparison]:
    holds = read_by(node, parameters)
    if isinstance(node, tree.Compare):
        return _bind_compare(node, holds, parameters, types)
    inner = next((child for child in walk(node) if isinstance(child, tree.ColumnRef)), node)
    value_of, shown = read_by(inner, parameters), _shown_in(unit_of(inner, types))
    written = tree.render(node)

    def read(values: RowValues) -> Comparison:
        value = value_of(values)
        return Comparison(written, "", "", value, None, shown(value, values), "", _flag(holds(values)))

    return read


def _bind_compare(
    node: tree.Compare, holds: Reader, parameters: Mapping[str, ParameterValue], types: ColumnTypes
) -> Callable[[RowValues], Comparison]:
    shown = _shown_in(_unit_of_both(node, types))
    operator, left, right = node.operator, tree.render(node.left), tree.render(node.right)
    left_of, right_of = read_by(node.left, parameters), read_by(node.right, parameters)

    def read(values: RowValues) -> Comparison:
        here, limit = left_of(values), right_of(values)
        return Comparison(
            left,
            operator,
            right,
            here,
            limit,
            shown(here, values),
            shown(limit, values),
            _flag(holds(values)),
        )

    return read


def _flag(value: RowValue) -> bool | None:
    return value if isinstance(value, bool) else None


def condition_text(
    root: Node, values: RowValues, parameters: Mapping[str, ParameterValue], types: ColumnTypes
) -> str:
    """The condition with its values: ``amount_base 4,500.50 > 600.00 (3 * user_amount_p95 200.00)``."""

    def leaf(node: Node) -> str | None:
        if isinstance(node, tree.ColumnRef):
            value = row_value(node, values, parameters)
            return f"{node.name} {_quoted(value) or show(value, types[node.name].unit)}"
        if isinstance(node, tree.Parameter):
            written = parameters.get(node.name)
            many = written if isinstance(written, tuple) else (written,)
            return ", ".join(_quoted(value) or show(value) for value in many)
        if isinstance(node, tree.Compare):
            unit = _unit_of_both(node, types)
            return f"{side(node.left, unit)} {node.operator} {side(node.right, unit)}"
        return None

    def side(node: Node, unit: Unit) -> str:
        if isinstance(node, tree.ColumnRef | tree.Text | tree.Flag):
            return tree.render(node, leaf)
        value = row_value(node, values, parameters)
        shown = _quoted(value) or show(value, unit)
        if isinstance(node, tree.Parameter | tree.Number):
            return shown
        return f"{shown} ({tree.render(node, leaf)})"

    return tree.render(root, leaf)


def unit_of(node: Node, types: ColumnTypes) -> Unit:
    """Unit of a value: that of its columns, as far as arithmetic keeps it."""
    match node:
        case tree.ColumnRef(name=name):
            return types[name].unit
        case tree.Negative(value=value):
            return unit_of(value, types)
        case tree.Call(arguments=arguments):
            return unit_of(arguments[0], types)
        case tree.Arithmetic(operator=operator, left=left, right=right):
            one, other = unit_of(left, types), unit_of(right, types)
            if operator in "+-":
                return other if one == "plain" else one
            if operator == "/":
                return one if other == "plain" else "plain"
            return other if one == "plain" else one if other == "plain" else "plain"
        case _:
            return "plain"


def _unit_of_both(node: tree.Compare, types: ColumnTypes) -> Unit:
    left = unit_of(node.left, types)
    return unit_of(node.right, types) if left == "plain" else left


def _bind_part(node: Node, unit: Unit, parameters: Mapping[str, ParameterValue]) -> Writer:
    shown = _shown_in(unit)
    given = parameters.get(node.name) if isinstance(node, tree.Parameter) else None
    if isinstance(given, tuple):
        items = given
        return lambda values: ", ".join([shown(item, values) for item in items])
    value_of = read_by(node, parameters)
    return lambda values: shown(value_of(values), values)


def _constant(text: str) -> Writer:
    return lambda values: text


def _joined(writers: Sequence[Writer]) -> Writer:
    return lambda values: "".join([write(values) for write in writers])


def _shown_in(unit: Unit) -> Callable[[RowValue, RowValues], str]:
    """A function that shows a value in this unit, money in the transaction's currency."""
    column = {"money": "currency", "base_money": "base_currency"}.get(unit)
    if column is None:
        return lambda value, values: show(value, unit)
    currency_column = column

    def shown(value: RowValue, values: RowValues) -> str:
        currency = values.get(currency_column)
        return show(value, unit, currency if isinstance(currency, str) else None)

    return shown


def _quoted(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else ""
