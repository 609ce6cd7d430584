"""A slow, obvious evaluator of conditions: one row, Python values, None for NULL, straight from sqlglot's tree.

Written against the SQL standard's truth tables and against nothing of ``anomalyze.rules``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import sqlglot
from sqlglot import exp

__all__ = ["evaluate_text"]


def evaluate_text(
    text: str,
    row: Mapping[str, Any],
    parameters: Mapping[str, Any],
    on_list: frozenset[tuple[str, str, str]] = frozenset(),
) -> bool | None:
    """TRUE, FALSE or NULL; ``on_list`` holds (list, column, value)."""
    return _Row(row, parameters, on_list).value(sqlglot.parse_one(text, into=exp.Condition))


class _Row:
    def __init__(
        self, row: Mapping[str, Any], parameters: Mapping[str, Any], on_list: frozenset[tuple[str, str, str]]
    ) -> None:
        self.row, self.parameters, self.on_list = row, parameters, on_list

    def value(self, node: Any) -> Any:
        return getattr(self, "on_" + type(node).__name__.lower())(node)

    def on_paren(self, node: Any) -> Any:
        return self.value(node.this)

    def on_literal(self, node: Any) -> Any:
        return node.this if node.is_string else float(node.this)

    def on_boolean(self, node: Any) -> Any:
        return node.this

    def on_column(self, node: Any) -> Any:
        return self.row[node.name]

    def on_placeholder(self, node: Any) -> Any:
        return self.parameters[node.this]

    def on_and(self, node: Any) -> Any:
        left, right = self.value(node.this), self.value(node.expression)
        if left is False or right is False:
            return False
        return None if left is None or right is None else True

    def on_or(self, node: Any) -> Any:
        left, right = self.value(node.this), self.value(node.expression)
        if left is True or right is True:
            return True
        return None if left is None or right is None else False

    def on_not(self, node: Any) -> Any:
        inner = self.value(node.this)
        return None if inner is None else not inner

    def on_is(self, node: Any) -> Any:
        return self.value(node.this) is None

    def on_neg(self, node: Any) -> Any:
        inner = self.value(node.this)
        return None if inner is None else -inner

    def _two(self, node: Any, operation: Any) -> Any:
        left, right = self.value(node.this), self.value(node.expression)
        return None if left is None or right is None else operation(left, right)

    def _number(self, node: Any, operation: Any) -> Any:
        result = self._two(node, operation)
        return None if result is None or math.isnan(result) else result

    def on_add(self, node: Any) -> Any:
        return self._number(node, lambda x, y: x + y)

    def on_sub(self, node: Any) -> Any:
        return self._number(node, lambda x, y: x - y)

    def on_mul(self, node: Any) -> Any:
        return self._number(node, lambda x, y: x * y)

    def on_div(self, node: Any) -> Any:
        return self._number(node, lambda x, y: x / y if y != 0 else math.nan)

    def on_eq(self, node: Any) -> Any:
        return self._two(node, lambda x, y: x == y)

    def on_neq(self, node: Any) -> Any:
        return self._two(node, lambda x, y: x != y)

    def on_lt(self, node: Any) -> Any:
        return self._two(node, lambda x, y: x < y)

    def on_lte(self, node: Any) -> Any:
        return self._two(node, lambda x, y: x <= y)

    def on_gt(self, node: Any) -> Any:
        return self._two(node, lambda x, y: x > y)

    def on_gte(self, node: Any) -> Any:
        return self._two(node, lambda x, y: x >= y)

    def on_between(self, node: Any) -> Any:
        value, low, high = (self.value(node.args[part]) for part in ("this", "low", "high"))
        above = None if value is None or low is None else value >= low
        below = None if value is None or high is None else value <= high
        if above is False or below is False:
            return False
        return None if above is None or below is None else True

    def on_in(self, node: Any) -> Any:
        value = self.value(node.this)
        items: list[Any] = []
        for item in node.expressions:
            found = self.value(item)
            items += found if isinstance(found, tuple) else [found]
        if value is None:
            return None
        if any(item is not None and item == value for item in items):
            return True
        return None if None in items else False

    def _all(self, node: Any) -> list[Any]:
        return [self.value(part) for part in (node.this, *node.expressions)]

    def on_abs(self, node: Any) -> Any:
        inner = self.value(node.this)
        return None if inner is None else abs(inner)

    def on_least(self, node: Any) -> Any:
        given = self._all(node)
        return None if None in given else min(given)

    def on_greatest(self, node: Any) -> Any:
        given = self._all(node)
        return None if None in given else max(given)

    def on_coalesce(self, node: Any) -> Any:
        return next((value for value in self._all(node) if value is not None), None)

    def on_anonymous(self, node: Any) -> Any:
        assert node.this == "in_list"
        column, name = node.expressions
        value = self.value(column)
        return None if value is None else (name.this, column.name, value) in self.on_list
