"""The fit of the alert budget: what it promises, what an attack cannot do to it, and that its counts are the detector's."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.detection.budget import RISK_MIN, with_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.case import CaseState
from anomalyze.detection.detector import Detector
from anomalyze.detection.policy import Policy, parse_policy
from anomalyze.detection.state import PartitionState
from anomalyze.detection.verdict import BudgetEffect
from anomalyze.learning.budget import (
    DAY_MS,
    RankedRows,
    count_cases,
    fit_threshold,
    keep_ranked,
    try_budget,
)
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.world import Simulation

HOUR_MS = 3_600_000


def policy(cases_per_day: float = 10, severity: str = "HIGH") -> Policy:
    return parse_policy(f"{{version: 1, budget: {{cases_per_day: {cases_per_day}, severity: {severity}}}}}")


def rows_of(days: int, a_day: int, seed: int = 0, first_user: int = 0) -> RankedRows:
    """Risks spread over their range, each row another user's, so that each is a case of its own."""
    random = np.random.default_rng(seed)
    n = days * a_day
    user = np.arange(first_user, first_user + n, dtype=np.uint64)
    ts_ms = np.repeat(np.arange(days), a_day) * DAY_MS + random.integers(0, DAY_MS, n)
    return RankedRows(user, ts_ms, random.uniform(RISK_MIN, 1.0, n), np.zeros(n, dtype=np.int8))


def reference(rows: RankedRows, threshold: float, level: int, window_ms: int) -> dict[int, int]:
    """Cases by day, by the detector's own books."""
    cases, days = CaseState(), {}
    for i, (user, ts_ms, risk) in enumerate(zip(rows.user, rows.ts_ms, rows.risk, strict=True)):
        shown = risk >= threshold
        severity = int(rows.before[i])
        severity = max(severity, level) if shown else severity
        severity = min(severity, level - 1) if risk < threshold else severity
        if severity:
            case = cases.assign((int(user), 0), i, int(ts_ms), severity, 0.0, window_ms)
            if shown:
                days.setdefault(case.id, int(ts_ms) // DAY_MS)
    counts: dict[int, int] = defaultdict(int)
    for day in days.values():
        counts[day] += 1
    return counts


@settings(deadline=None, max_examples=150)
@given(
    found=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 96),
            st.sampled_from([0.1, 0.7, 0.9, 2.5, 3.2, 4.1, float("nan")]),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=60,
    ),
    threshold=st.sampled_from([0.7, 0.8, 3.0, 4.5]),
    severity=st.sampled_from(["MEDIUM", "HIGH"]),
)
def test_cases_are_counted_as_the_detector_forms_them(
    found: list[tuple[int, int, float, int]], threshold: float, severity: str
) -> None:
    found = sorted(found, key=lambda one: one[0])
    rows = RankedRows(
        np.array([f[0] for f in found], dtype=np.uint64),
        np.array([f[1] * HOUR_MS for f in found], dtype=np.int64),
        np.array([f[2] for f in found]),
        np.array([f[3] for f in found], dtype=np.int8),
    )
    counts = count_cases(rows, 0, 5, policy(5, severity), threshold)
    expected = reference(rows, threshold, {"MEDIUM": 2, "HIGH": 3}[severity], DAY_MS)
    assert {day: n for day, n in enumerate(counts.tolist()) if n} == expected


@pytest.mark.parametrize("wanted", [0.5, 5, 20, 80])
def test_later_days_get_what_was_promised(wanted: float) -> None:
    rows = rows_of(42, 300)
    fit = fit_threshold(rows, 0, 28, policy(wanted))
    later = count_cases(rows, 28 * DAY_MS, 14, policy(wanted), fit.threshold).sum()
    promised = wanted * 14
    assert abs(later - promised) < max(0.2 * promised, 4 * promised**0.5)
    assert fit.expected <= wanted


def test_an_attack_of_some_days_does_not_hide_what_comes_after_it() -> None:
    quiet, wanted = rows_of(28, 300), policy(10)
    attack = rows_of(3, 2_000, seed=1, first_user=10**6)
    attack = replace(attack, ts_ms=attack.ts_ms + 20 * DAY_MS, risk=np.full(len(attack.risk), 4.5))
    both = RankedRows.join([quiet, attack])
    calm, hit = (fit_threshold(rows, 0, 28, wanted).threshold for rows in (quiet, both))
    shown = [count_cases(quiet, 0, 28, wanted, threshold).mean() for threshold in (calm, hit)]
    assert calm < hit
    assert shown[1] > 0.7 * shown[0]


def test_a_night_hides_at_most_half_and_moves_for_nothing_less_than_a_twentieth() -> None:
    rows = rows_of(28, 300)
    first = fit_threshold(rows, 0, 28, policy(40))
    night = fit_threshold(rows, 0, 28, policy(10), first.threshold)
    assert night.limited
    assert night.expected == pytest.approx(20, rel=0.05)
    next_night = fit_threshold(rows, 0, 28, policy(10), night.threshold)
    assert next_night.expected == pytest.approx(10, rel=0.05)
    assert next_night.moves(10)
    assert not fit_threshold(rows, 0, 28, policy(10), next_night.threshold).moves(10)
    assert fit_threshold(rows, 0, 28, policy(40), next_night.threshold).expected == pytest.approx(
        40, rel=0.05
    )


def test_ties_do_not_flood_and_ordinary_payments_do_not_fill() -> None:
    rows = rows_of(28, 300)
    tied = replace(rows, risk=np.where(rows.risk > 0.9, 0.9, rows.risk))  # some 90 a day
    fit = fit_threshold(tied, 0, 28, policy(20))
    assert fit.expected == 0
    few = rows_of(28, 3)
    assert fit_threshold(few, 0, 28, policy(20)).threshold == RISK_MIN
    nothing = rows.at(np.zeros(len(rows.user), dtype=np.bool_))
    assert fit_threshold(nothing, 0, 28, policy(20)).threshold == RISK_MIN


def test_a_candidate_is_tried_on_days_that_its_thresholds_did_not_see() -> None:
    rows = rows_of(14, 300)
    thresholds, trial = try_budget({"a": [rows]}, 0, 14 * DAY_MS, policy(10))
    assert set(thresholds) == {"a"}
    assert trial is not None
    assert trial.promised == 70
    assert trial.delivered == pytest.approx(70, rel=0.3)
    louder = replace(rows, risk=np.where(rows.ts_ms >= 7 * DAY_MS, 0.999, rows.risk))
    _, trial = try_budget({"a": [louder]}, 0, 14 * DAY_MS, policy(10))
    assert trial is not None
    assert trial.delivered > 1_000
    assert try_budget({"a": [rows]}, 0, 6 * DAY_MS, policy(10)) == ({}, None)
    assert try_budget({"a": [rows]}, 0, 14 * DAY_MS, parse_policy("version: 1")) == ({}, None)


def judged(bundle: Bundle, start_ms: int) -> tuple[RankedRows, npt.NDArray[np.int64]]:
    """Rows as the fit sees them, and the cases that the detector showed by day."""
    detector, states = Detector(bundle), {0: PartitionState.empty()}
    world = Simulation(70, 3, start_ms, 20, incidents_per_10k=150.0)
    parts, cases = [], {}
    for batch in decode_traffic(world.chunks(), "default", "default", detector.gazetteer):
        verdicts = detector.process(batch, states)
        parts.append(keep_ranked(batch, verdicts))
        assert verdicts.ranked is not None
        for row, anomaly in verdicts.anomalies.items():
            if verdicts.ranked.effect[row] in (BudgetEffect.KEPT, BudgetEffect.RAISED):
                cases.setdefault(anomaly.case_id, (int(batch.ts_ms[row]) - start_ms) // DAY_MS)
    return RankedRows.join(parts), np.bincount(list(cases.values()), minlength=20)


def test_the_fit_counts_what_the_detector_shows(starter_bundle: Bundle) -> None:
    bundle = replace(starter_bundle, policy=f"{starter_bundle.policy}\nbudget: {{cases_per_day: 2}}\n")
    start_ms = 20_000 * DAY_MS
    rows, nothing = judged(bundle, start_ms)
    assert not nothing.any()
    of_bundle = Detector(bundle).policy
    threshold = fit_threshold(rows, start_ms, 20, of_bundle).threshold
    again, shown = judged(with_thresholds(bundle, {"default": threshold}), start_ms)
    assert np.array_equal(again.risk, rows.risk, equal_nan=True)
    assert shown.tolist() == count_cases(rows, start_ms, 20, of_bundle, threshold).tolist()
    assert shown.sum() > 15
