"""The default detector for tables."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalyze.metrics.table import fit_table


def test_finds_rows_far_from_their_like_and_rows_against_the_bulk() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(0, 1, 800)
    bulk = np.column_stack([first, first + rng.normal(0, 0.1, 800), rng.normal(50, 9, 800)])
    against = np.column_stack([np.full(10, 1.5), np.full(10, -1.5), rng.normal(50, 9, 10)])
    far = np.column_stack([rng.normal(0, 1, (10, 2)), np.full(10, 150.0)])
    detector = fit_table(np.vstack([bulk[:500], against[:3], far[:3]]))
    ordinary = detector.score(bulk[500:])
    assert abs(np.median(ordinary)) < 0.3
    for strange in (against, far):
        labels = np.r_[np.zeros(len(ordinary)), np.ones(10)]
        assert roc_auc_score(labels, np.r_[ordinary, detector.score(strange)]) > 0.97


def test_a_row_alone_scores_as_among_others() -> None:
    rows = np.random.default_rng(2).normal(size=(200, 4))
    detector = fit_table(rows)
    whole = detector.score(rows)
    assert np.allclose(whole, [detector.score(row[None])[0] for row in rows], atol=1e-9)
    assert np.array_equal(whole, fit_table(rows).score(rows))


def test_odd_columns_and_numbers() -> None:
    rng = np.random.default_rng(3)
    rows = np.column_stack([rng.normal(size=300), np.ones(300), np.full(300, np.nan), np.zeros(300)])
    rows[5, 3], rows[6, 0], rows[7, 0] = 1.0, np.nan, np.inf
    scores = fit_table(rows).score(rows)
    assert np.isfinite(scores).all()
    assert scores.argmax() == 5
    with pytest.raises(ValueError, match="different values"):
        fit_table(np.ones((50, 2)))
    with pytest.raises(ValueError, match="at least 20 rows"):
        fit_table(rows[:19])
    with pytest.raises(ValueError, match="columns"):
        fit_table(np.ones((30, 1_001)))
