"""Lines of metrics drawn on the server as SVG: a sparkline for a row, a chart for the panel.

Geometry only; colours are classes. A gap stays a gap, each run of anomalies is marked once, at its worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from zoneinfo import ZoneInfo

from anomalyze.metrics.picture import label_ticks
from anomalyze.storage.metrics_board import SPARK_PARTS, Line
from dashboard import formatters as form
from dashboard.element import NotStr

__all__ = ["marked", "nice_ticks", "pieces", "series_chart", "sparkline"]

SPARK_WIDTH, SPARK_HEIGHT = 196, 34
CHART_WIDTH, CHART_HEIGHT = 416, 216
# A line is broken where no point lies for so many times what usually lies between two.
GAP = 2.5
DAY = timedelta(days=1)


def pieces(line: Line) -> list[list[int]]:
    """Indices of points that hang together: nothing is drawn across what is missing.

    >>> pieces(Line([0, 60, 120, 600, 660], [1.0, 2.0, None, 1.0, 1.0], [], [], [], 5))
    [[0, 1], [3, 4]]
    """
    steps = sorted(b - a for a, b in zip(line.ts, line.ts[1:], strict=False))
    reach = GAP * steps[len(steps) // 2] if steps else 0.0
    if steps and line.points > len(line.ts):
        # Two points that were kept may lie two parts of the time apart.
        reach = max(reach, 2.05 * (line.ts[-1] - line.ts[0]) / SPARK_PARTS)
    found: list[list[int]] = [[]]
    for index, value in enumerate(line.value):
        if value is None:
            found.append([])
        elif found[-1] and line.ts[index] - line.ts[found[-1][-1]] > reach:
            found.append([index])
        else:
            found[-1].append(index)
    return [piece for piece in found if piece]


def marked(line: Line) -> Iterator[tuple[int, int]]:
    """Index and severity of the worst point of each run of anomalies; of equal ones the furthest out.

    >>> list(marked(Line([0, 1, 2, 3], [9.0, 9.0, 1.0, 9.0], [0.0] * 4, [2.0] * 4, [1, 3, 0, 2], 4)))
    [(1, 3), (3, 2)]
    >>> list(marked(Line([0, 1, 2], [5.0, 9.0, 7.0], [0.0] * 3, [2.0] * 3, [2, 2, 2], 3)))
    [(1, 2)]
    """
    worst, level = -1, 0
    for index, severity in enumerate([*line.severity, 0]):
        if severity and (
            severity > level or (severity == level and _beyond(line, index) > _beyond(line, worst))
        ):
            worst, level = index, severity
        elif not severity and level:
            yield worst, level
            level = 0


def _beyond(line: Line, index: int) -> float:
    """How far a point lies outside its band; negative within, nothing without one."""
    value, lower, upper = line.value[index], line.lower[index], line.upper[index]
    return 0.0 if value is None or lower is None or upper is None else max(value - upper, lower - value)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values within a range, about so many.

    >>> nice_ticks(91.4, 98.2), nice_ticks(0, 1)
    ([92.0, 94.0, 96.0, 98.0], [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    rough = (high - low) / count
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.99)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def sparkline(line: Line, since_s: float, until_s: float, *, late: bool = False) -> NotStr:
    """A line in its band for a row of the list, for the eye only: the row's words say the same.

    Parameters
    ----------
    since_s, until_s
        Left and right edge, in seconds since 1970.
    late
        Hatch what is missing at its end.
    """
    width, height = SPARK_WIDTH, SPARK_HEIGHT
    low, high = _extent(line)
    span = max(until_s - since_s, 1.0)

    def x(index: int) -> int:
        return round(5 + (line.ts[index] - since_s) / span * (width - 10))

    def y(value: float) -> int:
        return round(height - 5 - (value - low) / (high - low) * (height - 10))

    parts: list[str] = []
    runs = pieces(line)
    for run in runs:
        banded = [index for index in run if line.lower[index] is not None and line.upper[index] is not None]
        thin = banded[:: max(1, len(banded) // SPARK_PARTS)]
        if banded and thin[-1] != banded[-1]:
            thin.append(banded[-1])
        if len(thin) > 1:
            there = [(x(index), y(line.upper[index] or 0.0)) for index in thin]
            back = [(x(index), y(line.lower[index] or 0.0)) for index in reversed(thin)]
            parts.append(f'<path class="band" d="{_steps(there + back)}z"/>')
    drawn = "".join(_steps([(x(index), y(line.value[index] or 0.0)) for index in run]) for run in runs)
    parts.append(f'<path class="pline" d="{drawn}"/>')
    if runs:
        last = runs[-1][-1]
        if not line.severity[last]:
            parts.append(f'<circle class="pdot" cx="{x(last)}" cy="{y(line.value[last] or 0.0)}" r="2"/>')
        if late and x(last) < width - 12:
            parts.append(
                f'<rect class="gap" x="{x(last) + 4}" y="3" width="{width - 5 - x(last) - 4}" height="{height - 6}"/>'
            )
    parts += [
        f'<use href="#s-{form.SEVERITIES[level]}" x="{x(index) - 5}" y="{y(line.value[index] or 0.0) - 5}" width="10" height="10"/>'
        for index, level in marked(line)
    ]
    return NotStr(f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>')


def series_chart(
    line: Line,
    since: datetime,
    until: datetime,
    label: str,
    unit: str,
    zone: ZoneInfo,
    limits: tuple[float | None, float | None] = (None, None),
) -> NotStr:
    """A line in its band with axes, anomalies and limits.

    Parameters
    ----------
    limits
        Lower and upper; drawn where they lie near what is shown.
    """
    left, top, right, floor = 48.0, 8.0, CHART_WIDTH - 10.0, CHART_HEIGHT - 24.0
    low, high = _extent(line)
    near = [v for v in limits if v is not None and low - (high - low) <= v <= high + (high - low)]
    low, high = min([low, *near]), max([high, *near])
    span = max((until - since).total_seconds(), 1.0)

    def x(ts: float) -> float:
        return left + (ts - since.timestamp()) / span * (right - left)

    def y(value: float) -> float:
        return floor - (value - low) / (high - low) * (floor - top)

    parts = list(_grid(low, high, since, until, unit, zone, x, y, left, top, right, floor))
    runs = pieces(line)
    for run in runs:
        banded = [index for index in run if line.lower[index] is not None and line.upper[index] is not None]
        if len(banded) > 1:
            there = "L".join(f"{x(line.ts[i]):.1f} {y(line.upper[i] or 0.0):.1f}" for i in banded)
            back = "L".join(f"{x(line.ts[i]):.1f} {y(line.lower[i] or 0.0):.1f}" for i in reversed(banded))
            parts.append(
                f'<path class="band" d="M{there}L{back}Z"/><path class="bande" d="M{there}M{back}"/>'
            )
    parts += [f'<path class="limit" d="M{left:.0f} {y(v):.1f}H{right:.0f}"/>' for v in near]
    parts.append(f'<path class="hair" d="M{right:.1f} {top:.0f}V{floor:.0f}"/>')
    drawn = "".join(
        "M" + "L".join(f"{x(line.ts[i]):.1f} {y(line.value[i] or 0.0):.1f}" for i in run) for run in runs
    )
    parts.append(f'<path class="pline" d="{drawn}"/>')
    parts += [
        f'<use href="#s-{form.SEVERITIES[level]}" x="{x(line.ts[i]) - 5:.1f}" y="{y(line.value[i] or 0.0) - 5:.1f}" width="10" height="10"/>'
        for i, level in marked(line)
    ]
    return NotStr(
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" width="{CHART_WIDTH}" height="{CHART_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _grid(
    low: float,
    high: float,
    since: datetime,
    until: datetime,
    unit: str,
    zone: ZoneInfo,
    x: Callable[[float], float],
    y: Callable[[float], float],
    left: float,
    top: float,
    right: float,
    floor: float,
) -> Iterator[str]:
    short = unit if unit == "%" else ""
    ticks = nice_ticks(low, high)
    for value, label in zip(ticks, label_ticks(ticks, short), strict=True):
        yield f'<path class="grid" d="M{left:.0f} {y(value):.1f}H{right:.0f}"/>'
        yield f'<text class="axis" x="{left - 6:.0f}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>'
    days = max(1, round((until - since) / DAY / 7))
    midnight = since.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in range(days, round((until - since) / DAY) + 2, days):
        # Midnight of the reader's clock, whatever daylight saving made of the days before.
        at = (midnight.replace(tzinfo=None) + DAY * day).replace(tzinfo=zone).astimezone(UTC)
        if not since < at < until:
            continue
        yield f'<path class="grid" d="M{x(at.timestamp()):.1f} {top:.0f}V{floor:.0f}"/>'
        yield f'<text class="axis" x="{x(at.timestamp()):.1f}" y="{floor + 16:.0f}" text-anchor="middle">{form.format_day(at, zone)}</text>'


def _extent(line: Line) -> tuple[float, float]:
    """Least and greatest of a line and its band, apart from each other."""
    seen = [v for column in (line.value, line.lower, line.upper) for v in column if v is not None]
    low, high = min(seen, default=0.0), max(seen, default=1.0)
    if high - low <= abs(high) * 1e-9:
        room = abs(high) * 0.1 or 1.0
        return low - room, high + room
    return low, high


def _steps(points: list[tuple[int, int]]) -> str:
    """A path by whole steps from each point to the next: half the bytes of places."""
    out, (x0, y0) = [f"M{points[0][0]} {points[0][1]}l"], points[0]
    for px, py in points[1:]:
        dx, dy = px - x0, py - y0
        out.append(f"{dx}{dy}" if dy < 0 else f"{dx} {dy}")
        out.append(" ")
        x0, y0 = px, py
    return "".join(out).rstrip(" l") if len(points) > 1 else f"M{x0} {y0}h1"
