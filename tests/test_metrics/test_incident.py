"""An incident is one however many points it has, and however its points come."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.metrics.incident import OPEN, OVER, PENDING, Incident, Track, follow

CALM = 3


def track(kinds: str, start: int = 0) -> Track:
    """A point a letter: ``.`` calm, ``o`` goes on, ``x`` begins, ``X`` begins and is the strongest."""
    n = len(kinds)
    marks = np.array(list(kinds))
    begins = (marks == "x") | (marks == "X")
    strength = np.where(marks == "X", 9.0, np.where(begins, 5.0, 1.0))
    values = np.arange(start, start + n, dtype=np.float64)
    return Track(
        np.arange(start, start + n) * 1000, begins, begins | (marks == "o"), np.ones(n, np.int64),
        np.where(marks == "X", 4, 2), values, values, values, values, strength,
    )  # fmt: skip


def spans(found: list[Incident]) -> list[tuple[int, int, int, int]]:
    return [(one.opened_ms // 1000, one.last_ms // 1000, one.strange_points, one.state) for one in found]


def test_what_goes_on_is_one_and_ends_after_calm_points() -> None:
    found = follow("unusual", None, track("..xoo.oo...x"), calm_points=CALM)
    assert spans(found) == [(2, 7, 5, OVER), (11, 11, 1, OPEN)]
    assert found[0].resolution == "calm"


def test_what_is_strange_without_beginning_is_none() -> None:
    assert follow("unusual", None, track("ooo...oo"), calm_points=CALM) == []


def test_the_peak_is_the_strongest_point() -> None:
    (found,) = follow("unusual", None, track("xoXx"), calm_points=CALM)
    assert (found.peak_ms, found.peak_strength, found.severity) == (2000, 9.0, 4)


def test_one_that_is_too_short_never_was() -> None:
    assert follow("unusual", None, track("xx...."), calm_points=CALM, lasts_min_ms=2000) == []
    (pending,) = follow("unusual", None, track("xx"), calm_points=CALM, lasts_min_ms=2000)
    assert pending.state == PENDING
    (open_,) = follow("unusual", pending, track("o", 2), calm_points=CALM, lasts_min_ms=2000)
    assert open_.state == OPEN


def test_the_newest_point_again_counts_once() -> None:
    (before,) = follow("unusual", None, track("x.."), calm_points=CALM)
    (after,) = follow("unusual", before, track(".", 2), calm_points=CALM)
    assert (after.calm_points, after.state) == (2, OPEN)
    (again,) = follow("unusual", replace(before, seen_ms=0), track("x", 0), calm_points=CALM)
    assert again.strange_points == 1


@given(
    st.text("..oxX", max_size=40), st.lists(st.integers(0, 40), max_size=4), st.sampled_from([0.0, 2000.0])
)
def test_cut_anywhere_it_is_the_same(kinds: str, cuts: list[int], least_ms: float) -> None:
    whole = follow("unusual", None, track(kinds), calm_points=CALM, lasts_min_ms=least_ms)
    past: list[Incident] = []
    current: Incident | None = None
    edges = [0, *sorted(min(cut, len(kinds)) for cut in cuts), len(kinds)]
    for start, end in itertools.pairwise(edges):
        found = follow(
            "unusual", current, track(kinds[start:end], start), calm_points=CALM, lasts_min_ms=least_ms
        )
        past += [one for one in found if one.state == OVER]
        current = found[-1] if found and found[-1].state != OVER else None
    assert [*past, *([current] if current else [])] == whole
