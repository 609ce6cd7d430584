"""The digest of a day: what is new, what lasts, what ended, what failed and what sends nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.metrics.library import BatchEntry, load_batches
from anomalyze.metrics.rules import rules_of
from anomalyze.monitoring.digest import build_digest, write_digests
from anomalyze.monitoring.score import score_batch
from anomalyze.storage.metrics_digest import load_digests
from anomalyze.storage.metrics_runs import begin_run, finish_run
from anomalyze.storage.metrics_values import Failure, store_values
from anomalyze.storage.query import fetch
from tests.test_monitoring.shop import frame

Connection = psycopg.Connection[Any]
LIMITED = "{account}source: {{kind: push}}\ndetectors: []\npriority: {priority}\nthresholds: {{upper: 10}}\n"
DAY = timedelta(days=1)


def write(folder: Path, name: str, account: str = "", priority: int = 3) -> None:
    (folder / "metrics").mkdir(exist_ok=True)
    told = f"account: {account}\n" if account else ""
    (folder / "metrics" / f"{name}.yaml").write_text(LIMITED.format(account=told, priority=priority))


def take(
    connection: Connection, entry: BatchEntry, folder: Path, series: dict[str, list[Any]], now: datetime
) -> None:
    store_values(connection, entry.name, frame(series, now.replace(minute=0, second=0, microsecond=0)), now)
    score_batch(connection, entry.name, rules_of(entry.batch, list(series)), folder / "banks", now)


def test_a_day_is_told_once(connection: Connection, tmp_path: Path) -> None:
    for name, account, priority in (
        ("orders", "", 1),
        ("shop", "", 3),
        ("calm", "", 3),
        ("theirs", "acct_b", 3),
    ):
        write(tmp_path, name, account, priority)
    batches = load_batches(tmp_path).batches
    now = datetime.now(UTC)
    take(connection, batches["shop"], tmp_path, {"a": [1, 2, 50], "b": [1, 2, 20], "c": [20, 1, 1, 1]}, now)
    take(connection, batches["orders"], tmp_path, {"d": [1, 20, 1, 1, 1]}, now)
    take(connection, batches["calm"], tmp_path, {"e": [1]}, now)
    take(connection, batches["theirs"], tmp_path, {"secret": [1, 20]}, now)
    store_values(connection, "orders", frame({"gone": [1.0]}, now - 3 * DAY), now)
    score_batch(connection, "orders", rules_of(batches["orders"].batch, ["gone"]), tmp_path / "banks", now)
    finish_run(connection, begin_run(connection, "orders", "ingest"), error="the server said no")
    finish_run(connection, begin_run(connection, "orders", "ingest"), failures=[Failure("d", "was text")])

    told = write_digests(connection, batches, datetime.now(UTC))
    assert [one.account_id for one in told] == ["acct_b", "default"]
    mine = told[1]
    assert (mine.found, mine.still_open, mine.resolved) == ((0, 0, 4, 0), 2, 2)
    lines = mine.text.splitlines()
    assert lines[0].endswith("4 incidents (4 high), 2 open, 2 resolved; 3 batches.")
    assert lines[1].startswith(
        "orders (priority 1): 1 incident (1 high), 0 open, 1 resolved; no data of gone (1 of 2 metrics); 2 of "
    )
    assert lines[1].endswith(" runs failed, the last: d: was text.")
    assert lines[2].startswith("  high, over: d = 20, above its limit of 10")
    assert lines[3] == "shop (priority 3): 3 incidents (3 high), 2 open, 1 resolved."
    assert lines[4].startswith("  high, open: a = 50")
    assert lines[-1] == "Nothing of calm."
    assert "secret" not in mine.text

    (kept,) = fetch(connection, load_digests("default"))
    assert (kept.text, kept.incidents, kept.still_open) == (mine.text, 4, 2)
    assert "secret" in fetch(connection, load_digests("acct_b"))[0].text
    write_digests(connection, batches, mine.until)
    assert len(fetch(connection, load_digests("default", 10))) == 1


def test_what_lasts_is_told_again_and_what_is_past_is_not(connection: Connection, tmp_path: Path) -> None:
    write(tmp_path, "shop")
    batches = load_batches(tmp_path).batches
    now = datetime.now(UTC)
    take(connection, batches["shop"], tmp_path, {"a": [1, 20], "b": [20, 1, 1, 1]}, now)
    later = build_digest(connection, "default", batches, datetime.now(UTC) + 2 * DAY)
    assert (sum(later.found), later.still_open, later.resolved) == (0, 1, 0)
    assert [one.metric for one in later.batches[0].strongest] == ["a"]
    # Nothing came for two days either.
    assert later.batches[0].silent is not None
    assert later.batches[0].silent.names == ["a", "b"]
    before = build_digest(connection, "default", batches, now - DAY)
    assert before.found == (0, 0, 0, 0)


def test_history_is_no_news(connection: Connection, tmp_path: Path) -> None:
    write(tmp_path, "shop")
    batches = load_batches(tmp_path).batches
    now = datetime.now(UTC)
    take(connection, batches["shop"], tmp_path, {"a": [20.0] + [1.0] * 40}, now)
    digest = build_digest(connection, "default", batches, datetime.now(UTC))
    assert digest.text.splitlines()[1:] == ["Nothing of shop."]
