"""Preparation folded into the trees decides as preparation before the trees."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from anomalyze.errors import ContractError
from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import Forest, fold_forest, train_forest
from anomalyze.models.tree import TreeEnsemble, round_down
from tests.test_models.frames import beside_thresholds, make_frame, walk

Rows = npt.NDArray[np.float32]


def test_folded_trees_score_as_scikit_learn(forest: Forest, ensemble: TreeEnsemble) -> None:
    fresh = make_frame(300, seed=2, missing=0.2).astype(np.float32)
    held = np.concatenate([fresh, beside_thresholds(ensemble, fresh, seed=4)])
    assert np.abs(np.exp2(walk(ensemble, held)) - np.exp2(forest.score(held))).max() < 5e-6


def test_a_clip_above_every_threshold_prunes_exactly(rows: Rows) -> None:
    # A forest trained without the clip has splits below it; these must fold to "always right".
    forest = train_forest(rows, [False] * 9, seed=5, trees=10, samples_max=512)
    lower = np.nanquantile(rows, 0.8, axis=0).astype(np.float32)
    clipped = dataclasses.replace(forest, preparation=dataclasses.replace(forest.preparation, lower=lower))
    folded = fold_forest(clipped)
    assert folded.node_count < fold_forest(forest).node_count
    held = beside_thresholds(fold_forest(forest), rows[:300], seed=6)
    assert np.abs(np.exp2(walk(folded, held)) - np.exp2(clipped.score(held))).max() < 5e-6


def test_one_sided_inputs_ignore_everything_below_the_median(
    forest: Forest, ensemble: TreeEnsemble, rows: Rows
) -> None:
    low = rows[:200].copy()
    low[:, :7] = np.where(low[:, :7] < forest.preparation.fill[:7], -np.inf, low[:, :7])
    np.testing.assert_array_equal(walk(ensemble, low), walk(ensemble, rows[:200]))


def test_missing_counts_as_the_median(forest: Forest, ensemble: TreeEnsemble, rows: Rows) -> None:
    filled = np.where(np.isnan(rows[:200]), forest.preparation.fill, rows[:200])
    np.testing.assert_array_equal(walk(ensemble, filled), walk(ensemble, rows[:200]))


def test_float32_sums_of_leaf_weights_are_exact_in_any_order(ensemble: TreeEnsemble) -> None:
    leaf = ensemble.feature < 0
    mantissa, exponent = np.frexp(ensemble.weight[leaf & (ensemble.weight != 0)].astype(np.float64))
    lowest_bit = exponent - 24
    for weight, bits in zip(mantissa, (np.abs(mantissa) * 2**24).astype(np.int64), strict=True):
        assert weight * 2**24 == np.sign(weight) * bits
    trailing = [int(b & -b).bit_length() - 1 for b in (np.abs(mantissa) * 2**24).astype(np.int64)]
    unit = 2.0 ** min(int(low) + zero for low, zero in zip(lowest_bit, trailing, strict=True))
    largest = sum(
        float(np.abs(ensemble.weight[start:end]).max())
        for start, end in zip(ensemble.roots, [*ensemble.roots[1:], ensemble.node_count], strict=True)
    )
    assert largest / unit <= 2**24


def test_the_same_seed_gives_the_same_bytes(rows: Rows) -> None:
    first, second, other = (
        ensemble_to_onnx(fold_forest(train_forest(rows, [True] * 9, seed=seed, trees=5, samples_max=128)))
        for seed in (1, 1, 2)
    )
    assert first == second != other


def test_strange_rows_score_higher(forest: Forest, ensemble: TreeEnsemble) -> None:
    ordinary = forest.preparation.fill[None]
    strange = np.array([[4, 20, 5, 5e4, 5e4, 30, 900, 1, 9]], dtype=np.float32)
    assert walk(ensemble, strange)[0] > walk(ensemble, ordinary)[0] + 0.2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r[:1], "at least 2 rows, got 1"),
        (lambda r: np.where(r > 1e3, np.inf, r), "input 3 has infinite values"),
        (lambda r: np.where(np.arange(9) == 5, np.nan, r), "input 5 has no value at all"),
    ],
)
def test_frames_that_cannot_be_trained_on_are_refused(rows: Rows, spoil: object, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        train_forest(spoil(rows), [True] * 9, seed=1)  # type: ignore[operator]


def test_round_down_keeps_every_float32_decision() -> None:
    rng = np.random.default_rng(0)
    thresholds = np.concatenate(
        [rng.normal(size=500) * 10.0 ** rng.integers(-30, 30, 500), [0.0, -0.0, 1e-50]]
    )
    rounded = round_down(thresholds)
    for x in (rounded, np.nextafter(rounded, np.float32(np.inf)), np.nextafter(rounded, np.float32(-np.inf))):
        np.testing.assert_array_equal(x <= rounded, x.astype(np.float64) <= thresholds)
