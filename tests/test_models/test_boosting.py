"""Boosted trees: what is served is what LightGBM trained, gaps and thresholds included."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from anomalyze.errors import ContractError
from anomalyze.models.boosting import (
    check_boosting_parity,
    fold_boosting,
    train_boosting,
    train_supervised,
)
from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import ModelInput
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.runtime import OnnxScorer, load_scorer
from anomalyze.models.shapley import compute_shapley
from anomalyze.models.training import TrainedModel

NAMES = ("amount", "ratio", "days", "steady", "empty")
INPUTS = tuple(ModelInput(name, "amount", one_sided=False) for name in NAMES)
WINDOW = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")


def make_rows(n: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Frauds have high ratios or fresh days; days are mostly unknown; ``steady`` has no gap in training."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack(
        [
            rng.lognormal(3, 1, n).round(2),
            rng.normal(0, 1, n),
            np.where(rng.random(n) < 0.9, np.nan, rng.integers(0, 60, n)),
            rng.normal(0, 1, n),
            np.full(n, np.nan),
        ]
    )
    odds = -4.0 + 2.0 * (rows[:, 1] > 1.5) + 3.0 * (rows[:, 2] < 10) + 0.5 * (rows[:, 0] > 60)
    rows[rng.random(n) < 0.05, 1] = np.nan
    return rows, rng.random(n) < 1 / (1 + np.exp(-odds))


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    rows, fraud = make_rows(20_000, 1)
    return train_supervised(rows, NAMES, fraud, make_rows(4_000, 2)[0], window=WINDOW, inputs=INPUTS)


def test_the_served_scores_are_lightgbms_and_find_fraud(trained: TrainedModel) -> None:
    rows, fraud = make_rows(20_000, 1)
    assert [i.name for i in trained.inputs] == list(NAMES[:4])
    inputs = rows[:, :4].astype(np.float32)
    booster, kept = train_boosting(inputs, fraud, seed=0)
    assert kept == trained.metrics["rows_sampled"] < 0.3 * len(rows)
    scorer = load_scorer(trained.onnx)
    assert isinstance(scorer, TreeKernel)
    fresh, truth = make_rows(5_000, 3)
    fresh = fresh[:, :4].astype(np.float32)
    fresh[::7, 3] = np.nan  # a gap that training never saw
    wanted = booster.predict(fresh.astype(np.float64), raw_score=True)
    np.testing.assert_allclose(scorer.score(fresh), wanted, atol=1e-5)
    np.testing.assert_allclose(OnnxScorer(trained.onnx).score(fresh), wanted, atol=1e-5)
    score = scorer.score(fresh)
    assert score[truth].mean() > score[~truth].mean() + 0.5


def test_the_same_rows_give_the_same_bytes(trained: TrainedModel) -> None:
    rows, fraud = make_rows(20_000, 1)
    again = train_supervised(rows, NAMES, fraud, make_rows(4_000, 2)[0], window=WINDOW, inputs=INPUTS)
    assert again.onnx == trained.onnx
    other = train_supervised(rows, NAMES, fraud, make_rows(4_000, 2)[0], window=WINDOW, inputs=INPUTS, seed=5)
    assert other.onnx != trained.onnx


def test_rarity_is_read_from_later_rows(trained: TrainedModel) -> None:
    later = make_rows(4_000, 2)[0][:, :4].astype(np.float32)
    tail = trained.calibration.compute_tail(load_scorer(trained.onnx).score(later))
    assert trained.calibration.rows == 4_000
    assert abs((tail <= 0.1).mean() - 0.1) < 0.01


def test_shares_of_groups_add_up(trained: TrainedModel) -> None:
    scorer = load_scorer(trained.onnx)
    rows = make_rows(50, 4)[0][:, :4].astype(np.float32)
    values = compute_shapley(scorer, rows, trained.reference, np.array([0, 1, 2, 3]))
    gain = scorer.score(rows).astype(np.float64) - scorer.score(trained.reference[None])[0]
    np.testing.assert_allclose(values.sum(axis=1), gain, atol=1e-5)


@pytest.mark.parametrize("spoil", ["threshold", "weight", "missing"])
def test_a_model_that_is_served_otherwise_is_refused(spoil: str) -> None:
    rows, fraud = make_rows(8_000, 6)
    inputs = rows[:, :4].astype(np.float32)
    booster, _ = train_boosting(inputs, fraud, seed=0)
    ensemble = fold_boosting(booster, 4)
    assert check_boosting_parity(booster, ensemble, ensemble_to_onnx(ensemble), inputs) < 1e-5
    branch = ensemble.feature >= 0
    if spoil == "threshold":
        up = np.where(branch, np.nextafter(ensemble.threshold, np.float32(np.inf)), ensemble.threshold)
        worse = dataclasses.replace(ensemble, threshold=up.astype(np.float32))
    elif spoil == "weight":
        worse = dataclasses.replace(ensemble, weight=(ensemble.weight * np.float32(1.001)).astype(np.float32))
    else:
        worse = dataclasses.replace(ensemble, missing_true=branch & ~ensemble.missing_true)
    with pytest.raises(ContractError, match="parity"):
        check_boosting_parity(booster, worse, ensemble_to_onnx(worse), inputs)


def test_too_few_frauds_or_nothing_later_is_refused() -> None:
    rows, fraud = make_rows(3_000, 7)
    with pytest.raises(ContractError, match="at least 50 frauds among them, got 3000 with 0"):
        train_supervised(rows, NAMES, fraud & False, rows, window=WINDOW, inputs=INPUTS)
    with pytest.raises(ContractError, match="to calibrate on, got none"):
        train_supervised(rows, NAMES, fraud | (rows[:, 1] > 1), rows[:0], window=WINDOW, inputs=INPUTS)
