"""Parts without a server: hours, stream, filters, plots, doctests."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dashboard
from anomalyze.detection.supervised import Proof
from anomalyze.storage.board_feed import AccountPulse, ProgramState
from anomalyze.storage.board_transactions import TransactionRow
from dashboard.amounts import Usual, in_one_currency, usual_amounts
from dashboard.bundle_standing import Facts
from dashboard.bundle_view import proven
from dashboard.case_filter import parse_view
from dashboard.components import ago
from dashboard.hours import build_hours
from dashboard.plots import HourColumn, hour_bars, range_bar, sparkline, ticks
from dashboard.stream import describe_stream

NOW = datetime(2025, 12, 20, 12, 30, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
MODULES = [m.name for m in pkgutil.iter_modules(dashboard.__path__) if m.name != "__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"dashboard.{name}")).failed == 0


def hourly(days: int, per_hour: int, now_count: int) -> dict[datetime, list[int]]:
    this = NOW.replace(minute=0)
    hours = {this - timedelta(hours=h): [100, per_hour, 0, 0, 0] for h in range(1, days * 24 + 1)}
    hours[this] = [50, now_count, 0, 0, 0]
    return hours


def test_usual_range_needs_a_week_and_counts_the_running_hour_by_its_part() -> None:
    assert build_hours(hourly(6, 8, 1), NOW, UTC_ZONE).usual_now is None
    view = build_hours(hourly(20, 8, 14), NOW, UTC_ZONE)
    assert view.usual_now == (4.0, 4.0), "half the hour has gone"
    assert view.this_hour == 14
    assert len(view.columns) == 24
    assert view.columns[-1].label == "now"


def test_an_hour_without_transactions_is_a_gap_not_a_zero() -> None:
    counts = hourly(10, 3, 1)
    del counts[NOW.replace(minute=0) - timedelta(hours=5)]
    view = build_hours(counts, NOW, UTC_ZONE)
    assert [c.gap for c in view.columns].count(True) == 1
    assert view.columns[-6].gap
    assert view.columns[-6].readout == "07:00 to 08:00: no transaction"


def program(name: str, age_s: float, **state: object) -> ProgramState:
    return ProgramState(name, "1", 1, NOW - timedelta(days=1), NOW - timedelta(seconds=age_s), dict(state))


def test_stream_is_judged_by_its_programs_and_its_data() -> None:
    pulse = AccountPulse(NOW - timedelta(seconds=1), 86_400)
    running = [program("detector", 1, rate=1284.0, lag_s=0.4), program("sink", 1), program("api", 1)]
    well = describe_stream(running, pulse, NOW)
    assert (well.sign, well.word, well.detail) == ("ok", "Stream healthy", "1,284 tx/s, lag 0.4\u00a0s")
    assert describe_stream(running[:1], pulse, NOW).sign == "down"
    assert (
        describe_stream([program("detector", 1, lag_s=90.0), program("sink", 1)], pulse, NOW).word
        == "Stream late"
    )
    silent = describe_stream(running, AccountPulse(NOW - timedelta(minutes=14), 86_400), NOW)
    assert (
        silent.silent.replace("\u00a0", " ")
        == "No transaction for 14 min; usually one a second. The API is up."
    )


@given(
    st.dictionaries(
        st.sampled_from(["state", "severity", "q", "rule", "hour", "before", "sort", "user"]),
        st.text(max_size=300),
    )
)
def test_any_address_is_a_view_that_its_own_address_gives_back(query: dict[str, str]) -> None:
    from urllib.parse import parse_qsl, urlsplit

    view = parse_view(query)
    again = parse_view(dict(parse_qsl(urlsplit(view.url()).query)))
    assert again.url() == view.url()
    assert "\x00" not in view.filter.words


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(0, 4)), max_size=40))
def test_sparklines_draw_any_amounts(amounts: list[tuple[float, int]]) -> None:
    assert "nan" not in str(sparkline(amounts))


@given(st.floats(-1e12, 1e12), st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_range_bars_keep_their_mark_inside(value: float, low: float, width: float) -> None:
    drawn = str(range_bar(value, (low, low + width), low + width / 2, 4))
    assert "nan" not in drawn
    x = float(drawn.rpartition(' x="')[2].partition('"')[0])
    assert 0 <= x <= 228


@given(st.integers(0, 10**7))
def test_ticks_cover_and_are_few(top: int) -> None:
    marks = ticks(top)
    assert marks[0] == 0
    assert marks[-1] >= top
    assert len(marks) <= 7


def test_bars_escape_what_they_say() -> None:
    column = HourColumn("<b>", (1, 0, 0, 0), None, '"><script>')
    assert "<script" not in str(hour_bars([column, column], 300, 100, "<i>"))


def paid(amount: str, currency: str, base: float | None) -> TransactionRow:
    features = {} if base is None else {"amount_base": base}
    return TransactionRow(
        "u",
        NOW - timedelta(days=3),
        "t",
        Decimal(amount),
        currency,
        0,
        0,
        None,
        "CSV",
        None,
        {},
        {"features": features},
        None,
    )


def test_a_payment_abroad_is_drawn_beside_the_users_own_in_the_base_currency() -> None:
    rows = [paid("20.00", "USD", 20.0)] * 12 + [paid("25.84", "EUR", 29.9)]
    points, currency = in_one_currency(rows, "EUR")
    assert currency == "USD"
    assert [p.amount for p in points] == [20.0] * 12 + [29.9]
    usual = usual_amounts(points, NOW)
    assert isinstance(usual, Usual)
    assert usual.n == 13
    assert in_one_currency(rows, "USD")[1] == "USD"
    assert len(in_one_currency(rows, "USD")[0]) == 12, "mostly his own currency: drawn as paid"
    assert in_one_currency([paid("5", "EUR", None), *rows[:2]], "EUR")[0][0].amount == 20.0
    assert usual_amounts(points[:9], NOW) == 9


def test_an_age_of_days_is_a_moment_without_ago() -> None:
    assert len(ago(NOW - timedelta(seconds=42), NOW, UTC_ZONE)) == 2
    assert len(ago(NOW - timedelta(days=2), NOW, UTC_ZONE)) == 1


def test_what_a_model_has_proven_is_told_to_whom_it_concerns() -> None:
    found = Facts("trained", None, True, "iforest", {"a": Proof(63, 0.212, 0.14), "b": Proof(1, 0.3, 0.2)})
    assert proven(found, "a") == (
        "yes: average precision +0.21 beside rules and statistics, on 63\u00a0fraud cases"
    )
    assert proven(found, "b").startswith("no: average precision")
    assert proven(found, "c") == "no: not measured on settled fraud of this account yet"
