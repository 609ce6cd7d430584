"""What accounts change: parameters, lists of values and modes, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyze.errors import ConfigError, ContractError
from anomalyze.events.batch import Severity
from anomalyze.rules import Overlay, Rule, RuleMode, RuleSet, compile_rules
from tests.test_rules.columns import TYPES, column_arrays

LIMIT = Rule("LIMIT", "amount", Severity.LOW, "a >= :limit", "{limit}", parameters={"limit": 10.0})
FENCE = Rule(
    "FENCE",
    "place",
    Severity.HIGH,
    "t NOT IN (:here)",
    "{here}",
    mode=RuleMode.OFF,
    parameters={"here": None},
)
SAME_NAME = Rule("OTHER", "amount", Severity.LOW, "b >= :limit", "-", parameters={"limit": 1.0})
RULES = RuleSet(
    (LIMIT, FENCE, SAME_NAME),
    {
        "strict": {"LIMIT": Overlay(RuleMode.SHADOW, {"limit": 5.0})},
        "fenced": {"FENCE": Overlay(RuleMode.LIVE, {"here": ("x", "y")}), "LIMIT": Overlay(RuleMode.OFF)},
        "on but unset": {"FENCE": Overlay(RuleMode.LIVE)},
    },
)
ACCOUNTS = ["plain", "fenced", "strict", "on but unset"]


def test_each_row_is_judged_by_its_account() -> None:
    compiled = compile_rules(RULES, TYPES)
    rows = [{"a": 7.0, "b": 0.0, "t": t} for t in ("x", "z")] + [{"a": 12.0, "b": 2.0, "t": None}]
    columns = column_arrays(TYPES, [row for _ in ACCOUNTS for row in rows])
    account = np.repeat(np.arange(4, dtype=np.int32), 3)
    fired = compiled.evaluate(columns, 12, accounts=ACCOUNTS, account=account)
    assert compiled.ids == ("FENCE", "LIMIT", "OTHER")
    limit, fence = fired[:, 1].reshape(4, 3), fired[:, 0].reshape(4, 3)
    assert limit.tolist() == [[False, False, True], [False] * 3, [True, True, True], [False, False, True]]
    assert fence.tolist() == [[False] * 3, [False, True, False], [False] * 3, [False] * 3]
    assert fired[:, 2].tolist() == [False, False, True] * 4  # its own :limit, not LIMIT's
    modes = compiled.modes(ACCOUNTS, account)
    assert modes[::3].tolist() == [[0, 2, 2], [2, 0, 2], [0, 1, 2], [2, 2, 2]]


def test_without_overlaid_accounts_the_fast_path_gives_the_same() -> None:
    compiled, plain = compile_rules(RULES, TYPES), compile_rules(RuleSet(RULES.rules), TYPES)
    columns = column_arrays(TYPES, [{"a": v, "b": v, "t": "z"} for v in (0.0, 5.0, 10.0)])
    zeros = np.zeros(3, dtype=np.int32)
    wanted = plain.evaluate(columns, 3)
    assert np.array_equal(compiled.evaluate(columns, 3, accounts=["plain"], account=zeros), wanted)
    assert np.array_equal(compiled.evaluate(columns, 3), wanted)
    assert compiled.modes(["plain"], zeros).shape == (1, 3)


def test_explanations_and_reasons_use_the_account_s_values() -> None:
    compiled = compile_rules(RULES, TYPES)
    assert compiled.explain("LIMIT", {}, "strict") == "5"
    assert compiled.explain("LIMIT", {}) == "10"
    assert compiled.explain("FENCE", {}, "fenced") == "x, y"
    assert compiled.off({"a", "b", "t"}) == {"FENCE": "off"}
    assert compiled.off({"a", "b", "t"}, "fenced") == {"LIMIT": "off"}
    assert compiled.off({"a", "b", "t"}, "on but unset") == {"FENCE": "off: needs :here"}


@pytest.mark.parametrize(
    ("overlays", "words"),
    [
        ({"LIMITS": Overlay()}, "no rule LIMITS (did you mean LIMIT?)"),
        ({"LIMIT": Overlay(None, {"limt": 1.0})}, "no parameter limt (did you mean limit?)"),
        ({"LIMIT": Overlay(None, {"limit": "5"})}, "expected number, got '5'"),
        ({"LIMIT": Overlay(None, {"limit": (5.0,)})}, "expected number, got (5.0,)"),
        ({"FENCE": Overlay(None, {"here": "x"})}, "expected a list of texts, got 'x'"),
    ],
)
def test_wrong_overlays_are_refused(overlays: dict[str, Overlay], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compile_rules(RuleSet(RULES.rules, {"acct": overlays}), TYPES)
    assert words in str(refused.value)


def test_a_rule_set_survives_its_bundle_and_has_one_form() -> None:
    content = RULES.to_json()
    again = RuleSet.from_json(content)
    assert again == RULES
    assert again.to_json() == content
    shuffled = RuleSet(tuple(reversed(RULES.rules)), dict(reversed(list(RULES.overlays.items()))))
    assert shuffled.to_json() == content
    for damaged in (b"[]", b"{", content[:-1], content.replace(b'"LOW"', b'"LOWEST"')):
        with pytest.raises(ContractError):
            RuleSet.from_json(damaged)


def test_ids_are_unique() -> None:
    with pytest.raises(ConfigError, match="LIMIT more than once"):
        RuleSet((LIMIT, LIMIT))
