"""The picture of an incident: its metric's values, the band they are held against, and what left it, as SVG.

Written by hand: a plotting library would cost the program that answers with it tens of megabytes for good. Colours are
attributes, so that the picture stands alone; a page that includes it may theme it by its classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from html import escape

__all__ = ["POINTS_MAX", "Picture", "PicturePoint", "draw_picture", "label_ticks"]

# Drawn points at most, twice the columns: of each column its lowest and highest value, and its worst point.
POINTS_MAX = 720
TITLE_LENGTH = 80
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 34, 26
# A line is broken where nothing came for so many steps.
GAP_STEPS = 2.5
TIME_STEPS = tuple(
    timedelta(minutes=minutes)
    for minutes in (1, 5, 15, 30, 60, 180, 360, 720, 1440, 2880, 7200, 14400, 43200, 129600, 525600)
)
# XML has no place for these, and names come from a source.
UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_SIZES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SEVERITIES = ("none", "low", "medium", "high", "critical")
# As on the pages: shape and fill tell the order, not the colour alone.
_MARKS = {
    1: ("M{x} {y}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", "#FFFFFF", "#6C7783"),
    2: ("M{x} {y}m-4 -4h8v8h-8Z", "#F7DE92", "#957000"),
    3: ("M{x} {y}m0 -5.5l5.5 9.5h-11Z", "#D9480F", "#D9480F"),
    4: ("M{x} {y}m0 -6l6 6l-6 6l-6 -6Z", "#9C0F4A", "#9C0F4A"),
}


@dataclass(frozen=True, slots=True)
class PicturePoint:
    """A value with its band (None: missing, or being learnt), and how severe it was (0: nothing)."""

    ts: datetime
    value: float | None
    lower: float | None
    upper: float | None
    severity: int


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn.

    Attributes
    ----------
    points
        The oldest first.
    began, ended
        The incident's first and last point; its hours are shaded.
    period
        From one point to the next.
    said
        What the picture shows, in words, for those who do not see it.
    """

    title: str
    unit: str
    points: Sequence[PicturePoint]
    began: datetime
    ended: datetime
    period: timedelta
    said: str
    zone: tzinfo = UTC


def draw_picture(picture: Picture, width: int = 720, height: int = 260) -> str:
    """The picture as a whole SVG document; of no points, it says so."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pic" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{_text(picture.said)}" '
        'font-family="Inter,system-ui,-apple-system,Segoe UI,Roboto,Noto Sans,sans-serif">',
        f'<rect class="pic-ground" width="{width}" height="{height}" fill="#FFFFFF"/>',
        f'<text class="pic-title" x="{LEFT}" y="20" font-size="13" font-weight="600" fill="#1C1B19">'
        f"{_text(_short(picture.title, TITLE_LENGTH))}</text>",
    ]
    drawn = [point for point in picture.points if point.value is not None and math.isfinite(point.value)]
    zone = picture.began.astimezone(picture.zone)
    parts.append(
        f'<text class="axis" x="{width - RIGHT}" y="20" font-size="11" text-anchor="end" fill="#55524C">'
        f"{_text(zone.tzname() or '')}</text>"
    )
    if drawn:
        parts += _plot(picture, drawn, width, height)
    else:
        parts.append(
            f'<text class="axis" x="{width / 2:g}" y="{height / 2:g}" font-size="12" text-anchor="middle" '
            'fill="#55524C">No values in these hours</text>'
        )
    return "".join([*parts, "</svg>"])


def _plot(picture: Picture, drawn: list[PicturePoint], width: int, height: int) -> Iterator[str]:
    first, last = picture.points[0].ts, picture.points[-1].ts
    span_s = max((last - first).total_seconds(), picture.period.total_seconds(), 1.0)
    low, high = _extent(drawn)
    floor = height - BOTTOM

    def x(moment: datetime) -> float:
        return LEFT + (moment - first).total_seconds() / span_s * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return floor - (min(max(value, low), high) - low) / (high - low) * (floor - TOP)

    begins = max(x(picture.began), float(LEFT))
    ends = min(max(x(picture.ended), begins + 2), float(width - RIGHT))
    if ends > begins:
        yield (
            f'<rect class="pic-span" x="{begins:.1f}" y="{TOP}" width="{ends - begins:.1f}" height="{floor - TOP}" '
            'fill="#FBEAF0"/>'
        )
    ticks = _ticks(low, high)
    for value, label in zip(ticks, label_ticks(ticks, picture.unit), strict=True):
        yield f'<path class="grid" d="M{LEFT} {y(value):.1f}H{width - RIGHT}" stroke="#E7E5DF" fill="none"/>'
        yield (
            f'<text class="axis" x="{LEFT - 8}" y="{y(value) + 4:.1f}" font-size="11" text-anchor="end" '
            f'fill="#55524C">{_text(_short(label, 12))}</text>'
        )
    for moment, label in _times(first, last, picture.zone):
        yield (
            f'<text class="axis" x="{x(moment):.1f}" y="{height - 8}" font-size="11" text-anchor="middle" '
            f'fill="#55524C">{label}</text>'
        )
    thin = _thinned(picture.points)
    for run in _runs(
        thin, picture.period * _stretch(picture), lambda p: p.lower is not None and p.upper is not None
    ):
        up = "L".join(f"{x(p.ts):.1f} {y(p.upper or 0.0):.1f}" for p in run)
        down = "L".join(f"{x(p.ts):.1f} {y(p.lower or 0.0):.1f}" for p in reversed(run))
        yield f'<path class="band" d="M{up}L{down}Z" fill="#E3E9F1" stroke="#B4C0D0" stroke-width=".5"/>'
    for run in _runs(thin, picture.period * _stretch(picture), lambda p: p.value is not None):
        line = "L".join(f"{x(p.ts):.1f} {y(p.value or 0.0):.1f}" for p in run)
        yield (
            f'<path class="pic-line" d="M{line}{"h0" if len(run) == 1 else ""}" fill="none" stroke="#3F4854" '
            'stroke-width="1.4" stroke-linejoin="round" stroke-linecap="round"/>'
        )
    for p in thin:
        if p.severity and p.value is not None:
            shape, fill, edge = _MARKS[min(p.severity, 4)]
            place = shape.format(x=f"{x(p.ts):.1f}", y=f"{y(p.value):.1f}")
            yield (
                f'<path class="f-{SEVERITIES[min(p.severity, 4)]}" d="{place}" fill="{fill}" stroke="{edge}" '
                'stroke-width="1.2"/>'
            )


def _extent(drawn: Sequence[PicturePoint]) -> tuple[float, float]:
    """The lowest and highest value, with the band where that does not flatten the line."""
    values = [p.value for p in drawn if p.value is not None]
    low, high = min(values), max(values)
    room = max(high - low, abs(high) * 0.02, 1e-9)
    bands = [edge for p in drawn for edge in (p.lower, p.upper) if edge is not None and math.isfinite(edge)]
    if bands:
        low = min(low, max(min(bands), low - room))
        high = max(high, min(max(bands), high + room))
    margin = 0.06 * max(high - low, abs(high) * 0.02, 1e-9)
    return low - margin, high + margin


def _stretch(picture: Picture) -> float:
    """How many times the period lies between two points that are drawn, and a gap more."""
    return GAP_STEPS * max(1.0, 2.0 * len(picture.points) / POINTS_MAX)


def _thinned(points: Sequence[PicturePoint]) -> list[PicturePoint]:
    """Of each column the lowest, the highest and the worst point."""
    if len(points) <= POINTS_MAX:
        return list(points)
    size = math.ceil(2 * len(points) / POINTS_MAX)
    kept: list[PicturePoint] = []
    for start in range(0, len(points), size):
        column = points[start : start + size]
        valued = [p for p in column if p.value is not None] or column[:1]
        chosen = {
            id(p): p
            for p in (
                min(valued, key=lambda p: p.value or 0.0),
                max(valued, key=lambda p: p.value or 0.0),
                max(valued, key=lambda p: p.severity),
            )
        }
        kept += sorted(chosen.values(), key=lambda p: p.ts)
    return kept


def _runs(
    points: Sequence[PicturePoint], reach: timedelta, has: Callable[[PicturePoint], bool]
) -> Iterator[list[PicturePoint]]:
    """Points that hang together: nothing is drawn across what is missing."""
    run: list[PicturePoint] = []
    for point in points:
        if run and (not has(point) or point.ts - run[-1].ts > reach):
            yield run
            run = []
        if has(point):
            run.append(point)
    if run:
        yield run


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values between two.

    >>> _ticks(0.0, 100.0), _ticks(-3.0, 3.5)
    ([0.0, 25.0, 50.0, 75.0, 100.0], [-2.0, 0.0, 2.0])
    """
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough)
    return [float(f"{n * step:.12g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def label_ticks(ticks: Sequence[float], unit: str = "") -> list[str]:
    """Words of an axis: as short as the distance of its values allows, so that no two read alike.

    >>> label_ticks([0.0, 25.0, 50.0], "%"), label_ticks([1e12, 1.5e12]), label_ticks([1001200.0, 1001250.0])
    (['0%', '25%', '50%'], ['1\\xa0T', '1.5\\xa0T'], ['1.0012\\xa0M', '1.00125\\xa0M'])
    >>> label_ticks([-2e-9, 0.0, 2e-9]), label_ticks([0.001, 0.002], "EUR")
    (['−2e-9', '0', '2e-9'], ['0.001\\xa0EUR', '0.002\\xa0EUR'])
    """
    most = max(map(abs, ticks), default=0.0)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else most
    size, word = next((one for one in _SIZES if 1e4 <= most < 1e15 and most >= one[0]), (1.0, ""))
    digits = min(max(math.ceil(math.log10(most / step)) + 1, 1), 15) if most and step else 1
    behind = unit if unit == "%" else f"\N{NO-BREAK SPACE}{unit}" if unit else ""

    def label(value: float) -> str:
        scaled = float(f"{value / size:.{digits}g}")
        if most >= 1e15 or most < 1e-3:
            mantissa, _, power = f"{scaled:.{digits - 1}e}".partition("e")
            text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"
        else:
            text = f"{scaled:,.15g}"
        text = text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text
        return f"{text}\N{NO-BREAK SPACE}{word}{behind}" if word else f"{text}{behind}"

    return [label(value) if value else f"0{behind}" for value in ticks]


def _times(first: datetime, last: datetime, zone: tzinfo) -> Iterator[tuple[datetime, str]]:
    """Moments to name, at whole steps of the zone's clock, and how."""
    step = next((one for one in TIME_STEPS if (last - first) / one <= 8), TIME_STEPS[-1])
    local = first.astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    number = math.ceil((local - midnight) / step)
    for _ in range(12):
        moment = midnight + number * step
        number += 1
        if moment > last:
            return
        at_midnight = (moment.hour, moment.minute) == (0, 0)
        yield moment, f"{moment:%-d %b}" if at_midnight else f"{moment:%H:%M}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def _text(text: str) -> str:
    return escape(UNPRINTABLE.sub("\ufffd", text))
