"""Servers of others, once a run of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.folders import passable_folder
from tests.test_metrics.servers import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Nothing runs before it is asked for."""
    with passable_folder() as folder:
        made = Servers(folder)
        try:
            yield made
        finally:
            made.stop()
