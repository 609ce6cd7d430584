"""Publish, promote, roll back on S3: whole or not at all, and told to the log."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from anomalyze.bus import open_bus
from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.detection.bundle import Bundle
from anomalyze.errors import ContractError, TransientError
from anomalyze.learning import promotion
from anomalyze.learning.promotion import CHALLENGER, CHAMPION, open_bundles
from anomalyze.learning.shelf import store_candidate
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from anomalyze_dagster.resources import build_resources
from anomalyze_dagster.sources import CHAMPION as CHAMPION_ASSET
from tests.s3 import Bucket, new_bucket
from tests.test_dagster.runs import run_job
from tests.test_dagster.test_training import EVALUATION


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = new_bucket(monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def remote(bucket: Bucket, settings: Settings, starter: Bundle, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The platform with its bundles in the bucket; the starter bundle is the champion."""
    monkeypatch.setenv("ANOMALYZE_OBJECT_STORE_URL", f"s3://{bucket.name}/one")
    monkeypatch.setenv("ANOMALYZE_S3_ENDPOINT_URL", bucket.url)
    made = Settings()
    store = open_bundles(made)
    store.publish(starter)
    store.set_pointer(CHAMPION, starter.id, expected=None)
    return made


@pytest.fixture
def second(starter: Bundle) -> Bundle:
    return replace(starter, created_from={"parent": starter.id})


@pytest.fixture
def log(remote: Settings) -> Iterator[Bus]:
    bus = open_bus(remote, postgres_dsn=os.environ["ANOMALYZE_POSTGRES_DSN"])
    yield bus
    bus.close()


def announced(bus: Bus, kind: str = "bundle") -> dict[int, list[str]]:
    """Bundles that each partition of the log was told of, in order: champions, or those of kind ``challenger``."""
    partitions = range(bus.partitions(TRANSACTIONS))
    told: dict[int, list[str]] = {partition: [] for partition in partitions}
    reader = bus.reader(TRANSACTIONS, dict.fromkeys(partitions, 0))
    try:
        records = reader.read(1000, 1.0)
    finally:
        reader.close()
    for partition, value in zip(records.partitions, records.values, strict=True):
        body = json.loads(value)
        if body["control"] == kind:
            told[partition].append(body["bundle"])
    return told


def test_published_promoted_and_rolled_back(
    remote: Settings, log: Bus, starter: Bundle, second: Bundle
) -> None:
    store_candidate(
        open_objects(remote.object_store, s3_endpoint_url=remote.s3_endpoint_url), second, EVALUATION
    )
    result = run_job("train", {"ops": {"candidate_bundle": {"config": {"rows_min": 10**9}}}})
    assert result.success
    assert open_bundles(remote).pointer(CHALLENGER) is None  # nothing was trained: nothing is published
    store = open_bundles(remote)
    promotion.publish_challenger(store, log, second)
    assert store.pointer(CHAMPION) == starter.id
    assert announced(log, "challenger") == {0: [second.id], 1: [second.id]}
    assert announced(log) == {0: [], 1: []}
    promoted = run_job("promote")
    assert promoted.success
    (event,) = (e for e in promoted.all_events if e.is_step_materialization)
    assert event.asset_key == CHAMPION_ASSET.key  # the graph shows who judges since when
    assert event.materialization.metadata["bundle"].value == second.id
    assert store.pointer(CHAMPION) == second.id
    assert announced(log) == {0: [second.id], 1: [second.id]}
    assert run_job("promote").success  # promoting it again tells nobody anything
    assert run_job("roll_back").success
    assert store.pointer(CHAMPION) == starter.id
    assert announced(log) == {0: [second.id, starter.id], 1: [second.id, starter.id]}


def test_a_promotion_that_died_before_the_log_was_told_is_completed(
    remote: Settings, log: Bus, second: Bundle
) -> None:
    store = open_bundles(remote)
    store.publish(second)
    store.set_pointer(CHAMPION, second.id)
    assert run_job("promote", {"ops": {"promote_bundle": {"config": {"bundle": "champion"}}}}).success
    assert announced(log) == {0: [second.id], 1: [second.id]}


def test_a_broken_upload_is_refused_and_the_champion_stays(
    bucket: Bucket, remote: Settings, log: Bus, starter: Bundle, second: Bundle
) -> None:
    key = f"one/bundles/{second.id.removeprefix('sha256:')}.tar"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=second.data[: len(second.data) // 2])  # type: ignore[attr-defined]
    store = open_bundles(remote)
    with pytest.raises(ContractError, match="holds other bytes"):
        promotion.publish_challenger(store, log, second)
    result = run_job("promote", {"ops": {"promote_bundle": {"config": {"bundle": second.id}}}})
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert "was damaged or changed" in str(failure.event_specific_data)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]
    assert store.pointer(CHAMPION) == starter.id
    assert store.pointer(CHALLENGER) is None
    assert announced(log) == {0: [], 1: []}


def test_a_store_that_is_away_is_tried_again(
    bucket: Bucket, remote: Settings, log: Bus, second: Bundle
) -> None:
    store = open_bundles(remote)
    promotion.publish_challenger(store, log, second)
    bucket.stop()
    with pytest.raises(TransientError, match="object store"):
        promotion.promote(store, log, second.id)
    back = threading.Timer(2.0, bucket.start)
    back.start()
    result = run_job("promote")
    back.join()
    assert result.success
    assert [e for e in result.all_events if e.is_step_up_for_retry]
    assert store.pointer(CHAMPION) == second.id
    assert announced(log) == {0: [second.id], 1: [second.id]}


def test_the_bucket_is_there_for_dagsters_own_client(
    bucket: Bucket, remote: Settings, starter: Bundle
) -> None:
    client = build_resources(remote)["s3"].get_client()
    listed = client.list_objects_v2(Bucket=bucket.name, Prefix="one/bundles/")["Contents"]
    assert [one["Size"] for one in listed] == [len(starter.data)]
