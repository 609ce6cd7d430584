"""A server that is away, or that answers no more: 503 with Retry-After in time, and work again afterwards."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import structlog

from anomalyze.log import configure
from tests.test_realtime.conftest import Api, Platform, running_api, wait_until
from tests.test_realtime.test_api import assert_problem

Make = Callable[..., dict[str, Any]]


class Gate:
    """A way to a server that can be closed (connections end) and muted (they stay, and nothing comes)."""

    def __init__(self, address: str) -> None:
        found = urlsplit(address)
        assert found.hostname
        assert found.port
        self._target = (found.hostname, found.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = address.replace(f"{found.hostname}:{found.port}", f"127.0.0.1:{self.port}")
        assert self.address != address
        self._open = True
        self._heard = threading.Event()
        self._heard.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._open = False
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def open(self) -> None:
        self._open = True
        self._heard.set()

    def mute(self) -> None:
        self._heard.clear()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self._open:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._heard.wait()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def gated(platform: Platform, *names: str) -> Iterator[tuple[Api, dict[str, Gate]]]:
    """The API whose way to some of ``dsn``, ``bus_dsn`` and ``url`` leads through gates."""
    addresses = {"dsn": platform.dsn, "bus_dsn": platform.dsn, "url": platform.redis_url}
    gates = {name: Gate(addresses[name]) for name in names}
    with running_api(platform, **{name: gate.address for name, gate in gates.items()}) as api:
        yield api, gates
        for gate in gates.values():
            gate.open()


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert_problem(answer)


def test_without_postgresql_nobody_is_let_in_and_all_is_well_again_after(
    judged: Platform, transaction: Make
) -> None:
    with gated(judged, "dsn") as (api, gates):
        client = api.client("ingest", "read")
        assert client.get("/users").status_code == 200
        gates["dsn"].close()
        time.sleep(0.3)  # what was verified is remembered for a quarter of a second
        for method, path in (("GET", "/users"), ("GET", "/transactions"), ("POST", "/transaction")):
            started_s = time.monotonic()
            assert_unavailable(client.request(method, path, json=transaction() if method == "POST" else None))
            assert time.monotonic() - started_s < 8
        assert client.get("/health").status_code == 200
        ready = client.get("/ready")
        assert_unavailable(ready)
        assert ready.json()["dependencies"]["postgresql"] == {"state": "away"}
        assert ready.json()["dependencies"]["redis"] == {"state": "ok"}
        gates["dsn"].open()
        wait_until(lambda: client.get("/users").status_code == 200, "the API finds PostgreSQL again", 20)
        assert client.post("/transaction", json=transaction()).status_code == 202


def test_without_the_bus_nothing_is_accepted_but_all_is_readable(judged: Platform, transaction: Make) -> None:
    with gated(judged, "bus_dsn") as (api, gates):
        client = api.client("ingest", "read")
        assert client.post("/transaction", json=transaction()).status_code == 202
        gates["bus_dsn"].close()
        assert_unavailable(client.post("/transaction", json=transaction()))
        started_s = time.monotonic()  # known to be away from now on: nobody waits for it
        for path in ("/transaction", "/v1/score", "/v1/transactions") * 3:
            assert_unavailable(client.post(path, json=transaction()))
        assert time.monotonic() - started_s < 3
        assert_unavailable(client.get("/sse/anomalies"))
        assert client.get("/transactions").status_code == 200
        ready = client.get("/ready")
        assert_unavailable(ready)
        assert ready.json()["dependencies"]["bus"]["state"] == "away"
        gates["bus_dsn"].open()
        one = transaction()
        wait_until(lambda: client.post("/transaction", json=one).status_code == 202, "the bus is back", 20)
        wait_until(
            lambda: client.get("/transactions", params={"user_id": one["user_id"]}).json()["transactions"],
            "what was accepted then is stored",
        )


@pytest.mark.parametrize("fault", ["close", "mute"])
def test_without_redis_scores_answer_in_time_and_ingest_goes_on(
    judged: Platform, transaction: Make, fault: str
) -> None:
    with gated(judged, "url") as (api, gates):
        client = api.client("ingest", "read")
        key = {"Idempotency-Key": transaction()["tx_id"]}
        first = transaction()
        assert client.post("/transaction", json=first, headers=key).status_code == 202
        getattr(gates["url"], fault)()
        started_s = time.monotonic()
        answer = client.post("/v1/score", params={"timeout_ms": 500}, json=transaction())
        assert (answer.status_code, answer.json()["verdict"]) == (202, None)
        assert time.monotonic() - started_s < 4
        assert client.post("/transaction", json=transaction()).json()["accepted"] == 1
        started_s = time.monotonic()
        again = client.post("/transaction", json=first, headers=key)
        assert (again.status_code, again.headers.get("Idempotent-Replayed")) == (202, None)
        assert time.monotonic() - started_s < 6
        assert client.get("/ready").json()["dependencies"]["redis"]["state"] == "away"
        gates["url"].open()

        def scored() -> bool:
            return (
                client.post("/v1/score", params={"timeout_ms": 3000}, json=transaction()).status_code == 200
            )

        wait_until(scored, "verdicts arrive again", 40)


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Our own logging, as programs set it up, into a file."""
    before = structlog.get_config()
    configure("api", to=tmp_path / "log")
    yield tmp_path / "log"
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def test_a_key_is_in_no_log(
    judged: Platform, log_file: Path, caplog: pytest.LogCaptureFixture, transaction: Make
) -> None:
    with gated(judged, "dsn") as (api, gates):
        secret = judged.key("ingest", "read")
        client = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30)
        api.app.state.shared.rate.take = None  # something nobody foresaw
        answer = client.post("/transaction", json=transaction())
        assert answer.status_code == 500
        assert_problem(answer)
        assert "NoneType" not in answer.text
        client.post("/transaction", json={})
        client.get(f"/{secret}/nowhere")
        gates["dsn"].close()
        time.sleep(0.3)
        client.get("/users")
    log = log_file.read_text()
    assert "request_failed" in log
    assert "unavailable" in log
    password = urlsplit(judged.dsn).password
    assert password
    for text in (secret, secret[12:], password):
        assert text not in log
        assert text not in caplog.text
