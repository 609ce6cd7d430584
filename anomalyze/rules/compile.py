"""Rules compiled to array operations over a micro-batch.

A rule fires where its condition is TRUE; NULL and FALSE do not fire. Instead of carrying a mask of what is
known, the compiler pushes NOT down to the comparisons and asks every part only for what is needed of it:
where it is TRUE, or where it is FALSE. Comparisons with NaN (NULL) are neither, by IEEE 754, and so is text
with hash 0. Equal parts of different rules are computed once.

The program is a list of calls without branches; it never looks at Python source or at an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.rules import expression as tree
from anomalyze.rules.expression import Node, kind_of
from anomalyze.rules.overlay import CHAIN_MAX, OverlayTable, hash_text

__all__ = ["Lookup", "Program"]

Mask = npt.NDArray[np.bool_]
Step = tuple[Callable[[Any, Any], Any], int, int, int]
Lookup = Callable[[str, str, npt.NDArray[np.uint64]], Mask]

_TRUE_WHERE: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
}


class Program:
    """Steps that compute, for each condition, where it is TRUE.

    Parameters
    ----------
    conditions
        ``(rule index, root)`` of the rules to compute.
    """

    def __init__(self, conditions: Sequence[tuple[int, Node]]) -> None:
        self._constants: list[Any] = [None]
        self._known: dict[object, int] = {}
        self._columns: list[tuple[int, str]] = []
        self._parameters: list[tuple[int, str, str]] = []
        self._steps: list[Step] = []
        self._lookup = self._register(("lookup",))
        self._outputs = [(rule, self._truth(root, True)) for rule, root in conditions]

    def run(
        self,
        fired: Mask,
        columns: Mapping[str, npt.NDArray[Any]],
        overlays: OverlayTable,
        slots: npt.NDArray[np.intp] | None,
        lookup: Lookup,
    ) -> None:
        """Write where each rule is TRUE to ``fired`` (bool ``[R, n]``)."""
        registers = self._constants.copy()
        registers[self._lookup] = lookup
        for register, name in self._columns:
            registers[register] = np.ascontiguousarray(columns[name])
        for register, rule_id, name in self._parameters:
            registers[register] = overlays.load(rule_id, name, slots)
        with np.errstate(all="ignore"):  # NaN and overflow are values here, not accidents
            for call, out, first, second in self._steps:
                registers[out] = call(registers[first], registers[second])
        for rule, register in self._outputs:
            fired[rule] = registers[register]

    def _register(self, key: object, value: Any = None) -> int:
        self._constants.append(value)
        self._known[key] = len(self._constants) - 1
        return len(self._constants) - 1

    def _step(self, key: object, call: Callable[[Any, Any], Any], first: int, second: int = 0) -> int:
        out = self._register(key)
        self._steps.append((call, out, first, second))
        return out

    def _constant(self, value: Any) -> int:
        key = ("constant", value.dtype.str, value.item())
        found = self._known.get(key)
        # A 0-d array is the cheapest operand that a numpy call takes.
        return self._register(key, np.array(value)) if found is None else found

    def _value(self, node: Node) -> int:
        """Register with the node's value: float64 (NaN = NULL; flags 1 and 0) or uint64 (0 = NULL)."""
        key = ("value", node)
        found = self._known.get(key)
        if found is not None:
            return found
        match node:
            case tree.Number(value=number):
                return self._constant(np.float64(number))
            case tree.Flag(value=flag):
                return self._constant(np.float64(flag))
            case tree.Text(value=text):
                return self._constant(np.uint64(hash_text(text)))
            case tree.ColumnRef(name=name):
                register = self._register(key)
                self._columns.append((register, name))
                return register
            case tree.Parameter(name=name, rule_id=rule_id):
                register = self._register(key)
                self._parameters.append((register, rule_id, name))
                return register
            case tree.Arithmetic(operator=operator, left=left, right=right):
                return self._step(
                    key, _ARITHMETIC.get(operator, _divide), self._value(left), self._value(right)
                )
            case tree.Negative(value=value):
                return self._step(key, _negative, self._value(value))
            case tree.Call(function="abs", arguments=arguments):
                return self._step(key, _absolute, self._value(arguments[0]))
            case tree.Call(function=function, arguments=arguments, kind=kind):
                call = _CALLS[function, kind == "text"]
                result = self._value(arguments[0])
                for argument in arguments[1:]:
                    result = self._step((key, argument, result), call, result, self._value(argument))
                self._known[key] = result
                return result
            case _:  # a condition where a value is needed: 1, 0, or NULL where it is neither
                return self._step(key, _boxed, self._truth(node, True), self._truth(node, False))

    def _truth(self, node: Node, want: bool) -> int:
        """Register with the mask where the node is TRUE (or FALSE, when ``want`` is False)."""
        key = ("truth", node, want)
        found = self._known.get(key)
        if found is not None:
            return found
        register = self._build_truth(node, want, key)
        self._known[key] = register
        return register

    def _build_truth(self, node: Node, want: bool, key: object) -> int:
        match node:
            case tree.And(terms=terms):
                return self._join(terms, want, np.bitwise_and if want else np.bitwise_or)
            case tree.Or(terms=terms):
                return self._join(terms, want, np.bitwise_or if want else np.bitwise_and)
            case tree.Not(term=term):
                return self._truth(term, not want)
            case tree.Flag(value=flag):
                return self._constant(np.bool_(flag is want))
            case tree.Between(value=value, low=low, high=high):
                both = tree.And((tree.Compare(">=", value, low), tree.Compare("<=", value, high)))
                return self._truth(both, want)
            case tree.Compare():
                return self._compare(node, want, key)
            case tree.Member():
                return self._member(node, want)
            case tree.IsNull(value=value):
                return self._null(value, want, key)
            case tree.InList(column=column, list_name=name):
                field = column.name
                values = self._value(column)
                on_list = self._step(
                    ("on list", node),
                    lambda hashes, lookup: lookup(name, field, hashes),
                    values,
                    self._lookup,
                )
                return on_list if want else self._step(key, _absent, on_list, values)
            case _:  # a column, parameter or function that is a flag
                zero = self._constant(np.float64(0))
                return self._step(key, np.greater if want else np.less_equal, self._value(node), zero)

    def _join(self, terms: Sequence[Node], want: bool, call: Callable[[Any, Any], Any]) -> int:
        result = self._truth(terms[0], want)
        for term in terms[1:]:
            other = self._truth(term, want)
            key = ("join", call, result, other)
            found = self._known.get(key)
            result = self._step(key, call, result, other) if found is None else found
        return result

    def _compare(self, node: tree.Compare, want: bool, key: object) -> int:
        sign = (node if want else tree.opposite(node)).operator
        left, right = self._value(node.left), self._value(node.right)
        if isinstance(node.left, tree.Text):
            left, right = right, left
        if sign in _TRUE_WHERE:
            return self._step(key, _TRUE_WHERE[sign], left, right)
        if kind_of(node.left) != "text":
            return self._step(key, np.equal if sign == "=" else _unequal, left, right)
        literal = isinstance(node.left, tree.Text) or isinstance(node.right, tree.Text)
        if sign == "=":  # no text hashes to 0, so NULL never equals a literal
            return self._step(key, np.equal if literal else _same_text, left, right)
        return self._step(key, _other_literal if literal else _other_text, left, right)

    def _member(self, node: tree.Member, want: bool) -> int:
        literals = [item for item in node.items if not isinstance(item, tree.Parameter)]
        parameters = [item for item in node.items if isinstance(item, tree.Parameter)]
        call = np.bitwise_or if want else np.bitwise_and
        terms: list[int] = []
        if len(literals) > CHAIN_MAX:
            terms.append(self._search(node.value, literals, want))
        else:
            terms += [self._truth(tree.Compare("=", node.value, item), want) for item in literals]
        for item in parameters:
            if item.many:
                terms.append(self._search_parameter(node.value, item, want))
            else:
                terms.append(self._truth(tree.Compare("=", node.value, item), want))
        result = terms[0]
        for other in terms[1:]:
            result = self._step(("join", call, result, other), call, result, other)
        return result

    def _search(self, value: Node, literals: Sequence[Node], want: bool) -> int:
        constants = sorted({self._constants[self._value(item)].item() for item in literals})
        table = np.array(constants, np.uint64 if kind_of(value) == "text" else np.float64)

        def search(column: Any, _: Any) -> Any:
            return table[np.minimum(np.searchsorted(table, column), len(table) - 1)] == column

        values = self._value(value)
        among = self._step(("among", value, tuple(constants)), search, values)
        if want:
            return among
        return self._step(
            ("not among", among), _absent if table.dtype == np.uint64 else _other_number, among, values
        )

    def _search_parameter(self, value: Node, item: tree.Parameter, want: bool) -> int:
        values, lists = self._value(value), self._value(item)
        if want:
            return self._step(("in", value, item), lambda column, sets: sets.contains(column), values, lists)
        lacking = self._step(("not in", value, item), lambda column, sets: sets.lacks(column), values, lists)
        present = self._null(value, False, ("truth", tree.IsNull(value), False))
        return self._step(("lacks", lacking), np.bitwise_and, lacking, present)

    def _null(self, value: Node, want: bool, key: object) -> int:
        found = self._known.get(key)
        if found is not None:
            return found
        if kind_of(value) == "text":
            return self._step(
                key, np.equal if want else np.not_equal, self._value(value), self._constant(np.uint64(0))
            )
        register = self._value(value)
        return self._step(key, np.not_equal if want else np.equal, register, register)


def _divide(left: Any, right: Any) -> Any:
    return np.divide(left, np.where(right == 0.0, np.nan, right))


def _negative(value: Any, _: Any) -> Any:
    return np.negative(value)


def _absolute(value: Any, _: Any) -> Any:
    return np.absolute(value)


def _first_number(left: Any, right: Any) -> Any:
    return np.where(np.isnan(left), right, left)


def _first_text(left: Any, right: Any) -> Any:
    return np.where(left == 0, right, left)


_CALLS: Mapping[tuple[str, bool], Callable[[Any, Any], Any]] = {
    ("least", False): np.minimum,
    ("greatest", False): np.maximum,
    ("coalesce", False): _first_number,
    ("coalesce", True): _first_text,
}


def _boxed(true: Any, false: Any) -> Any:
    return np.where(true, 1.0, np.where(false, 0.0, np.nan))


def _unequal(left: Any, right: Any) -> Any:
    return np.less(left, right) | np.greater(left, right)


def _same_text(left: Any, right: Any) -> Any:
    return (left == right) & (left != 0)


def _other_literal(left: Any, right: Any) -> Any:
    return (left != right) & (left != 0)


def _other_text(left: Any, right: Any) -> Any:
    return (left != right) & (left != 0) & (right != 0)


def _absent(present: Any, hashes: Any) -> Any:
    return ~present & (hashes != 0)


def _other_number(present: Any, value: Any) -> Any:
    return ~present & (value == value)
