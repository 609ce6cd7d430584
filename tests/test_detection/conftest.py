"""The starter bundle's detector, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector

CONFIG = Path(__file__).parents[2] / "metrics_config"


@pytest.fixture(scope="session")
def detector(starter_bundle: Bundle) -> Detector:
    """Its detector."""
    return Detector(starter_bundle)
