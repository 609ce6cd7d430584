"""Values as a person reads them: money with its code, counts exact, distances, durations.

The one formatter of explanations. It knows numbers and units only; no text of a user is ever a format.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import get_args

from anomalyze.rules.column import Unit

__all__ = ["MISSING", "UNITS", "show"]

MISSING = "–"
UNITS: tuple[Unit, ...] = get_args(Unit)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MINUS = "−"


def show(value: float | str | bool | None, unit: Unit = "plain", currency: str | None = None) -> str:
    """A value with its unit.

    Parameters
    ----------
    value
        None and NaN show as "–".
    unit
        ``money`` and ``base_money`` take the decimals of ``currency`` and add its code when it is known.

    Examples
    --------
    >>> show(4500.5, "money", "USD"), show(5570.2, "km"), show(5.0, "count"), show(11400.0, "seconds")
    ('4,500.50 USD', '5,570 km', '5', '3 h 10 min')
    >>> show(5.0, "ordinal"), show(None, "km"), show(3.0, "hour"), show(37.504)
    ('5th', '–', '03:00', '37.5')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return MISSING
    if math.isinf(value):
        return f"{_MINUS if value < 0 else ''}∞"
    if unit in _MONEY:
        return _money(value, currency)
    return _FORMS.get(unit, _plain)(value)


@functools.cache
def _decimals() -> dict[str, int]:
    from anomalyze.events.money import CURRENCIES, CURRENCY_EXPONENTS

    return dict(zip(CURRENCIES, CURRENCY_EXPONENTS.tolist(), strict=True))


def _money(value: float, currency: str | None) -> str:
    decimals = _decimals().get(currency or "", 2)
    number = f"{abs(value):,.{decimals}f}"
    return f"{_sign(value)}{number} {currency}" if currency else f"{_sign(value)}{number}"


def _sign(value: float) -> str:
    return _MINUS if value < 0 else ""


def _whole(value: float) -> str:
    return f"{_sign(round(value))}{abs(round(value)):,}"


def _plain(value: float) -> str:
    size = abs(value)
    if size >= 100 or float(value).is_integer():
        return _whole(value)
    if size < 1e-4:
        return "<0.0001" if value > 0 else f">{_MINUS}0.0001"
    return _sign(value) + (f"{size:.1f}".removesuffix(".0") if size >= 10 else f"{size:.3g}")


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min"
    hours, minutes = whole // 3_600, whole % 3_600 // 60
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days = hours // 24
    return f"{days} {'day' if days == 1 else 'days'}"


def _count(value: float) -> str:
    return _whole(value) if float(value).is_integer() else _plain(value)


def _distance(value: float) -> str:
    return _whole(value) if abs(value) >= 10 else _plain(value)


_MONEY = frozenset({"money", "base_money"})
_FORMS: Mapping[Unit, Callable[[float], str]] = {
    "ordinal": lambda value: _ordinal(round(value)),
    "weekday": lambda value: _WEEKDAYS[round(value) % 7],
    "hour": lambda value: f"{round(value) % 24:02d}:00",
    "seconds": lambda value: _sign(value) + _duration(abs(value)),
    "percent": lambda value: f"{_plain(100 * value)}%",
    "days": lambda value: f"{_whole(value)} {'day' if round(value) == 1 else 'days'}",
    "count": _count,
    "km": lambda value: f"{_distance(value)} km",
    "km/h": lambda value: f"{_distance(value)} km/h",
}
