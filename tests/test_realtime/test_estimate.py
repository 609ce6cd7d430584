"""How many cases a file would make, before anything of it counts."""

from __future__ import annotations

import gzip
import uuid
from typing import Any

import httpx
import polars as pl
import pytest

from anomalyze.backtest import estimate
from anomalyze.detection.training import build_bundle
from anomalyze.ingestion.lacking import find_lacking
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.storage.objects import open_objects
from anomalyze.storage.query import fetch
from anomalyze.storage.upload import load_upload
from tests.test_realtime.conftest import CONFIGURATION, Api, wait_until

USERS, DAYS = 40, 25


def history(name: str) -> str:
    """25 quiet days of 40 people; then every fourth buys five times within minutes for a hundred times the usual."""
    lines = [
        f"q{name}{u}-{d},u{name}{u},2025-10-{1 + d:02d} 10:{u:02d}:00,{10 + u % 3}.25,USD"
        for d in range(DAYS)
        for u in range(USERS)
    ]
    lines += [
        f"x{name}{u}-{i},u{name}{u},2025-10-28 12:{i:02d}:00,{1500 + i}.25,USD"
        for u in range(0, USERS, 4)
        for i in range(5)
    ]
    return "tx_id,user_id,time,amount,currency\n" + "\n".join([*lines, "bad,u,never,1,USD"]) + "\n"


def send(client: httpx.Client, content: bytes) -> str:
    answer = client.post(
        "/v1/uploads", content=content, params={"start": "false"}, headers={"Content-Type": "text/csv"}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_the_preview_tells_how_many_cases_to_expect(api: Api) -> None:
    client, name = api.client("ingest", "read"), uuid.uuid4().hex[:6]
    upload_id = send(client, history(name).encode())

    def ask() -> Any:
        return client.get(f"/v1/uploads/{upload_id}/preview").json()["estimate"]

    assert ask()["state"] == "working"
    found = wait_until(lambda: (e := ask())["state"] != "working" and e, "it is estimated", 90, 0.25)
    assert found["state"] == "done", found
    rows = USERS * DAYS + USERS // 4 * 5
    assert (found["rows"], found["rows_judged"], found["users"], found["rows_exact"]) == (
        rows + 1,
        rows,
        USERS,
        True,
    )
    assert found["cases"] == sum(found["cases_found"].values()) == USERS // 4
    assert "device_id" in found["features_null"]["is_new_device"]
    assert found["rules_off"]
    assert all(
        "device_id" in reason or "location" in reason or "merchant" in reason
        for reason in found["rules_off"].values()
    )
    # Nothing of it counts yet, and once it is started there is nothing to estimate.
    assert client.get(f"/v1/uploads/{upload_id}").json()["state"] == "waiting"
    assert client.post(f"/v1/uploads/{upload_id}/start").status_code == 202
    assert client.get(f"/v1/uploads/{upload_id}/preview").json()["estimate"] is None


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_file_is_judged_by_whole_users(
    api: Api, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(estimate, "ROWS_READ_MAX", 500)
    monkeypatch.setattr(estimate, "ROWS_JUDGED_MAX", 300)
    monkeypatch.setattr("anomalyze.ingestion.parse.BLOCK_BYTES", 20_000)
    name = uuid.uuid4().hex[:6]
    text = history(name).encode()
    upload_id = send(api.client("ingest", "read"), gzip.compress(text) if packed else text)
    import psycopg

    with psycopg.connect(api.platform.dsn) as connection:
        upload = fetch(connection, load_upload("acct_a", upload_id))
    assert upload is not None
    mapping = FileMapping(
        fields={
            "tx_id": "tx_id",
            "user_id": "user_id",
            "timestamp": "time",
            "amount": "amount",
            "currency": "currency",
        }
    )
    told: list[tuple[int, int]] = []
    made = estimate.estimate_upload(
        open_objects((api.platform.folder / "objects").as_uri()), upload, mapping, build_bundle(CONFIGURATION), 300,
        lambda *done: told.append(done),
    )  # fmt: skip
    total = text.count(b"\n") - 1
    assert 500 <= made["rows_read"] < total
    assert abs(made["rows"] - total) < 0.25 * total
    assert not made["rows_exact"]
    assert 0 < made["rows_judged"] <= 300
    # Whole users: so many as there are rows of each in what was read.
    assert made["rows_judged"] >= made["users"] * (made["rows_read"] // USERS)
    assert told[-1] == (made["rows_judged"], made["rows_judged"])


def test_what_cannot_be_read_is_said(api: Api) -> None:
    client = api.client("ingest", "read")
    upload_id = send(client, f"a,b,when,amount\n{uuid.uuid4().hex},u,never,x\n".encode())
    mapping = '{"fields": {"user_id": "b", "timestamp": "when", "amount": "amount"}, "constants": {"currency": "USD"}}'

    def ask() -> Any:
        return client.get(f"/v1/uploads/{upload_id}/preview", params={"mapping": mapping}).json()["estimate"]

    found = wait_until(lambda: (e := ask())["state"] != "working" and e, "it is estimated", 90, 0.25)
    assert found["state"] == "failed"
    assert "got none" in found["error"]


def test_columns_that_are_missing_turn_rules_off() -> None:
    bundle = build_bundle(CONFIGURATION)
    needed = {"user_id": "u", "timestamp": "t", "amount": "a", "currency": "c"}
    everything = {
        f: f
        for f in (
            "merchant_id",
            "device_id",
            "ip",
            "location",
            "country",
            "channel",
            "status",
            "merchant_category",
        )
    }
    assert find_lacking(bundle, FileMapping(fields=needed | everything), "a").rules == {}
    assert find_lacking(bundle, FileMapping(fields=needed | everything), "a").features == {}
    bare = find_lacking(bundle, FileMapping(fields=needed), "a")
    assert bare.rules["TAKEOVER"] == "device_id"
    assert bare.rules["GEO_IMPOSSIBLE"].count("location or latitude") == 1
    # Lists are of users too.
    assert not {"BLOCK_LIST", "ALLOW_LIST"} & bare.rules.keys()
    assert bare.features["travel_km"] == "location or latitude"
    days = find_lacking(bundle, FileMapping(fields=needed | everything, time_resolution="day"), "a")
    assert days.features["user_tx_count_10m"] == "times of day"
    assert days.features["is_night"] == "times of day"
    assert "user_tx_count_24h" not in days.features
    assert "times of day" in days.rules.values()


def test_features_that_are_null_are_those_named() -> None:
    """Held against the kernel: rows that lack everything, twice each user."""
    bundle = build_bundle(CONFIGURATION)
    mapping = FileMapping(
        fields={"tx_id": "i", "user_id": "u", "timestamp": "t", "amount": "a", "currency": "c"},
        time_resolution="day",
    )
    from anomalyze.backtest.mapping import SourceChunk
    from anomalyze.backtest.run import Replay
    from anomalyze.detection.detector import Detector
    from anomalyze.ingestion.records import Source, build_records

    n = 80
    frame = pl.DataFrame(
        {
            "i": [f"t{i}" for i in range(n)],
            "u": ["u"] * n,
            "t": [f"2025-{1 + i // 56:02d}-{1 + i // 2 % 28:02d}" for i in range(n)],
            "a": [f"{10 + i % 7}.50" for i in range(n)],
            "c": ["USD"] * n,
        }
    )
    made = build_records(
        frame, pl.arange(n, eager=True).to_numpy(), mapping, Source("a", "d", 1 << 42, 0)
    ).frame
    replay = Replay(Detector(bundle))
    values = made["value"].cast(pl.Binary).to_list()
    batch = replay.decode(SourceChunk(made["user"].to_list(), made["ts"].to_list(), values, [-1] * n))
    features = pl.DataFrame(
        replay.detector.process(batch, replay.states).features, schema=list(replay.detector.spec.names)
    )
    null = {name for name in features.columns if features[name].is_nan().all()}
    # Profiles of people are there once days have passed.
    null -= {name for name in replay.detector.spec.profile_names if name.startswith("user_")}
    assert {*find_lacking(bundle, mapping, "a").features} == null
