"""The Bundles page over a log with a worker on it: what a challenger would change, promoted and rolled back in time."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from anomalyze.access.keys import create_key
from anomalyze.bus.topics import SCORED
from anomalyze.learning import promotion
from anomalyze.learning.report import CheckSaid, Report, report_path
from anomalyze.storage.heartbeat import beat
from anomalyze.storage.pool import connect
from tests.browser.site import served
from tests.simulation.ledger import read_all
from tests.test_realtime.bed import Bed, bundles, open_bed
from tests.test_realtime.test_shadow import OTHER_FEATURES, with_rules

CHAMPION = bundles()[0]
CHALLENGER = with_rules(CHAMPION, AMOUNT_LIMIT="CRITICAL")
EFFECT_S = 10.0


@dataclass
class Desk:
    """The dashboard over a bed."""

    bed: Bed
    url: str
    worker: Any

    def client(self, *scopes: str, account: str = "default") -> httpx.Client:
        with connect(self.bed.dsn) as connection:
            _, key = create_key(connection, account, "test", scopes, "test")
        client = httpx.Client(base_url=self.url, timeout=20)
        token = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
        assert token is not None
        assert client.post("/sign-in", data={"csrf": token[1], "key": key}).status_code == 303
        return client

    def page(self, client: httpx.Client, **query: str) -> str:
        text = client.get("/bundles", params=query).text
        return html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u00a0", " ")

    def post(self, client: httpx.Client, step: str, **fields: str) -> httpx.Response:
        token = re.search(r'name="csrf" value="([^"]+)"', client.get("/bundles").text)
        assert token is not None
        return client.post(f"/bundles/{step}", data={"csrf": token[1], **fields})

    def send(self, *amounts: float, prefix: str = "t") -> None:
        at = datetime.now(UTC) - timedelta(minutes=5)
        rows = []
        for i, amount in enumerate(amounts):
            user = f"user_{i}"
            meta = {"timestamp": at.isoformat(), "user_id": user, "account_id": "default", "source": "KAFKA"}
            data = {"tx_id": f"{prefix}{i}", "amount": amount, "currency": "USD"}
            rows.append((user.encode(), msgspec.json.encode({"meta": meta, "data": data})))
        self.bed.send(rows)

    def beat(self) -> None:
        """As the worker's program does every two seconds."""
        with connect(self.bed.dsn) as connection:
            state = self.worker.bundles()
            beat(connection, program="detector", instance="h-0", started_at=datetime.now(UTC), state=state)

    def judging(self) -> set[str]:
        """Bundles by which the newest verdict of each partition was given."""
        newest = set()
        for partition, (low, high) in self.bed.bus.watermarks(SCORED).items():
            if high > low:
                value = read_all(self.bed.bus, partition, high - 1, high, SCORED).values[-1]
                newest.add(json.loads(value)["analysis"]["bundle"])
        return newest

    def judged_by(self, bundle: str) -> float:
        """Seconds until transactions sent from now on are judged by a bundle."""
        begun = time.monotonic()
        while self.judging() != {bundle}:
            assert time.monotonic() - begun < EFFECT_S, self.judging()
            self.send(*[1.0] * 8, prefix=f"p{time.time_ns()}-")
            time.sleep(0.2)
        return time.monotonic() - begun


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with open_bed(request, tmp_path, "embedded") as bed:
        bed.store.set_pointer("champion", CHAMPION.id)
        promotion.announce_champion(bed.store, bed.bus)
        with bed.worker_here() as worker, served(bed.dsn, bed.folder / "data") as url:
            yield Desk(bed, url, worker)


def test_compared_promoted_and_rolled_back_within_ten_seconds(desk: Desk) -> None:
    bed, client = desk.bed, desk.client("admin", "read")
    assert "None. Each Monday a candidate that passes every check" in desk.page(client)
    promotion.publish_challenger(bed.store, bed.bus, CHALLENGER, "run 1")
    assert "They said the same" not in desk.page(client)  # of nothing, so far
    sink = bed.sink()
    # 20,000 reaches AMOUNT_LIMIT, which the challenger takes for more.
    desk.send(5.0, 20_000.0, 20_000.0)
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        bed.wait(
            lambda: connection.execute("SELECT count(*) FROM challenger_differences").fetchone() == (2,),
            "the sink stores the differences",
        )
        # Never shown as alarms: the champion's two anomalies are the only ones.
        assert connection.execute("SELECT max(severity), count(*) FROM anomalies").fetchone() == (2, 2)
        row = connection.execute("SELECT anomaly_id FROM anomalies").fetchone()
        assert row is not None
    sink.stop()
    assert f"{CHALLENGER.id[7:19]}</span> would say Critical" in client.get(f"/anomalies/{row[0]}").text
    desk.beat()
    page = desk.page(client)
    for words in (
        CHAMPION.id[7:19],
        CHALLENGER.id[7:19],
        "Judges in 1 worker.",
        "Shadowed in 1 worker. It raises no alarm.",
        "Of 3 transactions: 0 anomalies would appear, 0 would go, 2 would be more severe and 0 less.",
        "It was no candidate of a training run",
    ):
        assert words in page, words
    assert page.count("AMOUNT_LIMIT") == 4
    assert "challenger" in client.get("/system").text

    body = {"bundle": CHALLENGER.id, "champion": CHAMPION.id}
    promoted = desk.post(client, "promote", **body, note="  a week  of shadow ")
    assert (promoted.status_code, promoted.headers["location"]) == (303, "/bundles")
    assert desk.judged_by(CHALLENGER.id) < EFFECT_S
    desk.beat()
    page = desk.page(client)
    assert "The last one was promoted." in page
    assert re.search(r"a week of shadow \(key az_[\w-]+\)", page)
    # Again, as a second click does: nothing more happens. From an old page: refused.
    assert desk.post(client, "promote", **body, note="again").status_code == 303
    stale = desk.post(client, "roll-back", champion=CHAMPION.id, note="old page")
    assert stale.status_code == 409
    assert "Nothing was changed: the champion is" in stale.text

    back = desk.post(client, "roll-back", champion=CHALLENGER.id, note="too loud")
    assert back.status_code == 303
    assert desk.judged_by(CHAMPION.id) < EFFECT_S
    assert bed.store.pointer("champion") == CHAMPION.id
    with psycopg.connect(bed.dsn) as connection:
        audited = connection.execute(
            "SELECT action, target, actor, detail->>'note' FROM audit_log WHERE action LIKE 'bundle.%' ORDER BY audit_id"
        ).fetchall()
    assert [(a, t, n) for a, t, _, n in audited] == [
        ("bundle.promote", CHALLENGER.id, "a week of shadow"),
        ("bundle.promote", CHALLENGER.id, "again"),
        ("bundle.roll_back", CHAMPION.id, "too loud"),
    ]
    assert all(actor.startswith("az_") for _, _, actor, _ in audited)
    # Rolled back from, it is shadowed again.
    desk.beat()
    assert "Shadowed in 1 worker" in desk.page(client)


def test_who_may_not_and_what_is_not_taken(desk: Desk) -> None:
    promotion.publish_challenger(desk.bed.store, desk.bed.bus, CHALLENGER)
    body = {"bundle": CHALLENGER.id, "champion": CHAMPION.id, "note": "mine"}
    reader, stranger = desk.client("read"), desk.client("admin", "read", account="other")
    for client in (reader, stranger):
        assert desk.post(client, "promote", **body).status_code == 403
        assert desk.post(client, "roll-back", **body).status_code == 403
    assert "needs a key of this account with the scope admin" in desk.page(reader)
    strangers = desk.page(stranger)
    assert CHALLENGER.id[7:19] in strangers
    for section in ("Checks of the", "Champions so far", "Promote"):
        assert section not in strangers, section
    admin = desk.client("admin", "read")
    assert admin.post("/bundles/promote", data=body).status_code == 403  # no token of the session
    for note in ("", "x" * 401):
        answer = desk.post(admin, "promote", **{**body, "note": note})
        assert answer.status_code == 422
        assert "expected 1 to 400 characters" in answer.text
    for wrong in ("sha256:" + "0" * 64, "../../secrets", ""):
        answer = desk.post(admin, "promote", **{**body, "bundle": wrong})
        assert answer.status_code == 409, wrong
    assert desk.bed.store.pointer("champion") == CHAMPION.id


def test_one_of_other_features_is_told_with_what_to_do(desk: Desk) -> None:
    promotion.publish_challenger(desk.bed.store, desk.bed.bus, OTHER_FEATURES)
    desk.send(5.0)
    desk.bed.wait(lambda: desk.worker.bundles().get("challenger_off"), "the worker says why")
    desk.beat()
    text = desk.page(desk.client("read"))
    assert "Not shadowed: its features differ: features.yaml." in text
    assert "See what it would change with anomalyze bundle diff champion challenger" in text
    assert "Nothing is compared, because the challenger is not shadowed: its features differ" in text
    assert "It is shadowed from its publication on" not in text
    assert "They said the same" not in text


def test_checks_are_shown_and_a_bundle_that_is_gone_is_said(desk: Desk) -> None:
    report = Report(
        CHALLENGER.id,
        CHAMPION.id,
        6.5,
        12_345,
        {"HIGH": 3},
        {"HIGH": 2},
        {},
        [CheckSaid("alert_volume", True, "3 <cases>.")],
    )
    desk.bed.objects.put(report_path(CHALLENGER.id), msgspec.json.encode(report))
    promotion.publish_challenger(desk.bed.store, desk.bed.bus, CHALLENGER)
    client = desk.client("admin", "read")
    page = desk.page(client)
    assert "On 6.5 days that it had not seen, beside" in page
    assert "alert volume" in page
    assert "3 <cases>." in page
    window = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
    named = replace(CHALLENGER, detector="ecod", training_window=window)
    promotion.publish_challenger(desk.bed.store, desk.bed.bus, named)
    assert re.search(r"Model\s*ECOD", desk.page(client))
    gone = replace(CHALLENGER, created_from={"a": "gone"})
    promotion.publish_challenger(desk.bed.store, desk.bed.bus, gone)
    desk.bed.objects.delete(f"bundles/{gone.id[7:]}.tar")
    assert "It cannot be read" in desk.page(client)
    desk.bed.objects.put("pointers/champion/0000000009.json", b"{")
    assert "Bundles could not be read: pointer" in desk.page(client)
