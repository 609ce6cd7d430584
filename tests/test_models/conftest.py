"""Models trained once for all tests of the package."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from anomalyze.models.forest import Forest, fold_forest, train_forest
from anomalyze.models.tree import TreeEnsemble
from tests.test_models.frames import make_frame


@pytest.fixture(scope="session")
def rows() -> npt.NDArray[np.float32]:
    made = make_frame(6_000, seed=1).astype(np.float32)
    made.flags.writeable = False  # shared by all tests
    return made


@pytest.fixture(scope="session")
def forest(rows: npt.NDArray[np.float32]) -> Forest:
    return train_forest(rows, [True] * 8 + [False], seed=3, trees=30, samples_max=1024)


@pytest.fixture(scope="session")
def ensemble(forest: Forest) -> TreeEnsemble:
    return fold_forest(forest)
