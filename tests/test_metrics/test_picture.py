"""Pictures of incidents: well-formed whatever names and values are, honest about gaps, bounded."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalyze.metrics.picture import POINTS_MAX, Picture, PicturePoint, draw_picture
from anomalyze.metrics.picture_png import draw_png

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SVG = "{http://www.w3.org/2000/svg}"
maybe = st.none() | st.floats(width=32, allow_nan=False)


def picture(
    points: Sequence[PicturePoint], title: str = "orders", unit: str = "", said: str = "said"
) -> Picture:
    end = points[-1].ts if points else START
    return Picture(title, unit, points, end - HOUR, end, HOUR, said)


def points(values: Sequence[float | None], severity: int = 0) -> list[PicturePoint]:
    return [PicturePoint(START + HOUR * n, value, None, None, severity) for n, value in enumerate(values)]


def parts(drawn: str, css: str) -> list[ET.Element]:
    return [one for one in ET.fromstring(drawn).iter() if one.get("class") == css]


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=120),
    st.text(max_size=40),
    st.lists(st.tuples(maybe, maybe, maybe, st.integers(0, 4)), max_size=30),
)
def test_any_names_and_values_make_a_sound_document(
    name: str, unit: str, rows: list[tuple[float | None, float | None, float | None, int]]
) -> None:
    made = [PicturePoint(START + HOUR * n, *row) for n, row in enumerate(rows)]
    root = ET.fromstring(draw_picture(picture(made, name, unit, name)))
    assert root.tag == f"{SVG}svg"
    assert not [one for one in root.iter() if one.tag.lower().endswith("script")]


def test_nothing_is_drawn_across_a_gap_and_marks_stand_where_they_belong() -> None:
    series = points([1.0, 2.0, None, 3.0, 4.0])
    assert len(parts(draw_picture(picture(series)), "pic-line")) == 2
    late = [*series[3:], PicturePoint(START + 20 * HOUR, 9.0, None, None, 4)]
    drawn = draw_picture(picture(late))
    assert len(parts(drawn, "pic-line")) == 2
    assert len(parts(drawn, "f-critical")) == 1
    assert "No values" in draw_picture(picture(points([None, None])))
    assert "No values" in draw_picture(picture([]))


def test_a_band_far_out_does_not_flatten_the_line() -> None:
    far = [PicturePoint(START + HOUR * n, 10.0 + n % 2, -1e9, 1e9, 0) for n in range(20)]
    (line,) = parts(draw_picture(picture(far)), "pic-line")
    heights = {round(float(pair.split()[1])) for pair in str(line.get("d"))[1:].split("L")}
    assert max(heights) - min(heights) > 40


@pytest.mark.parametrize("count", [10, 4_000])
def test_its_size_is_bounded_and_the_worst_is_kept(count: int) -> None:
    series = points([float(n % 7) for n in range(count)])
    series[count // 2] = PicturePoint(series[count // 2].ts, 3.0, 0.0, 6.0, 4)
    drawn = draw_picture(picture(series))
    assert len(drawn) < 120 * POINTS_MAX
    assert len(parts(drawn, "f-critical")) == 1


@pytest.mark.parametrize("level", [1.9e12, 5_000_000.0, 3e-11, -4e20])
def test_words_of_an_axis_differ_and_fit(level: float) -> None:
    series = points([level * (1 + n / 1e5) for n in range(9)])
    ticks = [one for one in parts(draw_picture(picture(series)), "axis") if one.get("text-anchor") == "end"][
        1:
    ]
    words = [str(one.text) for one in ticks]
    assert len(set(words)) == len(words) >= 2
    assert not any("\N{HORIZONTAL ELLIPSIS}" in word for word in words)


@pytest.mark.parametrize("title", ["orders", "معدل الطلبات", "売上 🎉 \ud7ff"])
def test_as_png_it_has_the_mark_and_the_letters(title: str) -> None:
    series = [*points([1.0, 2.0, 1.0]), PicturePoint(START + 3 * HOUR, 9.0, 0.0, 3.0, 4)]
    image = Image.open(BytesIO(draw_png(draw_picture(picture(series, title)))))
    assert image.size == (1440, 520)
    assert (0x9C, 0x0F, 0x4A) in {colour for _, colour in image.convert("RGB").getcolors(1 << 16) or ()}
    head = image.convert("L").crop((128, 0, 900, 60))
    assert head.getextrema()[0] < 100, "a title is there, also where the machine has no font"
