"""The alert budget in the detector: what it raises, caps, leaves alone, and that it is nothing until it is fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyze.config import ConfigProblems
from anomalyze.detection.budget import RISK_MIN, BudgetJudge, load_thresholds, with_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.model import ModelJudgement
from anomalyze.detection.output import encode_scored
from anomalyze.detection.policy import Budget, parse_policy
from anomalyze.detection.state import PartitionState
from anomalyze.detection.statistic import Judged, TwoQuantile
from anomalyze.detection.verdict import BudgetEffect, Prediction, Verdicts
from anomalyze.events.batch import Action, MicroBatch, Severity
from anomalyze.rules.rule import Rule
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.traffic import DAY_MS
from anomalyze.simulation.world import Simulation

NONE, LOW, MEDIUM, HIGH, CRITICAL = Severity
RULES = [
    Rule("A", "speed", MEDIUM, "TRUE", "a"),
    Rule("B", "list", HIGH, "TRUE", "b", effect="block"),
    Rule("C", "list", LOW, "TRUE", "c", effect="allow"),
]
FITTED = TwoQuantile(1.0, np.inf, np.array([0.05, 0.001]), np.array([1.0, 3.0]))


def judge(**thresholds: float) -> BudgetJudge:
    return BudgetJudge(Budget(cases_per_day=5), thresholds, RULES, FITTED, 50.0)


def rank(
    severity: Severity,
    *fired: int,
    tail: float = np.nan,
    amount: float = 100.0,
    statistic: float = np.nan,
    account: str = "a",
    prediction: Prediction = Prediction.NORMAL,
    by: BudgetJudge | None = None,
) -> tuple[Severity, float, BudgetEffect]:
    row = np.zeros((len(RULES), 1), dtype=np.bool_)
    row[list(fired)] = True
    model = ModelJudgement(
        np.array([tail]), 1 - np.array([tail]), np.array([prediction], dtype=np.int8),
        np.zeros(1, dtype=np.int8), np.array([False]),
    )  # fmt: skip
    judged = Judged(np.zeros(1, np.int8), np.array([[np.nan], [np.nan], [statistic]]), np.zeros((3, 1)))
    after, ranked = (by or judge(a=0.8)).rank(
        row,
        np.array([amount]),
        judged,
        model,
        np.array([severity], dtype=np.int8),
        [account],
        np.zeros(1, int),
    )
    return Severity(after[0]), float(ranked.risk[0]), BudgetEffect(int(ranked.effect[0]))


def test_risk_goes_by_the_severities_that_the_budget_counts_and_below_them_by_evidence() -> None:
    risks = [
        rank(NONE)[1],
        rank(LOW, tail=0.1)[1],
        rank(NONE, tail=0.01)[1],
        rank(NONE, tail=0.01, statistic=2.0)[1],
        rank(MEDIUM, 0, tail=0.01, statistic=2.0)[1],
        rank(NONE, tail=1e-9, statistic=50.0)[1],
        rank(HIGH)[1],
        rank(HIGH, tail=0.5)[1],
        rank(CRITICAL)[1],
    ]
    assert risks == sorted(set(risks))
    assert risks[0] == 0.0
    assert risks[1] == RISK_MIN  # one in ten
    assert [int(risk) for risk in risks[-4:]] == [0, 3, 3, 4]


def test_without_a_model_of_its_own_amount_and_rules_count_whole() -> None:
    learning = rank(MEDIUM, 0, tail=1e-9, statistic=1.0, prediction=Prediction.LEARNING)[1]
    assert learning == rank(MEDIUM, 0, statistic=1.0)[1]
    assert learning > rank(MEDIUM, 0, tail=0.999, statistic=1.0)[1]


def test_what_is_no_evidence() -> None:
    assert rank(NONE, tail=0.001, prediction=Prediction.LEARNING)[1] == 0.0
    assert rank(NONE, statistic=3.0, amount=49.0)[1] == 0.0
    assert rank(NONE, statistic=3.0, amount=float("nan"))[1] == 0.0


def test_raised_kept_and_capped() -> None:
    assert rank(MEDIUM, tail=1e-5)[0::2] == (HIGH, BudgetEffect.RAISED)
    assert rank(MEDIUM, tail=0.5)[0::2] == (MEDIUM, BudgetEffect.NONE)
    assert rank(HIGH)[0::2] == (HIGH, BudgetEffect.KEPT)
    assert rank(CRITICAL)[0::2] == (CRITICAL, BudgetEffect.KEPT)
    full = judge(a=4.5)
    assert rank(HIGH, tail=1e-5, by=full)[0::2] == (MEDIUM, BudgetEffect.CAPPED)
    assert rank(CRITICAL, by=full)[0::2] == (MEDIUM, BudgetEffect.CAPPED)
    assert rank(CRITICAL, tail=1e-5, by=full)[0::2] == (CRITICAL, BudgetEffect.KEPT)
    assert rank(MEDIUM, by=full)[0::2] == (MEDIUM, BudgetEffect.NONE)


def test_a_row_has_the_same_risk_to_the_bit_whatever_is_judged_beside_it() -> None:
    random = np.random.default_rng(1)
    rules = [
        Rule(f"R{i}", "speed", LOW, "TRUE", "r", weight=float(w))
        for i, w in enumerate(random.uniform(0, 9, 40))
    ]
    by, n = BudgetJudge(Budget(cases_per_day=5), {"a": 0.8}, rules, FITTED, 50.0), 301
    fired, tail, amount = random.random((40, n)) < 0.5, random.random(n), random.uniform(40, 99, n)
    values = np.vstack([np.full((2, n), np.nan), random.uniform(0, 5, n)])

    def risks(rows: slice) -> np.ndarray:
        count = len(tail[rows])
        model = ModelJudgement(
            tail[rows],
            1 - tail[rows],
            np.zeros(count, np.int8),
            np.zeros(count, np.int8),
            np.zeros(count, bool),
        )
        judged = Judged(np.zeros(count, np.int8), values[:, rows], np.zeros((3, count)))
        severity, account = np.zeros(count, np.int8), np.zeros(count, int)
        return by.rank(fired[:, rows], amount[rows], judged, model, severity, ["a"], account)[1].risk

    whole = risks(slice(None))
    for step in (1, 2, 7, 64):
        parts = [risks(slice(first, first + step)) for first in range(0, n, step)]
        assert np.array_equal(np.concatenate(parts), whole), step


def test_lists_stand_apart() -> None:
    severity, risk, effect = rank(CRITICAL, 1, tail=1e-5, by=judge(a=4.99))
    assert (severity, effect) == (CRITICAL, BudgetEffect.NONE)
    assert np.isnan(risk)
    assert rank(NONE, 2, tail=1e-5, by=judge(a=0.1))[0] == NONE


def test_an_account_without_a_threshold_is_left_alone() -> None:
    assert rank(HIGH, account="b", by=judge(a=4.9))[0::2] == (HIGH, BudgetEffect.NONE)


def test_surprise_has_no_steps_and_goes_on_beyond_all_history() -> None:
    scores = np.array([np.nan, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 9.0])
    found = FITTED.surprise(scores)
    assert found[:3].tolist() == [0.0, 0.0, 0.0]
    assert np.all(np.diff(found[2:]) > 0)
    assert found[4] == pytest.approx(-np.log10(0.05))
    assert found[6] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budget: {}", "expected the key cases_per_day"),
        ("budget: {cases_per_day: 0}", "greater than 0"),
        ("budget: {cases_per_day: 20, severity: CRITICAL}", "expected 'MEDIUM' or 'HIGH'"),
        ("budget: {cases_per_day: 20, severty: HIGH}", "Did you mean severity"),
        ("budget: {cases_per_day: 20}\nactions: {HIGH: BLOCK}", "must not block payments"),
    ],
)
def test_mistakes_in_the_policy_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        parse_policy(f"version: 1\n{text}\n")
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def traffic(detector: Detector) -> list[MicroBatch]:
    """Two weeks of 60 people, with incidents."""
    world = Simulation(60, 5, 20_000 * DAY_MS, 14, incidents_per_10k=100.0)
    return list(decode_traffic(world.chunks(), "default", "default", detector.gazetteer))


def run(bundle: Bundle, traffic: list[MicroBatch]) -> tuple[list[Verdicts], list[bytes]]:
    detector, states = Detector(bundle), {0: PartitionState.empty()}
    verdicts = [detector.process(batch, states) for batch in traffic]
    rows = [np.flatnonzero(v.disposition == 0) for v in verdicts]
    return verdicts, [
        value.replace(bundle.id.encode(), b"")
        for batch, v, r in zip(traffic, verdicts, rows, strict=True)
        for value in encode_scored(batch, v, r, r - 1)
    ]


def with_budget(bundle: Bundle, text: str = "{cases_per_day: 3}") -> Bundle:
    return replace(bundle, policy=f"{bundle.policy}\nbudget: {text}\n")


def test_before_its_first_fit_a_budget_changes_no_byte(
    starter_bundle: Bundle, traffic: list[MicroBatch]
) -> None:
    plain = run(starter_bundle, traffic)[1]
    assert run(with_budget(starter_bundle), traffic)[1] == plain
    fitted = with_thresholds(with_budget(starter_bundle), {"default": 0.7})
    assert run(fitted, traffic)[1] != plain
    # A threshold without a budget in the policy means nothing.
    assert run(with_thresholds(starter_bundle, {"default": 0.7}), traffic)[1] == plain


def test_a_fitted_budget_lowers_what_people_see_but_blocks_no_less(
    starter_bundle: Bundle, traffic: list[MicroBatch]
) -> None:
    blocks = replace(starter_bundle, policy=starter_bundle.policy.replace("HIGH: REVIEW", "HIGH: BLOCK"))
    budget = with_budget(blocks, "{cases_per_day: 3, severity: MEDIUM}")
    plain, _ = run(budget, traffic)
    strict, values = run(with_thresholds(budget, {"default": 4.999}), traffic)
    for before, after in zip(plain, strict, strict=True):
        assert (after.severity <= LOW).all()
        assert before.ranked is not None
        assert after.ranked is not None
        assert np.array_equal(before.ranked.risk, after.ranked.risk, equal_nan=True)
        capped = after.ranked.effect == BudgetEffect.CAPPED
        assert np.array_equal(capped, before.severity >= MEDIUM)
        assert np.array_equal(before.action, after.action)
    assert any((v.action == Action.BLOCK).any() for v in plain)
    assert any(b'"effect":"capped"' in value and b"Lowered from" in value for value in values)


def test_a_budget_with_room_raises_and_says_why(starter_bundle: Bundle, traffic: list[MicroBatch]) -> None:
    loose = with_thresholds(with_budget(starter_bundle), {"default": 0.7})
    verdicts, values = run(loose, traffic)
    raised = [v.ranked is not None and v.ranked.effect == BudgetEffect.RAISED for v in verdicts]
    assert any(np.any(r) for r in raised)
    for v, r in zip(verdicts, raised, strict=True):
        assert (v.severity[r] == HIGH).all()
    assert any(b'"effect":"raised"' in value and b"Raised from" in value for value in values)


def test_thresholds_travel_in_the_bundle_and_replace_each_other(starter_bundle: Bundle) -> None:
    made = with_thresholds(starter_bundle, {"b": 2.25, "a": 3.0})
    again = Bundle.from_bytes(made.data, made.id)
    assert load_thresholds(again) == {"a": 3.0, "b": 2.25}
    assert load_thresholds(with_thresholds(again, {"c": 1.0})) == {"c": 1.0}
    assert with_thresholds(again, {}).id == starter_bundle.id
