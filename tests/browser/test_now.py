"""The queue, worked by keyboard and live."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.site import Site


def labels_of(site: Site, case_id: str) -> list[tuple[bool | None, int]]:
    """(fraud, how many) in the order of recording."""
    with site.connect() as connection:
        return connection.execute(
            "SELECT l.fraud, count(*) FROM labels l JOIN anomalies a USING (account_id, user_id, tx_id) "
            "WHERE a.case_id = %s GROUP BY l.fraud, l.recorded_at ORDER BY l.recorded_at",
            [case_id],
        ).fetchall()


def state_of(site: Site, case_id: str) -> str:
    with site.connect() as connection:
        row = connection.execute("SELECT state FROM cases WHERE case_id = %s", [case_id]).fetchone()
    assert row is not None
    return str(row[0])


def selected(page: Page) -> str | None:
    return page.locator("#rows > tr.sel").get_attribute("id")


def test_list_names_each_case_with_severity_word_and_figures(page: Page, site: Site) -> None:
    page.goto("/now")
    rows = page.locator("#rows > tr")
    assert rows.count() >= len(site.mine.case_ids)
    with site.connect() as connection:
        case_id, headline = connection.execute(
            "SELECT case_id, headline FROM cases WHERE account_id = 'acct_7' AND state = 'open' AND severity = 4 ORDER BY last_at DESC LIMIT 1"
        ).fetchone()  # type: ignore[misc]
    row = page.locator(f"#case-{case_id}")
    expect(row.locator(".sev")).to_have_text("Critical")
    expect(row.locator(".c-what a.name")).to_have_text(headline)
    expect(page).to_have_title(re.compile(r"\d+ to review, Now, Anomalyze"))


def test_keys_move_open_and_come_back(page: Page) -> None:
    page.goto("/now")
    ids = [row.get_attribute("id") for row in page.locator("#rows > tr").all()[:3]]
    page.keyboard.press("j")
    assert selected(page) == ids[0]
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert selected(page) == ids[2]
    page.keyboard.press("k")
    assert selected(page) == ids[1]
    focused = page.evaluate("document.activeElement.closest('tr').id")
    assert focused == ids[1], "the focus ring moves with j and k"
    page.keyboard.press("Enter")
    page.wait_for_url("**/anomalies/**")
    page.keyboard.press("Escape")
    page.wait_for_url("**/now")


def test_keys_are_off_in_fields_and_listed(page: Page) -> None:
    page.goto("/now")
    page.keyboard.press("/")
    page.keyboard.type("jjc?")
    assert page.locator("#rows > tr.sel").count() == 0
    assert page.get_by_label("Filter cases").input_value() == "jjc?"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("u")
    page.wait_for_url("**/users")


def test_confirm_and_undo_by_key_are_stored_as_labels(page: Page, site: Site) -> None:
    case_id = site.add_case(5, "user_1777")  # three transactions
    page.goto("/now")
    row = page.locator(f"#case-{case_id}")
    row.locator(".c-what a.name").focus()
    page.keyboard.press("c")
    expect(row).to_contain_text("Confirmed by you")
    expect(row).to_have_class(re.compile("done"))
    assert state_of(site, case_id) == "confirmed"
    assert labels_of(site, case_id) == [(True, 3)], "deciding a case decides each of its transactions"
    page.keyboard.press("u")
    expect(row.locator("[data-act=confirmed]")).to_be_visible()
    assert state_of(site, case_id) == "open"
    assert labels_of(site, case_id) == [(True, 3), (None, 3)]
    with site.connect() as connection:
        log = connection.execute(
            "SELECT action FROM audit_log WHERE target = %s ORDER BY audit_id", [case_id]
        ).fetchall()
    assert [entry[0] for entry in log] == ["case.confirmed", "case.open"]


def test_new_cases_wait_in_the_slot_until_shown(page: Page, site: Site) -> None:
    page.goto("/now")
    slot = page.locator("#slot")
    expect(slot).to_contain_text("Up to date, last")
    height = slot.bounding_box()["height"]  # type: ignore[index]
    page.locator("#rows > tr .c-what a.name").nth(1).focus()
    before, count = selected(page), page.locator("#rows > tr").count()
    case_id = site.add_case(0, "user_1888")
    expect(slot).to_contain_text("1 new, 1 critical. Show")
    assert slot.bounding_box()["height"] == height, "the slot keeps its height"  # type: ignore[index]
    assert page.locator(f"#case-{case_id}").count() == 0, "nothing moves unless the reader moves it"
    page.keyboard.press("n")
    expect(page.locator("#rows > tr").first).to_have_id(f"case-{case_id}")
    assert page.locator("#rows > tr").count() == count + 1
    assert selected(page) == before, "the selection stays"
    expect(slot).to_contain_text("Up to date, last")
    site.add_case(4, "user_1889")
    expect(slot).to_contain_text("1 new. Show")


def test_slot_counts_only_what_the_filter_admits(page: Page, site: Site) -> None:
    page.goto("/now?severity=medium")
    slot = page.locator("#slot")
    expect(slot).to_contain_text("Up to date")
    site.add_case(0, "user_1555")
    case_id = site.add_case(4, "user_1556")
    expect(slot).to_contain_text("1 new. Show")
    page.keyboard.press("n")
    expect(page.locator("#rows > tr").first).to_have_id(f"case-{case_id}")


def test_follow_shows_new_ones_by_itself(page: Page, site: Site) -> None:
    page.goto("/now")
    page.keyboard.press("f")
    page.wait_for_url("**/now?follow=1")
    expect(page.locator("#slot")).to_contain_text("Up to date")
    case_id = site.add_case(3, "user_1666")
    expect(page.locator("#rows > tr").first).to_have_id(f"case-{case_id}")


def test_a_colleagues_decision_changes_the_row_in_place(opened: Any, site: Site) -> None:
    case_id = site.add_case(3, "user_1999")
    here, there = opened(), opened()
    here.goto("/now")
    there.goto("/now")
    expect(here.locator("#slot")).to_contain_text("Up to date")
    place = here.evaluate(
        f"[...document.querySelectorAll('#rows > tr')].findIndex(r => r.id == 'case-{case_id}')"
    )
    there.locator(f"#case-{case_id} [data-act=dismissed]").click()
    expect(here.locator(f"#case-{case_id}")).to_contain_text("Dismissed by")
    assert (
        here.evaluate(
            f"[...document.querySelectorAll('#rows > tr')].findIndex(r => r.id == 'case-{case_id}')"
        )
        == place
    )


def test_filters_are_the_address(page: Page) -> None:
    page.goto("/now")
    page.get_by_role("group", name="Severity").get_by_role("link", name="High").click()
    page.wait_for_url("**/now?severity=high")
    assert set(page.locator("#rows .sev").all_inner_texts()) == {"High"}
    page.get_by_label("Filter cases").fill("nobody at all")
    page.keyboard.press("Enter")
    page.wait_for_url("**/now?*q=nobody*")
    expect(page.locator("#empty")).to_contain_text(re.compile(r"None of \d+ match\. Clear filters"))
    page.get_by_role("link", name="Clear filters").click()
    page.wait_for_url(re.compile(r"/now$"))
    page.locator(".shared a.name").first.click()
    page.wait_for_url("**/now?rule=*")
    assert page.locator("#rows > tr").count() >= 2
    page.go_back()
    page.wait_for_url(re.compile(r"/now$"))


def test_who_may_not_decide_sees_why(opened: Any, site: Site) -> None:
    from tests.browser.conftest import sign_in

    page = opened(storage_state=None)
    sign_in(page, site.url, site.mine.read_key)
    reason = "Deciding needs the role analyst. Ask an admin of acct_7."
    button = page.locator("#rows [data-act=confirmed]").first
    expect(button).to_be_disabled()
    expect(button).to_have_attribute("title", reason)
    expect(page.get_by_text(reason).first).to_be_visible()


def test_readout_follows_arrow_keys(page: Page) -> None:
    page.goto("/now")
    plot = page.locator(".plot-hours:visible")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".readout")).to_contain_text(re.compile(r"\d\d:\d\d to \d\d:\d\d: \d+\sanomal"))
    page.locator("figure").get_by_text("Show as table").click()
    expect(
        page.get_by_role("table", name=re.compile("Anomalies per hour")).locator("tbody tr")
    ).to_have_count(24)
