from __future__ import annotations

from pathlib import Path

import pytest

from anomalyze.features import FeatureSpec


@pytest.fixture(scope="session")
def spec() -> FeatureSpec:
    """The specification that is shipped."""
    return FeatureSpec.load(Path(__file__).parents[2] / "metrics_config" / "features.yaml")
