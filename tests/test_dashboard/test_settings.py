"""Settings in the dashboard: what is sent is checked at its field, tried, saved, restored; lists put on and off."""

from __future__ import annotations

import asyncio
import html
import re
import time
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from anomalyze.access.keys import create_key
from anomalyze.storage.board_settings import load_rule_precision
from tests.browser.site import Site


@pytest.fixture
def account() -> str:
    return f"acct_s{time.time_ns()}"


@pytest.fixture
def client(site: Site, account: str) -> httpx.Client:
    """An admin of an account that nobody else uses."""
    with site.connect() as connection:
        _, secret = create_key(connection, account, "test", ["admin"], "test")
    return site.client(secret)


def token(client: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/settings").text)
    assert found is not None
    return found[1]


def post(client: httpx.Client, path: str = "/settings", **fields: str) -> httpx.Response:
    return client.post(path, data={"csrf": token(client), **fields})


def text(answer: httpx.Response) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", answer.text))


def test_saved_shown_restored(client: httpx.Client, site: Site, account: str) -> None:
    page = client.get("/settings")
    assert page.status_code == 200
    assert "as the platform's files say" in text(page)
    assert "AMOUNT_LIMIT" in page.text
    assert 'placeholder="10000"' in page.text
    fields = {
        "p.AMOUNT_LIMIT.limit": "25000",
        "m.ODD_HOUR": "shadow",
        "time_zone": "Europe/Riga",
        "t.robust_z": "30 LOW",
    }
    saved = post(client, do="save", version="0", note="wholesale", **fields)
    assert (saved.status_code, saved.headers["location"]) == (303, "/settings?saved=1"), text(saved)
    page = client.get("/settings?saved=1")
    for value in ('value="25000"', 'value="Europe/Riga"', 'value="30 LOW"'):
        assert value in page.text
    said = text(page)
    assert "Version 1 is in force" in said
    assert "rules.AMOUNT_LIMIT.parameters.limit: default → 25000" in said
    assert "wholesale" in said
    second = post(client, do="save", version="1", **{"p.AMOUNT_LIMIT.limit": "50"})
    assert second.headers["location"] == "/settings?saved=2"
    late = post(client, do="save", version="1", **{"p.AMOUNT_LIMIT.limit": "70"})
    assert late.status_code == 409
    assert "it is 2" in text(late)
    assert 'value="70"' in late.text  # what was typed is not lost
    assert post(client, restore="1", version="2").headers["location"] == "/settings?saved=3"
    assert 'value="25000"' in client.get("/settings").text
    with site.connect() as connection:
        documents = connection.execute(
            "SELECT document FROM account_versions WHERE account_id = %s ORDER BY version", [account]
        ).fetchall()
    assert documents[0] == documents[2]
    assert documents[0][0]["thresholds"] == {"robust_z": [{"over": 30.0, "severity": "LOW"}]}


def test_mistakes_stand_at_their_field(client: httpx.Client) -> None:
    refused = post(
        client,
        do="save",
        version="0",
        **{"p.AMOUNT_LIMIT.limit": "much", "time_zone": "Riga", "t.model": "0.3 LOW"},
    )
    assert refused.status_code == 422
    for field in ("p.AMOUNT_LIMIT.limit", "time_zone", "t.model"):
        assert f'id="{field}-error"' in refused.text, field
    assert "expected number, got 'much'" in text(refused)
    assert "3 mistakes" in text(refused)
    assert 'value="much"' in refused.text


def test_what_would_change_is_shown_before_it_is_saved(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    tried = post(client, do="preview", version="0", **{"p.AMOUNT_LIMIT.limit": "1"})
    assert tried.status_code == 200
    assert "rules.AMOUNT_LIMIT.parameters.limit: default → 1" in text(tried)
    address = re.search(r'hx-get="(/settings/previews/[^"]+)"', tried.text)
    assert address is not None
    deadline_s = time.monotonic() + 110  # kernels are compiled where nobody did before
    while "hx-trigger" in (found := client.get(address[1])).text:
        assert time.monotonic() < deadline_s, text(found)
        time.sleep(0.2)
    said = text(found)
    appear = re.search(r"Of ([\d,]+) transactions.*: ([\d,]+) would be flagged anew", said)
    assert appear is not None, said
    assert int(appear[2].replace(",", "")) > 100
    assert "AMOUNT_LIMIT" in said
    stranger = site.client(site.other.admin_key)
    assert "forgotten" in text(stranger.get(address[1]))
    assert "as the platform's files say" in text(client.get("/settings"))  # nothing was saved


def test_values_are_put_on_lists_and_taken_off(client: httpx.Client) -> None:
    assert "Nothing is on a list" in text(client.get("/settings"))
    entry = {"list": "block", "field": "device_id", "value": "dev_1"}
    put = post(client, "/settings/lists", days="30", why="stolen", **entry)
    assert put.status_code == 303
    page = client.get("/settings")
    assert "dev_1" in page.text
    assert "stolen" in page.text
    for wrong, words in (({"days": "-1"}, "days"), ({"value": ""}, "list"), ({"list": "Block"}, "list")):
        refused = post(client, "/settings/lists", **{**entry, **wrong})
        assert refused.status_code == 422
        assert f"{words}: expected" in text(refused)
    post(client, "/settings/lists", op="remove", **entry)
    assert "Nothing is on a list" in text(client.get("/settings"))


def test_a_rule_is_right_where_its_firings_proved_to_be_fraud(site: Site) -> None:
    cases = [site.add_case(), site.add_case(), site.add_case()]
    with site.connect() as connection:
        rows = connection.execute(
            "SELECT case_id, user_id, tx_id, rule_flags FROM anomalies WHERE case_id = ANY(%s)", [cases]
        ).fetchall()
        for case_id, user_id, tx_id, _ in rows:
            for fraud in (
                True,
                {cases[0]: True, cases[1]: False, cases[2]: None}[case_id],
            ):  # the later counts
                connection.execute(
                    "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
                    "VALUES ('acct_7', %s, %s, %s, now(), 'analyst', 'k')",
                    [user_id, tx_id, fraud],
                )

    async def load() -> dict[str, tuple[int, int]]:
        async with await psycopg.AsyncConnection.connect(site.dsn) as connection:
            return await load_rule_precision(connection, "acct_7", datetime.now(UTC) - timedelta(days=1))

    found = asyncio.run(load())
    counts: dict[str, list[int]] = {}
    for case_id, _, _, rules in rows:
        for rule in rules if case_id != cases[2] else ():
            of_rule = counts.setdefault(rule, [0, 0])
            of_rule[0] += case_id == cases[0]
            of_rule[1] += 1
    assert counts
    for rule, (right, known) in counts.items():  # other tests of this site may have labelled more
        assert found[rule][0] >= right > 0
        assert found[rule][1] - found[rule][0] >= known - right > 0


def test_readers_see_and_change_nothing(site: Site) -> None:
    client = site.client(site.mine.read_key)
    assert "Ask an admin of acct_7" in text(client.get("/settings"))
    assert post(client, do="save", version="0").status_code == 403
    assert post(client, "/settings/lists", list="block", field="ip", value="x").status_code == 403
    admin = site.client(site.mine.admin_key)
    assert admin.post("/settings", data={"do": "save"}).status_code == 403  # not one of our forms
