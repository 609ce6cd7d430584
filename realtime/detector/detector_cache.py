"""The detectors of the few bundles that are in force at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector

__all__ = ["DetectorCache"]

# While partitions swap one after the other: champion, the one before, challenger, the one before.
DETECTORS_KEPT = 4


class DetectorCache:
    """Detectors by bundle id; a few are kept, because partitions swap one after the other."""

    def __init__(self, load: Callable[[str], Bundle]) -> None:
        self._load = load
        self._detectors: OrderedDict[str, Detector] = OrderedDict()

    def get(self, bundle: str) -> Detector:
        """The detector of a bundle. Raises what loading raises."""
        detector = self._detectors.get(bundle)
        if detector is None:
            detector = self._detectors[bundle] = Detector(self._load(bundle))
            while len(self._detectors) > DETECTORS_KEPT:
                self._detectors.popitem(last=False)
        self._detectors.move_to_end(bundle)
        return detector

    def kind(self, bundle: str) -> str | None:
        """Whether a bundle at hand is ``starter`` or ``trained``; for other threads, so it only looks."""
        detector = self._detectors.get(bundle)
        return None if detector is None else detector.bundle.kind
