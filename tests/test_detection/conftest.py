"""A bundle and a simulated log for the detection tests, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.simulation.starter import build_starter_bundle

CONFIG = Path(__file__).parents[2] / "metrics_config"


@pytest.fixture(scope="session")
def starter_bundle() -> Bundle:
    """The bundle that ``up`` begins with."""
    return build_starter_bundle(CONFIG)


@pytest.fixture(scope="session")
def detector(starter_bundle: Bundle) -> Detector:
    """Its detector."""
    return Detector(starter_bundle)
