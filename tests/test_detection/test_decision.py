"""Each rule of the decision, one by one, and all of them against a slow, obvious reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.detection.decision import Decision, compile_decision
from anomalyze.detection.policy import Policy, parse_policy
from anomalyze.events.batch import Severity
from anomalyze.rules.rule import Rule

NONE, LOW, MEDIUM, HIGH, CRITICAL = Severity
RULES = [
    Rule("A", "speed", LOW, "TRUE", "a"),
    Rule("B", "speed", MEDIUM, "TRUE", "b"),
    Rule("C", "amount", MEDIUM, "TRUE", "c"),
    Rule("D", "place", HIGH, "TRUE", "d"),
    Rule("E", "list", HIGH, "TRUE", "e", effect="allow"),
    Rule("F", "list", LOW, "TRUE", "f", effect="block"),
]
ALLOW, BLOCK = 4, 5


def compiled(text: str = "version: 1", *, starter: bool = False) -> Decision:
    return compile_decision(parse_policy(text), RULES, starter=starter)


def decide(
    fired: list[int],
    *,
    statistic: Severity = NONE,
    model: Severity = NONE,
    learning: bool = False,
    decision: Decision | None = None,
) -> Severity:
    row = np.zeros((len(RULES), 1), dtype=np.bool_)
    row[fired] = True
    decision = decision or compiled()
    out = decision.decide(
        row,
        np.array([statistic], dtype=np.int8),
        np.array([model], dtype=np.int8),
        np.array([learning]),
    )
    return Severity(int(out[0]))


def test_nothing_found_is_none() -> None:
    assert decide([]) == NONE


def test_within_a_group_the_highest_counts_once() -> None:
    assert decide([0, 1]) == MEDIUM


def test_two_groups_at_medium_raise_one_level() -> None:
    assert decide([1, 2]) == HIGH
    assert decide([1, 2, 3]) == CRITICAL
    assert decide([0, 2]) == MEDIUM  # LOW does not agree loudly enough


def test_a_statistic_of_the_amount_agrees_with_no_rule_of_the_amount() -> None:
    assert decide([2], statistic=MEDIUM) == MEDIUM
    assert decide([1], statistic=MEDIUM) == HIGH


def test_statistics_and_model_are_capped() -> None:
    assert decide([], statistic=CRITICAL) == MEDIUM
    assert decide([], model=CRITICAL) == MEDIUM
    assert decide([], model=LOW) == LOW
    assert decide([], statistic=HIGH, decision=compiled("{version: 1, caps: {statistics_alone: LOW}}")) == LOW


def test_the_model_never_raises() -> None:
    assert decide([1], model=MEDIUM) == MEDIUM
    assert decide([0], model=CRITICAL) == MEDIUM


def test_a_learning_or_starter_model_flags_nothing_alone() -> None:
    assert decide([], model=CRITICAL, learning=True) == NONE
    assert decide([], model=CRITICAL, decision=compiled(starter=True)) == NONE
    low = compiled("{version: 1, caps: {model_learning: LOW}}", starter=True)
    assert decide([], model=CRITICAL, decision=low) == LOW


def test_block_beats_allow_beats_rules() -> None:
    assert decide([1, 2, 3, ALLOW]) == NONE
    assert decide([BLOCK]) == CRITICAL
    assert decide([ALLOW, BLOCK]) == CRITICAL
    assert decide([BLOCK], decision=compiled("{version: 1, lists: {block: HIGH}}")) == HIGH
    assert decide([1, 2, 3, BLOCK], decision=compiled("{version: 1, lists: {block: LOW}}")) == CRITICAL
    assert decide([2, ALLOW], decision=compiled("{version: 1, lists: {allow: LOW}}")) == LOW


def test_actions_follow_severity() -> None:
    assert compiled().actions.tolist() == [0, 0, 1, 1, 2]


def reference(policy: Policy, row: list[bool], statistic: int, model: int, learning: bool) -> int:
    if row[ALLOW] and not row[BLOCK]:
        return Severity[policy.lists.allow]
    of_group: dict[str, int] = {}
    for fired, rule in zip(row, RULES, strict=True):
        if fired and rule.effect == "flag":
            of_group[rule.group] = max(of_group.get(rule.group, 0), rule.severity)
    statistic = min(statistic, Severity[policy.caps.statistics_alone])
    of_group[policy.statistics.group] = max(of_group.get(policy.statistics.group, 0), statistic)
    cap = policy.caps.model_learning if learning else policy.caps.model_alone
    severity = max(max(of_group.values()), min(model, Severity[cap]))
    loud = [s for s in of_group.values() if s >= Severity[policy.raised.at]]
    if len(loud) >= policy.raised.groups:
        severity = min(severity + 1, CRITICAL)
    return max(severity, Severity[policy.lists.block]) if row[BLOCK] else severity


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.booleans(), min_size=6, max_size=6),
            st.integers(0, 4),
            st.integers(0, 4),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    ),
    group=st.sampled_from(["amount", "place", "own"]),
    at=st.sampled_from(["LOW", "MEDIUM", "HIGH"]),
    groups=st.integers(2, 3),
)
def test_the_kernel_equals_the_reference(
    rows: list[tuple[list[bool], int, int, bool]], group: str, at: str, groups: int
) -> None:
    text = f"{{version: 1, statistics: {{group: {group}}}, raise: {{groups: {groups}, at: {at}}}}}"
    got = compiled(text).decide(
        np.array([r[0] for r in rows]).T,
        np.array([r[1] for r in rows], dtype=np.int8),
        np.array([r[2] for r in rows], dtype=np.int8),
        np.array([r[3] for r in rows]),
    )
    policy = parse_policy(text)
    assert got.tolist() == [reference(policy, *row) for row in rows]
