"""Plots drawn on the server as SVG: bars of anomalies an hour, sparklines, usual ranges, shares.

Geometry only; colours are classes. A figure's columns carry ``data-read``, the sentence that its readout
shows when the pointer or the arrow keys reach them. Bars stand on zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dashboard.element import NotStr

__all__ = [
    "HourColumn",
    "columns_chart",
    "hour_bars",
    "promise_bars",
    "range_bar",
    "share_bar",
    "sparkline",
    "ticks",
]

SPARK_WIDTH, SPARK_HEIGHT = 80, 24
SPARK_BARS = 20


@dataclass(frozen=True, slots=True)
class HourColumn:
    """One hour: anomalies by severity 1 to 4, the usual band, and the sentence of the readout."""

    label: str
    counts: tuple[int, int, int, int]
    usual: tuple[float, float] | None
    readout: str
    gap: bool = False


def ticks(top: float, steps: int = 4) -> list[int]:
    """Whole, round ticks from zero that cover ``top``.

    >>> ticks(15), ticks(3), ticks(0), ticks(1234)
    ([0, 5, 10, 15], [0, 1, 2, 3], [0, 1], [0, 500, 1000, 1500])
    """
    if top <= 1:
        return [0, 1]
    rough = top / steps
    size = 10 ** math.floor(math.log10(rough))
    step = max(
        1,
        next(
            int(size * m)
            for m in (1, 2, 2.5, 5, 10)
            if (size * m >= rough and (size * m) % 1 == 0) or m == 10
        ),
    )
    return list(range(0, math.ceil(top / step) * step + 1, step))


def hour_bars(
    columns: Sequence[HourColumn], width: int, height: int, label: str, *, label_every: int = 2
) -> NotStr:
    """Stacked bars of anomalies an hour over the usual band; the last column is the hour that runs.

    Severity is also told by order and fill: critical at the foot, low on top and hollow.
    """
    left, floor = 28.0, height - 20.0
    peak = max([sum(c.counts) for c in columns] + [c.usual[1] for c in columns if c.usual] + [1])
    marks = ticks(peak, 4 if height > 120 else 2)
    scale = (floor - 8) / marks[-1]
    step = (width - left) / len(columns)
    parts = [_band(columns, left, step, floor, scale)]
    for value in marks:
        y = floor - value * scale
        parts.append(f'<path class="{"grid" if value else "base"}" d="M{left:.0f} {y:.1f}H{width}"/>')
        parts.append(
            f'<text class="axis" x="{left - 7:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>'
        )
    bar = min(20.0, step * 0.6)
    for index, column in enumerate(columns):
        x = left + step * (index + 0.5)
        parts.append(f'<g class="col" data-read="{escape(column.readout)}">')
        parts.append(
            f'<rect class="hit" x="{x - step / 2:.1f}" y="0" width="{step:.1f}" height="{floor:.1f}"/>'
        )
        if column.gap:
            parts.append(
                f'<rect class="gap" x="{x - step / 2:.1f}" y="8" width="{step:.1f}" height="{floor - 8:.1f}"/>'
            )
        y = floor
        for level in (4, 3, 2, 1):
            count = column.counts[level - 1]
            if count:
                tall = count * scale
                y -= tall
                parts.append(
                    f'<rect class="bar-{level}" x="{x - bar / 2 + 0.5:.1f}" y="{y + 0.5:.1f}" width="{bar - 1:.1f}" '
                    f'height="{max(tall - 1, 0.8):.1f}"/>'
                )
        parts.append("</g>")
        last = index == len(columns) - 1
        if last or (index % label_every == 0 and len(columns) - 1 - index >= label_every):
            anchor, at = ("end", float(width)) if last and step < 20 else ("middle", x)
            parts.append(
                f'<text class="axis" x="{at:.1f}" y="{floor + 15:.1f}" text-anchor="{anchor}">{escape(column.label)}</text>'
            )
    edge = left + step * (len(columns) - 1)
    parts.append(f'<path class="hair" d="M{edge:.1f} 0V{floor:.1f}"/>')
    return NotStr(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def promise_bars(
    columns: Sequence[tuple[str, int, float | None, str]],
    width: int,
    height: int,
    label: str,
    *,
    label_every: int,
) -> NotStr:
    """Bars from zero with a line at what was promised: (label, value, promised, readout) each; today last."""
    left, floor = 28.0, height - 20.0
    marks = ticks(max([value for _, value, _, _ in columns] + [p for _, _, p, _ in columns if p] + [1]))
    scale = (floor - 8) / marks[-1]
    step = (width - left) / len(columns)
    parts, line = [], ""
    for value in marks:
        y = floor - value * scale
        parts.append(f'<path class="{"grid" if value else "base"}" d="M{left:.0f} {y:.1f}H{width}"/>')
        parts.append(
            f'<text class="axis" x="{left - 7:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>'
        )
    for index, (name, value, promised, readout) in enumerate(columns):
        x = left + step * index
        parts.append(
            f'<g class="col" data-read="{escape(readout)}">'
            f'<rect class="hit" x="{x:.1f}" y="0" width="{step:.1f}" height="{floor:.1f}"/>'
            f'<rect class="psoft" x="{x + step * 0.2:.1f}" y="{floor - value * scale:.1f}" width="{step * 0.6:.1f}" '
            f'height="{value * scale:.1f}"/></g>'
        )
        if promised is not None:
            line += f"M{x:.1f} {floor - promised * scale:.1f}h{step:.1f}"
        if (len(columns) - 1 - index) % label_every == 0:
            anchor, at = ("end", float(width)) if index == len(columns) - 1 else ("middle", x + step / 2)
            parts.append(
                f'<text class="axis" x="{at:.1f}" y="{floor + 15:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
            )
    if line:
        parts.append(f'<path class="promise" d="{line}"/>')
    parts.append(f'<path class="hair" d="M{left + step * (len(columns) - 1):.1f} 0V{floor:.1f}"/>')
    return NotStr(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _band(columns: Sequence[HourColumn], left: float, step: float, floor: float, scale: float) -> str:
    """Runs of hours that have a usual range, as an area with edges; a gap stays a gap."""
    out: list[str] = []
    start = 0
    while start < len(columns):
        if columns[start].usual is None:
            start += 1
            continue
        end = start
        upper, lower = "", ""
        while end < len(columns) and (usual := columns[end].usual) is not None:
            x0, x1 = left + step * end, left + step * (end + 1)
            low, high = floor - usual[0] * scale, floor - usual[1] * scale
            upper += f"L{x0:.1f} {high:.1f}L{x1:.1f} {high:.1f}"
            lower = f"L{x1:.1f} {low:.1f}L{x0:.1f} {low:.1f}" + lower
            end += 1
        out.append(f'<path class="band" d="M{upper[1:]}{lower}Z"/>')
        out.append(f'<path class="bande" d="M{upper[1:]}M{lower[1:]}"/>')
        start = end
    return "".join(out)


def sparkline(amounts: Sequence[tuple[float, int]]) -> NotStr:
    """The last amounts as bars from zero; the judged ones carry their severity."""
    shown = amounts[-SPARK_BARS:]
    if not shown:
        return NotStr('<svg class="micro" aria-hidden="true"></svg>')
    peak = max(abs(amount) for amount, _ in shown) or 1.0
    step = SPARK_WIDTH // SPARK_BARS
    paths: dict[int, list[str]] = {}
    for index, (amount, level) in enumerate(shown):
        tall = max(1, round(abs(amount) / peak * (SPARK_HEIGHT - 1)))
        x = SPARK_WIDTH - step * (len(shown) - index)
        # Strokes three wide, which take half the bytes of boxes; boxes where an edge must be seen.
        box = (
            f"M{x} {SPARK_HEIGHT}v-{tall}h3v{tall}z"
            if level in (1, 2)
            else f"M{x + 1.5:g} {SPARK_HEIGHT}v-{tall}"
        )
        paths.setdefault(level, []).append(box)
    drawn = "".join(f'<path class="sp-{level}" d="{"".join(d)}"/>' for level, d in sorted(paths.items()))
    return NotStr(
        f'<svg class="micro" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" aria-hidden="true">{drawn}</svg>'
    )


def range_bar(value: float, usual: tuple[float, float], middle: float | None, level: int) -> NotStr:
    """Where a value lies beside its usual range, on a signed log scale; the range fills about half."""
    low, high = usual
    size = max(abs(low), abs(high), 1e-9) / 10

    def signed_log(v: float) -> float:
        return math.copysign(math.log1p(abs(v) / size), v)

    left, right = signed_log(low), signed_log(high)
    at = signed_log(value)
    pad = max((right - left) * 0.35, 0.3)
    start, end = min(left - pad, at - pad / 3), max(right + pad, at + pad / 3)

    def x(v: float) -> float:
        return (v - start) / (end - start) * 240

    wide = max(x(right) - x(left), 2.0)
    line = f'<path class="middle" d="M{x(signed_log(middle)):.1f} 5v12"/>' if middle is not None else ""
    name = ("none", "low", "medium", "high", "critical")[level]
    return NotStr(
        '<svg viewBox="0 0 240 22" width="240" height="22" aria-hidden="true"><path class="rule-line" d="M0 11H240"/>'
        f'<rect class="band" x="{x(left):.1f}" y="5" width="{wide:.1f}" height="12" rx="2"/>'
        f'<rect class="bande" x="{x(left):.1f}" y="5" width="{wide:.1f}" height="12" rx="2"/>{line}'
        f'<use href="#s-{name}" x="{min(max(x(at) - 6, 0), 228):.1f}" y="5" width="12" height="12"/></svg>'
    )


def share_bar(share: float, mark_at: float | None = None) -> NotStr:
    """A share of one as a bar, with an optional hair where it was expected."""
    hair = (
        f'<rect class="meter-mark" x="{min(max(mark_at, 0), 1) * 100 - 0.6:.1f}" y="0" width="1.2" height="12"/>'
        if mark_at is not None
        else ""
    )
    return NotStr(
        '<svg class="meter" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="meter-ground" y="3" width="100" height="6"/>'
        f'<rect class="meter-fill" y="3" width="{min(max(share, 0), 1) * 100:.1f}" height="6"/>{hair}</svg>'
    )


def columns_chart(
    values: Sequence[tuple[str, float, str]], width: int, height: int, label: str, *, label_every: int
) -> NotStr:
    """Plain bars from zero: (label, value, readout) each."""
    floor = height - 18.0
    peak = max([value for _, value, _ in values] + [1e-9])
    step = width / len(values)
    parts = [f'<path class="base" d="M0 {floor:.1f}H{width}"/>']
    for index, (name, value, readout) in enumerate(values):
        x = step * index
        tall = value / peak * (floor - 4)
        parts.append(
            f'<g class="col" data-read="{escape(readout)}"><rect class="hit" x="{x:.1f}" y="0" width="{step:.1f}" height="{floor:.1f}"/>'
            f'<rect class="plain" x="{x + step * 0.15:.1f}" y="{floor - tall:.1f}" width="{step * 0.7:.1f}" height="{tall:.1f}"/></g>'
        )
        if index % label_every == 0:
            parts.append(
                f'<text class="axis" x="{x + step / 2:.1f}" y="{height - 3}" text-anchor="middle">{escape(name)}</text>'
            )
    return NotStr(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
