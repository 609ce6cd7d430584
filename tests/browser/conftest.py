"""The system's Chromium, a site to look at, and a page that fails the test when its console complains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from anomalyze.embedded.postgres import EmbeddedPostgres
from tests.browser.site import Site, seeded_site

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The installed browser: nothing is downloaded."""
    path = next((p for p in CHROMIUM if Path(p).exists()), None) or shutil.which("chromium")
    if path is None:
        reason = f"no Chromium at {', '.join(CHROMIUM)}: install the package chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # Its event loop occupies the thread until it ends, and other packages' tests run loops of their own there.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def site(postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all browser tests; a test that decides picks a case of its own."""
    with seeded_site(postgres_server, tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="package")
def signed_in(chromium: Browser, site: Site) -> dict[str, Any]:
    """Cookies of a session that may decide."""
    context = chromium.new_context(timezone_id="Europe/Berlin")
    sign_in(context.new_page(), site.url, site.mine.admin_key)
    state = context.storage_state()
    context.close()
    return dict(state)


@pytest.fixture
def opened(chromium: Browser, site: Site, signed_in: dict[str, Any]) -> Iterator[Any]:
    """Opens contexts with `opened(**options)`; afterwards no console may have complained."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def new_page(**options: Any) -> Page:
        defaults: dict[str, Any] = {
            "base_url": site.url, "storage_state": signed_in, "timezone_id": "Europe/Berlin",
            "viewport": {"width": 1440, "height": 900},
        }  # fmt: skip
        context = chromium.new_context(**(defaults | options))
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => console.error('CSP ' + e.violatedDirective + ' ' + e.blockedURI))"
        )
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    new_page.complaints = complaints  # type: ignore[attr-defined]
    yield new_page
    for context in contexts:
        context.close()
    assert not complaints, complaints


@pytest.fixture
def page(opened: Any) -> Page:
    """A signed-in page on a desk."""
    tab: Page = opened()
    return tab


def sign_in(page: Page, url: str, key: str) -> None:
    """Through the form, as a person does."""
    page.goto(f"{url}/sign-in")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/now")
