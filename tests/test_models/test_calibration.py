"""Tail probabilities against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ContractError
from anomalyze.models.calibration import POINTS_MAX, Calibration, fit_calibration

scores = st.integers(-50, 50).map(lambda v: v / 8)


@settings(max_examples=200, deadline=None)
@given(st.lists(scores, min_size=1, max_size=200), st.lists(scores, min_size=1, max_size=30))
def test_probability_is_the_count_of_what_was_at_least_as_strange(
    history: list[float], asked: list[float]
) -> None:
    calibration = fit_calibration(np.array(history, dtype=np.float32))
    expected = [(1 + sum(h >= s for h in history)) / (len(history) + 1) for s in asked]
    np.testing.assert_array_equal(calibration.compute_tail(np.array(asked, dtype=np.float32)), expected)


@pytest.mark.parametrize("ties", [False, True])
def test_long_histories_keep_the_tail_exactly_and_the_body_closely(ties: bool) -> None:
    rng = np.random.default_rng(4)
    history = rng.normal(size=200_000).astype(np.float32)
    if ties:
        history[rng.random(len(history)) < 0.6] = -0.25
    calibration = fit_calibration(history)
    assert len(calibration.scores) <= POINTS_MAX
    asked = np.sort(np.concatenate([rng.normal(size=5_000), rng.choice(history, 5_000)]).astype(np.float32))
    exact = (1 + len(history) - np.searchsorted(np.sort(history), asked, side="left")) / (len(history) + 1)
    p = calibration.compute_tail(asked)
    assert np.abs(p - exact).max() <= 1 / 5_000
    tail = asked > np.sort(np.unique(history))[-5_000]
    assert tail.sum() > 50
    np.testing.assert_array_equal(p[tail], exact[tail])
    assert (np.diff(p) <= 0).all()
    np.testing.assert_array_equal(calibration.compute_ml_score(asked), 1 - p)


def test_the_strangest_and_the_most_ordinary() -> None:
    calibration = fit_calibration(np.arange(999, dtype=np.float32))
    p = calibration.compute_tail(np.array([-5, 998, 999, 1e30], dtype=np.float32))
    np.testing.assert_array_equal(p, [1.0, 2 / 1000, 1 / 1000, 1 / 1000])


def test_no_threshold_is_finer_than_history_can_tell() -> None:
    short, long = fit_calibration(np.arange(2_000.0)), fit_calibration(np.arange(100_000.0))
    assert short.compute_threshold(0.001) == 10 / 2_000
    assert long.compute_threshold(0.001) == 0.001
    assert fit_calibration(np.arange(4.0)).compute_threshold(0.001) == 1.0


@settings(max_examples=200, deadline=None)
@given(st.lists(scores, min_size=1, max_size=400), st.sampled_from([0.5, 0.05, 0.005]))
def test_labels_meet_at_most_their_share(history: list[float], label_p: float) -> None:
    values = np.array(history, dtype=np.float32)
    calibration = fit_calibration(values, label_p)
    labels = calibration.compute_labels(values)
    assert labels.mean() <= max(label_p, 10 / len(history))
    assert not np.isin(np.float64(calibration.cut), values[labels])


def test_the_label_cut_lies_inside_a_gap() -> None:
    history = np.random.default_rng(5).normal(size=50_000).astype(np.float32)
    calibration = fit_calibration(history, 0.005)
    assert 0.0044 < calibration.compute_labels(history).mean() <= 0.005
    assert np.abs(history.astype(np.float64) - calibration.cut).min() > 1e-4


def test_it_travels_as_bytes() -> None:
    calibration = fit_calibration(np.random.default_rng(6).normal(size=30_000))
    again = Calibration.from_bytes(calibration.to_bytes(), calibration.rows, calibration.cut)
    asked = np.linspace(-5, 5, 1_000, dtype=np.float32)
    np.testing.assert_array_equal(again.compute_tail(asked), calibration.compute_tail(asked))
    assert again.to_bytes() == calibration.to_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: b"",
        lambda b: b[12:],  # counts no longer begin at the number of rows
        lambda b: b[12:24] + b[:12] + b[24:],  # not ascending
        lambda b: b"\x00\x00\xc0\x7f" + b[4:],  # NaN
    ],
)
def test_damaged_points_are_refused(spoil: object) -> None:
    calibration = fit_calibration(np.arange(100.0))
    with pytest.raises(ContractError, match="calibration: expected"):
        Calibration.from_bytes(spoil(calibration.to_bytes()), 100, 95.0)  # type: ignore[operator]


def test_scores_that_are_not_finite_are_refused() -> None:
    for bad in (np.array([], dtype=np.float32), np.array([1.0, np.nan]), np.array([np.inf])):
        with pytest.raises(ContractError, match="expected finite scores"):
            fit_calibration(bad)
