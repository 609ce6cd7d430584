"""The budget in the dashboard: how to set one, promised and delivered, and what overflowed, of this account alone."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest

from anomalyze.access.keys import create_key
from anomalyze.storage.budget import BudgetDay, store_budget_day, withdraw_budgets
from dashboard.budget_days import build_budget
from tests.browser.site import Site
from tests.test_dashboard.test_states import words

DAY = timedelta(days=1)


@pytest.fixture
def account(site: Site) -> tuple[str, httpx.Client]:
    """A new account without data, and its client."""
    name = f"budget_{time.time_ns()}"
    with site.connect() as connection:
        _, key = create_key(connection, name, "first", ["admin"], "test")
    return name, site.client(key)


def add_night(
    site: Site, account: str, day: date, threshold: float | None = 0.9, wanted: float = 2, says: str = ""
) -> None:
    with site.connect() as connection:
        store_budget_day(connection, BudgetDay(account, day, wanted, 3, threshold, 1.9, 28, says))


def add_case(
    site: Site,
    account: str,
    at: datetime,
    effect: str | None,
    *,
    severity: int = 3,
    risk: float = 0.95,
    rows: int = 1,
) -> str:
    case_id = f"case_{time.time_ns()}"
    analysis = {"budget": {"risk": risk, "effect": effect, "severity_before": "HIGH"}} if effect else {}
    with site.connect() as connection:
        for row in range(rows):
            connection.execute(
                "INSERT INTO anomalies (account_id, anomaly_id, user_id, ts, tx_id, amount, currency, severity, action, case_id,"
                " explanation, rule_flags, bundle, src_partition, src_offset, data, enrichment, analysis, verdict)"
                " VALUES (%s, %s, 'u1', %s, %s, 10, 'USD', %s, 1, %s, %s, '{}', 'sha256:b', 0, 0, '{}', '{}', %s, '{}')",
                [account, f"an_{case_id}_{row}", at + row * timedelta(minutes=1), f"{case_id}_{row}", severity,
                 case_id, f"Strange payment {case_id}", json.dumps(analysis)],
            )  # fmt: skip
        connection.execute(
            "INSERT INTO cases (account_id, case_id, user_id, opened_at, last_at, severity, anomalies, headline,"
            " headline_anomaly_id, rule_flags) VALUES (%s, %s, 'u1', %s, %s, %s, %s, 'x', %s, '{}')",
            [account, case_id, at, at, severity, rows, f"an_{case_id}_0"],
        )
    return case_id


def test_without_a_budget_the_page_says_how_to_set_one(account: tuple[str, httpx.Client]) -> None:
    text = words(account[1].get("/budget").text)
    assert "No budget yet" in text
    assert "budget: {cases_per_day: 20, severity: HIGH}" in text


def test_a_budget_that_waits_for_history_says_so(site: Site, account: tuple[str, httpx.Client]) -> None:
    says = "3 whole days are stored, 7 are needed."
    add_night(site, account[0], datetime.now(UTC).date(), threshold=None, says=says)
    assert says in words(account[1].get("/budget").text)
    assert "budget waits for history" in words(account[1].get("/now").text)


def test_promised_delivered_and_overflow(site: Site, account: tuple[str, httpx.Client]) -> None:
    name, client = account
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    add_night(site, name, (midnight - 5 * DAY).date())
    for hours in (20, 30, 31):
        add_case(site, name, midnight - timedelta(hours=hours), "kept", rows=3)
    add_case(site, name, midnight - timedelta(hours=40), "raised")
    add_case(site, name, midnight - timedelta(hours=41), None, severity=4)  # a block list: apart
    add_case(site, name, midnight, "kept")
    less = add_case(site, name, now - 2 * DAY, "capped", severity=2, risk=0.71)
    more = add_case(site, name, now - 3 * DAY, "capped", severity=2, risk=0.83)
    add_case(site, name, now - 8 * DAY, "capped", severity=2)
    both = add_case(site, name, now - 2 * DAY, "capped", severity=2, risk=0.99)
    with site.connect() as connection:  # the case reached the severity by another of its anomalies
        connection.execute("UPDATE cases SET severity = 3 WHERE case_id = %s", [both])
    page = client.get("/budget").text
    text = words(page)
    assert "2 cases a day at High or above" in text
    assert "In the last 5 whole days 4 were shown, 10 promised: 40%" in text
    assert re.findall(r"overflow-(case_\d+)", page) == [more, less]
    assert "riskiest first: 2" in text
    tile = words(client.get("/now").text)
    assert re.search(r"High or above today\s*1 of 2", tile)
    assert "5 days: 4 of 10 promised" in tile


def test_another_accounts_cases_are_not_there(site: Site, account: tuple[str, httpx.Client]) -> None:
    add_night(site, account[0], datetime.now(UTC).date())
    add_case(site, f"{account[0]}_other", datetime.now(UTC) - DAY, "capped", severity=2)
    assert "Nothing overflowed in 7 days" in words(account[1].get("/budget").text)


def test_a_budget_that_was_taken_back_is_gone(site: Site, account: tuple[str, httpx.Client]) -> None:
    today = datetime.now(UTC).date()
    add_night(site, account[0], today - DAY)
    with site.connect() as connection:
        assert withdraw_budgets(connection, today) >= 1
        assert withdraw_budgets(connection, today) == 0
    assert "No budget yet" in words(account[1].get("/budget").text)


def test_a_promise_counts_from_its_night_on_and_changes_with_it() -> None:
    now = datetime(2025, 12, 20, 9, tzinfo=UTC)
    nights = [
        BudgetDay("a", date(2025, 12, 10), 20.0, 3, None, None, 3, ""),
        BudgetDay("a", date(2025, 12, 15), 20.0, 3, 0.9, 19.0, 8, ""),
        BudgetDay("a", date(2025, 12, 18), 10.0, 3, 0.9, 19.0, 8, ""),
    ]
    view = build_budget(nights, {date(2025, 12, 14): 9, date(2025, 12, 16): 21, date(2025, 12, 20): 4}, now)
    assert view is not None
    assert [column.promised for column in view.columns[-7:]] == [None, 20, 20, 20, 10, 10, 10]
    assert (view.promised, view.delivered, view.whole_days, view.today.delivered) == (80.0, 21, 5, 4)
