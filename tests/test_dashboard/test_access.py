"""Who gets in, what he reaches, and what a browser may do."""

from __future__ import annotations

import re

import httpx
import pytest

from anomalyze.access.keys import create_key, revoke_key
from dashboard.app import create_app
from tests.browser.site import Site

PAGES = (
    "/",
    "/now",
    "/now/rows",
    "/events",
    "/anomalies/x",
    "/transactions",
    "/transactions.csv",
    "/users",
    "/users/x",
    "/uploads",
    "/uploads/x",
    "/bundles",
    "/system",
    "/settings",
    "/settings/previews/x",
    "/metrics",
    "/metrics/x/y",
    "/alerts",
    "/alerts/routes",
    "/alerts/1/picture",
    "/nowhere",
)


def try_key(site: Site, key: str, **fields: str) -> httpx.Response:
    client = site.client()
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
    assert token is not None
    return client.post("/sign-in", data={"csrf": token[1], "key": key, "tz": "Europe/Berlin"} | fields)


@pytest.mark.parametrize("path", PAGES)
def test_nothing_opens_without_a_session(path: str, site: Site) -> None:
    answer = site.client().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    assert "acct_7" not in answer.text


def test_every_route_but_two_asks_for_a_session(site: Site, tmp_path: object) -> None:
    from anomalyze.settings import Settings

    app = create_app(Settings(data_dir=tmp_path, _env_file=None), site.dsn)
    client = site.client()
    for route in app.routes:
        path, methods = getattr(route, "path", ""), set(getattr(route, "methods", None) or ())
        if path in ("/health", "/sign-in", "/static"):
            continue
        for method in methods - {"HEAD"}:
            answer = client.request(method, re.sub(r"\{[^}]*\}", "x", path))
            assert answer.status_code in (303, 401, 403), (method, path, answer.status_code)


def test_health_is_open_and_says_nothing_else(site: Site) -> None:
    assert site.client().get("/health").json() == {"health": "ok"}


def test_session_cookie_is_out_of_reach_of_scripts_and_the_key_out_of_addresses(site: Site) -> None:
    answer = try_key(site, site.mine.admin_key)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/now"
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("anomalyze_session="))
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    assert site.mine.admin_key not in str(answer.headers)


def test_refusals_say_what_to_do(site: Site) -> None:
    assert "No such key." in try_key(site, "az_wrong").text
    with site.connect() as connection:
        key, secret = create_key(connection, "acct_7", "old", ["admin"], "test")
        revoke_key(connection, key.key_id, "test")
        connection.execute(
            "UPDATE api_keys SET revoked_at = '2025-12-03T12:00Z' WHERE key_id = %s", [key.key_id]
        )
        _, ingest = create_key(connection, "acct_7", "till", ["ingest"], "test")
    revoked = try_key(site, secret)
    assert revoked.status_code == 401
    assert "This key was revoked on 3\u00a0Dec. Ask an admin for another." in revoked.text
    assert "sends transactions and sees none" in try_key(site, ingest).text


def test_revoking_a_key_ends_its_session(site: Site) -> None:
    with site.connect() as connection:
        key, secret = create_key(connection, "acct_7", "short", ["read"], "test")
    client = site.client(secret)
    assert client.get("/system").status_code == 200
    with site.connect() as connection:
        revoke_key(connection, key.key_id, "test")
    for _ in range(50):  # a verified key is remembered for 250 ms
        answer = client.get("/system")
        if answer.status_code == 303:
            break
    assert answer.status_code == 303
    assert "ended=1" in answer.headers["location"]


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_signing_in_leads_nowhere_else(target: str, site: Site) -> None:
    assert try_key(site, site.mine.admin_key, next=target).headers["location"] == "/now"


def test_deciding_leads_nowhere_else(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/now").text)
    assert token is not None

    def led_to(following: str) -> str:
        answer = client.post(
            f"/cases/{site.mine.case_ids[0]}/decision",
            data={"decision": "open", "csrf": token[1], "next": following},  # it is open: nothing changes
        )
        assert answer.status_code == 303
        return answer.headers["location"]

    assert led_to("/users?q=u") == "/users?q=u"
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "evil.example", ""):
        assert led_to(target).startswith("/anomalies/")


def test_posts_need_the_sessions_own_token(site: Site) -> None:
    client, other = site.client(site.mine.admin_key), site.client(site.mine.read_key)
    path = f"/cases/{site.mine.case_ids[0]}/decision"
    body = {"decision": "confirmed"}
    foreign = re.search(r'name="csrf" value="([^"]+)"', other.get("/now").text)
    assert foreign is not None
    assert client.post(path, data=body).status_code == 403
    assert client.post(path, data=body | {"csrf": foreign[1]}).status_code == 403
    assert client.post(path, data=body, headers={"X-CSRF-Token": foreign[1][::-1]}).status_code == 403
    assert site.client().post("/sign-in", data={"key": site.mine.admin_key}).status_code == 403
    with site.connect() as connection:
        row = connection.execute(
            "SELECT state FROM cases WHERE case_id = %s", [site.mine.case_ids[0]]
        ).fetchone()
    assert row == ("open",)


def test_reading_keys_cannot_decide(site: Site) -> None:
    client = site.client(site.mine.read_key)
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/now").text)
    assert token is not None
    answer = client.post(
        f"/cases/{site.mine.case_ids[0]}/decision", data={"decision": "confirmed", "csrf": token[1]}
    )
    assert answer.status_code == 403
    assert answer.text == "Deciding needs the role analyst. Ask an admin of acct_7."


def test_another_accounts_data_is_out_of_reach(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/now").text)
    assert token is not None
    theirs = site.other
    answer = client.get(f"/anomalies/{theirs.anomaly_ids[0]}")
    assert answer.status_code == 404
    assert "No anomaly with this id in acct_7." in answer.text
    with site.connect() as connection:
        connection.execute("INSERT INTO users VALUES ('acct_8', 'only_theirs', now(), now(), 1, 0)")
    assert client.get("/users/only_theirs").status_code == 404
    assert "only_theirs" not in client.get("/users?q=only_theirs").text.replace("“only_theirs”", "").replace(
        'value="only_theirs"', ""
    )
    assert (
        client.get(f"/now/rows?ids={theirs.case_ids[0]}", headers={"HX-Request": "true"}).text.strip() == ""
    )
    posted = client.post(
        f"/cases/{theirs.case_ids[0]}/decision", data={"decision": "confirmed", "csrf": token[1]}
    )
    assert posted.status_code == 404
    with site.connect() as connection:
        row = connection.execute(
            "SELECT state FROM cases WHERE case_id = %s", [theirs.case_ids[0]]
        ).fetchone()
    assert row == ("open",)


def test_pages_carry_the_policy_and_have_no_inline_script_or_style(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    for path in (
        "/sign-in",
        "/now",
        f"/anomalies/{site.mine.anomaly_ids[0]}",
        "/transactions",
        "/users",
        "/users/user_99",
        "/system",
        "/nope",
    ):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(
            r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|https?://(?!127\.0\.0\.1|www\.w3\.org)",
            answer.text,
        ), path


def test_what_strangers_send_is_text(site: Site) -> None:
    evil = "<img src=x onerror=alert(1)>'\"&"
    client = site.client(site.mine.admin_key)
    with site.connect() as connection:
        connection.execute(
            "UPDATE cases SET headline = %s, rule_flags = ARRAY[%s] WHERE case_id = %s",
            [evil, evil, site.mine.case_ids[1]],
        )
        connection.execute(
            "UPDATE anomalies SET explanation = %s, data = jsonb_set(data, '{merchant_category}', to_jsonb(%s::text)) WHERE anomaly_id = %s",
            [evil, evil, site.mine.anomaly_ids[1]],
        )
    for path in (
        "/now",
        f"/anomalies/{site.mine.anomaly_ids[1]}",
        "/now?q=%3Cimg+src%3Dx+onerror%3D1%3E",
        "/users?q=%3Cimg+src%3Dx%3E",
        "/transactions?min_amount=%3Cimg+src%3Dx%3E",
    ):
        text = client.get(path).text
        assert "<img" not in text, path
        assert "&lt;img" in text, path


def test_large_bodies_are_refused(site: Site) -> None:
    assert site.client().post("/sign-in", data={"key": "x" * 20_000}).status_code == 413


def test_csv_follows_the_filter_and_defuses_formulas(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    with site.connect() as connection:
        connection.execute(
            "UPDATE transactions SET data = jsonb_set(data, '{merchant_id}', '\"=cmd()\"') WHERE account_id = 'acct_7' AND user_id = 'user_1037'"
        )
    lines = client.get("/transactions.csv?user_id=user_1037").text.splitlines()
    assert lines[0].startswith("tx_id,user_id,timestamp,amount")
    assert len(lines) > 10
    assert all(",user_1037," in line and ",'=cmd()," in line for line in lines[1:])


@pytest.mark.parametrize(
    "query",
    [
        "before=%00",
        "before=AAAA",
        "hour=now",
        "severity=%2C%2C",
        "q=%00%FF",
        "since=-1",
        "before=" + "A" * 5000,
    ],
)
def test_addresses_that_cannot_be_still_open(query: str, site: Site) -> None:
    assert site.client(site.mine.admin_key).get(f"/now?{query}").status_code == 200
