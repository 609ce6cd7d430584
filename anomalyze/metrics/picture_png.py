"""An incident's picture as PNG, for channels that show no SVG: rendered by resvg, without a browser.

Letters are DejaVu's, which matplotlib brings: a server often has no font at all, and the picture is the same on each.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["PIXELS_A_UNIT", "draw_png"]

# Sharp on the screens of phones: 720 by 260 become 1440 by 520.
PIXELS_A_UNIT = 2
FAMILY = "DejaVu Sans"
# Behind it come the scripts of East Asia and most pictograms, which DejaVu does not have.
BEYOND = "\u2e7f"


def draw_png(drawn: str) -> bytes:
    """A picture of `draw_picture` as PNG.

    It takes 0.1 to 0.2 s and gives other threads their turn meanwhile; what it may weigh is bounded by the picture's
    size and points (some 50 kB).
    """
    # Three megabytes of code that only those need who ask for one.
    import resvg_py

    return resvg_py.svg_to_bytes(
        svg_string=drawn,
        zoom=PIXELS_A_UNIT,
        font_files=_fonts(),
        font_family=FAMILY,
        sans_serif_family=FAMILY,
        # The machine's fonts are read where a name needs them.
        skip_system_fonts=not any(letter > BEYOND for letter in drawn),
    )


@cache
def _fonts() -> list[str]:
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return [str(folder / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")]
