"""Money is exact: from a number's decimal text to minor units, and to a base currency by day."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ConfigError, EventError
from anomalyze.events.batch import AMOUNT_MINOR_MAX
from anomalyze.events.money import (
    AMOUNT_MAJOR_MAX,
    CURRENCIES,
    CURRENCY_EXPONENTS,
    CURRENCY_INDEX,
    RateTable,
    amount_minor_max,
    format_minor,
    parse_amount,
)

DAY_MS = 86_400_000
SHIPPED = Path(__file__).parents[2] / "metrics_config" / "currency_rates.yaml"


def test_currencies_are_sorted_and_few() -> None:
    assert list(CURRENCIES) == sorted(set(CURRENCIES))
    assert len(CURRENCIES) < 256
    exponents = {code: int(CURRENCY_EXPONENTS[CURRENCY_INDEX[code]]) for code in ("USD", "JPY", "KWD", "CLF")}
    assert exponents == {"USD": 2, "JPY": 0, "KWD": 3, "CLF": 4}


@pytest.mark.parametrize(
    ("text", "code", "minor"),
    [
        ("4500.50", "USD", 450050),
        ("0.1", "USD", 10),
        ("1.10", "USD", 110),
        ("-19.99", "EUR", -1999),
        ("-0.00", "EUR", 0),
        ("12.3400000", "USD", 1234),
        ("1e3", "JPY", 1000),
        ("1.5E-1", "USD", 15),
        ("0e999", "USD", 0),
        ("0.001", "KWD", 1),
        ("4.35", "USD", 435),  # 4.35 * 100 = 434.99999999999994
        ("1000000000000", "JPY", AMOUNT_MAJOR_MAX),
        ("1000000000000.00", "USD", 10**14),
    ],
)
def test_amounts_are_read_from_their_text(text: str, code: str, minor: int) -> None:
    assert parse_amount(text, CURRENCY_INDEX[code]) == minor


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1.001", "USD"),
        ("0.30000000000000004", "USD"),
        ("12.340000000000000001", "USD"),  # the same double as 12.34
        ("1.5", "JPY"),
        ("1e-3", "USD"),
        ("1000000000000.01", "USD"),
        ("140737488355.328", "KWD"),
        ("1e999", "USD"),
        ('"1"', "USD"),
        ("null", "USD"),
        ("NaN", "USD"),
        ("1" * 65, "USD"),
    ],
)
def test_amounts_that_are_refused(text: str, code: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_amount(text, CURRENCY_INDEX[code])
    assert caught.value.field == "data.amount"


@given(st.integers(-AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX), st.sampled_from(range(len(CURRENCIES))))
@settings(max_examples=200, deadline=None)
def test_every_amount_survives_its_text(minor: int, currency: int) -> None:
    minor = max(-amount_minor_max(currency), min(minor, amount_minor_max(currency)))
    text = format_minor(minor, currency)
    assert parse_amount(text, currency) == minor
    assert Decimal(text) == Decimal(minor).scaleb(-int(CURRENCY_EXPONENTS[currency]))


def table(*days: tuple[str, dict[str, str]]) -> RateTable:
    entries = [{"day": day, "rates": rates} for day, rates in days]
    return RateTable.parse({"pivot": "EUR", "tables": entries}, "test")


def convert(rates: RateTable, minor: int, code: str, ts_ms: int, base: str) -> int | None:
    values, missing = rates.to_base_minor(
        np.array([minor]), np.array([CURRENCY_INDEX[code]], dtype=np.int16), np.array([ts_ms]), base
    )
    assert values.dtype == np.int64
    return None if missing[0] else int(values[0])


def test_rate_of_the_day() -> None:
    rates = table(("1970-01-11", {"USD": "2"}), ("1970-01-21", {"USD": "4", "JPY": "100"}))
    assert convert(rates, 1000, "USD", 0, "EUR") == 500  # before the oldest: the oldest
    assert convert(rates, 1000, "USD", 10 * DAY_MS, "EUR") == 500
    assert convert(rates, 1000, "USD", 20 * DAY_MS - 1, "EUR") == 500
    assert convert(rates, 1000, "USD", 20 * DAY_MS, "EUR") == 250
    assert convert(rates, 1000, "JPY", 0, "EUR") is None
    assert convert(rates, 1000, "JPY", 20 * DAY_MS, "EUR") == 1000  # 1000 yen, 10.00 euros
    assert convert(rates, 1000, "JPY", 20 * DAY_MS, "USD") == 4000
    assert convert(rates, 1000, "GBP", 20 * DAY_MS, "EUR") is None


@given(st.integers(-AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX))
@settings(max_examples=100, deadline=None)
def test_base_currency_is_itself(minor: int) -> None:
    rates = table(("2024-01-01", {"USD": "1.0837"}))
    assert convert(rates, minor, "USD", 0, "USD") == minor
    assert convert(rates, minor, "EUR", 0, "EUR") == minor


def test_what_does_not_fit_is_missing() -> None:
    rates = table(("2024-01-01", {"IRR": "45000"}))
    assert convert(rates, AMOUNT_MINOR_MAX, "EUR", 0, "IRR") is None


def test_shipped_rates() -> None:
    rates = RateTable.load(SHIPPED)
    assert 90 < convert(rates, 100, "USD", 1735689600000, "EUR") < 100  # type: ignore[operator]
    assert RateTable.from_content(rates.content).hash == rates.hash
    assert "APPROXIMATE" in SHIPPED.read_text()


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"pivot": "EUR"},
        {"pivot": "XXX", "tables": []},
        {"pivot": "EUR", "tables": [{"day": "2024-01-01", "rates": {"USD": 0}}]},
        {"pivot": "EUR", "tables": [{"day": "2024-01-01", "rates": {"USD": -1.2}}]},
        {"pivot": "EUR", "tables": [{"day": "2024-01-01", "rates": {"USX": 1.2}}]},
        {"pivot": "EUR", "tables": [{"day": "yesterday", "rates": {}}]},
        {"pivot": "EUR", "tables": [{"day": "2024-01-01", "rates": {}}] * 2},
    ],
)
def test_mistakes_in_rates_are_named(document: object) -> None:
    with pytest.raises(ConfigError, match="expected"):
        RateTable.parse(document, "currency_rates.yaml")
