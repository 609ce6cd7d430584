"""The tree of a rule's condition: the few kinds of nodes that the language has, and how they are written.

The nodes are immutable and compare by value, so that the compiler finds equal parts of different rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from anomalyze.rules.column import Kind

__all__ = [
    "And",
    "Arithmetic",
    "ArithmeticSign",
    "Between",
    "Call",
    "ColumnRef",
    "Compare",
    "ComparisonSign",
    "Flag",
    "FunctionName",
    "InList",
    "IsNull",
    "Member",
    "Negative",
    "Node",
    "Not",
    "Number",
    "Or",
    "Parameter",
    "Text",
    "children",
    "kind_of",
    "opposite",
    "render",
    "walk",
]

ArithmeticSign = Literal["+", "-", "*", "/"]
ComparisonSign = Literal["=", "<>", "<", "<=", ">", ">="]
FunctionName = Literal["abs", "least", "greatest", "coalesce"]


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A text literal."""

    value: str


@dataclass(frozen=True, slots=True)
class Flag:
    """TRUE or FALSE."""

    value: bool


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """A column of the event or a feature."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named value of the rule that accounts may override; ``many`` when it stands for a list of values."""

    name: str
    kind: Kind
    rule_id: str = ""
    many: bool = False


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``left operator right`` on numbers; a division by zero is NULL."""

    operator: ArithmeticSign
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Negative:
    """``-value``."""

    value: Node


@dataclass(frozen=True, slots=True)
class Call:
    """``abs``, ``least``, ``greatest`` (NULL when any argument is) or ``coalesce`` (the first not NULL)."""

    function: FunctionName
    arguments: tuple[Node, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Compare:
    """``left operator right``; both of one kind."""

    operator: ComparisonSign
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Between:
    """``low <= value AND value <= high``."""

    value: Node
    low: Node
    high: Node


@dataclass(frozen=True, slots=True)
class Member:
    """``value IN (items)``; items are literals and parameters."""

    value: Node
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """``value IS NULL``; never NULL itself."""

    value: Node


@dataclass(frozen=True, slots=True)
class InList:
    """``in_list(column, 'name')``: the account has the value on that list now."""

    column: ColumnRef
    list_name: str


@dataclass(frozen=True, slots=True)
class And:
    """All terms."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any term."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; NULL stays NULL."""

    term: Node


Node = (
    Number
    | Text
    | Flag
    | ColumnRef
    | Parameter
    | Arithmetic
    | Negative
    | Call
    | Compare
    | Between
    | Member
    | IsNull
    | InList
    | And
    | Or
    | Not
)


def kind_of(node: Node) -> Kind:
    """Kind of a node's value."""
    match node:
        case Number() | Arithmetic() | Negative():
            return "number"
        case Text():
            return "text"
        case ColumnRef(kind=kind) | Parameter(kind=kind) | Call(kind=kind):
            return kind
        case _:
            return "flag"


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below, in written order."""
    match node:
        case Arithmetic(left=left, right=right) | Compare(left=left, right=right):
            return (left, right)
        case Negative(value=value) | IsNull(value=value):
            return (value,)
        case Call(arguments=terms) | And(terms=terms) | Or(terms=terms):
            return terms
        case Between(value=value, low=low, high=high):
            return (value, low, high)
        case Member(value=value, items=items):
            return (value, *items)
        case InList(column=column):
            return (column,)
        case Not(term=term):
            return (term,)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below, in written order."""
    yield node
    for child in children(node):
        yield from walk(child)


_OPPOSITE: dict[ComparisonSign, ComparisonSign] = {
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
    "=": "<>",
    "<>": "=",
}


def opposite(node: Compare) -> Compare:
    """The comparison that is TRUE where this one is FALSE; NULL where it is NULL."""
    return Compare(_OPPOSITE[node.operator], node.left, node.right)


# How tightly each form binds; a child that binds less tightly is put in parentheses.
_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _ATOM = range(8)


def render(node: Node, leaf: Callable[[Node], str | None] = lambda node: None) -> str:
    """The condition as text; ``leaf`` may give another text for any node.

    Examples
    --------
    >>> render(Not(And((Compare(">", ColumnRef("a", "number"), Number(3.0)), Flag(True)))))
    'NOT (a > 3 AND TRUE)'
    """
    return _render(node, leaf)[0]


def _render(node: Node, leaf: Callable[[Node], str | None]) -> tuple[str, int]:
    def inner(child: Node, strength: int) -> str:
        text, bound = _render(child, leaf)
        return f"({text})" if bound < strength else text

    given = leaf(node)
    if given is not None:
        return given, _ATOM
    match node:
        case Number(value=value):
            return _number(value), _ATOM if value >= 0 else _SIGN
        case Text(value=text):
            return "'" + text.replace("'", "''") + "'", _ATOM
        case Flag(value=flag):
            return ("TRUE" if flag else "FALSE"), _ATOM
        case ColumnRef(name=name):
            return name, _ATOM
        case Parameter(name=name):
            return f":{name}", _ATOM
        case Arithmetic(operator=operator, left=left, right=right):
            level = _SUM if operator in "+-" else _PRODUCT
            return f"{inner(left, level)} {operator} {inner(right, level + 1)}", level
        case Negative(value=value_node):
            return f"-{inner(value_node, _ATOM)}", _SIGN
        case Call(function=function, arguments=arguments):
            return f"{function}({', '.join(_render(a, leaf)[0] for a in arguments)})", _ATOM
        case Compare(operator=operator, left=left, right=right):
            return f"{inner(left, _SUM)} {operator} {inner(right, _SUM)}", _COMPARE
        case Between() | Member() | IsNull():
            return _predicate(node, inner, ""), _COMPARE
        case InList(column=column, list_name=list_name):
            return f"in_list({_render(column, leaf)[0]}, '{list_name}')", _ATOM
        case And(terms=terms):
            return " AND ".join(inner(term, _NOT) for term in terms), _AND
        case Or(terms=terms):
            return " OR ".join(inner(term, _AND) for term in terms), _OR
        case Not(term=IsNull() | Member() | Between() as term):
            return _predicate(term, inner, "NOT "), _COMPARE
        case Not(term=term):
            return f"NOT {inner(term, _COMPARE)}", _NOT


def _predicate(node: Between | Member | IsNull, inner: Callable[[Node, int], str], negation: str) -> str:
    value = inner(node.value, _SUM)
    match node:
        case Between(low=low, high=high):
            return f"{value} {negation}BETWEEN {inner(low, _SUM)} AND {inner(high, _SUM)}"
        case Member(items=items):
            return f"{value} {negation}IN ({', '.join(inner(item, _OR) for item in items)})"
        case IsNull():
            return f"{value} IS {negation}NULL"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
