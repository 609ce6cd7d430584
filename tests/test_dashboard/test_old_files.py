"""Somebody who sent a file of old days: pages of the last days end with its newest transaction, and say so."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from anomalyze.access.keys import create_key
from anomalyze.learning.promotion import CHALLENGER, open_bundles
from anomalyze.settings import Settings
from anomalyze.storage.budget import BudgetDay, store_budget_day
from tests.browser.seed import INCIDENTS, Seeder
from tests.browser.site import Site
from tests.test_dashboard.test_states import words
from tests.test_realtime.test_shadow import with_rules

THEN = datetime(2018, 6, 30, 21, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def account(site: Site) -> tuple[str, httpx.Client]:
    """An account with a month of 2018: a confirmed case, one to review, and what counters have of them."""
    name = f"old_{time.time_ns()}"
    with site.connect() as connection:
        _, key = create_key(connection, name, "first", ["admin"], "test")
        seeder = Seeder(connection, name, THEN)
        seeder.fill(users=12, waiting=3, decided=6)
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT a.account_id, a.user_id, a.tx_id, c.state = 'confirmed', now(), 'analyst', 'k' FROM cases c "
            "JOIN anomalies a USING (account_id, case_id) WHERE c.account_id = %s AND c.state <> 'open'",
            [name],
        )
    return name, site.client(key)


def test_quality_ends_with_the_newest_transaction(account: tuple[str, httpx.Client]) -> None:
    page = account[1].get("/quality").text
    text = words(page)
    assert "1 Apr to 30 Jun 2018, where the newest transaction is, by labels and decisions" in text
    assert "30 days to 30 Jun 2018" in text
    assert "no case is known yet" not in text
    assert "1 Jun: " in page
    assert "30 Jun: " in page


def test_users_and_transactions_are_those_of_the_file(account: tuple[str, httpx.Client]) -> None:
    client = account[1]
    text = words(client.get("/users").text)
    assert "Most anomalies first: 1 to 30 Jun 2018, where the newest transaction is" in text
    flagged = client.get("/users").text.split('id="user-')[1].split('"')[0]
    of_user = words(client.get(f"/users/{flagged}").text)
    assert "Anomalies, 30 days 0" not in of_user
    assert "Nothing to draw yet" not in of_user
    listed = client.get("/transactions").text
    assert "where the newest transaction is" in words(listed)
    assert "No transaction" not in words(listed)
    assert listed.count("<tr") > 50
    assert len(client.get("/transactions.csv").text.splitlines()) > 50


def test_who_was_last_seen_long_ago_has_his_month(site: Site, account: tuple[str, httpx.Client]) -> None:
    """Also beside live traffic."""
    with site.connect() as connection:
        name = f"{account[0]}_mixed"
        _, key = create_key(connection, name, "first", ["admin"], "test")
        for at in (THEN, datetime.now(UTC)):
            seeder = Seeder(connection, name, at, seed=at.year)
            seeder.take_user(f"user_of_{at.year}")
            seeder.add_incident(f"user_of_{at.year}", INCIDENTS[0], at)
            seeder.write()
    text = words(site.client(key).get("/users/user_of_2018").text)
    assert "Anomalies, 30 days5" in text.replace("30 days 5", "30 days5")
    assert "Nothing to draw yet" not in text


def test_the_comparison_of_bundles_ends_there_too(site: Site, account: tuple[str, httpx.Client]) -> None:
    store = open_bundles(Settings(data_dir=site.data_dir, _env_file=None))
    champion = store.pointer("champion")
    assert champion is not None
    challenger = store.publish(with_rules(store.load(champion), AMOUNT_LIMIT="CRITICAL"))
    store.set_pointer(CHALLENGER, challenger)
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO challenger_hourly VALUES (%s, %s, 'sha256:x', %s, 0, 3, 41)",
            [account[0], THEN.replace(minute=0), challenger],
        )
    try:
        text = words(account[1].get("/bundles?days=7").text)
        assert "Of 41 transactions" in text
        assert "2018, where the newest transaction is" in text
    finally:
        store.set_pointer(CHALLENGER, champion)


def test_the_budget_of_old_days_is_what_ranked_them(site: Site, account: tuple[str, httpx.Client]) -> None:
    name, client = account
    with site.connect() as connection:
        store_budget_day(
            connection,
            BudgetDay(name, datetime.now(UTC).date() - timedelta(days=1), 3.0, 3, 0.9, 2.9, 28, ""),
        )
    text = words(client.get("/budget").text)
    assert "it ranked nothing until 30 Jun 2018" in text
    with site.connect() as connection:
        for back, effect in ((1, "kept"), (2, "raised"), (2, "capped")):
            at = THEN - timedelta(days=back)
            case_id = f"case_{time.time_ns()}"
            level = 2 if effect == "capped" else 3
            connection.execute(
                "INSERT INTO anomalies (account_id, anomaly_id, user_id, ts, tx_id, amount, currency, severity, action, case_id,"
                " explanation, rule_flags, bundle, src_partition, src_offset, data, enrichment, analysis, verdict)"
                " VALUES (%s, %s, 'u1', %s, %s, 10, 'USD', %s, 1, %s, 'No room', '{}', 'b', 0, 0, '{}', '{}', %s, '{}')",
                [name, f"an_{case_id}", at, case_id, level, case_id,
                 json.dumps({"budget": {"risk": 0.8, "effect": effect, "severity_before": "HIGH"}})],
            )  # fmt: skip
            connection.execute(
                "INSERT INTO cases (account_id, case_id, user_id, opened_at, last_at, severity, anomalies, headline,"
                " headline_anomaly_id, rule_flags) VALUES (%s, %s, 'u1', %s, %s, %s, 1, 'x', %s, '{}')",
                [name, case_id, at, at, level, f"an_{case_id}"],
            )
    text = words(client.get("/budget").text)
    assert (
        "On 2 whole days until 30 Jun 2018, where the newest transaction is, 2 were shown, 6 promised: 33%"
        in text
    )
    assert "7 days to 30 Jun 2018, riskiest first: 1" in text


def test_what_is_of_today_is_shown_as_before(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    for path in ("/quality", "/users", "/transactions", "/budget", "/bundles"):
        assert "where the newest transaction is" not in words(client.get(path).text), path
    assert "Last 90 days, by labels and decisions" in words(client.get("/quality").text)
