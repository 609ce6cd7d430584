"""Rules: conditions in the language of a WHERE clause, compiled to array operations."""

from __future__ import annotations

from anomalyze.rules.column import Column, ColumnTypes, event_columns
from anomalyze.rules.compiled import CompiledRules, check_rules, compile_rules
from anomalyze.rules.explain import Comparison
from anomalyze.rules.gate import ExpressionError
from anomalyze.rules.lists import ListTable, list_value_key
from anomalyze.rules.parse import parse_expression
from anomalyze.rules.rule import GROUPS, Overlay, Rule, RuleMode, RuleSet

__all__ = [
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
    "event_columns",
    "list_value_key",
    "parse_expression",
]
