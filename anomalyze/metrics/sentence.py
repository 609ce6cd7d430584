"""What people read of an incident: value, what was expected, which way, since when. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from anomalyze.metrics.incident import Incident
from anomalyze.metrics.judgement import KINDS, SeriesRules

__all__ = [
    "add_also",
    "describe",
    "describe_group",
    "describe_late",
    "describe_resolved",
    "describe_resolved_group",
    "format_number",
    "name_some",
]

# Names in a sentence; the others are counted.
NAMES_TOLD = 3
NAME_LENGTH = 60
# How strange a value is, is said from one in so many on: so many values have to stand behind it.
ONE_IN_MIN = 100


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

    metric += _made_of(rules)
    value, subject = incident.peak_value, f"{metric} = {shown(incident.peak_value)}"
    by_name = next((one for one in rules.detectors if one.kind == incident.kind), None)
    if by_name is not None:
        said = by_name.describe(incident, metric, shown)
        if incident.kind == "shift":
            return f"{said}, since {_time(incident.peak_ms)}"
    elif incident.kind == "unusual":
        way = {1: "above", -1: "below", 0: "unlike"}[incident.direction]
        if math.isnan(incident.peak_expected):
            said = f"{subject}, {way} what it has shown before"
        elif incident.peak_lower <= value <= incident.peak_upper:
            lower, upper, _ = _rounded(incident)
            said = f"{subject}: within {format_number(lower)} to {shown(upper)}, but unusual where it is or for how long it stays"
        else:
            lower, upper, expected = _rounded(incident)
            said = f"{subject}, {way} the usual {format_number(lower)} to {shown(upper)} (expected about {shown(expected)})"
    elif incident.kind == "upper":
        said = f"{subject}, above its limit of {shown(rules.upper or 0.0)}"
    elif incident.kind == "lower":
        said = f"{subject}, below its limit of {shown(rules.lower or 0.0)}"
    elif incident.kind == "change":
        way = {1: "up", -1: "down", 0: "off"}[incident.direction]
        said = f"{subject}, {way} by {incident.peak_strength:.0f}% from the value before; {rules.change_percent or 0:g}% are allowed"
    else:
        said = f"{subject} has not changed for {_span(incident.peak_strength)}"
    return f"{said}{_one_in(incident)}, {_since(incident)}"


def _rounded(incident: Incident) -> tuple[float, float, float]:
    """The band and what was expected, to a hundredth of the band's width; as they are where that would hide the gap."""
    band = (incident.peak_lower, incident.peak_upper, incident.peak_expected)
    width = incident.peak_upper - incident.peak_lower
    if not 0.0 < width < math.inf:
        return band
    digits = 2 - math.floor(math.log10(width))
    lower, upper, expected = (round(value, digits) for value in band)
    is_within = incident.peak_lower <= incident.peak_value <= incident.peak_upper
    return (lower, upper, expected) if (lower <= incident.peak_value <= upper) == is_within else band


def add_also(sentence: str, names: Sequence[str], count: int) -> str:
    """A sentence with what else of the batch is strange in the same hours."""
    return f"{sentence}; in the same hours also {name_some(names, count)}"


def describe_group(batch: str, kind: str, incidents: int, names: Sequence[str], strongest: str) -> str:
    """One sentence for incidents of a batch that are told together.

    Parameters
    ----------
    kind
        Of the notice: ``opened``, ``grown`` or ``reminder``.
    names
        The metrics, the strongest first.
    strongest
        The sentence of the first, without what else is strange: that are the others.
    """
    has = {"grown": " have grown", "reminder": " go on"}.get(kind, "")
    others = f". Also {name_some(names[1:], len(names) - 1)}" if len(names) > 1 else ""
    return f"{incidents:,} incidents of {batch}{has}, the strongest: {strongest}{others}"


def describe_resolved_group(batch: str, incidents: int, names: Sequence[str], still_open: int) -> str:
    """One sentence for incidents of a batch that ended together."""
    rest = f"{still_open:,} {'goes' if still_open == 1 else 'go'} on" if still_open else "none goes on"
    return f"{incidents:,} incidents of {batch} are over: {name_some(names, len(names))}; {rest}"


def describe_late(metric: str, newest_ms: int, late_after_s: float) -> str:
    """One sentence for data that do not come."""
    return f"{metric}: no value since {_time(newest_ms)}; one is expected every {_span(late_after_s)}"


def describe_resolved(metric: str, incident: Incident) -> str:
    """One sentence for an incident that is over."""
    reason = {
        "calm": "is within its limits again"
        if incident.kind in KINDS and incident.kind != "unusual"
        else "has kept one level, or is back at an earlier one"
        if incident.kind == "shift"
        else "is back to what it usually shows",
        "data came": "has values again",
        "detector gone": "is not judged by this detector any more",
        "corrected": "was corrected: what was unusual is not in the data any more",
    }.get(incident.resolution or "", "is over")
    lasted_s = (incident.last_ms - incident.opened_ms) / 1000
    return f"{metric} {reason}; it {f'lasted {_span(lasted_s)}' if lasted_s > 0 else 'was one value'}"


def _made_of(rules: SeriesRules) -> str:
    """What the value that is judged is, where it is not the metric's own.

    >>> _made_of(SeriesRules(lag_s=604_800, smooth=3)), _made_of(SeriesRules())
    (' (less that of 7 days before, mean of 3)', '')
    """
    parts = [
        f"less that of {_span(rules.lag_s)} before" if rules.lag_s else "",
        f"change over {rules.difference:,} point{'s' if rules.difference > 1 else ''}"
        if rules.difference
        else "",
        f"mean of {rules.smooth:,}" if rules.smooth > 1 else "",
        f"{rules.rolling_aggregate} of {rules.rolling:,}" if rules.rolling > 1 else "",
    ]
    told = ", ".join(filter(None, parts))
    return f" ({told})" if told else ""


def _one_in(incident: Incident) -> str:
    """How rare the worst value is among those kept, where enough of them are."""
    if incident.kind != "unusual" or not 0 < incident.peak_tail <= 1 / ONE_IN_MIN:
        return ""
    digits = math.floor(math.log10(1 / incident.peak_tail)) - 1
    one_in = round(1 / incident.peak_tail, -digits)
    way = {1: "so high", -1: "so low", 0: "so far out"}[incident.direction]
    return f", {way} is at most one value in {one_in:,.0f}"


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
