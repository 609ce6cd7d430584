"""What people read of an incident."""

from __future__ import annotations

import math

import pytest

from anomalyze.metrics.incident import Incident
from anomalyze.metrics.judgement import MEDIUM, SeriesRules
from anomalyze.metrics.sentence import describe


@pytest.mark.parametrize(
    ("value", "lower", "upper", "expected", "said"),
    [
        (
            2.0,
            6.40149,
            67.9194,
            42.0275,
            "orders = 2 EUR, below the usual 6.4 to 67.9 EUR (expected about 42 EUR)",
        ),
        (66.99, 375.617, 2765.66, 1725.1, "orders = 66.99 EUR, below the usual 380 to 2,770 EUR"),
        # Rounded, the band would hold the value.
        (2768.0, 375.617, 2765.66, 1725.1, "orders = 2,768 EUR, above the usual 375.617 to 2,765.66 EUR"),
        (1e-7, 2e-7, 4e-7, 3e-7, "orders = 1e-07 EUR, below the usual 2e-07 to 4e-07 EUR"),
        (9.0, 5.0, 5.0, 5.0, "orders = 9 EUR, above the usual 5 to 5 EUR"),
        (41.0, 6.40149, 67.9194, 42.0, "orders = 41 EUR: within 6.4 to 67.9 EUR, but unusual where it is"),
        (41.0, math.nan, math.nan, math.nan, "orders = 41 EUR, above what it has shown before"),
    ],
)
def test_a_band_is_told_as_precisely_as_it_is_wide(
    value: float, lower: float, upper: float, expected: float, said: str
) -> None:
    direction = -1 if value < expected else 1
    incident = Incident("unusual", direction, 1, MEDIUM, 0, 0, 0, 1, 0, 0, value, expected, lower, upper, 4.0)
    assert describe("orders", incident, SeriesRules(unit="EUR")).startswith(said)


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (1 / 2_159, ", so low is at most one value in 2,200"),
        (1 / 274, ", so low is at most one value in 270"),
        (1 / 100, ", so low is at most one value in 100"),
        (1 / 99, ""),
        (0.0, ""),
    ],
)
def test_how_rare_a_value_is_has_two_digits_and_enough_values_behind_it(tail: float, said: str) -> None:
    incident = Incident("unusual", -1, 1, MEDIUM, 0, 0, 0, 1, 0, 0, 2.0, 42.0, 6.0, 68.0, 4.0, peak_tail=tail)
    sentence = describe("orders", incident, SeriesRules())
    assert sentence.startswith(f"orders = 2, below the usual 6 to 68 (expected about 42){said}")
    assert ("one value in" in sentence) == bool(said)
