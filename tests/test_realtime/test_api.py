"""The routes, as a client meets them."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from anomalyze.access.keys import find_key, revoke_key
from tests.test_realtime.conftest import Api, running_api, wait_until

Make = Callable[..., dict[str, Any]]


def stored(client: httpx.Client, user_id: str, n: int) -> list[dict[str, Any]]:
    """The transactions of a user once there are ``n``."""

    def found() -> list[dict[str, Any]] | None:
        rows = client.get("/transactions", params={"user_id": user_id, "limit": 1000}).json()["transactions"]
        return rows if len(rows) >= n else None

    return wait_until(found, f"{n} transactions of {user_id} stored")


@pytest.mark.parametrize("route", ["/transaction", "/v1/transactions"])
def test_object_array_and_lines_are_taken_and_stored(api: Api, transaction: Make, route: str) -> None:
    client = api.client("ingest", "read")
    one, two, three, four, five = (transaction() for _ in range(5))
    assert client.post(route, json=one).json() == {"accepted": 1, "repeated": 0, "rejected": []}
    assert client.post(route, json=[two, three]).json() == {"accepted": 2, "repeated": 0, "rejected": []}
    lines = f"{json.dumps(four)}\n{json.dumps(five)}\n"
    answer = client.post(route, content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    rows = stored(client, one["user_id"], 5)
    assert {row["id"] for row in rows} == {t["tx_id"] for t in (one, two, three, four, five)}
    row = rows[-1]
    assert (row["amount"], row["currency"], row["status"]) == (12.5, "USD", "approved")
    assert row["meta_data"]["is_anomaly"] is False
    assert row["meta_data"]["location"] == "NY"


def test_repeats_count_within_the_request_and_once_for_ever(api: Api, transaction: Make) -> None:
    client = api.client("ingest", "read")
    one, two = transaction(), transaction()
    assert client.post("/transaction", json=[one, one, two]).json() == {
        "accepted": 2,
        "repeated": 1,
        "rejected": [],
    }
    client.post("/transaction", json=one)
    client.post("/transaction", json={**two, "status": "declined"})
    last = transaction()
    client.post("/transaction", json=last)
    wait_until(lambda: last["tx_id"] in {r["id"] for r in stored(client, one["user_id"], 3)}, "the last one")
    rows = {row["id"]: row for row in stored(client, one["user_id"], 3)}
    assert len(rows) == 3
    assert rows[two["tx_id"]]["status"] == "declined"


def test_good_rows_are_taken_beside_bad_ones(api: Api, transaction: Make) -> None:
    client = api.client("ingest", "read")
    good = [transaction(), transaction()]
    bad = transaction(currency="XXX")
    answer = client.post("/v1/transactions", json=[good[0], bad, good[1], 7])
    body = answer.json()
    assert (answer.status_code, body["accepted"]) == (202, 2)
    assert [(r["index"], r["field"]) for r in body["rejected"]] == [(1, "currency"), (3, "")]
    assert all(r["expected"] and r["got"] for r in body["rejected"])
    assert {r["id"] for r in stored(client, bad["user_id"], 2)} == {g["tx_id"] for g in good}


def test_an_idempotency_key_repeats_the_answer(api: Api, transaction: Make) -> None:
    client = api.client("ingest")
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = json.dumps([transaction(), transaction(amount="1")])
    first = client.post("/v1/transactions", content=body, headers=key)
    again = client.post("/v1/transactions", content=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.content == again.content
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = client.post("/v1/transactions", json=transaction(), headers=key)
    assert (other.status_code, other.json()["field"]) == (409, "Idempotency-Key")
    elsewhere = api.client("ingest", account="acct_b").post(
        "/v1/transactions", json=transaction(), headers=key
    )
    assert (elsewhere.status_code, elsewhere.headers.get("Idempotent-Replayed")) == (202, None)
    long = client.post("/v1/transactions", json=transaction(), headers={"Idempotency-Key": "k" * 257})
    assert (long.status_code, long.json()["field"]) == (422, "Idempotency-Key")


def test_a_score_answers_with_the_verdict_and_a_repeat_with_the_same(api: Api, transaction: Make) -> None:
    client = api.client("ingest", "read")
    one = transaction(amount=90000)
    first = client.post("/v1/score", params={"timeout_ms": 10_000}, json=one)
    assert first.status_code == 200, first.text
    event = first.json()
    assert event["meta"]["account_id"] == "acct_a"
    assert event["data"]["tx_id"] == one["tx_id"]
    assert event["verdict"]["final_severity"] in ("NONE", "LOW", "MEDIUM", "HIGH", "CRITICAL")
    assert "repeated" not in event
    assert "reply_to" not in event["meta"]
    again = client.post("/v1/score", params={"timeout_ms": 10_000}, json=one)
    assert again.status_code == 200
    repeat = again.json()
    assert repeat["repeated"] is True
    for section in ("data", "enrichment", "analysis", "verdict"):
        assert repeat[section] == event[section]
    assert repeat["meta"]["timestamp"][:19] == event["meta"]["timestamp"][:19]
    assert {k: repeat["src"][k] for k in ("partition", "offset")} == {
        k: event["src"][k] for k in ("partition", "offset")
    }
    assert len(stored(client, one["user_id"], 1)) == 1


def test_a_verdict_that_is_late_answers_what_the_policy_names(api: Api, transaction: Make) -> None:
    client = api.client("ingest", "read")
    one = transaction()
    bundles = api.platform.bundles
    before = bundles.pointer("champion")
    assert before is not None
    champion = bundles.load(before)
    for action in ("REVIEW", "BLOCK"):
        policy = re.sub("score_timeout_action: [A-Z]+", f"score_timeout_action: {action}", champion.policy)
        assert action in policy
        changed = replace(champion, policy=policy)
        bundles.publish(changed)
        bundles.set_pointer("champion", changed.id)
        api.app.state.shared.champion.refresh()
        answer = client.post("/v1/score", params={"timeout_ms": 1}, json=one)
        assert (answer.status_code, answer.json()) == (202, {"verdict": None, "action": action})
    bundles.set_pointer("champion", before)
    api.app.state.shared.champion.refresh()
    assert stored(client, one["user_id"], 1)[0]["id"] == one["tx_id"]


def test_lists_walk_by_cursor_without_doubles(api: Api, transaction: Make) -> None:
    client = api.client("ingest", "read", account="acct_walk")
    start = datetime.now(UTC) - timedelta(hours=3)
    sent = [transaction(timestamp=(start + timedelta(minutes=i)).isoformat()) for i in range(25)]
    client.post("/v1/transactions", json=sent)
    user_id = sent[0]["user_id"]
    stored(client, user_id, 25)
    walked: list[str] = []
    cursor = None
    pages = 0
    while True:
        query = {"limit": 10, "user_id": user_id, **({"cursor": cursor} if cursor else {})}
        page = client.get("/transactions", params=query).json()
        pages += 1
        if not page["transactions"]:
            assert page["cursor"] is None
            break
        walked += [row["id"] for row in page["transactions"]]
        cursor = page["cursor"]
        if pages == 1:  # what arrives during the walk is newer and does not disturb it
            client.post("/transaction", json=transaction())
            stored(client, user_id, 26)
    assert walked == [one["tx_id"] for one in reversed(sent)]
    other = client.get("/transactions", params={"cursor": cursor or "x", "user_id": "another"})
    assert (other.status_code, other.json()["field"]) == (422, "cursor")
    filtered = client.get(
        "/transactions",
        params={
            "from_date": (start + timedelta(minutes=20)).isoformat(),
            "to_date": (start + timedelta(minutes=22)).isoformat(),
        },
    ).json()["transactions"]
    assert len(filtered) == 3
    assert client.get("/transactions", params={"min_amount": 13}).json()["transactions"] == []
    users = client.get("/users", params={"limit": 1}).json()
    assert [u["user_id"] for u in users["users"]] == [user_id]
    assert client.get("/users", params={"cursor": users["cursor"]}).json() == {"users": [], "cursor": None}


@pytest.fixture(scope="module")
def burst(api: Api) -> dict[str, Any]:
    """An account with a user whose last transaction is a burst and an absurd amount."""
    client = api.client("ingest", "read", account="acct_burst")
    start = datetime.now(UTC) - timedelta(days=20)
    user_id = f"user_{uuid.uuid4().hex[:12]}"
    usual = [
        {
            "user_id": user_id,
            "tx_id": f"usual_{i}",
            "amount": 10 + i % 3,
            "currency": "USD",
            "timestamp": (start + timedelta(hours=12 * i)).isoformat(),
        }
        for i in range(30)
    ]
    now = datetime.now(UTC) - timedelta(minutes=10)
    rush = [
        {
            "user_id": user_id,
            "tx_id": f"rush_{i}",
            "amount": 950,
            "currency": "USD",
            "status": "declined",
            "timestamp": (now + timedelta(seconds=5 * i)).isoformat(),
        }
        for i in range(12)
    ]
    assert client.post("/v1/transactions", json=usual + rush).json()["accepted"] == 42
    stored(client, user_id, 42)
    return {"user_id": user_id, "client": client}


def test_anomalies_and_cases_tell_what_happened(api: Api, burst: dict[str, Any]) -> None:
    client = burst["client"]
    page = client.get("/v1/anomalies", params={"user_id": burst["user_id"]}).json()
    assert page["anomalies"], "the burst is an anomaly"
    first = page["anomalies"][0]
    assert first["user_id"] == burst["user_id"]
    assert first["reviewed"] is False
    assert first["explanation"]
    one = client.get(f"/v1/anomalies/{first['id']}").json()
    assert one == first
    rule = first["rule_flags"][0]
    by_rule = client.get("/v1/anomalies", params={"rule": rule, "severity": first["severity"].lower()}).json()
    assert first["id"] in {a["id"] for a in by_rule["anomalies"]}
    assert client.get("/v1/anomalies", params={"reviewed": "true"}).json()["anomalies"] == []
    cases = client.get("/v1/cases", params={"state": "open"}).json()["cases"]
    case = client.get(f"/v1/cases/{first['case_id']}").json()
    assert case["id"] in {c["id"] for c in cases}
    assert first["id"] in {m["id"] for m in case["members"]}
    assert case["count"] == len(case["members"])


def test_other_accounts_see_nothing_of_it(api: Api, burst: dict[str, Any]) -> None:
    own, other = burst["client"], api.client("admin", account="acct_other")
    anomaly = own.get("/v1/anomalies").json()["anomalies"][0]
    assert other.get("/transactions", params={"user_id": burst["user_id"]}).json()["transactions"] == []
    assert other.get("/v1/anomalies").json()["anomalies"] == []
    assert other.get("/v1/cases").json()["cases"] == []
    assert other.get("/users").json()["users"] == []
    assert other.get(f"/v1/anomalies/{anomaly['id']}").status_code == 404
    assert other.get(f"/v1/cases/{anomaly['case_id']}").status_code == 404
    cursor = own.get("/v1/anomalies", params={"limit": 1}).json()["cursor"]
    assert other.get("/v1/anomalies", params={"cursor": cursor}).json()["anomalies"] == []


ROUTES = [
    ("POST", "/transaction", "ingest"),
    ("POST", "/v1/transactions", "ingest"),
    ("POST", "/v1/score", "ingest"),
    ("GET", "/transactions", "read"),
    ("GET", "/v1/anomalies", "read"),
    ("GET", "/v1/anomalies/x", "read"),
    ("GET", "/v1/cases", "read"),
    ("GET", "/v1/cases/x", "read"),
    ("GET", "/users", "read"),
    ("GET", "/sse/anomalies", "read"),
    ("GET", "/sse/transactions/u", "read"),
    ("GET", "/ready", "read"),
    ("GET", "/metrics", "read"),
]


def test_every_route_asks_for_a_key_with_its_scope(api: Api) -> None:
    nobody = api.stranger()
    wrong = {"Authorization": "Bearer az_" + "x" * 43}
    others = {"ingest": api.client("read"), "read": api.client("ingest")}
    for method, path, scope in ROUTES:
        for headers in (
            {},
            wrong,
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer " + "k" * 5000},
        ):
            answer = nobody.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert_problem(answer)
        answer = others[scope].request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 403, (method, path)
        assert scope in answer.json()["expected"]


def test_a_revoked_key_is_refused_at_once_and_its_streams_end(api: Api, transaction: Make) -> None:
    key = api.platform.key("read")
    client = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    writer = api.client("ingest")
    one = transaction()
    with client.stream("GET", f"/sse/transactions/{one['user_id']}") as response:
        lines = response.iter_lines()
        assert next(lines) == ": connected"
        assert client.get("/users").status_code == 200
        with psycopg.connect(api.platform.dsn, autocommit=True) as connection:
            found = find_key(connection, key)
            assert found is not None
            revoke_key(connection, found.key_id, "tests")
        revoked_at_s = time.monotonic()
        wait_until(lambda: client.get("/users").status_code == 401, "the key refused", 5)
        assert time.monotonic() - revoked_at_s < 1.5  # 250 ms, and what this machine adds
        time.sleep(max(0.0, 1.1 - (time.monotonic() - revoked_at_s)))  # the interval at which streams ask
        writer.post("/transaction", json=one)
        for line in lines:
            assert not line.startswith("data:")


def test_a_public_account_can_be_read_by_anybody_and_nothing_else(
    judged: Any, burst: dict[str, Any], transaction: Make
) -> None:
    with running_api(judged, public_account="acct_burst") as public:
        nobody = public.stranger()
        rows = nobody.get("/transactions", params={"limit": 1000}).json()["transactions"]
        assert {row["user_id"] for row in rows} == {burst["user_id"]}
        assert nobody.get("/v1/anomalies").json()["anomalies"]
        assert nobody.post("/transaction", json=transaction()).status_code == 401
        assert nobody.post("/v1/score", json=transaction()).status_code == 401
        assert nobody.get("/ready").status_code == 401
        assert nobody.get("/metrics").status_code == 401
        # A key counts before the setting: a wrong one is not nobody's.
        assert nobody.get("/users", headers={"Authorization": "Bearer az_wrong"}).status_code == 401


def test_health_is_open_and_the_rest_of_operating_is_not(api: Api) -> None:
    nobody = api.stranger()
    assert nobody.get("/health").json() == {"health": "ok"}
    assert nobody.get("/").headers["location"] == "/docs"
    client = api.client("read")
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert set(ready.json()["dependencies"]) == {"bus", "postgresql", "redis", "disk"}
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "anomalyze_api_accepted_total" in metrics.text


def test_the_documentation_needs_no_internet(api: Api) -> None:
    nobody = api.stranger()
    page = nobody.get("/docs")
    assert "//" not in page.text.replace("<!doctype", "")
    assert "'self'" in page.headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js"):
        assert f'"static/{name}"' in page.text
        assert nobody.get(f"/static/{name}").status_code == 200
    assert nobody.get("/static/__init__.py").status_code == 404
    assert nobody.get("/static/..%2fapp.py").status_code == 404
    document = nobody.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_answers_carry_security_headers(api: Api) -> None:
    for answer in (
        api.stranger().get("/health"),
        api.stranger().get("/users"),
        api.stranger().get("/nowhere"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_only_named_origins_may_call_from_a_browser(judged: Any) -> None:
    with running_api(judged, cors_origins=["https://shop.example"]) as shared:
        nobody = shared.stranger()
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        allowed = nobody.options("/transaction", headers={"Origin": "https://shop.example", **asked})
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        refused = nobody.options("/transaction", headers={"Origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in refused.headers
        answer = nobody.get("/users", headers={"Origin": "https://shop.example"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"


def assert_problem(answer: httpx.Response) -> None:
    """An RFC 9457 document that says what was wrong."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
