"""Metrics: what the list and a metric's page show, to whom, and what people may say of it."""

from __future__ import annotations

import gzip
import html
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import dashboard.metric_panel
import dashboard.metrics
from anomalyze.access.keys import create_key
from dashboard import routes
from tests.browser.metric_seed import ODD_NAME, Series, Strange, seed_batch, write_batch
from tests.browser.site import Site
from tests.test_dashboard.test_states import words

PAGE_BYTES_MAX, COMPRESSED_MAX = 150_000, 25_000
METRICS = 2_000
AUTH_RATE = "/metrics/payments_hourly/auth_rate"


@pytest.fixture(scope="module")
def client(site: Site) -> httpx.Client:
    """Of the account whose batches the seed wrote."""
    return site.client(site.mine.admin_key)


@pytest.fixture
def new_account(site: Site) -> Iterator[tuple[str, httpx.Client]]:
    """An account without a batch; its files go with it."""
    name = f"metrics_{time.time_ns()}"
    with site.connect() as connection:
        _, key = create_key(connection, name, "first", ["admin"], "test")
    before = set((site.config_dir / "metrics").iterdir())
    yield name, site.client(key)
    for path in set((site.config_dir / "metrics").iterdir()) - before:
        path.unlink()


def wait_for(client: httpx.Client, path: str, text: str) -> str:
    """A page once it has a text: files are looked at once a second."""
    deadline = time.monotonic() + 10
    while text not in (page := words(client.get(path).text)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert text in page
    return page


def names_of(page: str) -> list[str]:
    """Batches and metrics in the order of a list."""
    rows = page.partition('id="rows"')[2].partition("</table>")[0]
    return [html.unescape(name) for name in re.findall(r'class="name[^"]*"[^>]*>([^<]*)</a>', rows)]


def test_batches_and_their_metrics_by_rate_of_anomalies(client: httpx.Client) -> None:
    page = client.get("/metrics").text
    names = names_of(page)
    assert names[:2] == ["acquirer_latency", "p95_ms_b"]
    assert names[names.index("payments_hourly") :][1:4] == [
        "auth_rate",
        "soft_declines",
        "challenge_rate_3ds",
    ]
    assert "hidden_metric" not in page
    text = words(page)
    assert "23 in 5 batches" not in text
    assert "21 in 4 batches" in text
    assert "3 of 18 strange now" in text
    assert re.search(r"auth_rate ?[\d.]+%−[\d.]+ pts4\.\d% ?7 of 16[67]", text)
    assert re.search(r"eur_usd ?[\d.]+ ?late", text)
    assert 'class="gap"' in page
    assert re.search(r"\d more, none strange in 7 days", text)


def test_a_batch_says_how_its_last_run_ended(client: httpx.Client) -> None:
    page = client.get("/metrics").text
    text = words(page)
    assert re.search(r"fx_ratesPushed, every hour ?failed", text)
    assert re.search(
        r"source: expected an answer of 200, got 503 <maintenance> Failing since 2 h( \d+ min)? ago\.", text
    )
    assert "<maintenance>" not in page
    assert re.search(r"not_runPushed, every hour ?not run yet ?no metric yet", text)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=soft_decl", {"payments_hourly", "soft_declines"}),
        ("tag=latency", {"acquirer_latency", "p95_ms_a", "p95_ms_b"}),
        ("show=now&tag=latency", {"acquirer_latency", "p95_ms_b"}),
        ("show=strange&q=payments", {"payments_hourly", "auth_rate", "soft_declines", "challenge_rate_3ds", ODD_NAME}),
        ("show=late", {"fx_rates", "eur_usd"}),
        ("show=failed", {"fx_rates", "eur_usd"}),
        ("q=a%2Fb%3Fc", {"payments_hourly", ODD_NAME}),
        ("q=%25", {"payments_hourly", ODD_NAME}),
        ("q=P95_*", {"acquirer_latency", "p95_ms_a", "p95_ms_b"}),
        ("q=*_a+latency", {"acquirer_latency", "p95_ms_a"}),
        ("q=payments+auth", {"payments_hourly", "auth_rate"}),
        ("owner=Payments&show=now", {"payments_hourly", "auth_rate", "soft_declines", "challenge_rate_3ds"}),
        ("show=now&period=1d&tag=latency", {"acquirer_latency", "p95_ms_b"}),
        ("show=strange&period=1d&batch=acquirer_latency", {"acquirer_latency", "p95_ms_b"}),
        ("show=snoozed", set()),
        ("batch=elsewhere", set()),
        ("q=nothing_like_it", set()),
    ],
)  # fmt: skip
def test_filters_are_the_address(client: httpx.Client, query: str, expected: set[str]) -> None:
    page = client.get(f"/metrics?{query}").text
    assert set(names_of(page)) == expected
    assert expected or "None match." in words(page)


def test_the_period_is_in_the_address_of_all_that_follows(client: httpx.Client) -> None:
    page = client.get("/metrics?period=90d&batch=payments_hourly").text
    text = words(page)
    assert "90 days, expected band" in text
    assert "Strange in 90 days 4" in text
    assert 'href="/metrics/payments_hourly/auth_rate?period=90d"' in page
    assert "auth_rate over 90 days with the usual band" in page
    assert re.search(r'name="period" value="90d"', page), "the form keeps it"
    own = client.get("/metrics/payments_hourly/auth_rate?period=90d").text
    assert 'href="/metrics?at=payments_hourly%2Fauth_rate&amp;period=90d"' in own
    day = words(client.get("/metrics?period=1d&batch=payments_hourly").text)
    assert re.search(r"auth_rate ?[\d.]+%−[\d.]+ pts1\d\.\d% ?4 of 2[34]", day)


def test_a_sentence_tells_the_reader_s_time(client: httpx.Client) -> None:
    page = client.get(AUTH_RATE).text
    found = re.search(r"<h1><bdi>auth_rate</bdi>( = .*?)</h1>", page)
    assert found is not None
    assert re.search(r"since \d+\xa0\w{3}, \d\d:00 \(4 points\)", html.unescape(found[1]))
    assert "UTC" not in found[1]


def test_two_thousand_metrics_are_one_small_page(
    site: Site, new_account: tuple[str, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    account, client = new_account
    asked: list[str] = []
    for module in (dashboard.metrics, dashboard.metric_panel):
        fetch = module.fetch_async

        async def counted(connection: Any, query: Any, fetch: Any = fetch) -> Any:
            asked.append(query.text)
            return await fetch(connection, query)

        monkeypatch.setattr(module, "fetch_async", counted)
    series = [
        Series(
            f"orders_of_shop_{n:04d}",
            100.0 + n,
            (Strange(n % 20, n % 20, 6, 1 + n % 4),) if n % 3 == 0 else (),
        )
        for n in range(METRICS)
    ]
    with site.connect() as connection:
        seed_batch(connection, "many", series, hours=24)
        connection.execute("ANALYZE metric_series, metric_scores, metric_values, metric_alerts")
    write_batch(site.config_dir, "many", account)
    wait_for(client, "/metrics", "2,000 in 1 batch")
    asked.clear()
    page = client.get("/metrics")
    assert len(asked) <= 6, "the number of queries does not grow with the metrics"
    assert len(page.content) < PAGE_BYTES_MAX
    assert len(gzip.compress(page.content, 6)) < COMPRESSED_MAX
    assert page.text.count('class="m-sp"') == dashboard.metrics.ROWS + 1
    assert f"{METRICS - dashboard.metrics.ROWS:,} more, " in words(page.text)
    second = client.get("/metrics?batch=many&page=2").text
    assert not set(names_of(second)[1:]) & set(names_of(page.text)[1:])
    assert "1,904 more" in words(second)


def test_odd_names_lead_to_their_page(site: Site, client: httpx.Client) -> None:
    page = client.get("/metrics?q=quoted").text
    link = re.search(r'<a href="(/metrics/payments_hourly/[^"]+)"', page)
    assert link is not None
    own = client.get(html.unescape(link[1]))
    assert own.status_code == 200
    assert ODD_NAME in words(own.text)
    assert "<b>&amp;" not in own.text.replace("&lt;b&gt;&amp;amp;", "")
    panel = client.get(f"{html.unescape(link[1])}?panel=1", headers={"HX-Request": "true"}).text
    assert panel.startswith("<aside")
    assert ODD_NAME in html.unescape(panel)
    assert client.get("/metrics", params={"at": f"payments_hourly/{ODD_NAME}"}).text.count('class="sel"') == 1
    for name in ("..", ".", "%2e", "/x/", "a\\b", " "):
        assert httpx.URL(f"http://x{routes.metric('b', name)}").path.startswith("/metrics/b/"), name


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/elsewhere/hidden_metric",
        "/metrics/elsewhere/hidden_metric?panel=1",
        "/metrics/payments_hourly/none",
        "/metrics/payments_hourly/a%00b",
        "/metrics/payments_hourly/",
        "/metrics/nowhere/x",
    ],
)
def test_what_is_not_of_the_account_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "hidden_metric" not in answer.text.replace(path, "")


def test_a_metric_says_what_is_strange_and_how_it_is_judged(client: httpx.Client) -> None:
    page = client.get("/metrics/payments_hourly/soft_declines?period=30d")
    text = words(page.text)
    headline = re.search(r"<h1>(.*?)</h1>", page.text)
    assert headline is not None
    assert "soft_declines = 1,589.28, above the usual 963.2 to 1,444.8" in words(headline[1])
    assert "Strange in the same hoursauth_ratechallenge_rate_3ds" in text
    assert "upper limit 1,800" in text
    assert "Thresholdsupper 1800" in text
    assert "thresholds: {upper: 1800}" in text, "the file as it was read"
    assert text.count("Is it one?") == 1
    assert page.text.count("<noscript><svg") == 1, "a browser without scripts sees the line too"
    plot = re.search(r'data-series="([^"]*)"|data-series=\'([^\']*)\'', page.text)
    assert plot is not None
    data = json.loads(html.unescape(plot[1] or plot[2]))
    assert data["end"] - data["start"] == 30 * 86_400
    assert len(data["t"]) == len(data["y"]) == len(data["lo"]) == 168
    assert sorted({incident[2] for incident in data["incidents"]}) == [2, 3]
    assert data["limits"] == [1800.0]
    assert len(gzip.compress(page.content, 6)) < COMPRESSED_MAX


def test_a_gap_stays_a_gap_and_a_shift_is_marked(client: httpx.Client) -> None:
    def data_of(name: str) -> dict[str, Any]:
        page = client.get(f"/metrics/acquirer_latency/{name}").text
        found = re.search(r"data-series='([^']*)'", page)
        assert found is not None
        return dict(json.loads(html.unescape(found[1])))

    quiet = data_of("p95_ms_a")
    ((first, last),) = quiet["gaps"]
    assert last - first == 22 * 3600
    assert quiet["y"].count(None) == 1
    assert [incident[3] for incident in data_of("p95_ms_b")["incidents"]] == [1, 0]


def token_of(client: httpx.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(AUTH_RATE).text)
    assert found is not None
    return found[1]


def alert_of(site: Site, metric: str) -> int:
    with site.connect() as connection:
        row = connection.execute(
            "SELECT max(alert_id) FROM metric_alerts WHERE metric = %s AND state = 1", [metric]
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_feedback_is_stored_by_those_who_may(site: Site, client: httpx.Client) -> None:
    alert_id = alert_of(site, "auth_rate")
    sent = {"verdict": "dismiss", "next": "/metrics?at=x"}
    assert client.post(f"/alerts/{alert_id}/feedback", data=sent).status_code == 403, "no token"
    sent["csrf"] = token_of(client)
    answer = client.post(f"/alerts/{alert_id}/feedback", data=sent)
    assert (answer.status_code, answer.headers["location"]) == (303, "/metrics?at=x")
    assert "Dismissed: those like it are told less." in words(client.get(AUTH_RATE).text)
    away = client.post(
        f"/alerts/{alert_id}/feedback", data=sent | {"verdict": "confirm", "next": "//evil.example"}
    )
    assert away.headers["location"] == AUTH_RATE
    assert client.post(f"/alerts/{alert_id}/feedback", data=sent | {"verdict": "maybe"}).status_code == 422
    foreign = alert_of(site, "hidden_metric")
    for number in (foreign, 2**70, "x"):
        assert client.post(f"/alerts/{number}/feedback", data=sent).status_code == 404
    with site.connect() as connection:
        said = connection.execute(
            "SELECT alert_id, verdict FROM metric_feedback ORDER BY feedback_id"
        ).fetchall()
        _, secret = create_key(connection, site.mine.account_id, "reads", ["read"], "test")
    assert said == [(alert_id, "dismiss"), (alert_id, "confirm")]
    reader = site.client(secret)
    assert (
        reader.post(f"/alerts/{alert_id}/feedback", data=sent | {"csrf": token_of(reader)}).status_code == 403
    )
    assert "Deciding needs the role analyst." in reader.get(AUTH_RATE).text


def test_a_snooze_has_a_reason_and_an_end(site: Site, client: httpx.Client) -> None:
    sent = {
        "csrf": token_of(client),
        "batch": "payments_hourly",
        "metric": ODD_NAME,
        "for": "1d",
        "reason": "a <b> sale",
    }
    assert client.post("/alerts/snooze", data=sent).status_code == 303
    own = routes.metric("payments_hourly", ODD_NAME)
    assert re.search(r"Nobody is told of it until [^.]*“a <b> sale”", words(client.get(own).text))
    assert "snoozed" in words(client.get("/metrics?q=quoted").text)
    assert client.post("/alerts/snooze", data=sent | {"whole": "1", "metric": ""}).status_code == 303
    assert "Nobody is told of the whole batch" in words(client.get(AUTH_RATE).text)
    assert client.post("/alerts/snooze", data=sent | {"for": "end"}).status_code == 303
    with site.connect() as connection:
        left = connection.execute(
            "SELECT count(snoozed_until) FROM (SELECT snoozed_until FROM metric_series UNION ALL "
            "SELECT snoozed_until FROM metric_batches) s"
        ).fetchone()
    assert left == (0,)
    for wrong, status in (({"for": "9y"}, 422), ({"batch": "elsewhere"}, 404), ({"metric": "no\0ne"}, 404)):
        assert client.post("/alerts/snooze", data=sent | wrong).status_code == status
    assert client.post("/alerts/snooze", data=sent | {"reason": "x" * 3_000}).status_code == 422


def test_an_account_without_metrics_is_shown_how(new_account: tuple[str, httpx.Client]) -> None:
    account, client = new_account
    text = words(client.get("/metrics").text)
    assert "No metric yet." in text
    assert f"account: {account} source: {{kind: push}}" in text
    assert "anomalyze check" in text


def test_quiet_says_when_data_last_came_and_mistakes_are_told(
    site: Site, new_account: tuple[str, httpx.Client]
) -> None:
    account, client = new_account
    name = f"calm_{account.rpartition('_')[2]}"
    with site.connect() as connection:
        seed_batch(connection, name, [Series("visits"), Series("orders")], hours=30)
    path = write_batch(site.config_dir, name, account)
    text = wait_for(client, "/metrics", "2 in 1 batch")
    assert re.search(r"Nothing is strange\. 2 metrics watched, the newest value is of \d h", text)
    path.write_text(path.read_text() + "directoin: up\n")
    text = wait_for(client, "/metrics", "its file has a mistake")
    assert "It runs as it was before the mistake. line 4: " in text
    assert "Did you mean direction?" in text
    assert "directoin: up" not in words(client.get(f"/metrics/{name}/visits").text), "what runs is shown"


def test_a_file_that_was_never_right_is_told_to_its_account_alone(
    site: Site, client: httpx.Client, new_account: tuple[str, httpx.Client]
) -> None:
    account, own = new_account
    name = f"wrong_{account.rpartition('_')[2]}"
    write_batch(site.config_dir, name, account, "tags: [a\n")
    text = wait_for(own, "/metrics", "A file cannot be read: its batch does not run and is not shown")
    assert f"metrics/{name}.yaml line " in text
    assert str(site.config_dir) not in text
    assert name not in client.get("/metrics").text


def test_now_says_what_waits_of_metrics(client: httpx.Client, new_account: tuple[str, httpx.Client]) -> None:
    page = client.get("/now").text
    assert re.search(r"\d incidents of metrics to review", words(page))
    assert 'href="/alerts?view=review"' in page
    assert "of metrics to review" not in words(new_account[1].get("/now").text)
