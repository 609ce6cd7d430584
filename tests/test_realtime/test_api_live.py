"""Streams: each event once, in order, also to a client that went away and came back."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from realtime.api.live import parse_position, render_position
from tests.test_realtime.conftest import Api, make_transaction, wait_until


class Follower:
    """A client that follows a stream on a thread."""

    def __init__(
        self, client: httpx.Client, path: str, last_id: str | None, query: dict[str, str] | None = None
    ) -> None:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._context = client.stream("GET", path, headers=headers, params=query, timeout=60)
        self.response = self._context.__enter__()
        assert self.response.status_code == 200, self.response.read()
        self.ids: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.is_connected = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.is_connected.wait(20)

    def _read(self) -> None:
        try:
            for line in self.response.iter_lines():
                if line == ": connected":
                    self.is_connected.set()
                elif line.startswith("id: "):
                    self.ids.append(line[4:])
                elif line.startswith("data: "):
                    self.events.append(json.loads(line[6:]))
        except httpx.HTTPError:
            pass

    def wait(self, n: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.events) >= n, f"{n} events, have {len(self.events)}")
        return self.events

    def close(self) -> None:
        # Closing alone would not wake the thread that waits for more.
        self.response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self.response.close()


@contextmanager
def following(
    client: httpx.Client, path: str, last_id: str | None = None, **query: str
) -> Iterator[Follower]:
    follower = Follower(client, path, last_id, query)
    try:
        yield follower
    finally:
        follower.close()


def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(api: Api) -> None:
    client = api.client("ingest", "read")
    user_id, other = (f"user_{uuid.uuid4().hex[:12]}" for _ in range(2))
    sent: list[str] = []

    def send(n: int) -> None:
        rows = [make_transaction(user_id) for _ in range(n)]
        mixed = [row for one in rows for row in (one, make_transaction(other))]
        assert client.post("/v1/transactions", json=mixed).json()["accepted"] == 2 * n
        sent.extend(row["tx_id"] for row in rows)

    path = f"/sse/transactions/{user_id}"
    with following(client, path) as first:
        send(3)
        seen = [event["id"] for event in first.wait(3)]
        last_id = first.ids[1]  # the third was on its way when the connection broke
    assert seen == sent
    seen = seen[:2]
    send(4)
    for _ in range(3):  # while more arrives, it comes back again and again
        with following(client, path, last_id) as again:
            send(2)
            events = again.wait(len(sent) - len(seen) - 1)
            seen += [event["id"] for event in events]
            last_id = again.ids[len(events) - 1]
    send(1)
    with following(client, path, last_event_id=last_id) as final:
        seen += [event["id"] for event in final.wait(len(sent) - len(seen))]
    assert seen == sent


def test_clients_that_come_back_while_records_flow_see_all_that_follows(api: Api) -> None:
    """Between asking where the log ends and being handed what comes next no record may fall."""
    client = api.client("ingest", "read")
    user_id = f"user_{uuid.uuid4().hex[:12]}"
    path = f"/sse/transactions/{user_id}"
    sent: list[str] = []
    stop = threading.Event()

    def pour() -> None:
        while not stop.is_set():
            rows = [make_transaction(user_id) for _ in range(3)]
            client.post("/v1/transactions", json=rows)
            sent.extend(row["tx_id"] for row in rows)

    pouring = threading.Thread(target=pour, daemon=True)
    with following(api.client("read"), path) as witness:
        pouring.start()
        for n in range(1, 7):
            seen = len(witness.wait(20 * n)) - 5
            with following(api.client("read"), path, witness.ids[seen - 1]) as joined:
                ids = [event["id"] for event in joined.wait(30)]
            wait_until(lambda ids=ids: ids[-1] in {e["id"] for e in witness.events}, "the witness sees it")
            assert ids == [event["id"] for event in witness.events][seen : seen + len(ids)]
        stop.set()
        pouring.join(20)
        witness.wait(len(sent))
    assert [event["id"] for event in witness.events] == sent


def test_an_accounts_anomalies_reach_only_that_account(api: Api) -> None:
    account = f"acct_{uuid.uuid4().hex[:8]}"
    own, other = api.client("admin", account=account), api.client("read", account=account + "x")
    user_id = f"user_{uuid.uuid4().hex[:12]}"
    with following(own, "/sse/anomalies") as mine, following(other, "/sse/anomalies") as theirs:
        rows = [make_transaction(user_id, amount=950, status="declined") for _ in range(12)]
        own.post("/v1/transactions", json=rows)
        event = mine.wait(1)[0]
        assert event["user_id"] == user_id
        assert event["explanation"]
        stored = wait_until(lambda: own.get("/v1/anomalies").json()["anomalies"], "stored")
        assert event["id"] in {anomaly["id"] for anomaly in stored}
        last_id = mine.ids[0]
        n = len(mine.events)
    assert theirs.events == []
    with following(own, "/sse/anomalies", last_id) as again:
        rest = again.wait(n - 1)
    assert [e["id"] for e in mine.events[1:n]] == [e["id"] for e in rest[: n - 1]]


def test_the_stream_and_the_list_show_the_same(api: Api) -> None:
    client = api.client("ingest", "read")
    moment = datetime.now(timezone(timedelta(hours=5, minutes=30))).isoformat()
    one = make_transaction(f"user/{uuid.uuid4().hex[:8]} ü", note={"a": [1, None]}, timestamp=moment)
    with following(client, f"/sse/transactions/{one['user_id']}") as follower:
        client.post("/transaction", json=one)
        event = follower.wait(1)[0]
    rows = wait_until(
        lambda: client.get("/transactions", params={"user_id": one["user_id"]}).json()["transactions"],
        "stored",
    )
    assert event == rows[0]


@pytest.mark.parametrize("last_id", ["yesterday", "0.0x", "-1", "99.5", "0.99999999999", "0.5" * 9000, "٣.٤"])
def test_a_place_that_is_none_begins_now(api: Api, last_id: str) -> None:
    with following(api.client("read"), "/sse/anomalies", last_event_id=last_id) as follower:
        assert follower.events == []


def test_a_place_survives_its_text() -> None:
    assert parse_position(render_position({0: 17, 11: 0, 3: 4})) == {0: 17, 3: 4, 11: 0}
