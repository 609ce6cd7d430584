"""A series as lines of braille dots, for terminals: two values a column, four steps a line."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["plot"]

# Unicode's numbering of the dots of a braille cell, by column and row.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EMPTY = 0x2800


def plot(values: Sequence[float | None], width: int, height: int, marks: Sequence[int] = ()) -> list[str]:
    """Lines from top to bottom, the axis at the left; below columns with an index of ``marks`` stands a sign.

    Where many values fall into one column of dots, it reaches from their smallest to their largest: a spike of one
    point is never lost. Nothing is drawn where values are missing.

    Examples
    --------
    >>> print("\\n".join(plot([0, 4, None, 7], 10, 2)))
    7 ┤⢀⠈
    0 ┤⡸⠀
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ["no values"]
    low, high = min(known), max(known)
    columns, levels = max(1, min(2 * width, len(values))), 4 * height
    scale = (levels - 1) / ((high - low) or 1.0)
    cells = [[0] * ((columns + 1) // 2) for _ in range(height)]
    before: int | None = None
    for column in range(columns):
        first, past = column * len(values) // columns, (column + 1) * len(values) // columns
        found = [
            round((value - low) * scale)
            for value in values[first:past]
            if value is not None and math.isfinite(value)
        ]
        if not found:
            before = None
            continue
        bottom, top = min(found), max(found)
        if before is not None:  # a line from the value before
            bottom, top = min(bottom, before + (before < bottom)), max(top, before - (before > top))
        before = found[-1]
        for level in range(bottom, top + 1):
            row = levels - 1 - level
            cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    labels = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    pad = max(map(len, labels.values()))
    lines = [
        f"{labels.get(row, ''):>{pad}} ┤" + "".join(chr(_EMPTY + dots) for dots in cells[row])
        for row in range(height)
    ]
    marked = {mark * columns // len(values) // 2 for mark in marks}
    if marked:
        below = "".join("▲" if cell in marked else " " for cell in range((columns + 1) // 2))
        lines.append(" " * (pad + 2) + below.rstrip())
    return lines
