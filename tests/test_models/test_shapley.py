"""Shapley values against their definition over orders of arrival."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ContractError
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.shapley import compute_shapley
from anomalyze.models.tree import TreeEnsemble

Rows = npt.NDArray[np.float32]
GROUP = np.array([0, 0, 0, 0, 1, 1, 2, 3, 4])


@pytest.fixture(scope="module")
def kernel(ensemble: TreeEnsemble) -> TreeKernel:
    return TreeKernel(ensemble)


def _by_orders(kernel: TreeKernel, row: Rows, reference: Rows, group: npt.NDArray[np.int64]) -> list[float]:
    """The mean gain when a group joins, over every order in which groups can join."""
    count = int(group.max()) + 1
    gains = np.zeros(count)
    orders = list(permutations(range(count)))
    for order in orders:
        mixed = reference.copy()
        before = float(kernel.score(mixed[None])[0])
        for joins in order:
            mixed[group == joins] = row[group == joins]
            after = float(kernel.score(mixed[None])[0])
            gains[joins] += after - before
            before = after
    return list(gains / len(orders))


def test_values_are_the_mean_gain_over_all_orders(kernel: TreeKernel, rows: Rows) -> None:
    strange = rows[np.argsort(kernel.score(rows))[-3:]]
    values = compute_shapley(kernel, strange, rows[0], GROUP)
    for row, value in zip(strange, values, strict=True):
        np.testing.assert_allclose(value, _by_orders(kernel, row, rows[0], GROUP), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 5_999),
    st.integers(0, 5_999),
    st.lists(st.integers(0, 5), min_size=9, max_size=9),
)
def test_values_sum_to_the_difference_of_the_scores(
    kernel: TreeKernel, rows: Rows, row: int, reference: int, group: list[int]
) -> None:
    groups = np.unique(group, return_inverse=True)[1]
    values = compute_shapley(kernel, rows[[row]], rows[reference], groups)
    scores = kernel.score(rows[[row, reference]]).astype(np.float64)
    assert values.sum() == pytest.approx(scores[0] - scores[1], abs=1e-12)


def test_a_group_that_is_as_the_reference_gets_nothing(kernel: TreeKernel, rows: Rows) -> None:
    row, reference = rows[[5]].copy(), rows[0].copy()
    row[0, 6] = reference[6] = 12.0
    assert compute_shapley(kernel, row, reference, GROUP)[0, 2] == 0.0


def test_values_do_not_depend_on_the_rows_beside(kernel: TreeKernel, rows: Rows) -> None:
    together = compute_shapley(kernel, rows[:50], rows[50:100], GROUP)
    alone = [compute_shapley(kernel, rows[[i]], rows[[50 + i]], GROUP)[0] for i in range(50)]
    np.testing.assert_array_equal(together, alone)
    assert compute_shapley(kernel, rows[:0], rows[0], GROUP).shape == (0, 5)


def test_more_than_six_groups_are_refused(kernel: TreeKernel, rows: Rows) -> None:
    with pytest.raises(ContractError, match="1 to 6 groups, got 9"):
        compute_shapley(kernel, rows[:1], rows[0], np.arange(9))
    with pytest.raises(ContractError, match="a group for each"):
        compute_shapley(kernel, rows[:1], rows[0], np.arange(5))
