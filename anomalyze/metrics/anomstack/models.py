"""Anomstack's models as PyOD's detectors of ours, for those who want the same ones beside what they know."""

from __future__ import annotations

from typing import Any

from anomalyze.metrics.anomstack.folder import Note
from anomalyze.metrics.anomstack.spec import Spec
from anomalyze.metrics.detectors.setting import PYOD_NAMES

__all__ = ["models_of"]

# What Anomstack has where nothing else is said.
_MODELS = ({"model_name": "PCA"}, {"model_name": "KNN"})
_COMBINED = {"mean": "mean", "max": "max"}


def models_of(spec: Spec) -> tuple[list[Any], list[Note]]:
    """Entries of ``detectors``: one model, or an ensemble of several; none when no model is known here."""
    notes: list[Note] = []
    told = spec.values.get("model_configs")
    params = spec.mapping("preprocess_params")
    keys: dict[str, Any] = {
        "lags": _within(params.get("lags_n"), 5, 0, 100),
        "differences": bool(_within(params.get("diff_n"), 1, 0, 1)),
        "train": _within(spec.values.get("train_max_n"), 2_500, 100, 20_000),
    }
    found: dict[str, Any] = {}
    for one in told if isinstance(told, list) else _MODELS:
        name = str(one.get("model_name") if isinstance(one, dict) else one)
        if name.lower() in PYOD_NAMES:
            found.setdefault(name.lower(), {"pyod": {"name": name.lower()} | keys})
        else:
            notes.append(spec.note("model_configs", f"there is no model {name[:60]} here: left out"))
    models = list(found.values())[:10]
    if len(models) < 2:
        return models, notes
    combine = spec.text("model_combination_method") or "mean"
    if combine not in _COMBINED:
        text = f"models are combined by their median here, not by {combine[:60]}"
        notes.append(spec.note("model_combination_method", text))
    return [{"ensemble": {"of": models, "combine": _COMBINED.get(combine, "median")}}], notes


def _within(value: Any, missing: int, least: int, most: int) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return missing
    return int(min(max(value, least), most))
