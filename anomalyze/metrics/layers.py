"""A batch is written in layers: ``_defaults.yaml``, its own file, the environment. A mistake is told where it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anomalyze.config import Document, Problem, closest
from anomalyze.metrics.batch import merge

__all__ = ["ENVIRONMENT", "LayeredDocument", "read_overrides"]

ENVIRONMENT = "ANOMALYZE__METRICS__"
DEFAULTS = "defaults"


class LayeredDocument(Document):
    """Documents over one another, the strongest first; the batch's own file is told where none has the key."""

    def __init__(self, own: Document, layers: Sequence[Document]) -> None:
        data: Mapping[str, Any] = {}
        for layer in reversed(layers):
            data = merge(data, layer.data or {})
        super().__init__(own.file, "", data, None)
        self._own, self._layers = own, layers

    def problem(
        self, path: Sequence[str | int], message: str, suggestion: str = "", offset: int | None = None
    ) -> Problem:
        return self._layer_of(path).problem(path, message, suggestion, offset)

    def problem_at_key(self, path: Sequence[str | int], message: str, suggestion: str = "") -> Problem:
        return self._layer_of(path).problem_at_key(path, message, suggestion)

    def _layer_of(self, path: Sequence[str | int]) -> Document:
        best, found = -1, self._own
        for layer in self._layers:
            depth, value = 0, layer.data
            for step in path:
                inside = isinstance(value, dict) and step in value
                if not inside and not (
                    isinstance(value, list) and isinstance(step, int) and step < len(value)
                ):
                    break
                value, depth = value[step], depth + 1
            if depth == len(path) > 0 and not isinstance(value, dict):
                return layer  # the strongest that has the value is the one that counts; mappings are merged
            if depth > best or (depth == best and layer is self._own):
                best, found = depth, layer
        return found


class _EnvironmentDocument(Document):
    """What variables override of one batch; mistakes name the variable."""

    def __init__(self, data: dict[str, Any], batch: str) -> None:
        super().__init__("environment", "", data, None)
        self._prefix = f"{ENVIRONMENT}{batch.upper()}"

    def problem(
        self, path: Sequence[str | int], message: str, suggestion: str = "", offset: int | None = None
    ) -> Problem:
        name = "__".join([self._prefix, *(str(step).upper() for step in path)])
        return Problem("environment", 1, 1, name, message, suggestion)

    def problem_at_key(self, path: Sequence[str | int], message: str, suggestion: str = "") -> Problem:
        return self.problem(path, message, suggestion)


def read_overrides(
    variables: Mapping[str, str], below: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Document], list[Problem]]:
    """What ``ANOMALYZE__METRICS__<BATCH>__<KEY>[__<KEY>…]`` override, by batch.

    A value that begins with ``{`` or ``[`` is JSON, ``null`` takes a default away, all else is text that the key's
    type decides on; a parameter takes the type of the one it replaces. ``DEFAULTS`` as the batch stands for all.

    Parameters
    ----------
    variables
        By name.
    below
        What files say, by batch: keys are matched to theirs whatever their case.
    """
    data: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for variable, text in sorted(variables.items()):
        words = variable.removeprefix(ENVIRONMENT).split("__")
        batch = words[0].lower()
        if batch not in below or len(words) < 2 or "" in words:
            message = f"expected {ENVIRONMENT}<BATCH>__<KEY> with a batch that there is, got {variable}"
            meant = closest(batch, below)
            problems.append(Problem("environment", 1, 1, variable, message, meant.upper()))
            continue
        try:
            _put(data.setdefault(batch, {}), below[batch], words[1:], text)
        except ValueError as error:
            problems.append(Problem("environment", 1, 1, variable, str(error)))
    return {batch: _EnvironmentDocument(inner, batch) for batch, inner in data.items()}, problems


def _put(into: dict[str, Any], below: Any, words: Sequence[str], text: str) -> None:
    for at, word in enumerate(words):
        known = below if isinstance(below, Mapping) else {}
        key = next((str(key) for key in known if str(key).lower() == word.lower()), word.lower())
        below = known.get(key)
        if at == len(words) - 1:
            into[key] = _value(text, below)
            return
        inner = into.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ValueError(f"expected one variable for {key}, got one that sets all of it and one a part")
        into = inner


def _value(text: str, below: Any) -> Any:
    if text == "null":
        return None
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON, got {text[:80]!r}: {error}") from None
    if isinstance(below, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if isinstance(below, int | float) and not isinstance(below, bool):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
