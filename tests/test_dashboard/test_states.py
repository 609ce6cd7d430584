"""The states of UX: new, quiet, silent, filtered, little history, starter, PostgreSQL away."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from anomalyze.access.keys import create_key
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.storage.migrate import migrate
from tests.browser.seed import beat
from tests.browser.site import Site, served
from tests.folders import passable_folder


def words(page: str) -> str:
    """A page's text, without marks and with plain spaces."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", page)).replace("\u00a0", " "))


@pytest.fixture
def account(site: Site) -> tuple[str, httpx.Client]:
    """A new account without data, and its client."""
    name = f"acct_{time.time_ns()}"
    with site.connect() as connection:
        _, key = create_key(connection, name, "first", ["admin"], "test")
    return name, site.client(key)


def test_new_account_is_told_how_to_send(account: tuple[str, httpx.Client]) -> None:
    text = words(account[1].get("/now").text)
    assert "No transaction yet. Send one:" in text
    assert "curl -X POST" in text
    assert "anomalyze simulate" in text
    assert "Or upload a file of them" in text
    assert 'href="/uploads"' in account[1].get("/now").text.partition('id="empty"')[2]


def add_traffic(site: Site, name: str, last: datetime, user: str = "u1") -> None:
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO transactions SELECT %s, %s, %s - n * interval '1 minute', 't' || n, 10, 'USD', 0, 0, 0, 0.5, NULL, 0, n, 'REALTIME_API', "
            "NULL, 'sha256:b', '{}', '{}', '{}', '{}' FROM generate_series(0, 2) n",
            [name, user, last],
        )
        connection.execute("INSERT INTO users VALUES (%s, %s, %s, %s, 3, 0)", [name, user, last, last])
        connection.execute(
            "INSERT INTO hourly VALUES (%s, date_trunc('hour', now()) - interval '1 hour', 0, 86400)", [name]
        )


def test_quiet_says_when_data_last_came(site: Site, account: tuple[str, httpx.Client]) -> None:
    add_traffic(site, account[0], datetime.now(UTC) - timedelta(seconds=3))
    text = words(account[1].get("/now").text)
    assert re.search(r"Nothing to review\. 86\.4 k transactions judged in 24 h, the last \d s ago\.", text)


def test_silence_is_said_with_what_is_usual(site: Site, account: tuple[str, httpx.Client]) -> None:
    add_traffic(site, account[0], datetime.now(UTC) - timedelta(minutes=14, seconds=5))
    text = words(account[1].get("/now").text)
    assert "No transaction for 14 min; usually one a second. The API is up." in text


def test_little_history_is_said(site: Site, account: tuple[str, httpx.Client]) -> None:
    add_traffic(site, account[0], datetime.now(UTC) - timedelta(days=3), user="u2")
    text = words(account[1].get("/users/u2").text)
    assert "3 transactions of this user; usual ranges start at 10." in text


def test_filtered_names_how_many_there_are(site: Site) -> None:
    text = words(site.client(site.mine.admin_key).get("/now?q=nothing+like+it").text)
    assert re.search(r"None of \d+ match\. Clear filters", text)


def test_starter_bundle_is_called_so(site: Site) -> None:
    client = site.client(site.mine.admin_key)
    with site.connect() as connection:
        beat(connection, bundle_kind="starter")
    try:
        assert "Starter bundle, trained on simulated history: expect false alarms." in words(
            client.get("/now").text
        )
    finally:
        with site.connect() as connection:
            beat(connection)


def test_dead_program_is_named(site: Site) -> None:
    with site.connect() as connection:
        connection.execute(
            "UPDATE program_states SET seen_at = now() - interval '40 seconds' WHERE program = 'detector'"
        )
    try:
        text = words(site.client(site.mine.admin_key).get("/now").text)
        assert "Stream down" in text
        assert "no sign of the detector for 40 s" in text
    finally:
        with site.connect() as connection:
            beat(connection)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    with passable_folder() as folder:
        yield folder


def test_postgresql_away_shows_the_last_page_and_recovers(own_folder: Path) -> None:
    server = EmbeddedPostgres(own_folder / "pg", free_port())
    server.start()
    try:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            _, key = create_key(connection, "acct_1", "first", ["admin"], "test")
        with served(server.dsn, own_folder) as url:
            site = Site(url, server.dsn, None, None, own_folder)  # type: ignore[arg-type]
            client = site.client(key)
            assert client.get("/now").status_code == 200
            server.stop()
            answer = client.get("/now")
            text = words(answer.text)
            assert answer.status_code == 503
            assert re.search(
                r"Anomalies could not be loaded: PostgreSQL does not answer\. Shown as of \d\d:\d\d\. Next try in 5 s\.",
                text,
            )
            assert "No transaction yet. Send one:" in text, "what was last known stays in sight"
            assert answer.headers["retry-after"] == "5"
            assert '<meta http-equiv="refresh" content="5">' in answer.text
            assert client.get("/health").status_code == 200
            server.start()
            deadline = time.monotonic() + 30
            while (status := client.get("/now").status_code) != 200 and time.monotonic() < deadline:
                time.sleep(0.2)
            assert status == 200, "it comes back by itself"
    finally:
        server.stop()
