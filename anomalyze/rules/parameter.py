"""Values of a rule's ``:parameters``."""

from __future__ import annotations

from anomalyze.rules.column import Kind

__all__ = ["MAX_PARAMETER_VALUES", "ParameterValue", "kind_of_value"]

# None: each account must give its own.
ParameterValue = float | str | bool | tuple[float, ...] | tuple[str, ...] | None

MAX_PARAMETER_VALUES = 1_000


def kind_of_value(value: ParameterValue) -> tuple[Kind | None, bool]:
    """Kind of a parameter's value, and whether it is a list; no kind when there is no value."""
    many = isinstance(value, tuple)
    first = value[0] if isinstance(value, tuple) and value else value
    if isinstance(first, bool):
        return "flag", many
    if isinstance(first, int | float):
        return "number", many
    return ("text", many) if isinstance(first, str) else (None, many)
