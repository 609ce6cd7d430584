"""Metrics by keyboard: the chosen row fills the panel, enter opens the page, its plot tells what is under the cursor."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.metric_seed import ODD_NAME
from tests.browser.site import Site


def test_keys_fill_the_panel_and_open_the_page(page: Page, site: Site) -> None:
    page.goto("/metrics")
    panel = page.locator("#one")
    expect(panel.get_by_role("heading", level=2)).to_have_text("p95_ms_b")
    for _ in range(3):
        page.keyboard.press("j")
    expect(panel.get_by_role("heading", level=2)).to_have_text("soft_declines")
    expect(panel.get_by_role("img")).to_have_attribute("aria-label", re.compile("soft_declines over 7 days"))
    page.wait_for_url("**/metrics?at=payments_hourly%2Fsoft_declines")
    page.reload()
    expect(panel.get_by_role("heading", level=2)).to_have_text("soft_declines")
    page.keyboard.press("k")
    expect(panel.get_by_role("heading", level=2)).to_have_text("auth_rate")
    page.keyboard.press("Enter")
    page.wait_for_url("**/metrics/payments_hourly/auth_rate")
    plot = page.locator("[data-series]")
    expect(plot.locator("canvas")).to_be_visible()
    plot.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("figure", has=plot).locator(".readout")).to_contain_text("critical")
    page.keyboard.press("Home")
    expect(page.locator("figure", has=plot).locator(".readout")).to_have_attribute("aria-live", "polite")
    page.get_by_role("group", name="Period").get_by_role("link", name="30").click()
    page.wait_for_url("**?period=30d")
    expect(page.get_by_role("table", name="Runs of the batch")).to_contain_text("score")
    page.get_by_text("The file").click()
    expect(page.locator("pre")).to_contain_text("account: acct_7")


def test_a_period_and_filters_are_kept_on_the_way(page: Page, site: Site) -> None:
    page.goto("/metrics")
    page.get_by_role("group", name="Period").get_by_role("link", name="30").press("Enter")
    page.get_by_label("Owner").select_option("Payments")
    page.get_by_label("Filter metrics").fill("*rate*")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("period=30d.*q=.*owner=Payments"))
    expect(page.locator("#rows a.name")).to_have_text(["payments_hourly", "auth_rate", "challenge_rate_3ds"])
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("#one").get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("over 30 days")
    )
    page.keyboard.press("Enter")
    page.wait_for_url("**/challenge_rate_3ds?period=30d")
    page.keyboard.press("Escape")
    page.wait_for_url(re.compile(r"/metrics\?.*owner=Payments.*at=payments_hourly%2Fchallenge_rate_3ds"))
    expect(page.locator("#rows > tr.sel a.name")).to_have_text("challenge_rate_3ds")


def test_what_people_say_comes_back_to_the_list(page: Page, site: Site) -> None:
    page.goto("/metrics?q=challenge")
    panel = page.locator("#one")
    widths = [
        panel.get_by_role("button", name=name).bounding_box()["width"] for name in ("Confirm", "Dismiss")
    ]  # type: ignore[index]
    assert abs(widths[0] - widths[1]) < 1, "both weigh the same"
    page.keyboard.press("c")
    page.wait_for_url("**/metrics?q=challenge**")
    expect(panel.get_by_text("Confirmed.")).to_be_visible()
    page.locator("#rows").get_by_role("link", name="challenge_rate_3ds").click()
    page.wait_for_url("**/metrics/payments_hourly/challenge_rate_3ds")
    page.keyboard.press("s")
    page.get_by_label("Why").fill("known")
    page.get_by_role("button", name="Tell nobody").click()
    expect(page.get_by_text("“known”")).to_be_visible()
    page.get_by_role("button", name="End the snooze").click()
    expect(page.get_by_text("“known”")).to_have_count(0)


def test_clicking_a_row_with_an_odd_name_chooses_it(page: Page) -> None:
    page.goto("/metrics?q=quoted")
    page.goto("/metrics?batch=payments_hourly")
    page.locator("#rows > tr", has_text="quoted").locator(".m-sp").click()
    expect(page.locator("#one h2")).to_have_text(ODD_NAME)
    page.keyboard.press("Enter")
    expect(page.locator(".name-of")).to_have_text(ODD_NAME)


def test_words_of_the_phone_s_tabs_keep_clear_of_each_other(opened: Any) -> None:
    page: Page = opened(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.goto("/metrics")
    tabs = page.get_by_role("navigation", name="Main, small screens")
    places = page.evaluate(
        """[...document.querySelectorAll('.tabs-b > a, .tabs-b summary')].map(e => {
            const r = document.createRange(); r.selectNodeContents(e.lastChild);
            const b = r.getBoundingClientRect(); return [b.left, b.right]})"""
    )
    assert len(places) >= 4
    assert all(left[1] + 4 < right[0] for left, right in pairwise(places)), places
    tabs.get_by_text("More").click()
    tabs.get_by_role("link", name="Settings").click()
    page.wait_for_url("**/settings")
