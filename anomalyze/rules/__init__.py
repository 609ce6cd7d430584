"""Rules: conditions in the language of a WHERE clause, compiled to array operations."""

from __future__ import annotations

from anomalyze.rules.column import EVENT_COLUMNS, Column, ColumnTypes
from anomalyze.rules.compiled import CompiledRules, check_rules, compile_rules
from anomalyze.rules.explain import Comparison
from anomalyze.rules.gate import ExpressionError
from anomalyze.rules.lists import ListTable, list_value_key
from anomalyze.rules.parse import parse_expression
from anomalyze.rules.rule import GROUPS, Overlay, Rule, RuleMode, RuleSet

__all__ = [
    "EVENT_COLUMNS",
    "GROUPS",
    "Column",
    "ColumnTypes",
    "Comparison",
    "CompiledRules",
    "ExpressionError",
    "ListTable",
    "Overlay",
    "Rule",
    "RuleMode",
    "RuleSet",
    "check_rules",
    "compile_rules",
    "list_value_key",
    "parse_expression",
]
