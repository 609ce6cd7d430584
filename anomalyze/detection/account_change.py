"""What differs between two documents of an account, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["describe_changes"]

_LINE_LENGTH_MAX = 300


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two documents (plain values), a line each.

    >>> describe_changes({"time_zone": "UTC"}, {"rules": {"AMOUNT_LIMIT": {"parameters": {"limit": 5.0}}}})
    ['rules.AMOUNT_LIMIT.parameters.limit: default → 5', 'time_zone: UTC → default']
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    lines = [
        f"{name}: {_shown(old.get(name))} → {_shown(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]
    return [line[:_LINE_LENGTH_MAX] for line in lines]


_ABSENT = object()


def _flat(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner and name != "currency_rates":
            found += _flat(inner, (*path, name))
        else:
            found.append((".".join((*path, name)), inner))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
