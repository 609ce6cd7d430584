"""Uploading as a person does it: drop, look, correct, start, watch, fetch what was refused."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from psycopg.types.json import Jsonb

from anomalyze.access.keys import create_key
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.training import build_bundle
from anomalyze.storage.objects import open_objects
from tests.browser.seed import INCIDENTS, Seeder
from tests.browser.site import Site
from tests.browser.test_pages import AXE, WIDTHS

WAIT_MS = 15_000
DAY = timedelta(days=1)
CONFIG = Path(__file__).resolve().parents[2] / "metrics_config"


def file_of(folder: Path, name: str = "november.csv", rows: int = 30) -> Path:
    """Times that could be read in two ways, no currency, and a row that is none."""
    path = folder / name
    mark = uuid.uuid4().hex[:8]
    path.write_text(
        "tx_id,customer,date,amount,terminal\n"
        + "".join(
            f"{mark}{i},cust_{i % 5},0{1 + i % 9}/0{1 + i % 9}/2025,{i}.50,term_{i % 3}\n"
            for i in range(1, rows)
        )
        + "x,cust_1,no day,3.00,term_1\n"
    )
    return path


def drop(page: Page, path: Path) -> str:
    """Upload a file; returns the id of its page."""
    page.goto("/uploads")
    page.get_by_label("Drop a file here").set_input_files(path)
    page.wait_for_url("**/uploads/up_*")
    return page.url.rsplit("/", 1)[1]


def change(site: Site, upload_id: str, **columns: Any) -> None:
    with site.connect() as connection:
        for name, value in columns.items():
            connection.execute(
                f"UPDATE uploads SET {name} = %s, seen_at = now() WHERE upload_id = %s", [value, upload_id]
            )


def test_from_the_drop_to_the_last_row(page: Page, site: Site, tmp_path: Path) -> None:
    upload_id = drop(page, file_of(tmp_path))
    expect(page.get_by_role("heading", level=1)).to_have_text("november.csv")
    expect(page.locator(".doubts")).to_contain_text("Times can be read as %d/%m/%Y or as %m/%d/%Y")
    expect(page.locator(".doubts")).to_contain_text("USD is assumed")
    assert page.get_by_label("User").input_value() == "customer"
    assert page.get_by_label("Amount needed").input_value() == "amount"

    # Corrected, tried, and in the address.
    page.get_by_label("Times are written").fill("%m/%d/%Y")
    page.get_by_label("Currency of all rows").fill("eur")
    page.get_by_text("Further columns").click()
    page.get_by_label("Merchant id").select_option("terminal")
    page.get_by_role("button", name="Preview").click()
    page.wait_for_url("**f.merchant_id=terminal**")
    preview = page.get_by_role("table", name="The first rows as transactions")
    expect(preview.get_by_role("row")).to_have_count(21)
    expect(preview).to_contain_text("EUR")
    expect(preview.get_by_role("row").nth(1)).to_contain_text("1.50")
    expect(preview).to_contain_text("term_1")

    page.get_by_role("button", name="Start").click()
    page.wait_for_url(f"**/uploads/{upload_id}")
    expect(page.locator("#upload")).to_contain_text("Queued")
    with site.connect() as connection:
        state, mapping = connection.execute(
            "SELECT state, mapping FROM uploads WHERE upload_id = %s", [upload_id]
        ).fetchone()  # type: ignore[misc]
    assert state == "started"
    assert mapping["time_format"] == "%m/%d/%Y"
    assert mapping["constants"] == {"currency": "EUR"}
    assert mapping["fields"]["merchant_id"] == "terminal"

    # As the work goes on, the page follows by itself.
    change(
        site,
        upload_id,
        state="running",
        rows_read=30,
        rows_accepted=29,
        rows_total=30,
        rows_scored=12,
        note="publishing",
    )
    expect(page.locator("#upload")).to_contain_text("Publishing.", timeout=WAIT_MS)
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO upload_errors VALUES (%s, 31, 'date', 'timestamp: expected a time as %%m/%%d/%%Y, got no day', 'x,cust_1,no day')",
            [upload_id],
        )
    change(site, upload_id, state="done", rows_scored=29, rows_refused=1)
    expect(page.locator("#upload")).to_contain_text("Every accepted row was judged", timeout=WAIT_MS)
    expect(page.locator("#cases")).to_have_count(0)
    expect(page.locator("#upload")).to_contain_text("timestamp: expected a time")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download to mend").click()
    assert download.value.path().read_text().splitlines()[1].startswith("31,date,")

    page.goto("/uploads")
    expect(page.locator("#uploads")).to_contain_text("november.csv")
    expect(page.locator("#uploads")).to_contain_text("Done")


def test_what_came_of_a_file_is_told_and_listed(page: Page, site: Site) -> None:
    """Cases by severity, of its rows alone, and the list of them."""
    upload_id, first = f"up_{uuid.uuid4().hex}", datetime(2024, 3, 1, 12, tzinfo=UTC)
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO uploads (upload_id, account_id, name, sha256, bytes, parts, state, created_by, finished_at, "
            "first_ts, last_ts) VALUES (%s, %s, 'march.csv', %s, 1, 1, 'done', 'k', now(), %s, %s)",
            [upload_id, site.mine.account_id, upload_id, first, first + DAY],
        )
    page.goto(f"/uploads/{upload_id}")
    expect(page.locator("#cases")).to_contain_text("Nothing in it was flagged.")
    with site.connect() as connection:
        seeder = Seeder(connection, site.mine.account_id, first, seed=time.time_ns())
        seeder.offset = 5_000_000
        users = [f"of_file_{i}" for i in range(4)]
        for user, kind, at in zip(users, (0, 2, 2, 2), (0, 3, 6, 9), strict=True):
            seeder.take_user(user)
            seeder.add_incident(user, INCIDENTS[kind], first + timedelta(hours=at))
        seeder.take_user("live_then")
        seeder.add_incident("live_then", INCIDENTS[0], first + timedelta(hours=1))
        seeder.write()
        connection.execute(
            "UPDATE transactions SET source = 'CSV' WHERE account_id = %s AND user_id = ANY(%s)",
            [site.mine.account_id, users],
        )
    try:
        # What was stored after the page came is shown without a reload.
        expect(page.locator("#cases")).to_contain_text("4\u00a0cases", timeout=WAIT_MS)
        assert page.locator("#cases a").all_inner_texts()[1:] == ["1\nCritical", "3\nHigh"]
        for width, height in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        page.set_viewport_size({"width": 1440, "height": 900})
        page.locator("#cases").get_by_role("link", name="High").click()
        page.wait_for_url("**/now?upload=*severity=high")
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(3)
        expect(page.locator(".chips")).to_contain_text("upload march.csv")
        page.goto(f"/now?upload={upload_id}&state=all")
        expect(rows).to_have_count(4)
        expect(page.locator("#rows")).not_to_contain_text("live_then")
        other = site.client(site.other.admin_key).get(f"/now?upload={upload_id}&state=all").text
        assert "of_file_" not in other
        assert "march.csv" not in other
    finally:
        with site.connect() as connection:
            for table in ("transactions", "anomalies", "cases", "users"):
                connection.execute(
                    f"DELETE FROM {table} WHERE account_id = %s AND (user_id = ANY(%s) OR user_id = 'live_then')",
                    [site.mine.account_id, users],
                )


def test_cases_to_expect_are_told_before_the_start(page: Page, site: Site, tmp_path: Path) -> None:
    # Nobody has trained anything here: a bundle of rules in the site's store.
    bundles = BundleStore(open_objects((site.data_dir / "objects").as_uri()))
    bundle = build_bundle(CONFIG)
    bundles.publish(bundle)
    bundles.set_pointer("champion", bundle.id)
    upload_id = drop(page, file_of(tmp_path))
    expect(page.locator("#estimate")).to_contain_text("0\u00a0cases in 30 rows", timeout=60_000)
    expect(page.locator("#estimate")).to_contain_text("judged on 29 rows of 5\u00a0users")
    expect(page.locator("#estimate")).to_contain_text("off: needs device_id")
    expect(page.locator("#estimate")).to_contain_text("times of day")
    for width, height in WIDTHS:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
    change(site, upload_id, state="done", lacking=Jsonb({"features": {}, "rules": {"TAKEOVER": "device_id"}}))
    page.reload()
    expect(page.locator("#upload")).to_contain_text("TAKEOVER off: needs device_id")
    expect(page.locator("#estimate")).to_have_count(0)


def test_a_mapping_that_cannot_be_stays_in_the_form(page: Page, tmp_path: Path) -> None:
    drop(page, file_of(tmp_path))
    page.get_by_label("User").select_option("")
    page.get_by_label("Currency of all rows").fill("GBP")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert").filter(has_text="user_id")).to_be_visible()
    assert page.get_by_label("Currency of all rows").input_value() == "GBP"


def test_what_is_no_table_is_said_beside_the_drop(opened: Any, tmp_path: Path) -> None:
    page: Page = opened()
    path = tmp_path / "picture.csv"
    path.write_bytes(b"\x89PNG\0\0")
    page.goto("/uploads")
    page.get_by_label("Drop a file here").set_input_files(path)
    expect(page.locator("#upload-said")).to_contain_text("binary data")
    # The browser notes the 422 on its console.
    opened.complaints[:] = [c for c in opened.complaints if "422" not in c]


def test_the_same_file_leads_to_the_same_page(page: Page, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    assert drop(page, path) == drop(page, path)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_its_pages_fit_and_can_be_read_by_all(theme: str, opened: Any, site: Site, tmp_path: Path) -> None:
    page: Page = opened(color_scheme=theme)
    drop(page, file_of(tmp_path))
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, found["violations"]
    for width, height in WIDTHS:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


def test_readers_and_strangers_change_nothing(site: Site, tmp_path: Path) -> None:
    with site.connect() as connection:
        _, reader = create_key(connection, site.mine.account_id, "reader", ("read",), "tests")
    client = site.client(reader)
    page = client.get("/uploads").text
    assert "needs a key with the scope ingest" in page
    token = page.split("X-CSRF-Token&quot;: &quot;")[-1].split("&quot;")[0] if "&quot;" in page else ""
    token = token or page.split('"X-CSRF-Token": "')[1].split('"')[0]
    content = file_of(tmp_path).read_bytes()
    assert client.post("/uploads", content=content, headers={"X-CSRF-Token": token}).status_code == 403
    admin = site.client(site.mine.admin_key)
    assert admin.post("/uploads", content=content, headers={"X-CSRF-Token": "forged"}).status_code == 403
    assert admin.post("/uploads", content=content * 100).status_code == 413
    other = site.client(site.other.admin_key)
    with site.connect() as connection:
        ids = connection.execute(
            "SELECT upload_id FROM uploads WHERE account_id = %s", [site.mine.account_id]
        ).fetchall()
    for (upload_id,) in ids[:1]:
        assert other.get(f"/uploads/{upload_id}").status_code == 404
        assert other.get(f"/uploads/{upload_id}/refused.csv").status_code == 404


def test_polled_tables_stand_below_the_files(page: Page, site: Site) -> None:
    page.goto("/uploads")
    expect(page.locator("#sources")).to_have_count(0)
    with site.connect() as connection:
        for name, account, error in (
            ("shop", site.mine.account_id, None),
            ("till", site.mine.account_id, "the table cannot be read: connection refused"),
            ("strange", site.other.account_id, None),
        ):
            connection.execute(
                "INSERT INTO sources (name, account_id, identity, table_name, position, rows_published, rows_refused, "
                "looked_at, read_at, error) VALUES (%s, %s, 'x', 'public.payments', "
                """'{"cursor": ["time", "2025-11-03T10:00:00"], "tie": ["int", "1"]}', 1200, 1, now(), now(), %s)""",
                [name, account, error],
            )
        connection.execute(
            "INSERT INTO source_errors (source, account_id, column_name, reason, raw) "
            "VALUES ('shop', %s, 'amount', 'amount: expected a number, got x', '{}')",
            [site.mine.account_id],
        )
    try:
        page.reload()
        sources = page.locator("#sources")
        expect(sources).to_contain_text("Followed")
        expect(sources).to_contain_text("connection refused")
        expect(sources).not_to_contain_text("strange")
        with page.expect_download() as download:
            sources.get_by_role("link", name="1").first.click()
        assert "amount: expected a number" in download.value.path().read_text()
        for width, height in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        assert site.client(site.other.admin_key).get("/sources/shop/refused.csv").status_code == 404
    finally:
        with site.connect() as connection:
            connection.execute("DELETE FROM sources")
