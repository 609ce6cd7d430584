"""The live feed: what the poller's comparison and the query say of a filter is the same."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import psycopg
import pytest

from anomalyze.storage import board, board_feed
from dashboard.case_filter import parse_view
from dashboard.live import Channel
from tests.browser.site import Site

FILTERS = (
    {},
    {"state": "all"},
    {"state": "confirmed"},
    {"severity": "critical,low"},
    {"q": "MEDIAN"},
    {"q": "m_04"},
    {"rule": "AMOUNT_SPIKE"},
    {"merchant": "m_0417", "state": "all"},
    {"country": "NG"},
    {"user": "user_99"},
    {"q": "velocity", "severity": "medium"},
)


@pytest.mark.parametrize("query", FILTERS, ids=urlencode)
def test_feed_and_query_admit_the_same_cases(query: dict[str, str], site: Site) -> None:
    view = parse_view(query)

    async def both() -> tuple[set[str], set[str]]:
        async with await psycopg.AsyncConnection.connect(site.dsn, autocommit=True) as connection:
            feed = await board_feed.load_feed(connection, "acct_7")
            values = await board_feed.load_feed_values(connection, "acct_7", [e.case_id for e in feed])
            listed = await board.load_cases(connection, "acct_7", view.filter, limit=500)
        return {e.case_id for e in feed if view.admits(e, values[e.case_id])}, {c.case_id for c in listed}

    admitted, listed = asyncio.run(both())
    assert admitted == listed
    assert listed, "the seed has cases for each of these"


def entry(case_id: str, **changes: object) -> board_feed.FeedEntry:
    from datetime import UTC, datetime

    at = datetime(2025, 12, 20, tzinfo=UTC)
    known = {
        "case_id": case_id,
        "user_id": "u",
        "severity": 3,
        "anomalies": 1,
        "state": "open",
        "last_at": at,
        "stored_at": at,
        "headline": "h",
        "rule_flags": [],
    }
    return board_feed.FeedEntry(**(known | changes))


def test_channel_counts_what_came_and_lists_what_changed() -> None:
    channel, view = Channel("a"), parse_view({})
    channel.take([entry("1"), entry("2")], {}, 100)
    channel.polled_at = 1.0
    since = 1_800_000_000_000_000
    assert channel.slot(view, since).new == {}, "what was there before the page is not new"
    channel.take([entry("3", severity=4), entry("1"), entry("2", state="confirmed")], {}, since + 5)
    assert channel.slot(view, since).new == {4: 1}
    assert channel.arrived_after(view, since) == ["3"]
    assert channel.changed_after(since) == ["2"]
    assert channel.slot(view, since + 5).new == {}
    channel.take([entry("3", severity=4, anomalies=2), entry("1")], {}, since + 9)
    assert channel.changed_after(since + 5) == ["3"], "a case that grew changes in place"


def test_keyset_pages_meet_without_gap_or_overlap(site: Site) -> None:
    from dataclasses import replace

    async def walk(worst_first: bool) -> list[str]:
        seen: list[str] = []
        wanted = board.CaseFilter(state="all", worst_first=worst_first)
        async with (
            await psycopg.AsyncConnection.connect(site.dsn, autocommit=True) as connection,
            connection.transaction(force_rollback=True),
        ):
            # Many at one moment, more than a page has.
            await connection.execute(
                "UPDATE cases SET last_at = date_trunc('day', last_at) + interval '1 day'"
            )
            while page := await board.load_cases(connection, "acct_7", wanted, limit=7):
                seen += [c.case_id for c in page]
                last = page[-1]
                wanted = replace(wanted, before=(last.severity, last.last_at, last.case_id))
            whole = await board.load_cases(
                connection, "acct_7", board.CaseFilter(state="all", worst_first=worst_first), limit=1000
            )
        assert seen == [c.case_id for c in whole]
        return seen

    newest, worst = asyncio.run(walk(False)), asyncio.run(walk(True))
    assert len(set(newest)) == len(newest) == len(worst)
