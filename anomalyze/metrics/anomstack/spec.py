"""A batch of Anomstack's with its layers: what is built in, the defaults' file, its own file, the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from anomalyze.config import Document
from anomalyze.metrics.anomstack.folder import Note

__all__ = ["VARIABLE", "Spec"]

# One double underscore each: ANOMSTACK__<BATCH>__<KEY>.
VARIABLE = "ANOMSTACK__"
# Where nothing else is said; these are Anomstack's own.
_BUILT_IN: Mapping[str, Any] = {
    "db": "duckdb",
    "ingest_cron_schedule": "*/3 * * * *",
    "alert_methods": "email,slack",
    "alert_snooze_n": 3,
    "delete_after_n_days": 365,
    "disable_tholdalert": True,
}
_FALSE = {"false", "no", "off", "0", "none", ""}


class Spec:
    """What holds for a batch.

    Parameters
    ----------
    file
        Its own, for notes.
    own, defaults
        Documents whose ``data`` are keys and values.
    variables
        Of the environment that override a batch.
    keep_models
        Whether its models are wanted in place of what detects here.
    """

    def __init__(
        self,
        file: str,
        own: Document,
        defaults: Mapping[str, Any],
        variables: Mapping[str, str],
        keep_models: bool = False,
    ) -> None:
        self._file, self._own, self.keep_models = file, own, keep_models
        self.own: dict[str, Any] = dict(own.data)
        self.name = str(self.own["metric_batch"]).strip()
        self.overrides = _overrides(self.name, variables)
        self.values: dict[str, Any] = {**_BUILT_IN, **defaults, **self.own, **self.overrides}

    def note(self, key: str, text: str) -> Note:
        """A note at a key of its file; at its beginning when it has no such key."""
        line = self._own.place_of_key((key,))[0] if key in self.own else 1
        return Note(self._file, line, text)

    def text(self, key: str) -> str:
        """A value as text; empty when there is none."""
        value = self.values.get(key)
        return "" if value is None else str(value)

    def flag(self, key: str) -> bool:
        """A truth value; words that YAML 1.1 takes for one are one here too."""
        value = self.values.get(key)
        if isinstance(value, str):
            return value.strip().lower() not in _FALSE
        return bool(value)

    def number(self, key: str) -> float | None:
        """A number that is not negative, else None."""
        value = self.values.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and 0 <= value < 1e9 else None  # type: ignore[arg-type, operator]

    def names(self, key: str) -> list[str]:
        """A list of names of metrics."""
        value = self.values.get(key)
        return [str(one) for one in value] if isinstance(value, list) else []

    def mapping(self, key: str) -> dict[str, Any]:
        """Keys and values, else none."""
        value = self.values.get(key)
        return {str(inner): one for inner, one in value.items()} if isinstance(value, dict) else {}


def _overrides(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    prefix = f"{VARIABLE}{name.upper().replace('-', '_')}__"
    found: dict[str, Any] = {}
    for variable, text in variables.items():
        if variable.startswith(prefix):
            try:
                value = yaml.safe_load(text) if len(text) < 10_000 else text
            except (yaml.YAMLError, RecursionError, ValueError):
                value = text
            found[variable.removeprefix(prefix).lower()] = value
    return found
