"""Files over REST: taken in a stream, looked at, worked off into judged rows, each once."""

from __future__ import annotations

import csv
import gzip
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as websocket

from anomalyze.backtest.run import Replay
from anomalyze.backtest.stored import read_stored
from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.detection.detector import Detector
from anomalyze.detection.training import build_bundle
from anomalyze.errors import ConfigError, TransientError
from anomalyze.ingestion import work
from anomalyze.ingestion.work import Progress, work_off
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import connect
from anomalyze.storage.upload import ATTEMPTS_MAX, find_startable
from tests.test_realtime.conftest import CONFIGURATION, Api, wait_until

HEAD = "id,user,time,amount,currency\n"


def rows(n: int, *, user: str = "", bad: int = 0) -> str:
    """A file of n good rows in no order and some bad ones; no two files are the same."""
    name = user or uuid.uuid4().hex[:10]
    good = [
        f"t{name}{i},u{name}-{i % 7},2025-11-{1 + i * 13 % 28:02d}T10:00:{i % 60:02d}Z,{i % 90 + 1}.25,USD"
        for i in range(n)
    ]
    return HEAD + "\n".join(good + [f"x{i},u{name},never,1,USD" for i in range(bad)]) + "\n"


@pytest.fixture
def work_upload(api: Api) -> Iterator[Callable[..., Progress | None]]:
    """Works an upload off here, as the orchestrator's job does."""
    bus = EmbeddedBus(api.platform.dsn)
    objects = open_objects((api.platform.folder / "objects").as_uri())

    def run(upload_id: str, **options: Any) -> Progress | None:
        return work_off(
            upload_id,
            dsn=api.platform.dsn,
            objects=objects,
            bus=bus,
            future_tolerance_s=300,
            folder=api.platform.folder,
            **options,
        )

    yield run
    bus.close()


def upload(client: httpx.Client, content: str | bytes, **query: str) -> dict[str, Any]:
    answer = client.post("/v1/uploads", content=content, params=query, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/uploads/{answer.json()['id']}"
    return dict(answer.json())


def stored(api: Api, name: str) -> list[tuple[str, int]]:
    with psycopg.connect(api.platform.dsn) as connection:
        return connection.execute(
            "SELECT tx_id, count(*) FROM transactions WHERE user_id LIKE %s AND source = 'CSV' GROUP BY 1 ORDER BY 1",
            [f"u{name}%"],
        ).fetchall()


def test_a_file_becomes_judged_rows_and_refused_ones(
    api: Api, work_upload: Callable[..., Progress | None]
) -> None:
    client, name = api.client("ingest", "read"), uuid.uuid4().hex[:10]
    taken = upload(client, rows(500, user=name, bad=3), name="november.csv")
    assert (taken["state"], taken["repeated"], taken["doubts"]) == ("started", False, [])
    done = work_upload(taken["id"], unjudged_max=100)
    assert done == Progress(read=503, accepted=500, refused=3, published=500, scored=500)
    shown = client.get(f"/v1/uploads/{taken['id']}").json()
    assert (shown["state"], shown["name"]) == ("done", "november.csv")
    assert shown["rows"] == {
        "total": 503, "read": 503, "accepted": 500, "refused": 3, "published": 500, "scored": 500,
    }  # fmt: skip
    wait_until(lambda: len(stored(api, name)) == 500, "the sink stores them")
    refused = list(csv.DictReader(io.StringIO(client.get(f"/v1/uploads/{taken['id']}/errors").text)))
    assert [(row["line"], row["column"]) for row in refused] == [
        ("502", "time"),
        ("503", "time"),
        ("504", "time"),
    ]
    assert refused[0]["raw"] == f"x0,u{name},never,1,USD"
    assert client.get("/v1/uploads").json()["uploads"][0]["id"] == taken["id"]


def test_the_same_file_again_is_the_same_upload(
    api: Api, work_upload: Callable[..., Progress | None]
) -> None:
    client, name, before = api.client("ingest", "read"), uuid.uuid4().hex[:10], objects_of(api)
    first = upload(client, rows(20, user=name))
    again = upload(client, rows(20, user=name))
    assert (again["id"], again["repeated"]) == (first["id"], True)
    assert work_upload(first["id"]) is not None
    assert work_upload(first["id"]) is None
    assert {path.split("/")[1] for path in objects_of(api)} >= {first["id"]}
    assert len(objects_of(api)) == len(before) + 1


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_killed_run_goes_on_and_nothing_counts_twice(
    api: Api, work_upload: Callable[..., Progress | None], monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr(work, "BATCH_ROWS", 50)
    monkeypatch.setattr(work, "PROGRESS_S", 0.0)
    client, name = api.client("ingest", "read"), uuid.uuid4().hex[:10]
    taken = upload(client, rows(400, user=name))
    flushes = 0
    # Between the flush and the note of it: what was published is not known to be.
    note = work.store.note_progress

    def die(*arguments: Any, **progress: Any) -> None:
        nonlocal flushes
        flushes += progress.get("note") == "publishing"
        if flushes > batches + 1:
            raise KeyboardInterrupt
        note(*arguments, **progress)

    with monkeypatch.context() as broken:
        broken.setattr(work.store, "note_progress", die)
        with pytest.raises(KeyboardInterrupt):
            work_upload(taken["id"])
    before = client.get(f"/v1/uploads/{taken['id']}").json()
    assert (before["state"], before["rows"]["published"]) == ("running", 50 * batches)
    with connect(api.platform.dsn) as connection:
        connection.execute(
            "UPDATE uploads SET seen_at = now() - interval '2 min' WHERE upload_id = %s", [taken["id"]]
        )
        startable = {one.upload_id: one.attempt for one in find_startable(connection)}
    assert startable[taken["id"]] == 2
    sent = []
    done = work_upload(taken["id"], report=sent.append)
    assert done is not None
    assert (done.accepted, done.published, done.scored) == (400, 400, 400)
    assert sent[0].published == 50 * batches
    wait_until(lambda: len(stored(api, name)) == 400, "the sink stores them")
    assert {count for _, count in stored(api, name)} == {1}


def test_two_workers_do_not_share_an_upload(api: Api, work_upload: Callable[..., Progress | None]) -> None:
    taken = upload(api.client("ingest"), rows(5))
    second: list[Progress | None] = []
    done = work_upload(taken["id"], report=lambda _: second or second.append(work_upload(taken["id"])))
    assert done is not None
    assert second == [None]


def test_a_slow_worker_keeps_its_upload(api: Api, work_upload: Callable[..., Progress | None]) -> None:
    taken = upload(api.client("ingest"), rows(5))
    found: list[set[str]] = []

    def look(_: Progress) -> None:
        with connect(api.platform.dsn) as connection:
            connection.execute(
                "UPDATE uploads SET seen_at = now() - interval '1 h' WHERE upload_id = %s", [taken["id"]]
            )
            found.append({one.upload_id for one in find_startable(connection)})

    assert work_upload(taken["id"], report=look) is not None
    assert found
    assert all(taken["id"] not in names for names in found)


def test_a_run_that_is_stopped_can_be_begun_again(
    api: Api, work_upload: Callable[..., Progress | None]
) -> None:
    client = api.client("ingest", "read")
    taken = upload(client, rows(5))
    stop = threading.Event()
    stop.set()
    with pytest.raises(TransientError):
        work_upload(taken["id"], stop=stop)
    shown = client.get(f"/v1/uploads/{taken['id']}").json()
    assert (shown["state"], shown["attempt"]) == ("started", 2)
    assert work_upload(taken["id"]) is not None


def test_what_cannot_be_read_fails_with_the_reason(
    api: Api, work_upload: Callable[..., Progress | None]
) -> None:
    client = api.client("ingest", "read")
    wrong = {"fields": {"user_id": "nobody", "timestamp": "time", "amount": "amount", "currency": "currency"}}
    taken = upload(client, rows(5), mapping=json.dumps(wrong))
    with pytest.raises(ConfigError):
        work_upload(taken["id"])
    shown = client.get(f"/v1/uploads/{taken['id']}").json()
    assert shown["state"] == "failed"
    assert "expected the columns nobody; the file has id, user, time" in shown["error"]
    answer = client.post(
        f"/v1/uploads/{taken['id']}/start", json={**wrong, "fields": {**wrong["fields"], "user_id": "user"}}
    )
    assert answer.status_code == 202
    assert work_upload(taken["id"]) is not None
    assert client.post(f"/v1/uploads/{taken['id']}/start").status_code == 409


def test_silent_workers_are_given_up_at_last(api: Api) -> None:
    taken = upload(api.client("ingest"), rows(3))
    with connect(api.platform.dsn) as connection:
        connection.execute(
            "UPDATE uploads SET state = 'running', attempt = %s, seen_at = now() - interval '1 h' WHERE upload_id = %s",
            [ATTEMPTS_MAX, taken["id"]],
        )
        assert taken["id"] not in {one.upload_id for one in find_startable(connection)}
    assert api.client("read").get(f"/v1/uploads/{taken['id']}").json()["state"] == "failed"


def test_doubts_wait_for_a_mapping(api: Api, work_upload: Callable[..., Progress | None]) -> None:
    client, name = api.client("ingest", "read"), uuid.uuid4().hex[:10]
    text = "id,user,date,amount\n" + "".join(f"t{i},u{name},0{i}/0{i}/2025,{i}.50\n" for i in range(1, 9))
    taken = upload(client, text)
    assert taken["state"] == "waiting"
    assert len(taken["doubts"]) == 2
    shown = client.get(f"/v1/uploads/{taken['id']}/preview").json()
    assert shown["columns"] == ["id", "user", "date", "amount"]
    assert [row["transaction"]["data"]["amount"] for row in shown["rows"]] == [i + 0.5 for i in range(1, 9)]
    mapping = {**shown["mapping"], "constants": {"currency": "EUR"}, "time_zone": "Europe/Berlin"}
    tried = client.get(f"/v1/uploads/{taken['id']}/preview", params={"mapping": json.dumps(mapping)}).json()
    assert tried["rows"][0]["transaction"]["meta"]["timestamp"] == "2024-12-31T23:00:00.000Z"
    assert client.post(f"/v1/uploads/{taken['id']}/start", json=mapping).status_code == 202
    done = work_upload(taken["id"])
    assert done is not None
    assert done.scored == 8


def test_a_form_and_packed_files(api: Api) -> None:
    client = api.client("ingest", "read")
    packed = gzip.compress(rows(5).encode())
    answer = client.post("/v1/uploads", files={"file": ("a b.csv.gz", packed)})
    assert (answer.status_code, answer.json()["name"], answer.json()["state"]) == (
        202,
        "a b.csv.gz",
        "started",
    )
    assert answer.json()["bytes"] == len(packed)
    mapping = {"fields": {"user_id": "user", "timestamp": "time", "amount": "amount", "currency": "currency"}}
    answer = client.post(
        "/v1/uploads", files={"file": ("a.csv", rows(5))}, data={"mapping": json.dumps(mapping)}
    )
    assert answer.json()["mapping"]["fields"] == mapping["fields"]
    for bad in ({"files": {"other": b"x"}}, {"files": [("file", b"x"), ("file", b"y")]}):
        answer = client.post("/v1/uploads", **bad)
        assert answer.status_code == 422, answer.text


def test_a_file_of_days_says_nothing_of_hours(api: Api, work_upload: Callable[..., Progress | None]) -> None:
    client, name = api.client("ingest", "read"), uuid.uuid4().hex[:10]
    text = HEAD + "".join(f"d{name}{i},u{name},2025-11-{1 + i:02d},{i + 1}.25,USD\n" for i in range(20))
    taken = upload(client, text)
    assert taken["mapping"]["time_resolution"] == "day"
    assert work_upload(taken["id"]) is not None
    wait_until(lambda: len(stored(api, name)) == 20, "the sink stores them")
    with psycopg.connect(api.platform.dsn) as connection:
        rows_stored = connection.execute(
            "SELECT enrichment, src_partition, src_offset FROM transactions WHERE user_id = %s ORDER BY ts",
            [f"u{name}"],
        ).fetchall()
    for enrichment, _, _ in rows_stored:
        assert "user_tx_count_24h" in enrichment["features"]
        assert not {"user_tx_count_10m", "user_tx_count_1h"} & enrichment["features"].keys()
    # What is learned from says so too, so that a replay computes the same.
    replay = Replay(Detector(build_bundle(CONFIGURATION)))
    found = {}
    for chunk in read_stored(api.platform.dsn, "acct_a", 0, 1 << 42):
        batch = replay.decode(chunk)
        features = replay.detector.process(batch, replay.states).features
        for row in range(batch.n):
            if b'"u%b"' % name.encode() in batch.row_bytes(row):
                found[int(batch.ts_ms[row])] = (bool(batch.day_only[row]), features[row])
    names = replay.detector.spec.names
    assert len(found) == 20
    for (enrichment, _, _), (_, (day_only, values)) in zip(rows_stored, sorted(found.items()), strict=True):
        assert day_only
        assert all(
            round(values[names.index(n)], 6) == v
            for n, v in enrichment["features"].items()
            if isinstance(v, int)
        )
        assert all(np.isnan(values[names.index(n)]) for n in ("user_tx_count_1h", "local_hour"))


def objects_of(api: Api) -> set[str]:
    return set(open_objects((api.platform.folder / "objects").as_uri()).list("uploads"))


def test_refusals_leave_nothing_behind(api: Api) -> None:
    client = api.client("ingest")
    before = objects_of(api)
    for content, kind, status in (
        (b"", "text/csv", 422),
        (b"one column\nonly\n", "text/csv", 422),
        (b"\0\1\2", "application/octet-stream", 422),
        (b"PK\x03\x04broken", "application/zip", 422),
        (b"{}", "application/json", 415),
        (b"x", "multipart/form-data", 422),
    ):
        answer = client.post("/v1/uploads", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, (content, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert client.post("/v1/uploads", params={"mapping": "{"}, content=rows(1)).status_code == 422
    assert objects_of(api) == before


def test_scopes_and_accounts(api: Api) -> None:
    taken = upload(api.client("ingest"), rows(3))
    place = f"/v1/uploads/{taken['id']}"
    assert api.client("read").post("/v1/uploads", content=rows(3)).status_code == 403
    assert api.client("read").post(f"{place}/start").status_code == 403
    assert api.client("ingest").get(place).status_code == 403
    assert api.stranger().post("/v1/uploads", content=rows(3)).status_code == 401
    other = api.client("admin", account="acct_other")
    for path in ("", "/preview", "/errors"):
        assert other.get(place + path).status_code == 404
    assert other.post(f"{place}/start").status_code == 404
    assert taken["id"] not in other.get("/v1/uploads").text
    same = upload(other, rows(4, user="same"))
    assert upload(api.client("ingest"), rows(4, user="same"))["id"] != same["id"]


def follow(api: Api, key: str, upload_id: str) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return websocket(
        f"{api.url.replace('http', 'ws')}/v1/uploads/{upload_id}/progress", additional_headers=headers
    )


def test_progress_is_pushed_until_the_end(api: Api, work_upload: Callable[..., Progress | None]) -> None:
    taken = upload(api.client("ingest"), rows(30))
    with follow(api, api.platform.key("read"), taken["id"]) as socket:
        assert json.loads(socket.recv(5))["state"] == "started"
        work_upload(taken["id"])
        told = [json.loads(message) for message in socket]
    assert told[-1]["state"] == "done"
    assert told[-1]["rows"]["scored"] == 30
    for key, status in (
        ("", 401),
        (api.platform.key("ingest"), 403),
        (api.platform.key("read", account="acct_other"), 404),
    ):
        with pytest.raises(InvalidStatus) as refused:
            follow(api, key, taken["id"])
        assert refused.value.response.status_code == status
