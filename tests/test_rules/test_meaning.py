"""What rules mean: compiled conditions against a slow reference with SQL's three truth values."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from anomalyze.events.batch import Severity
from anomalyze.rules import ListTable, Overlay, Rule, RuleMode, RuleSet, compile_rules
from anomalyze.rules.evaluate_row import row_value
from anomalyze.rules.expression import render
from anomalyze.rules.parse import parse_expression
from tests.test_rules.columns import TYPES, column_arrays
from tests.test_rules.reference import evaluate_text

WORDS = ["x", "y", "it's", "Ω"]
PARAMETERS: dict[str, Any] = {
    "p": 2.0,
    "w": "y",
    "many": (0.0, 2.0, 5.0),
    "words": ("x", "Ω"),
    "nothing": None,
    "no_list": None,
}
OVERLAY: dict[str, Any] = {
    "p": -1.0,
    "w": None,
    "many": (1.0,),
    "words": None,
    "nothing": 3.0,
    "no_list": (2.0,),
}
ON_LIST = frozenset({("block", "t", "x"), ("block", "u", "y"), ("other", "t", "y")})

numbers = st.sampled_from([0.0, 1.0, 2.0, 2.5, 5.0, -1.0, -3.0, 1e300, 12.0])
words = st.sampled_from(WORDS)


def literal(value: float) -> str:
    return f"{value:g}" if value >= 0 else f"(-{-value:g})"


def quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


number_leaf = st.one_of(
    st.sampled_from(["a", "b", "c", ":p"]),
    numbers.map(literal),
    st.sampled_from(["a", "b", ":p"]).map(lambda x: f"-{x}"),
)


def number_more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})"),
        st.tuples(
            st.sampled_from(["least", "greatest", "coalesce"]), st.lists(inner, min_size=2, max_size=3)
        ).map(lambda x: f"{x[0]}({', '.join(x[1])})"),
        inner.map(lambda x: f"abs({x})"),
    )


number_text = st.recursive(number_leaf, number_more, max_leaves=4)
text_value = st.one_of(
    st.sampled_from(["t", "u", ":w", "coalesce(t, u)", "coalesce(u, 'x')"]), words.map(quoted)
)
word_list = st.one_of(
    st.lists(words.map(quoted), min_size=1, max_size=3).map(", ".join),
    st.just(", ".join(quoted(f"w{i}") for i in range(9)) + ", 'x'"),
    st.sampled_from([":words", "'y', :words", ":w, 'x'"]),
)
number_list = st.one_of(
    st.lists(numbers.map(lambda v: f"{v:g}"), min_size=1, max_size=12).map(", ".join),
    st.sampled_from([":many", "1, :many", ":p", ":no_list", "2, :no_list"]),
)
negation = st.sampled_from(["", "NOT "])
condition_leaf = st.one_of(
    st.tuples(number_text, st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]), number_text).map(
        " ".join
    ),
    st.tuples(text_value, st.sampled_from(["=", "<>"]), text_value).map(" ".join),
    st.tuples(number_text, negation, number_text, number_text).map(
        lambda x: f"{x[0]} {x[1]}BETWEEN {x[2]} AND {x[3]}"
    ),
    st.tuples(number_text, negation, number_list).map(lambda x: f"{x[0]} {x[1]}IN ({x[2]})"),
    st.tuples(text_value, negation, word_list).map(lambda x: f"{x[0]} {x[1]}IN ({x[2]})"),
    st.tuples(st.one_of(number_text, text_value, st.just("f")), negation).map(
        lambda x: f"{x[0]} IS {x[1]}NULL"
    ),
    st.sampled_from(["f", "g", "TRUE", "FALSE", "f = g", "f <> g", "coalesce(f, g)", "coalesce(f, FALSE)"]),
    st.sampled_from(
        ["in_list(t, 'block')", "in_list(u, 'block')", "in_list(t, 'other')", "in_list(t, 'none')"]
    ),
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["<", "=", ">"])).map(
        lambda x: f"{x[0]} {x[1]} :nothing"
    ),
)


def condition_more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda x: f"({x[0]}) {x[1]} ({x[2]})"),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})"),
        inner.map(lambda x: f"NOT ({x})"),
        st.tuples(inner, st.sampled_from(["=", "<>"]), inner).map(lambda x: f"(({x[0]}) {x[1]} ({x[2]}))"),
    )


# Every condition names a column, as the language asks.
condition_text = st.recursive(condition_leaf, condition_more, max_leaves=6).map(
    lambda x: f"({x}) AND (a = a OR a IS NULL)"
)
number_value = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, 5.0, -1.0, 2.5, 1e300, -1e300]))
row_values = st.fixed_dictionaries(
    {
        **dict.fromkeys("abc", number_value),
        **dict.fromkeys("fg", st.one_of(st.none(), st.booleans())),
        **dict.fromkeys("tu", st.one_of(st.none(), words)),
    }
)


def rule(expression: str, rule_id: str = "R", **fields: Any) -> Rule:
    used = {name: value for name, value in PARAMETERS.items() if f":{name}" in _words(expression)}
    return Rule(rule_id, "amount", Severity.LOW, expression, "-", parameters=used, **fields)


def _words(text: str) -> set[str]:
    return set(text.replace("(", " ").replace(")", " ").replace(",", " ").replace("-", " ").split())


def list_table() -> ListTable:
    table = ListTable()
    for account in ("plain", "overlaid"):
        for name, field, value in sorted(ON_LIST):
            table.apply(
                {"op": "add", "account_id": account, "list": name, "field": field_of(field), "value": value}
            )
    return table


def field_of(column: str) -> str:
    return {"t": "device_id", "u": "ip"}[column]


class RenamedLists(ListTable):
    """The test's columns t and u stand for two that lists know."""

    def bind(self, accounts: Any, account: Any, at_ms: Any) -> Any:
        inner = super().bind(accounts, account, at_ms)
        return lambda name, field, hashes: inner(name, field_of(field), hashes)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(condition_text, min_size=1, max_size=3),
    st.lists(st.tuples(row_values, st.sampled_from(["plain", "overlaid"])), min_size=1, max_size=6),
)
def test_compiled_rules_mean_what_a_slow_reference_says(
    texts: list[str], rows: list[tuple[dict[str, Any], str]]
) -> None:
    rules = tuple(rule(text, f"R{i}") for i, text in enumerate(texts))
    overlays = {one.id: Overlay(None, {n: OVERLAY[n] for n in one.parameters}) for one in rules}
    compiled = compile_rules(RuleSet(rules, {"overlaid": overlays}), TYPES)
    lists = RenamedLists.restore(list_table().snapshot())
    values = [row for row, _ in rows]
    accounts = ["plain", "overlaid"]
    fired = compiled.evaluate(
        column_arrays(TYPES, values),
        len(rows),
        lists,
        accounts=accounts,
        account=np.array([accounts.index(account) for _, account in rows], dtype=np.int32),
        ts_ms=np.zeros(len(rows), dtype=np.int64),
    )
    for i, one in enumerate(compiled.rules):
        for j, (row, account) in enumerate(rows):
            parameters = OVERLAY if account == "overlaid" else PARAMETERS
            wanted = evaluate_text(one.expression, row, parameters, ON_LIST) is True
            assert bool(fired[j, i]) == wanted, (one.expression, row, account)


@settings(max_examples=120, deadline=None)
@given(condition_text.filter(lambda text: "in_list" not in text), row_values)
def test_values_shown_to_people_are_those_that_decided(text: str, row: dict[str, Any]) -> None:
    parsed = parse_expression(text, TYPES, PARAMETERS)
    assert row_value(parsed.root, row, PARAMETERS) is evaluate_text(text, row, PARAMETERS)


@settings(max_examples=120, deadline=None)
@given(condition_text)
def test_what_is_rendered_reads_back_as_the_same_condition(text: str) -> None:
    parsed = parse_expression(text, TYPES, PARAMETERS)
    assert parse_expression(render(parsed.root), TYPES, PARAMETERS).root == parsed.root


def test_results_do_not_depend_on_how_rows_are_cut() -> None:
    random = np.random.default_rng(5)
    rows = [
        {
            "a": float(random.integers(-3, 4)),
            "b": float(random.integers(0, 3)),
            "t": str(random.choice(WORDS)),
        }
        for _ in range(200)
    ]
    compiled = compile_rules(RuleSet((rule("a / b > 0.5 OR t IN (:words)"), rule("a * a >= b", "S"))), TYPES)
    columns = column_arrays(TYPES, rows)
    whole = compiled.evaluate(columns, 200)
    for size in (1, 7, 64):
        parts = [
            compiled.evaluate(
                {name: array[i : i + size] for name, array in columns.items()}, len(rows[i : i + size])
            )
            for i in range(0, 200, size)
        ]
        assert np.array_equal(np.concatenate(parts), whole)
    assert whole.any(axis=0).all()
    assert not whole.all(axis=0).any()


def test_columns_may_be_strided_views() -> None:
    matrix = np.arange(12.0).reshape(4, 3)
    compiled = compile_rules(RuleSet((rule("a > 3 AND b < 9"),)), TYPES)
    fired = compiled.evaluate({"a": matrix[:, 0], "b": matrix[:, 1]}, 4)
    assert fired[:, 0].tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("text", "row", "fires"),
    [
        ("a / b > 0", {"a": 1.0, "b": 0.0}, False),
        ("NOT a / b > 0", {"a": 1.0, "b": 0.0}, False),
        ("a <> 1", {"a": None}, False),
        ("NOT (a = 1)", {"a": None}, False),
        ("a IS NULL", {"a": None}, True),
        ("t <> 'x'", {"t": None}, False),
        ("t NOT IN ('x', 'z')", {"t": "y"}, True),
        ("t NOT IN ('x', 'z')", {"t": None}, False),
        ("t = u", {"t": None, "u": None}, False),
        ("t = u", {"t": "x", "u": "x"}, True),
        ("t <> u", {"t": "x", "u": None}, False),
        ("t <> u", {"t": None, "u": "x"}, False),
        ("t <> u", {"t": "x", "u": "y"}, True),
        ("t = :nothing", {"t": None}, False),
        ("t NOT IN (:words)", {"t": None}, False),
        ("t NOT IN (:words)", {"t": "y"}, True),
        ("NOT in_list(t, 'block')", {"t": None}, False),
        ("NOT in_list(t, 'block')", {"t": "x"}, True),
        ("a <> b", {"a": 1.0, "b": None}, False),
        ("a NOT IN (1, 2, 3, 4, 5, 6, 7, 8, 9)", {"a": None}, False),
        ("a NOT IN (1, 2, 3, 4, 5, 6, 7, 8, 9)", {"a": 10.0}, True),
        ("a IN (1, 2, 3, 4, 5, 6, 7, 8, 9)", {"a": 9.0}, True),
        ("a NOT IN (:no_list)", {"a": 1.0}, False),
        ("NOT f", {"f": None}, False),
        ("NOT f", {"f": False}, True),
        ("least(a, b) < 2", {"a": 1.0, "b": None}, False),
        ("coalesce(a, 0) < 2", {"a": None}, True),
        ("1 + 2 * 3 - 4 / 2 = a", {"a": 5.0}, True),
        ("a - 1 - 1 = 1", {"a": 3.0}, True),
        ("a > 1 OR b > 1 AND c > 1", {"a": 2.0, "b": 0.0, "c": 0.0}, True),
    ],
)
def test_single_meanings(text: str, row: dict[str, Any], fires: bool) -> None:
    compiled = compile_rules(RuleSet((rule(text),)), TYPES)
    assert compiled.evaluate(column_arrays(TYPES, [row]), 1)[0, 0] == fires


def test_rules_that_are_off_or_lack_a_column_do_not_fire() -> None:
    rules = (
        rule("a > 0", "LIVE"),
        rule("a > 0", "OFF", mode=RuleMode.OFF),
        rule("a > 0 OR b IS NULL", "NEEDS_B"),
    )
    compiled = compile_rules(RuleSet(rules), TYPES)
    assert compiled.ids == ("LIVE", "NEEDS_B", "OFF")
    assert compiled.evaluate({"a": np.array([1.0])}, 1).tolist() == [[True, False, False]]
    assert compiled.needs("NEEDS_B") == {"a", "b"}
    assert compiled.off({"a"}) == {"NEEDS_B": "off: needs b", "OFF": "off"}
    assert compiled.evaluate(column_arrays(TYPES, [{"a": 1.0}]), 1).tolist() == [[True, True, False]]
