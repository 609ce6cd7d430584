"""The one definition of features: declared in YAML, computed by a compiled kernel over flat arrays."""

from __future__ import annotations

from anomalyze.features.kernel import compute_features, warm
from anomalyze.features.rows import AccountParameters, RowInputs, prepare_rows
from anomalyze.features.spec import FeatureKind, FeatureSpec
from anomalyze.features.state import STATE_FORMAT, Disposition, FeatureState, HistoryFlag

__all__ = [
    "STATE_FORMAT",
    "AccountParameters",
    "Disposition",
    "FeatureKind",
    "FeatureSpec",
    "FeatureState",
    "HistoryFlag",
    "RowInputs",
    "compute_features",
    "prepare_rows",
    "warm",
]
