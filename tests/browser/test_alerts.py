"""Alerts by keyboard and pointer: a picture is fetched once when it is opened, and what people say comes back to its row."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.site import Site


def test_a_picture_opens_in_its_row(page: Page, site: Site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/picture" in request.url else None)
    page.goto("/alerts")
    row = page.locator("#rows > tr").first
    assert asked == []
    row.locator("summary", has_text="Picture").click()
    expect(row.locator("svg.pic")).to_be_visible()
    expect(row.locator("svg.pic .pic-line").first).to_be_attached()
    row.locator("summary", has_text="Picture").click()
    row.locator("summary", has_text="Picture").click()
    expect(row.locator("svg.pic")).to_be_visible()
    assert len(asked) == 1
    ground = row.locator(".pic-ground").evaluate("node => getComputedStyle(node).fill")
    page.locator("[data-theme-toggle]").click()
    assert row.locator(".pic-ground").evaluate("node => getComputedStyle(node).fill") != ground
    page.locator("[data-theme-toggle]").click()


def test_keys_choose_a_row_and_decide_it(page: Page, site: Site) -> None:
    page.goto("/alerts?view=open")
    page.keyboard.press("j")
    page.keyboard.press("j")
    chosen = page.locator("#rows > tr.sel")
    named = chosen.get_attribute("id")
    boxes = [chosen.get_by_role("button", name=name).bounding_box() for name in ("Confirm", "Dismiss")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert abs(boxes[0]["width"] - boxes[1]["width"]) < 1, "both weigh the same"
    page.keyboard.press("c")
    page.wait_for_url(re.compile(f"view=open#{named}$"))
    expect(page.locator(f"#{named}").get_by_text("Confirmed.")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/metrics")
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.wait_for_url("**/alerts")
    page.locator(f"#{named} a.name").click()
    page.wait_for_url("**/metrics/*/*")
