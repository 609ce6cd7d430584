"""Statistics of the amount: thresholds, too little history, and rarities against a plain count."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyze.detection.policy import parse_policy
from anomalyze.detection.statistic import AmountJudge, TwoQuantile, fit_two_quantile, quartile_distance

NAN = float("nan")
POLICY = parse_policy("""
version: 1
statistics:
  amount_base_min: 50
  robust_z: [{over: 10, severity: LOW}, {over: 20, severity: MEDIUM}]
  iqr: [{over: 5, severity: LOW}]
  two_quantile: [{tail: 0.01, severity: LOW}, {tail: 0.001, severity: MEDIUM}]
""")


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_the_highest_threshold_passed_counts_and_unknown_values_count_nothing() -> None:
    amount = column(100, 100, 100, 100, 49)
    judged = AmountJudge(POLICY, None).judge(
        {"amount_base": amount, "user_amount_rz": column(10, 10.1, 21, NAN, 99)}, 5
    )
    assert judged.severity.tolist() == [0, 1, 2, 0, 0]


def test_quartile_distance_is_in_interquartile_ranges() -> None:
    # Quartiles 100 and 140: fences 40 and 200.
    assert quartile_distance(column(240), column(40), column(200), column(120))[0] == pytest.approx(2.5)
    # No spread at all: a tenth of the median stands in.
    assert quartile_distance(column(20), column(10), column(10), column(10))[0] == pytest.approx(10.0)
    assert np.isnan(quartile_distance(column(20), column(NAN), column(NAN), column(NAN))[0])


def fitted(rows: int = 20_000) -> tuple[TwoQuantile, np.ndarray]:
    random = np.random.default_rng(5)
    lr, amount = random.normal(0, 0.5, rows), random.lognormal(4, 1, rows)
    model = fit_two_quantile(lr, amount)
    assert model is not None
    return model, model.score(lr, amount)


@pytest.mark.parametrize("tail", [0.01, 0.003, 0.001, 0.0005])
def test_a_threshold_is_exceeded_by_its_share_of_history(tail: float) -> None:
    model, scores = fitted()
    assert (scores > model.threshold(tail)).mean() == pytest.approx(tail, rel=0.15)
    assert model.rarity(model.threshold(tail)) == pytest.approx(tail, rel=1e-9)


def test_no_threshold_where_fewer_than_ten_rows_lie_beyond() -> None:
    model, _ = fitted(5_000)
    assert np.isfinite(model.threshold(0.002))
    assert model.threshold(0.001) == float("inf")


def test_it_survives_the_bundle_to_the_bit() -> None:
    model, scores = fitted()
    again = TwoQuantile.from_statistics(model.to_statistics())
    assert again is not None
    assert again.threshold(0.0007) == model.threshold(0.0007)
    assert again.rarity(float(scores.max())) == model.rarity(float(scores.max()))
    assert TwoQuantile.from_statistics({}) is None


def test_a_simulated_history_says_nothing_of_absolute_amounts() -> None:
    model = fit_two_quantile(column(*np.linspace(-1, 1, 2_000)), np.full(2_000, 5.0), use_amount=False)
    assert model is not None
    assert model.score(column(0.0), column(1e9))[0] == 0.0
    again = TwoQuantile.from_statistics(model.to_statistics())
    assert again is not None
    assert again.amount_scale == float("inf")


def test_no_history_fits_nothing() -> None:
    assert fit_two_quantile(column(NAN, NAN), column(1, 2)) is None


def test_rarities_reach_severities() -> None:
    model, _ = fitted()
    scores = [model.threshold(0.01) * 1.01, model.threshold(0.001) * 1.01, 0.1]
    lr = column(*scores) * model.lr_scale
    judged = AmountJudge(POLICY, model).judge({"amount_base": column(60, 60, 60), "user_amount_lr": lr}, 3)
    assert judged.severity.tolist() == [1, 2, 0]
