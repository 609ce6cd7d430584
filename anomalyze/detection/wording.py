"""What explanations say in words; values with units are shown by ``anomalyze.rules.show``."""

from __future__ import annotations

from anomalyze.rules.column import FEATURE_UNITS
from anomalyze.rules.show import show

__all__ = ["counted", "duration_text", "rarity_text", "times_text", "value_text"]

SPANS_S = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"))


def counted(number: float, name: str) -> str:
    """A number with its noun.

    >>> counted(1, "hour"), counted(2.5, "day"), counted(1200, "second")
    ('1 hour', '2.5 days', '1,200 seconds')
    """
    return f"{show(float(number))} {name}" + ("" if number == 1 else "s")


def duration_text(seconds: float) -> str:
    """A time span: seconds up to two minutes, then minutes, hours, days.

    >>> [duration_text(s) for s in (1, 72, 150, 5400, 86400, 200000)]
    ['1 second', '72 seconds', '2.5 minutes', '90 minutes', '24 hours', '2.3 days']
    """
    for span_s, name in SPANS_S:
        if seconds >= 2 * span_s:
            return counted(round(seconds / span_s, 1), name)
    return counted(round(seconds), "second")


def times_text(ratio: float) -> str:
    """How many times.

    >>> times_text(37.504), times_text(8.0), times_text(1234.5)
    ('37.5 times', '8 times', '1,234 times')
    """
    return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.1f} times".replace(".0 ", " ")


def rarity_text(share: float) -> str:
    """A share of the history in words, with two digits: more would pretend.

    >>> [rarity_text(s) for s in (0.5, 0.002, 0.00017)]
    ['one in 2', 'one in 500', 'one in 5,900']
    """
    every = 1 / share
    step = 10 ** max(0, len(str(int(every))) - 2)
    return f"one in {round(every / step) * step:,}"


def value_text(value: float, unit: str, base_currency: str) -> str:
    """A feature's value with its unit, as ``FeatureKind.unit`` names it.

    >>> value_text(120, "money", "USD"), value_text(422000.4, "kmh", "USD"), value_text(1, "flag", "USD")
    ('120.00 USD', '422,000 km/h', 'yes')
    """
    if unit == "flag":
        return "yes" if value else "no"
    return show(float(value), FEATURE_UNITS.get(unit, "plain"), base_currency)
