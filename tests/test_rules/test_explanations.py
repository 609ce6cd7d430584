"""What people read about a rule that fired."""

from __future__ import annotations

import doctest

import pytest

from anomalyze.events.batch import Severity
from anomalyze.rules import Column, ColumnTypes, Comparison, ExpressionError, Rule, RuleSet, compile_rules
from anomalyze.rules import expression as expression_module
from anomalyze.rules import lists as lists_module
from anomalyze.rules import show as show_module
from anomalyze.rules.compiled import CompiledRules
from anomalyze.rules.explain import parse_template
from anomalyze.rules.show import show

TYPES = ColumnTypes(
    [
        Column("amount", "number", "money"),
        Column("amount_base", "number", "base_money"),
        Column("user_amount_p95", "number", "base_money"),
        Column("user_tx_count_5m", "number", "count"),
        Column("travel_km", "number", "km"),
        Column("is_new_device", "flag"),
        Column("merchant_id", "text"),
    ]
)
VALUES = {
    "amount": 4500.5,
    "currency": "USD",
    "amount_base": 4500.5,
    "base_currency": "USD",
    "user_amount_p95": 200.0,
    "user_tx_count_5m": 5.0,
    "travel_km": 5570.4,
    "is_new_device": 1.0,
    "merchant_id": "{amount.__class__}",
}


def compiled(expression: str, explanation: str = "-", **parameters: float) -> CompiledRules:
    rule = Rule("RULE", "amount", Severity.LOW, expression, explanation, parameters=parameters)
    return compile_rules(RuleSet((rule,)), TYPES)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{user_tx_count_5m} transactions in 5 minutes", "5 transactions in 5 minutes"),
        ("{user_tx_count_5m:ordinal} transaction", "5th transaction"),
        (
            "{amount} is {amount_base / user_amount_p95} times {user_amount_p95}",
            "4,500.50 USD is 22.5 times 200.00 USD",
        ),
        ("over {factor} times, from {minimum:base_money} on", "over 3 times, from 100.00 USD on"),
        ("limit {:factor * user_amount_p95}", "limit 600.00 USD"),
        ("{travel_km} away", "5,570 km away"),
        ("new device: {is_new_device}", "new device: yes"),
        ("at {merchant_id}", "at {amount.__class__}"),
    ],
)
def test_sentences_hold_numbers_a_person_can_check(template: str, sentence: str) -> None:
    condition = "amount_base > :factor * user_amount_p95 AND amount_base >= :minimum"
    rules = compiled(condition, template, factor=3.0, minimum=100.0)
    assert rules.explain("RULE", VALUES) == sentence


def test_what_is_missing_shows_as_a_dash() -> None:
    rules = compiled("amount > 1", "{amount} {merchant_id} {amount / travel_km}")
    assert rules.explain("RULE", {"amount": 5.0, "currency": "JPY", "travel_km": 0.0}) == "5 JPY – –"


@pytest.mark.parametrize(
    "template",
    [
        "{amount.__class__}",
        "{amount[0]}",
        "{amount!r}",
        "{0}",
        "{}",
        "{amount",
        "amount}",
        "{{amount}}",
        "{amount:>1000000000}",
        "{__import__('os')}",
        "{unknown}",
        "{amount" + " + amount" * 200 + "}",
        "x" * 501,
        "{(SELECT 1)}",
    ],
)
def test_templates_can_do_nothing_else(template: str) -> None:
    with pytest.raises(ExpressionError):
        parse_template(template, TYPES, {})


def test_a_wrong_name_in_a_template_is_placed_and_suggested() -> None:
    with pytest.raises(ExpressionError) as refused:
        parse_template("5 of {user_tx_cuont_5m}", TYPES, {})
    assert (refused.value.position, refused.value.suggestion) == (6, "user_tx_count_5m")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("user_tx_count_5m >= 5", "user_tx_count_5m 5 >= 5"),
        (
            "amount_base > 3 * user_amount_p95 AND NOT is_new_device",
            "amount_base 4,500.50 > 600.00 (3 * user_amount_p95 200.00) AND NOT is_new_device yes",
        ),
        ("merchant_id <> 'x'", "merchant_id '{amount.__class__}' <> 'x'"),
        ("merchant_id NOT IN ('a', 'b')", "merchant_id '{amount.__class__}' NOT IN ('a', 'b')"),
        ("travel_km BETWEEN 1 AND 9", "travel_km 5,570 km BETWEEN 1 AND 9"),
        (
            "in_list(merchant_id, 'block') OR amount IS NULL",
            "in_list(merchant_id '{amount.__class__}', 'block') OR amount 4,500.50 IS NULL",
        ),
    ],
)
def test_a_condition_is_shown_with_its_values(expression: str, text: str) -> None:
    assert compiled(expression).condition("RULE", VALUES) == text


def test_comparisons_tell_what_the_limit_was() -> None:
    rules = compiled(
        "amount_base > 3 * user_amount_p95 AND (NOT user_tx_count_5m < :count OR is_new_device)", count=6.0
    )
    assert rules.comparisons("RULE", VALUES) == [
        Comparison(
            "amount_base", ">", "3 * user_amount_p95", 4500.5, 600.0, "4,500.50 USD", "600.00 USD", True
        ),
        Comparison("user_tx_count_5m", ">=", ":count", 5.0, 6.0, "5", "6", False),
        Comparison("is_new_device", "", "", True, None, "yes", "", True),
    ]
    unknown = rules.comparisons("RULE", {})[0]
    assert (unknown.left_value, unknown.right_shown, unknown.holds) == (None, "–", None)


def test_values_of_names_what_a_page_must_fetch() -> None:
    rules = compiled("amount_base > 3 * user_amount_p95", "{amount} {travel_km} {amount_base}")
    assert rules.values_of("RULE") == ("amount_base", "user_amount_p95", "amount", "travel_km")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-12.5, "money", "−12.50"),
        (1234567.0, "count", "1,234,567"),
        (0.00001, "plain", "<0.0001"),
        (0.0421, "percent", "4.21%"),
        (float("nan"), "km", "–"),
        (float("inf"), "plain", "∞"),
        (59.6, "seconds", "1 min"),
        (90000.0, "seconds", "1 day"),
        (1.2, "days", "1 day"),
        (3.4, "km", "3.4 km"),
        (6.0, "weekday", "Sunday"),
        (111.0, "ordinal", "111th"),
        (23.0, "hour", "23:00"),
    ],
)
def test_values_read_as_people_write_them(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [show_module, expression_module, lists_module])
def test_examples_in_the_documentation_are_true(module: object) -> None:
    tested = doctest.testmod(module)  # type: ignore[arg-type]
    assert tested.attempted > 0
    assert tested.failed == 0
