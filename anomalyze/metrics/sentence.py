"""What people read of an incident: value, what was expected, which way, since when. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from anomalyze.metrics.incident import Incident
from anomalyze.metrics.judgement import SeriesRules

__all__ = ["describe", "describe_late", "describe_resolved", "format_number", "name_some"]

# Names in a sentence; the others are counted.
NAMES_TOLD = 3
NAME_LENGTH = 60


def format_number(value: float, unit: str = "") -> str:
    """Six digits at most, thousands apart.

    >>> format_number(1234567.891), format_number(0.00012345678), format_number(12.5, "%"), format_number(3, "EUR")
    ('1,234,570', '0.000123457', '12.5%', '3 EUR')
    """
    text = f"{value:.6g}"
    if "e" not in text:
        whole, dot, fraction = text.partition(".")
        text = f"{int(whole):,}{dot}{fraction}" if whole not in ("-0", "0", "") else text
    elif abs(value) < 1e15 and value == value and abs(value) >= 1:
        text = f"{float(text):,.0f}"
    return f"{text}{unit}" if unit == "%" else f"{text} {unit}".strip()


def name_some(names: Sequence[str], count: int) -> str:
    """The first few names, and how many others there are.

    >>> name_some(["a"], 1), name_some(["a", "b"], 2), name_some(["a", "b", "c", "d"], 9)
    ('a', 'a and b', 'a, b, c and 6 others')
    """
    told = [
        name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}\u2026"
        for name in names[:NAMES_TOLD]
    ]
    rest = count - len(told)
    if rest > 0:
        return f"{', '.join(told)} and {rest:,} other{'s' if rest > 1 else ''}"
    return " and ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else "".join(told)


def describe(metric: str, incident: Incident, rules: SeriesRules) -> str:
    """One sentence for an incident of any kind but missing data."""

    def shown(value: float) -> str:
        return format_number(value, rules.unit)

    value, subject = incident.peak_value, f"{metric} = {shown(incident.peak_value)}"
    if incident.kind == "unusual":
        way = {1: "above", -1: "below", 0: "unlike"}[incident.direction]
        if math.isnan(incident.peak_expected):
            said = f"{subject}, {way} what it has shown before"
        elif incident.peak_lower <= value <= incident.peak_upper:
            said = f"{subject}: within {shown(incident.peak_lower)} to {shown(incident.peak_upper)}, but unusual where it is or for how long it stays"
        else:
            said = (
                f"{subject}, {way} the {shown(incident.peak_lower)} to {shown(incident.peak_upper)} that it has shown "
                f"(expected about {shown(incident.peak_expected)})"
            )
    elif incident.kind == "upper":
        said = f"{subject}, above its limit of {shown(rules.upper or 0.0)}"
    elif incident.kind == "lower":
        said = f"{subject}, below its limit of {shown(rules.lower or 0.0)}"
    elif incident.kind == "change":
        way = {1: "up", -1: "down", 0: "off"}[incident.direction]
        said = f"{subject}, {way} by {incident.peak_strength:.0f}% from the value before; {rules.change_percent or 0:g}% are allowed"
    else:
        said = f"{subject} has not changed for {_span(incident.peak_strength)}"
    return f"{said}, {_since(incident)}"


def describe_late(metric: str, newest_ms: int, late_after_s: float) -> str:
    """One sentence for data that do not come."""
    return f"{metric}: no value since {_time(newest_ms)}; one is expected every {_span(late_after_s)}"


def describe_resolved(metric: str, incident: Incident) -> str:
    """One sentence for an incident that is over."""
    reason = {
        "calm": "is back to what it usually shows"
        if incident.kind == "unusual"
        else "is within its limits again",
        "data came": "has values again",
        "corrected": "was corrected: what was unusual is not in the data any more",
    }.get(incident.resolution or "", "is over")
    return f"{metric} {reason}; it lasted {_span((incident.last_ms - incident.opened_ms) / 1000)}"


def _since(incident: Incident) -> str:
    if incident.strange_points == 1:
        return f"at {_time(incident.opened_ms)}"
    return f"since {_time(incident.opened_ms)} ({incident.strange_points} points)"


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _span(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "less than a minute" if seconds < 1 else f"{round(seconds)} seconds"
