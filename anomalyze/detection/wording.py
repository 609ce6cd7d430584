"""Numbers as people read them: money, distances, times, counts, rarities.

Number and unit are joined by a no-break space only where a page does it; these texts are plain.
"""

from __future__ import annotations

from anomalyze.events.money import CURRENCY_EXPONENTS, CURRENCY_INDEX

__all__ = [
    "distance_text",
    "duration_text",
    "money_text",
    "number_text",
    "ordinal_text",
    "rarity_text",
    "times_text",
    "value_text",
    "window_text",
]

UNITS_S = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"))


def money_text(amount: float, currency: str) -> str:
    """An amount with thousands separators and its currency's decimals.

    >>> money_text(4500.5, "USD"), money_text(-1234567, "JPY"), money_text(0.1234, "BHD")
    ('4,500.50 USD', '-1,234,567 JPY', '0.123 BHD')
    """
    return f"{amount_text(amount, currency)} {currency}"


def amount_text(amount: float, currency: str) -> str:
    """An amount without its code.

    >>> amount_text(120.0, "USD")
    '120.00'
    """
    index = CURRENCY_INDEX.get(currency)
    decimals = 2 if index is None else int(CURRENCY_EXPONENTS[index])
    return f"{amount:,.{decimals}f}"


def number_text(value: float) -> str:
    """A plain number with as many digits as are worth reading.

    >>> [number_text(v) for v in (5.0, 0.12345, 37.46, 1234567.8)]
    ['5', '0.123', '37.5', '1,234,568']
    """
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def times_text(ratio: float) -> str:
    """How many times.

    >>> times_text(37.504), times_text(8.0), times_text(1234.5)
    ('37.5 times', '8 times', '1,234 times')
    """
    if ratio >= 100:
        return f"{ratio:,.0f} times"
    return f"{ratio:.1f} times".replace(".0 ", " ")


def distance_text(km: float) -> str:
    """A distance.

    >>> distance_text(8440.2), distance_text(3.26)
    ('8,440 km', '3.3 km')
    """
    return f"{km:,.0f} km" if km >= 10 else f"{km:.1f} km"


def duration_text(seconds: float) -> str:
    """A time span: seconds up to two minutes, then minutes, hours, days.

    >>> [duration_text(s) for s in (1, 72, 150, 5400, 86400, 200000)]
    ['1 second', '72 seconds', '2.5 minutes', '90 minutes', '24 hours', '2.3 days']
    """
    for unit_s, name in UNITS_S:
        if seconds >= 2 * unit_s:
            return counted(round(seconds / unit_s, 1), name)
    return counted(round(seconds), "second")


def window_text(window: str) -> str:
    """A window's length in words.

    >>> [window_text(w) for w in ("5m", "1h", "24h", "7d")]
    ['5 minutes', '1 hour', '24 hours', '7 days']
    """
    names = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
    return counted(int(window[:-1]), names[window[-1]])


def counted(number: float, name: str) -> str:
    """A number with its noun.

    >>> counted(1, "hour"), counted(2.5, "day")
    ('1 hour', '2.5 days')
    """
    return f"{number_text(number)} {name}" + ("" if number == 1 else "s")


def ordinal_text(number: int) -> str:
    """A place in a row.

    >>> [ordinal_text(n) for n in (1, 2, 3, 5, 11, 12, 13, 21, 112)]
    ['1st', '2nd', '3rd', '5th', '11th', '12th', '13th', '21st', '112th']
    """
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def rarity_text(share: float) -> str:
    """A share of the history in words.

    >>> [rarity_text(s) for s in (0.5, 0.002, 0.00017, 0.0)]
    ['one in 2', 'one in 500', 'one in 5,900', 'never seen']
    """
    if share <= 0:
        return "never seen"
    every = 1 / share
    step = 10 ** max(0, len(str(int(every))) - 2)  # two digits: more would pretend
    return f"one in {round(every / step) * step:,}"


def value_text(value: float, unit: str, currency: str) -> str:
    """A feature's value with its unit, as ``FeatureKind.unit`` names it.

    >>> value_text(120, "money", "USD"), value_text(422000.4, "kmh", "USD"), value_text(1, "flag", "USD")
    ('120.00 USD', '422,000 km/h', 'yes')
    """
    match unit:
        case "money":
            return money_text(value, currency)
        case "km":
            return distance_text(value)
        case "kmh":
            return f"{value:,.0f} km/h"
        case "seconds":
            return duration_text(value)
        case "days":
            return counted(round(value, 1), "day")
        case "flag":
            return "yes" if value else "no"
        case "share":
            return f"{100 * value:.1f}%"
        case "ratio":
            return times_text(value)
        case "hour":
            return f"{int(value):02d}:{int(value % 1 * 60):02d}"
        case "weekday":
            return ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[int(value) % 7]
        case _:
            return number_text(value)
