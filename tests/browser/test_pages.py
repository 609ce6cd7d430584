"""Every page: widths, themes, weight, accessibility, content policy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from anomalyze.access.keys import create_key
from tests.browser.conftest import sign_in
from tests.browser.site import Site

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
PAGES = (
    "now",
    "budget",
    "anomaly",
    "transactions",
    "users",
    "user",
    "metrics",
    "metric",
    "alerts",
    "alert routes",
    "quality",
    "bundles",
    "uploads",
    "system",
    "settings",
    "missing",
    "sign-in",
)
WIDTHS = ((1440, 900), (1100, 900), (768, 900), (390, 844))
# Bytes, compressed: UX budget of a first load.
TOTAL_MAX, HTML_MAX, CSS_MAX, OWN_SCRIPT_MAX = 150_000, 25_000, 10_000, 10_000


def address(name: str, site: Site) -> str:
    return {
        "now": "/now",
        "budget": "/budget",
        "anomaly": f"/anomalies/{site.mine.anomaly_ids[0]}",
        "transactions": "/transactions",
        "users": "/users",
        "user": "/users/user_99",
        "metrics": "/metrics",
        "metric": "/metrics/payments_hourly/auth_rate",
        "alerts": "/alerts",
        "alert routes": "/alerts/routes",
        "uploads": "/uploads",
        "quality": "/quality",
        "bundles": "/bundles",
        "system": "/system",
        "settings": "/settings",
        "missing": "/anomalies/none",
        "sign-in": "/sign-in",
    }[name]


def forgive_404(name: str, opened: Any) -> None:
    """The browser itself notes a page's 404 on the console."""
    if name == "missing":
        opened.complaints[:] = [c for c in opened.complaints if "404" not in c]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways(name: str, opened: Any, site: Site) -> None:
    for width, height in WIDTHS:
        phone = width < 500
        page: Page = opened(viewport={"width": width, "height": height}, is_mobile=phone, has_touch=phone)
        page.goto(address(name, site))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"
        page.context.close()
    forgive_404(name, opened)


def test_nor_does_what_a_new_account_sees(opened: Any, site: Site) -> None:
    with site.connect() as connection:
        _, key = create_key(connection, "acct_new_here", "first", ["admin"], "test")
    page: Page = opened(storage_state=None)
    sign_in(page, site.url, key)
    for name in ("now", "transactions", "users"):
        page.goto(address(name, site))
        for width, height in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(name: str, theme: str, opened: Any, site: Site) -> None:
    page: Page = opened(color_scheme=theme)
    page.goto(address(name, site))
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"])
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert not serious, json.dumps(serious, indent=1)
    forgive_404(name, opened)


def test_axe_on_a_phone(opened: Any, site: Site) -> None:
    page: Page = opened(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    for name in ("now", "anomaly", "metrics", "alerts"):
        page.goto(address(name, site))
        page.evaluate(AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert not [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")], name


def compressed(client: httpx.Client, url: str) -> int:
    """Bytes of an answer's body as they travel."""
    with client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer:
        return sum(len(chunk) for chunk in answer.iter_raw())


@pytest.mark.parametrize("name", PAGES)
def test_first_load_keeps_the_budget(name: str, opened: Any, site: Site) -> None:
    page: Page = opened()
    sizes: dict[str, int] = {}
    kinds: dict[str, str] = {}
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.requestWillBeSent", lambda e: kinds.update({e["requestId"]: e["request"]["url"]}))
    network.on(
        "Network.loadingFinished", lambda e: sizes.update({e["requestId"]: int(e["encodedDataLength"])})
    )
    page.goto(address(name, site))
    page.wait_for_timeout(300)
    assert all(url.startswith((site.url, "data:")) for url in kinds.values()), "everything comes from us"
    whole = {kinds[request]: size for request, size in sizes.items() if "/events" not in kinds[request]}
    assert sum(whole.values()) < TOTAL_MAX, whole

    client = site.client(None if name == "sign-in" else site.mine.admin_key)

    def body(ending: tuple[str, ...]) -> int:
        own = [url.split("?")[0] for url in whole if "/vendor/" not in url]
        return sum(compressed(client, url) for url in own if url.endswith(ending))

    assert 1000 < body((address(name, site),)) < HTML_MAX
    assert 1000 < body((".css",)) < CSS_MAX
    assert 1000 < body((".js",)) < OWN_SCRIPT_MAX
    forgive_404(name, opened)


def test_hundred_rows_stay_within_the_html_budget(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    for path in ("/transactions", "/users", "/now?state=all"):
        html = client.get(path).content
        assert html.count(b"<tr") > 80
        assert len(gzip.compress(html, 6)) < HTML_MAX, path


def test_theme_follows_the_system_and_the_choice_stays(opened: Any) -> None:
    page: Page = opened(color_scheme="dark")
    page.goto("/now")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(21, 21, 20)"
    page.get_by_role("button", name="Switch theme").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.goto("/system")
    assert page.evaluate(ground) == "rgb(255, 255, 255)", "kept for the next page"
    assert page.locator("html").get_attribute("data-theme") == "light"


def test_phone_has_tabs_and_large_targets(opened: Any, site: Site) -> None:
    page: Page = opened(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.goto("/now")
    tabs = page.get_by_role("navigation", name="Main, small screens")
    expect(tabs).to_be_visible()
    assert all(tab.bounding_box()["height"] >= 44 for tab in tabs.get_by_role("link").all())  # type: ignore[index]
    page.goto(address("anomaly", site))
    button = page.get_by_role("button", name="Confirm")
    expect(button).to_be_in_viewport()
    assert button.bounding_box()["height"] >= 44  # type: ignore[index]


def test_anomaly_says_why_and_deciding_opens_the_next(page: Page, site: Site) -> None:
    first, second = site.add_case(8, "user_2111"), site.add_case(0, "user_2222")
    page.goto("/now")
    page.locator(f"#case-{second} .c-what a.name").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("37.5 times")
    rules = page.get_by_role("table", name="Rules that fired")
    expect(rules.get_by_role("row")).to_have_count(3)
    expect(rules).to_contain_text("travel_kmh 422,000 km/h > 900 km/h")
    expect(page.get_by_role("table", name="Features by their share")).to_contain_text(
        "Distance since the last"
    )
    expect(page.get_by_text("What would have changed the verdict")).to_be_visible()
    expect(page.get_by_role("table", name="newest first").first).to_contain_text("8,440")
    page.get_by_label("Note").fill("called the user")
    page.get_by_role("button", name="Confirm").click()
    page.wait_for_url(f"**?decided={second}")
    expect(page.get_by_role("status").first).to_contain_text("Confirmed: user_2222")
    with site.connect() as connection:
        following = connection.execute(
            "SELECT headline_anomaly_id FROM cases WHERE case_id = %s", [first]
        ).fetchone()
        notes = connection.execute(
            "SELECT DISTINCT fraud, reason FROM labels WHERE user_id = 'user_2222'"
        ).fetchall()
    assert following is not None
    assert following[0] in page.url, "the next one to review is open"
    assert notes == [(True, "called the user")]
    page.keyboard.press("u")
    page.wait_for_url("**/anomalies/**")
    expect(page.get_by_text("Is this fraud?")).to_be_visible()
    with site.connect() as connection:
        assert connection.execute("SELECT state FROM cases WHERE case_id = %s", [second]).fetchone() == (
            "open",
        )


def test_amounts_plot_has_readout_and_table(page: Page, site: Site) -> None:
    page.goto("/users/user_99")
    plot = page.locator("[data-plot]")
    expect(plot.locator("canvas")).to_be_visible()
    plot.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("figure", has=plot).locator(".readout")).to_contain_text("USD")
    page.locator("figure", has=plot).get_by_text("Show as table").click()
    assert page.get_by_role("table", name="Amounts of user_99").get_by_role("row").count() > 20


def test_transactions_filter_pages_and_names_mistakes(page: Page) -> None:
    page.goto("/transactions")
    first = page.locator("#rows > tr").first.get_attribute("id")
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**cursor=**")
    assert page.locator(f"[id='{first}']").count() == 0
    page.goto("/transactions?user_id=user_99&severity=critical")
    assert set(page.locator("#rows .sev").all_inner_texts()) == {"Critical"}
    page.goto("/transactions?min_amount=much")
    expect(page.get_by_text("much: expected a number such as 120.00.")).to_be_visible()
