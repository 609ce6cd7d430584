"""The page of alerts: what is open comes first, who was told and why not, pictures, snoozes; of one's own account only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from anomalyze.access.keys import create_key
from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.rules import rules_of
from anomalyze.monitoring.digest import write_digests
from anomalyze.monitoring.score import score_batch
from anomalyze.storage.metrics_alerts import set_snooze
from anomalyze.storage.metrics_incidents import page_incidents
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch
from tests.browser.site import Site, new_database, served
from tests.test_monitoring.shop import frame

HOUR = timedelta(hours=1)
ODD = "a/b \"q\" <i>'ü' 売上 🎉"
FILE = "account: {account}\npriority: {priority}\nunit: EUR\nsource: {{kind: push}}\ndetectors: []\nthresholds: {{upper: 10}}\n"


@dataclass
class Watched:
    """A dashboard over batches of two accounts."""

    site: Site
    dsn: str
    config_dir: Path
    keys: dict[str, str]

    def client(self, name: str = "mine") -> httpx.Client:
        return self.site.client(self.keys[name])

    def alert_ids(self) -> dict[str, int]:
        with connect(self.dsn) as connection:
            rows = connection.execute("SELECT metric, alert_id FROM metric_alerts").fetchall()
        return dict(rows)


def write(folder: Path, name: str, account: str, priority: int = 3) -> None:
    (folder / "metrics" / f"{name}.yaml").write_text(FILE.format(account=account, priority=priority))


def take(
    connection: psycopg.Connection, config_dir: Path, batch: str, series: dict[str, list[float]]
) -> None:  # type: ignore[type-arg]
    now = datetime.now(UTC)
    store_values(connection, batch, frame(series, now.replace(minute=0, second=0, microsecond=0)), now)
    rules = rules_of(load_batches(config_dir).batches[batch].batch, list(series))
    score_batch(connection, batch, rules, config_dir / "banks", now)


@pytest.fixture(scope="module")
def watched(postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    config_dir, data_dir = tmp_path_factory.mktemp("config"), tmp_path_factory.mktemp("data")
    (config_dir / "metrics").mkdir()
    for name, account, priority in (
        ("shop", "acct_m", 3),
        ("till", "acct_m", 1),
        ("theirs", "acct_o", 3),
        ("calm", "acct_q", 3),
    ):
        write(config_dir, name, account, priority)
    with new_database(postgres_server) as dsn:
        with connect(dsn) as connection:
            keys = {
                name: create_key(connection, account, name, [scope], "test")[1]
                for name, account, scope in (
                    ("mine", "acct_m", "admin"), ("reader", "acct_m", "read"), ("theirs", "acct_o", "admin"),
                    ("new", "acct_n", "read"), ("quiet", "acct_q", "read"),
                )
            }  # fmt: skip
            # Found first, and of the more important batch: what was found last must not win.
            take(connection, config_dir, "till", {"cash": [1, 2, 11]})
            take(
                connection, config_dir, "shop", {"orders": [1, 2, 90], "over": [1, 50, 1, 1, 1], ODD: [1, 20]}
            )
            take(connection, config_dir, "calm", {"visits": [1, 2, 3]})
            take(connection, config_dir, "theirs", {"secret": [1, 99]})
            set_snooze(connection, "till", "quiet", datetime.now(UTC) + HOUR)
            take(connection, config_dir, "till", {"quiet": [1, 1, 1]})
            set_snooze(connection, "till", "quiet", datetime.now(UTC) + HOUR, "a <move>", "key_ann")
            take(connection, config_dir, "till", {"quiet": [1, 1, 1, 77]})
            write_digests(connection, load_batches(config_dir).batches, datetime.now(UTC))
        with served(dsn, data_dir, config_dir) as url:
            yield Watched(Site(url, dsn, None, None, data_dir), dsn, config_dir, keys)  # type: ignore[arg-type]


def names(page: str) -> list[str]:
    """The metrics of the list, in its order."""
    return re.findall(r'<tr[^>]*id="alert-\d+".*?class="name"[^>]*>(.*?)</a>', page, re.S)


def test_open_ones_stand_first_by_priority_and_nobody_elses(watched: Watched) -> None:
    page = watched.client().get("/alerts").text
    found = names(page)
    assert page.count('class="i-p"><svg') == len(found), "the line around each"
    assert found[:2] == ["quiet", "cash"]
    assert len(found) == 5
    assert "orders" in found[2:4]
    assert found[-1] == "over"
    assert "secret" not in page
    assert "secret" in watched.client("theirs").get("/alerts").text
    assert "orders = 90 EUR, above its limit of 10 EUR" in page
    assert "Nobody was told: snoozed." in page
    assert "a &lt;move&gt;" in page
    assert '<span class="n">3' in page
    assert "Digest of the day to" in page
    assert "<i>" not in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("view=open", {"cash", "quiet", "orders", ODD}),
        ("view=review", {"cash", "orders", ODD}),
        ("view=resolved", {"over"}),
        ("view=muted", {"quiet"}),
        ("batch=till", {"cash", "quiet"}),
        ("q=ORD", {"orders"}),
        ("q=%2F", {ODD}),
        ("severity=critical", set()),
        ("view=nonsense&severity=worst&cursor=%00x", {"cash", "quiet", "orders", "over", ODD}),
        ("batch=theirs", set()),
    ],
)
def test_the_address_is_the_filter(watched: Watched, query: str, expected: set[str]) -> None:
    answer = watched.client().get(f"/alerts?{query}")
    assert answer.status_code == 200
    ids = {int(one) for one in re.findall(r'id="alert-(\d+)"', answer.text)}
    known = watched.alert_ids()
    assert ids == {known[name] for name in expected}
    if not expected:
        assert "Clear filters" in answer.text


def test_pages_go_by_key_and_meet_everything_once(watched: Watched) -> None:
    with connect(watched.dsn) as connection:
        whole = [one.alert_id for one in fetch(connection, page_incidents(["shop", "till"])).rows]
        met: list[int] = []
        cursor = None
        while True:
            page = fetch(connection, page_incidents(["shop", "till"], limit=2, cursor=cursor))
            met += [one.alert_id for one in page.rows]
            cursor = page.cursor
            if cursor is None:
                break
    assert met == whole
    assert len(whole) == 5


def test_a_picture_and_what_else_of_its_hours(watched: Watched) -> None:
    known = watched.alert_ids()
    client = watched.client()
    part = client.get(f"/alerts/{known['orders']}/picture").text
    assert part.count('class="f-high"') == 1
    assert "In the same hours" in part
    assert "/metrics/shop/a%2Fb" in part
    assert "secret" not in part
    with psycopg.connect(watched.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO metric_notices (alert_id, kind, number, severity, sentence) SELECT %s, kind, number, 3, 'said' "
            "FROM (VALUES ('grown', 4), ('reminder', 1), ('reminder', 2), ('reminder', 3), "
            "('reminder', 4), ('resolved', 1)) n (kind, number)",
            [known["orders"]],
        )
    text = re.sub(r"<[^>]+>", "", client.get(f"/alerts/{known['orders']}/picture").text)
    words = re.sub(r"\d+\s(s|min) ago", "lately", text[text.index("Told: ") :].split(".")[0])
    assert re.sub(r"\s", " ", words) == (
        "Told: opened lately, more severe lately, reminder lately, reminder lately, 2 others, over lately"
    )
    for kind, begins in (("png", b"\x89PNG"), ("svg", b"<svg")):
        file = client.get(f"/alerts/{known['orders']}/picture?format={kind}")
        assert file.content.startswith(begins)
        assert file.headers["content-disposition"] == f'attachment; filename="alert-{known["orders"]}.{kind}"'
        assert client.get(f"/alerts/{known['secret']}/picture?format={kind}").status_code == 404
    for wrong in (known["secret"], 0, "x", 2**70):
        assert client.get(f"/alerts/{wrong}/picture").status_code == 404
    assert watched.site.client().get(f"/alerts/{known['orders']}/picture").status_code == 303


def test_feedback_and_snoozes_come_back_to_the_list(watched: Watched) -> None:
    known, client = watched.alert_ids(), watched.client()
    page = client.get("/alerts?view=open").text
    token = re.search(r'name="csrf" value="([^"]+)"', page)
    assert token is not None
    form = {"csrf": token[1], "next": f"/alerts?view=open#alert-{known['cash']}"}
    told = client.post(f"/alerts/{known['cash']}/feedback", data=form | {"verdict": "confirm"})
    assert (told.status_code, told.headers["location"]) == (303, form["next"])
    assert "cash" not in names(client.get("/alerts?view=review").text)
    assert (
        client.post(f"/alerts/{known['secret']}/feedback", data=form | {"verdict": "confirm"}).status_code
        == 404
    )
    ended = client.post(
        "/alerts/snooze", data=form | {"batch": "till", "metric": "quiet", "for": "end-metric"}
    )
    assert ended.status_code == 303
    assert "a &lt;move&gt;" not in client.get("/alerts").text
    with connect(watched.dsn) as connection:
        now = datetime.now(UTC)
        set_snooze(connection, "till", "quiet", now + HOUR, "a <move>")
        set_snooze(connection, "till", None, now + HOUR, "all of it")
    client.post("/alerts/snooze", data=form | {"batch": "till", "metric": "", "for": "end-batch"})
    page = client.get("/alerts").text
    assert ("all of it" in page, "a &lt;move&gt;" in page) == (False, True)
    reader = watched.client("reader").get("/alerts").text
    assert "Deciding needs the role analyst" in reader
    assert 'data-act="confirmed"' in reader


def test_routes_say_what_there_is(watched: Watched) -> None:
    page = watched.client().get("/alerts/routes").text
    assert "There is no other route yet" in page
    assert "2 of 2" in page
    # Three of a batch were told in one line.
    assert "incidents of shop, the strongest: orders = 90 EUR" in page
    assert "secret" not in page


def test_new_and_quiet_accounts(watched: Watched) -> None:
    assert "No metric is watched" in watched.client("new").get("/alerts").text
    page = watched.client("quiet").get("/alerts").text.replace("\u00a0", " ")
    assert "No incident is open." in page
    assert "1 metric watched, the newest value is of" in page
    assert "No incident of these metrics yet." in page
