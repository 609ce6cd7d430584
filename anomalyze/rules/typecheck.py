"""From sqlglot's tree to ours: which nodes are allowed, and what kind each part has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from sqlglot import exp

from anomalyze.config import closest
from anomalyze.rules import expression as tree
from anomalyze.rules.column import ColumnTypes, Kind
from anomalyze.rules.expression import Node, kind_of
from anomalyze.rules.gate import ALLOWED, ExpressionError, Token
from anomalyze.rules.parameter import ParameterValue, kind_of_value

__all__ = ["Checker"]

_COMPARISONS = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
_FUNCTIONS = {exp.Abs: "abs", exp.Least: "least", exp.Greatest: "greatest", exp.Coalesce: "coalesce"}
_FUNCTION_NAMES = ("in_list", *_FUNCTIONS.values())
# What sqlglot may set on a node that we take over; anything else is a form outside the language.
_PARTS = frozenset({"this", "expression", "expressions", "low", "high", "quoted", "is_string"})
_HARMLESS = frozenset({"ignore_nulls", "typed", "safe"})
_FORMS = (
    ((exp.Query,), "a query inside a condition"),
    ((exp.Star,), "*"),
    ((exp.Cast, exp.DataType), "a cast"),
    ((exp.Window,), "a window function"),
    ((exp.Case, exp.If), "CASE"),
    ((exp.Like, exp.ILike, exp.RegexpLike), "LIKE"),
    ((exp.Interval,), "an interval"),
    ((exp.Concat, exp.DPipe), "joining text"),
)


class Checker:
    """Takes allowed nodes over into our tree and gives each a kind."""

    def __init__(
        self,
        columns: ColumnTypes,
        parameters: Mapping[str, ParameterValue],
        rule_id: str,
        tokens: list[Token],
    ) -> None:
        self._columns = columns
        self._parameters = parameters
        self._rule_id = rule_id
        self._tokens = tokens
        self._kinds: dict[str, tuple[Kind, bool]] = {}
        self._unknown: list[ExpressionError] = []

    def check(self, parsed: exp.Expression) -> Node:
        return self._complete(lambda: self._flag(parsed, "the condition"))

    def value(self, parsed: exp.Expression) -> Node:
        return self._complete(lambda: self._convert(parsed))

    def _complete(self, convert: Callable[[], Node]) -> Node:
        """Convert; unknown names come first, for other mistakes may only follow from them."""
        try:
            node = convert()
        except ExpressionError:
            if not self._unknown:
                raise
        if self._unknown:
            first, *others = self._unknown
            raise ExpressionError(first.message, first.position, first.suggestion, tuple(others))
        return node

    def _position(self, parsed: exp.Expression) -> int:
        """Where the first of its words begins (joints of the tree have no place of their own)."""
        places = [int(node.meta["start"]) for node in parsed.walk() if "start" in node.meta]
        names = {f":{node.name}" for node in parsed.find_all(exp.Placeholder)}
        places += [token.position for token in self._tokens if token.text in names]
        return min(places, default=0)

    def _error(self, parsed: exp.Expression, message: str, suggestion: str = "") -> ExpressionError:
        return ExpressionError(message, self._position(parsed), suggestion)

    def _flag(self, parsed: exp.Expression, where: str) -> Node:
        node = self._convert(parsed, "flag")
        if kind_of(node) != "flag":
            shown = tree.render(node)
            example = f"{shown} > 0" if kind_of(node) == "number" else f"{shown} = 'x'"
            raise self._error(
                parsed,
                f"{where} must be true or false; {shown} is a {kind_of(node)}: compare it, as in {example}",
            )
        return node

    def _number(self, parsed: exp.Expression, where: str) -> Node:
        node = self._convert(parsed, "number")
        if kind_of(node) != "number":
            raise self._error(parsed, f"{where} needs numbers; {tree.render(node)} is a {kind_of(node)}")
        return node

    def _convert(self, parsed: exp.Expression, expected: Kind | None = None) -> Node:
        extra = {name for name, value in parsed.args.items() if value} - _PARTS - _HARMLESS
        if extra:
            raise self._refuse(parsed)
        match parsed:
            case exp.Paren():
                return self._convert(parsed.this, expected)
            case exp.And() | exp.Or():
                spine = type(parsed)
                terms = tuple(
                    self._flag(term, f"each side of {spine.key.upper()}") for term in _flatten(parsed, spine)
                )
                return tree.And(terms) if spine is exp.And else tree.Or(terms)
            case exp.Not():
                return tree.Not(self._flag(parsed.this, "what NOT turns round"))
            case exp.Literal():
                return self._literal(parsed)
            case exp.Boolean():
                return tree.Flag(bool(parsed.this))
            case exp.Column():
                return self._column(parsed, expected)
            case exp.Placeholder():
                return self._parameter(parsed, expected, many=False)
            case exp.Neg():
                value = self._number(parsed.this, "a minus sign")
                return tree.Number(-value.value) if isinstance(value, tree.Number) else tree.Negative(value)
            case exp.Is():
                return self._is(parsed)
            case exp.Between():
                low, high = parsed.args["low"], parsed.args["high"]
                value = self._number(parsed.this, "BETWEEN")
                return tree.Between(value, self._number(low, "BETWEEN"), self._number(high, "BETWEEN"))
            case exp.In():
                return self._member(parsed)
            case exp.Anonymous():
                return self._in_list(parsed)
        if type(parsed) in _COMPARISONS:
            return self._compare(parsed)
        if type(parsed) in _ARITHMETIC:
            sign = _ARITHMETIC[type(parsed)]
            left, right = self._number(parsed.this, sign), self._number(parsed.expression, sign)
            return tree.Arithmetic(cast("tree.ArithmeticSign", sign), left, right)
        if type(parsed) in _FUNCTIONS:
            return self._call(parsed)
        raise self._refuse(parsed)

    def _refuse(self, parsed: exp.Expression) -> ExpressionError:
        for kinds, words in _FORMS:
            if isinstance(parsed, kinds):
                return self._error(parsed, f"{words} is not part of the language; {ALLOWED}")
        if isinstance(parsed, exp.Null):
            return self._error(parsed, "NULL stands only in IS NULL and IS NOT NULL")
        if isinstance(parsed, exp.Func):
            name = parsed.sql_name().lower() if not isinstance(parsed, exp.Anonymous) else str(parsed.this)
            return self._error(
                parsed, f"there is no function {name}; {ALLOWED}", closest(name, _FUNCTION_NAMES)
            )
        return self._error(parsed, f"{parsed.key} is not part of the language; {ALLOWED}")

    def _literal(self, parsed: exp.Literal) -> Node:
        if parsed.is_string:
            return tree.Text(str(parsed.this))
        value = float(parsed.this)
        if not math.isfinite(value):
            raise self._error(parsed, f"{parsed.this} is beyond what a number can hold")
        return tree.Number(value)

    def _column(self, parsed: exp.Column, expected: Kind | None) -> Node:
        """A column; an unknown one is noted and taken for what is expected, so that the rest is checked."""
        if not isinstance(parsed.this, exp.Identifier):
            raise self._refuse(parsed.this)
        name = str(parsed.this.this).lower()
        column = self._columns.get(name)
        if column is None:
            self._unknown.append(
                self._error(parsed, f"there is no column {name}", closest(name, self._columns))
            )
            return tree.ColumnRef(name, expected or "number")
        return tree.ColumnRef(name, column.kind)

    def _parameter(self, parsed: exp.Placeholder, expected: Kind | None, *, many: bool) -> Node:
        name = str(parsed.this or "")
        if name not in self._parameters:
            message = f"the rule has no parameter {name or '?'}; name it with a default"
            self._unknown.append(self._error(parsed, message, closest(name, self._parameters)))
            return tree.Parameter(name, expected or "number", self._rule_id, many)
        kind, is_list = kind_of_value(self._parameters[name])
        if kind is None:
            known = self._kinds.get(name)
            kind, is_list = known or (expected, many)
        if kind is None:
            raise self._error(
                parsed, f":{name} has no default and nothing here says what it holds; give it one"
            )
        if is_list and not many:
            raise self._error(parsed, f":{name} is a list of values; it stands only in IN (:{name})")
        self._kinds[name] = (kind, is_list)
        return tree.Parameter(name, kind, self._rule_id, is_list)

    def _is(self, parsed: exp.Is) -> Node:
        if isinstance(parsed.expression, exp.Null):
            return tree.IsNull(self._convert(parsed.this))
        if isinstance(parsed.expression, exp.Boolean):
            raise self._error(
                parsed, "IS stands before NULL and NOT NULL only; write the flag itself, or NOT the flag"
            )
        raise self._error(parsed, "IS stands before NULL and NOT NULL only; compare with =")

    def _compare(self, parsed: exp.Expression) -> Node:
        sign = _COMPARISONS[type(parsed)]
        sides = (parsed.this, parsed.expression)
        if any(isinstance(side, exp.Null) for side in sides):
            raise self._error(parsed, f"nothing is {sign} NULL; write IS NULL or IS NOT NULL")
        self._check_bare_word(*sides)
        left, right = self._same_kind(sides)
        if kind_of(left) != kind_of(right):
            raise self._error(parsed, _mismatch(left, sign, right))
        if kind_of(left) != "number" and sign not in ("=", "<>"):
            raise self._error(parsed, f"{sign} compares numbers; {kind_of(left)}s compare with = and <> only")
        for one, other in ((left, right), (right, left)):
            self._check_text(one, [other], parsed)
        return tree.Compare(cast("tree.ComparisonSign", sign), left, right)

    def _same_kind(self, sides: tuple[exp.Expression, exp.Expression]) -> tuple[Node, Node]:
        """Convert both; a parameter without a default, or an unknown name, takes the other side's kind."""
        first = sides[0].unnest()
        unknown = isinstance(first, exp.Column) and first.name.lower() not in self._columns
        if unknown or isinstance(first, exp.Placeholder):
            right = self._convert(sides[1])
            return self._convert(sides[0], kind_of(right)), right
        left = self._convert(sides[0])
        return left, self._convert(sides[1], kind_of(left))

    def _check_bare_word(self, left: exp.Expression, right: exp.Expression) -> None:
        """``status = declined``: a word without quotes beside a text column is a forgotten literal."""
        for one, other in ((left, right), (right, left)):
            if not (isinstance(one, exp.Column) and isinstance(other, exp.Column)):
                continue
            known = self._columns.get(one.name.lower())
            if known and known.kind == "text" and other.name.lower() not in self._columns:
                raise self._error(
                    other, f"there is no column {other.name}; text is written in quotes", f"'{other.name}'"
                )

    def _check_text(self, node: Node, others: Iterable[Node], parsed: exp.Expression) -> None:
        """Text columns: listed-only ones are not compared; literals must be words the column can hold."""
        if not isinstance(node, tree.ColumnRef) or node.kind != "text":
            return
        column = self._columns[node.name]
        if column.listed_only:
            raise self._error(
                parsed, f"{node.name} is looked up in lists only; write in_list({node.name}, 'name')"
            )
        for other in others:
            if (
                isinstance(other, tree.Text)
                and column.choices is not None
                and other.value not in column.choices
            ):
                near = closest(other.value, column.choices)
                raise self._error(
                    parsed, f"{node.name} never holds '{other.value}'", f"'{near}'" if near else ""
                )

    def _member(self, parsed: exp.In) -> Node:
        value = self._convert(parsed.this)
        if kind_of(value) == "flag":
            raise self._error(parsed, "IN takes numbers or text")
        items: list[Node] = []
        for item in parsed.expressions:
            plain = item.this if isinstance(item, exp.Neg) else item
            if not isinstance(plain, exp.Literal | exp.Placeholder):
                raise self._error(item, "IN (…) holds literals and :parameters only")
            node = (
                self._parameter(item, kind_of(value), many=True)
                if isinstance(item, exp.Placeholder)
                else self._convert(item)
            )
            if kind_of(node) != kind_of(value):
                raise self._error(item, _mismatch(value, "IN", node))
            items.append(node)
        if not items:
            raise self._error(parsed, "IN () holds nothing; name at least one value")
        self._check_text(value, items, parsed)
        return tree.Member(value, tuple(items))

    def _in_list(self, parsed: exp.Anonymous) -> Node:
        name = str(parsed.this).lower()
        if name != "in_list":
            raise self._refuse(parsed)
        arguments = parsed.expressions
        if len(arguments) != 2 or not isinstance(arguments[0], exp.Column) or not arguments[1].is_string:
            raise self._error(
                parsed, "in_list takes a column and a list's name in quotes: in_list(device_id, 'block')"
            )
        column = self._convert(arguments[0])
        if not isinstance(column, tree.ColumnRef) or column.kind != "text":
            raise self._error(parsed, f"in_list looks text up; {tree.render(column)} is a {kind_of(column)}")
        return tree.InList(column, str(arguments[1].this))

    def _call(self, parsed: exp.Expression) -> Node:
        name = _FUNCTIONS[type(parsed)]
        given = [parsed.this, *parsed.expressions]
        if name != "abs" and len(given) < 2:
            raise self._error(parsed, f"{name} takes two values or more")
        if name != "coalesce":
            arguments = tuple(self._number(argument, name) for argument in given)
            return tree.Call(cast("tree.FunctionName", name), arguments, "number")
        first = self._convert(given[0])
        rest = [self._convert(argument, kind_of(first)) for argument in given[1:]]
        for other in rest:
            if kind_of(other) != kind_of(first):
                raise self._error(parsed, _mismatch(first, "coalesce", other))
        for node in (first, *rest):
            self._check_text(node, [], parsed)
        return tree.Call("coalesce", (first, *rest), kind_of(first))


def _flatten(parsed: exp.Expression, spine: type[exp.Expression]) -> list[exp.Expression]:
    """Terms of ``a AND b AND c`` in written order, without recursion."""
    terms: list[exp.Expression] = []
    stack = [parsed]
    while stack:
        node = stack.pop()
        if type(node) is spine:
            stack += [node.expression, node.this]
        else:
            terms.append(node)
    return terms


def _mismatch(left: Node, sign: str, right: Node) -> str:
    one, other = tree.render(left), tree.render(right)
    message = f"{one} is a {kind_of(left)} and {other} a {kind_of(right)}: {sign} needs two of one kind"
    for node, beside in ((left, right), (right, left)):
        if isinstance(node, tree.Text) and kind_of(beside) == "number":
            return f"{message}; numbers are written without quotes"
        if kind_of(node) == "flag" and isinstance(node, tree.ColumnRef) and kind_of(beside) == "number":
            return f"{message}; write {node.name} or NOT {node.name}"
    return message
