"""From a metric's entries to its detectors; what a detector needs is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from anomalyze.metrics.detectors.base import Detector
from anomalyze.metrics.detectors.setting import PLAIN, DetectorSetting, version_of

__all__ = ["build_detectors"]

# Raised when a detector's code would say something else of the same values.
CODE_VERSIONS = {"seasonal_z": 2, "level_shift": 1, "knn_shape": 2, "pyod": 2, "ensemble": 2}


def build_detectors(settings: Sequence[DetectorSetting], period_s: float) -> tuple[Detector, ...]:
    """The detectors by name among a metric's entries, in their order.

    Parameters
    ----------
    period_s
        From one point to the next.
    """
    return tuple(_build(one, period_s) for one in settings if one.key not in PLAIN)


@lru_cache(maxsize=1_000)
def _build(setting: DetectorSetting, period_s: float) -> Detector:
    kind, version = setting.kind, version_of(setting, _code(setting))
    if setting.seasonal_z is not None:
        from anomalyze.metrics.detectors.seasonal_z import SeasonalDetector

        return SeasonalDetector(kind, version, setting.seasonal_z, period_s)
    if setting.level_shift is not None:
        from anomalyze.metrics.detectors.level_shift import ShiftDetector

        return ShiftDetector(kind, version, setting.level_shift, period_s)
    if setting.knn_shape is not None:
        from anomalyze.metrics.detectors.knn_shape import ShapeDetector

        return ShapeDetector(kind, version, setting.knn_shape)
    if setting.pyod is not None:
        from anomalyze.metrics.detectors.trained import TrainedDetector

        return TrainedDetector(kind, version, setting.pyod)
    from anomalyze.metrics.detectors.ensemble import EnsembleDetector

    assert setting.ensemble is not None
    members = [one for one in setting.ensemble.of if one.key not in PLAIN]
    return EnsembleDetector(
        kind, version, setting.ensemble, [_build(DetectorSetting(**{one.key: getattr(one, one.key)}), period_s) for one in members],
        tuple(one.key for one in setting.ensemble.of if one.key in PLAIN), period_s,
    )  # fmt: skip


def _code(setting: DetectorSetting) -> str:
    """The versions of the code of a detector and its members."""
    members = setting.ensemble.of if setting.ensemble is not None else ()
    return " ".join(str(CODE_VERSIONS.get(key, 0)) for key in (setting.key, *(one.key for one in members)))
