"""How every number, time and score is written, once for all pages.

A number and its unit are joined by a no-break space, so that a line never parts them. What is missing is an
en dash. Nothing here knows HTML.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from anomalyze.events.money import CURRENCY_EXPONENTS, CURRENCY_INDEX

__all__ = [
    "MISSING",
    "SEVERITIES",
    "currency_decimals",
    "emphasise",
    "format_age",
    "format_bytes",
    "format_clock",
    "format_count",
    "format_day",
    "format_duration",
    "format_moment",
    "format_money",
    "format_percent",
    "format_score",
    "format_value",
    "one_in",
    "plural",
    "zone_name",
]

MISSING = "–"
NO_BREAK = "\u00a0"
MINUS = "−"
SEVERITIES = ("none", "low", "medium", "high", "critical")

DAY_S = 86_400
_BYTE_UNITS = (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))


def currency_decimals(currency: str) -> int:
    """Decimals of a currency's minor unit; 2 for codes nobody knows.

    >>> currency_decimals("JPY"), currency_decimals("USD"), currency_decimals("KWD")
    (0, 2, 3)
    """
    index = CURRENCY_INDEX.get(currency)
    return 2 if index is None else int(CURRENCY_EXPONENTS[index])


def format_money(amount: Decimal | float | None, currency: str) -> str:
    """An amount in its currency's decimals, with thousands and a true minus; without the code.

    >>> format_money(Decimal("4500.5"), "USD"), format_money(Decimal("-61200"), "JPY")
    ('4,500.50', '−61,200')
    """
    if amount is None:
        return MISSING
    return f"{amount:,.{currency_decimals(currency)}f}".replace("-", MINUS)


_SIZES = (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))


def format_count(count: int | float | None) -> str:
    """Exact below 10,000, then three digits with k, M, G or T; beyond those as a power of ten.

    >>> [format_count(n) for n in (9999, 12_404, 999_960, 1_280_000, 3_000_000_000, 1.87e12, -4e21)]
    ['9,999', '12.4\\xa0k', '1.00\\xa0M', '1.28\\xa0M', '3.00\\xa0G', '1.87\\xa0T', '−4e+21']
    """
    if count is None:
        return MISSING
    if abs(count) < 10_000:
        return f"{count:,.0f}".replace("-", MINUS)
    if abs(count) >= 9.995e14:
        return f"{count:.3g}".replace("-", MINUS)
    unit, scaled = next(
        (unit, scaled) for unit, size in _SIZES if abs(scaled := float(f"{count / size:.3g}")) < 1000
    )
    digits = max(0, 2 - int(math.log10(abs(scaled))))
    return f"{scaled:.{digits}f}{NO_BREAK}{unit}".replace("-", MINUS)


def format_percent(share: float | None, decimals: int = 1) -> str:
    """A share of one as percent; what is above nothing but below the last decimal says so.

    >>> format_percent(0.042), format_percent(0.0004), format_percent(0.78, 0), format_percent(0.0), format_percent(1.0)
    ('4.2%', '<0.1%', '78%', '0%', '100%')
    """
    if share is None:
        return MISSING
    percent = share * 100
    least = 10.0**-decimals
    if 0 < percent < least:
        return f"<{least:g}%"
    if percent in (0, 100):
        return f"{percent:.0f}%"
    return f"{percent:.{decimals}f}%".replace("-", MINUS)


def format_score(score: float | None) -> str:
    """Three decimals, never rounded up to a one that it is not.

    >>> format_score(0.998), format_score(0.99996), format_score(None)
    ('0.998', '0.999', '–')
    """
    if score is None:
        return MISSING
    return f"{min(score, 0.999) if score < 1 else 1:.3f}"


def one_in(score: float) -> str:
    """A tail probability in words, to two digits: how rare something this strange is.

    >>> one_in(0.998), one_in(0.981), one_in(0.5), one_in(0.99996)
    ('one in 500', 'one in 53', 'one in 2', 'one in 25,000')
    """
    rarity = 1 / max(1 - score, 1e-6)
    return f"one in {float(f'{rarity:.2g}'):,.0f}"


def format_duration(seconds: float) -> str:
    """Two units at most: ``42 s``, ``6 min``, ``3 h 10 min``, ``5 d 2 h``.

    >>> [format_duration(s).replace("\\xa0", " ") for s in (0.3, 42, 400, 11_400, 7200, 440_000)]
    ['0.3 s', '42 s', '6 min', '3 h 10 min', '2 h', '5 d 2 h']
    """
    if seconds < 1:
        return f"{max(seconds, 0):.1g}{NO_BREAK}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}{NO_BREAK}s"
    if whole < 3600:
        return f"{whole // 60}{NO_BREAK}min"
    if whole < DAY_S:
        first, second = f"{whole // 3600}{NO_BREAK}h", whole % 3600 // 60
        return f"{first} {second}{NO_BREAK}min" if second else first
    first, second = f"{whole // DAY_S}{NO_BREAK}d", whole % DAY_S // 3600
    return f"{first} {second}{NO_BREAK}h" if second else first


def format_age(then: datetime, now: datetime, zone: ZoneInfo) -> str:
    """How long ago; after a day the moment itself.

    >>> from datetime import timezone
    >>> now = datetime(2025, 12, 20, 12, tzinfo=timezone.utc)
    >>> format_age(now - timedelta(seconds=42), now, ZoneInfo("UTC"))
    '42\\xa0s'
    >>> format_age(now - timedelta(days=2), now, ZoneInfo("Europe/Berlin"))
    '18\\xa0Dec, 13:00'
    """
    elapsed = now - then
    if timedelta(0) <= elapsed < timedelta(days=1):
        return format_duration(max(1, int(elapsed.total_seconds())))
    if elapsed < timedelta(0) and elapsed > -timedelta(minutes=10):
        return f"0{NO_BREAK}s"
    local = then.astimezone(zone)
    year = f" {local.year}" if abs(elapsed) > timedelta(days=300) else ""
    return f"{local.day}{NO_BREAK}{local:%b}{year}, {local:%H:%M}"


def format_clock(moment: datetime, zone: ZoneInfo) -> str:
    """Hours and minutes on the reader's clock."""
    return f"{moment.astimezone(zone):%H:%M}"


def format_day(moment: datetime, zone: ZoneInfo) -> str:
    """Day and month, such as ``3 Dec``.

    >>> from datetime import timezone
    >>> format_day(datetime(2025, 12, 3, tzinfo=timezone.utc), ZoneInfo("UTC"))
    '3\\xa0Dec'
    """
    local = moment.astimezone(zone)
    return f"{local.day}{NO_BREAK}{local:%b}"


def format_moment(moment: datetime, zone: ZoneInfo) -> str:
    """The moment in full, with its zone.

    >>> from datetime import timezone
    >>> format_moment(datetime(2025, 12, 20, 12, tzinfo=timezone.utc), ZoneInfo("Europe/Berlin"))
    '20 Dec 2025, 13:00:00 CET'
    """
    local = moment.astimezone(zone)
    return f"{local.day} {local:%b %Y, %H:%M:%S %Z}"


def zone_name(zone: ZoneInfo, now: datetime) -> str:
    """The zone's own short name on that day, such as ``CET``."""
    name = now.astimezone(zone).tzname() or str(zone)
    return f"UTC{name}" if name[:1] in "+-" else name


def format_value(value: float | None) -> str:
    """A measured value to four digits, without an exponent.

    >>> [format_value(v) for v in (5.0, 37.504, 0.00123, 422000.0, -3.0)]
    ['5', '37.5', '0.00123', '422,000', '−3']
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{float(f'{value:.3g}'):,.12g}".replace("-", MINUS)


def format_bytes(size: int) -> str:
    """Bytes in the unit that leaves three digits.

    >>> format_bytes(1240), format_bytes(54_000_000)
    ('1.2\\xa0kB', '54\\xa0MB')
    """
    unit, scale = next(((u, s) for u, s in _BYTE_UNITS if size < 1000 * s), _BYTE_UNITS[-1])
    scaled = size / scale
    return f"{scaled:.{1 if scaled < 10 and scale > 1 else 0}f}{NO_BREAK}{unit}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "transaction"), plural(12_404, "transaction"), plural(2, "entry", "entries")
    ('1\\xa0transaction', '12.4\\xa0k\\xa0transactions', '2\\xa0entries')
    """
    return f"{format_count(count)}{NO_BREAK}{one if count == 1 else many or one + 's'}"


# A figure with its unit: what the eye should find first in a sentence.
_FIGURE = re.compile(
    r"\d[\d,.]*\d?[ \u00a0](?:[A-Z]{3}\b|times\b|km/h\b|km\b(?: in \d[\d,.]* ?(?:s|seconds?|min|minutes?|h|hours?)\b)?)"
)


def emphasise(sentence: str) -> list[tuple[str, bool]]:
    """A sentence in parts; True marks amounts, distances and multiples.

    >>> emphasise("5th in 5 minutes; 4,500.50 USD is 37 times the usual")
    [('5th in 5 minutes; ', False), ('4,500.50 USD', True), (' is ', False), ('37 times', True), (' the usual', False)]
    """
    parts: list[tuple[str, bool]] = []
    start = 0
    for match in _FIGURE.finditer(sentence):
        if match.start() > start:
            parts.append((sentence[start : match.start()], False))
        parts.append((match.group(), True))
        start = match.end()
    if start < len(sentence):
        parts.append((sentence[start:], False))
    return parts
