"""Profiles of days in the worker: rows from Valkey, from the file when it is away, and the same verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from anomalyze.detection.detector import Detector
from anomalyze.detection.learning import LabelledBatch, training_frame
from anomalyze.detection.output import encode_scored
from anomalyze.detection.state import PartitionState
from anomalyze.embedded.process import free_port
from anomalyze.embedded.valkey import EmbeddedValkey
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys
from anomalyze.features.catalogue import DAILY_MEASURES
from anomalyze.features.daily import DAY_MS, DailyTable, batch_keys
from anomalyze.features.daily_store import DailySnapshot, DailyStore, Fetched
from anomalyze.features.snapshot import Profiles, ProfileStore
from anomalyze.features.state import Disposition
from anomalyze.models.forest import ModelInput
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.world import Simulation
from anomalyze.storage import profile_rows
from anomalyze.storage.objects import LocalObjects
from anomalyze.storage.profile_rows import RedisRows, load_rows
from realtime.detector import profiles as profiles_module
from realtime.detector.profiles import CachedRows, ProfileCache
from tests.test_realtime.bed import START_MS, bundles

COLUMNS = len(DAILY_MEASURES)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(bundles()[0])


@pytest.fixture(scope="module")
def batches(detector: Detector) -> list[MicroBatch]:
    """Some days of some people, over two partitions' worth of micro-batches."""
    world = Simulation(60, 3, START_MS, 6, per_day_mean=3.0, incidents_per_10k=100.0)
    return list(decode_traffic(world.chunks(), "p", "acct", detector.gazetteer))


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "valkey", free_port())
    server.start()
    yield server
    server.stop()


def client_of(server: EmbeddedValkey) -> redis.Redis:
    return redis.Redis.from_url(
        server.url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
    )


def table_of(detector: Detector, batches: list[MicroBatch], as_of_ms: int) -> DailyTable:
    """A profile of nine in ten of all that occurs; what it says follows from the key and the day."""
    found = [
        column
        for batch in batches
        for column in batch_keys(
            detector.daily_entities, batch, text_keys(batch.accounts)[batch.account]
        ).values()
    ]
    keys = np.unique(np.concatenate(found))
    keys = keys[(keys != 0) & (keys % np.uint64(10) != 0)]
    values = (keys[:, None] % np.arange(3, 3 + COLUMNS, dtype=np.uint64) + as_of_ms % 7).astype(np.float32)
    values[:, DAILY_MEASURES.index("tx_count_30d")] += 200
    values[::5, 3] = np.nan
    return DailyTable(
        as_of_ms, keys, values, np.full(len(keys), as_of_ms - DAY_MS), np.zeros(len(keys), np.uint8)
    )


@pytest.fixture
def store(
    tmp_path: Path, detector: Detector, batches: list[MicroBatch]
) -> tuple[ProfileStore, list[tuple[str, DailyTable]]]:
    """Two versions: of the third and of the fifth day."""
    objects, folder = LocalObjects(tmp_path / "objects"), tmp_path / "rows"
    tables = [table_of(detector, batches, START_MS // DAY_MS * DAY_MS + day * DAY_MS) for day in (3, 5)]
    daily = DailyStore(objects, folder)
    return ProfileStore(objects, folder), [(daily.publish(table).id, table) for table in tables]


def judge(
    detector: Detector,
    batches: list[MicroBatch],
    cache: ProfileCache,
    ids: tuple[str, ...],
    between: dict[int, object] | None = None,
) -> list[bytes]:
    """Records of all micro-batches, as the worker makes them."""
    state = {0: PartitionState.empty()}
    records = []
    for number, batch in enumerate(batches):
        if between is not None and number in between:
            between[number]()  # type: ignore[operator]
        profiles = cache.get(ids)
        cache.fetch(profiles, batch, detector)
        verdicts = detector.process(batch, state, profiles)
        rows = np.flatnonzero(verdicts.disposition == Disposition.JUDGE)
        records += encode_scored(batch, verdicts, rows, (batch.offset - 1)[rows])
        records.append(verdicts.features[:, len(detector.spec.source) :].tobytes())
    return records


def test_a_valkey_that_dies_in_the_middle_changes_no_verdict(
    detector: Detector,
    batches: list[MicroBatch],
    store: tuple[ProfileStore, list[tuple[str, DailyTable]]],
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiles, versions = store
    ids = tuple(version for version, _ in versions)
    monkeypatch.setattr(profiles_module, "CACHED_KEYS_MAX", 400)  # so that rows are asked for again and again
    expected = judge(detector, batches, ProfileCache(profiles.open), ids)
    assert any(ids[1].encode() in record for record in expected)
    assert sum(b"MERCHANT_AMOUNT" in record for record in expected), "a rule reads them"

    client = client_of(valkey)
    for version, table in versions:
        assert load_rows(client, version, table.keys, table.values)
    counted: list[Fetched] = []
    cache = ProfileCache(profiles.open, RedisRows(client), counted.append, mapped_keys_max=0)
    assert judge(detector, batches, cache, ids) == expected
    assert sum(one.redis for one in counted) > 100
    assert sum(one.file for one in counted) == 0

    counted.clear()
    cache = ProfileCache(profiles.open, RedisRows(client), counted.append, mapped_keys_max=0)
    assert judge(detector, batches, cache, ids, {len(batches) // 2: valkey.stop}) == expected
    assert sum(one.redis for one in counted) > 50
    assert sum(one.file for one in counted) > 50
    assert sum(one.memory for one in counted) > 0


def test_without_the_profiles_the_verdicts_would_differ(
    detector: Detector, batches: list[MicroBatch], store: tuple[ProfileStore, list[tuple[str, DailyTable]]]
) -> None:
    profiles, versions = store
    one, other = (
        judge(detector, batches, ProfileCache(profiles.open), ids) for ids in ((), (versions[0][0],))
    )
    assert one != other


def test_an_event_of_a_day_reads_the_version_of_the_day_before_however_the_log_is_cut(
    detector: Detector, batches: list[MicroBatch], store: tuple[ProfileStore, list[tuple[str, DailyTable]]]
) -> None:
    """The frame of training has all versions from the beginning, the stream gets each when it is told of it."""
    profiles, versions = store
    whole = Profiles([profiles.open(version) for version, _ in versions])  # type: ignore[list-item]
    state, streamed_state = {0: PartitionState.empty()}, {0: PartitionState.empty()}
    in_force, told = Profiles(), list(versions)
    seen, streamed = set(), []
    name = "country_fraud_share_90d"
    for batch in batches:
        while told and told[0][1].as_of_ms <= batch.ts_ms.max():
            in_force = in_force.with_snapshot(profiles.open(told.pop(0)[0]))
        frame = detector.process(batch, state, whole).features
        stream = detector.process(batch, streamed_state, in_force).features
        assert frame.tobytes() == stream.tobytes()
        streamed.append(stream[:, detector.spec.index(name)])
        column = frame[:, detector.spec.index(name)]
        keys = batch_keys(["country"], batch, text_keys(batch.accounts)[batch.account])["country"]
        for at, key, value in zip(batch.ts_ms.tolist(), keys, column.tolist(), strict=True):
            due = [table for _, table in versions if table.as_of_ms <= at]
            table = due[-1] if due else None
            place = None if table is None else np.flatnonzero(table.keys == key)
            seen.add(None if table is None else table.as_of_ms)
            if table is None or place is None or not len(place):
                assert value != value
            else:
                assert value == table.values[place[0], DAILY_MEASURES.index("fraud_share_90d")]
    assert len(seen) == 3
    history = [
        LabelledBatch(batch, np.full(batch.n, -1, np.int8), np.zeros(batch.n, np.int64)) for batch in batches
    ]
    learned = training_frame(
        detector.bundle,
        history,
        {0: PartitionState.empty()},
        delay_ms=DAY_MS,
        snapshots=[],
        days=whole,
        inputs=(ModelInput(name, "place", one_sided=False),),
    )
    assert learned.column(name).tobytes() == np.concatenate(streamed).tobytes()


def test_rows_that_valkey_has_half_or_no_more_come_from_the_file(
    detector: Detector,
    batches: list[MicroBatch],
    store: tuple[ProfileStore, list[tuple[str, DailyTable]]],
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiles, ((version, table), _) = store
    client = client_of(valkey)
    assert load_rows(client, version, table.keys, table.values, expiry_s=100)
    names = client.keys("anomalyze:profiles:*")
    assert len(names) == profile_rows.SHARDS
    assert all(0 < client.ttl(name) <= 100 for name in names)
    gone, half = sorted(names)[:2]
    client.delete(gone)
    client.hdel(half, profile_rows.WHOLE)
    snapshot = profiles.open(version)
    assert isinstance(snapshot, DailySnapshot)
    rows = CachedRows(snapshot, RedisRows(client))
    asked = np.append(table.keys, np.array([1, 2, 0], np.uint64))
    fetched = rows.fetch(asked)
    shards = np.delete(asked, -1) % np.uint64(profile_rows.SHARDS)
    assert fetched.file == (shards < 2).sum()
    assert fetched.redis == (shards >= 2).sum()
    assert rows.fetch(asked) == Fetched(memory=len(asked) - 1)
    columns = np.arange(COLUMNS)
    assert rows.gather(asked, columns).tobytes() == snapshot.rows.gather(asked, columns).tobytes()

    client.config_set("maxmemory", "2mb")
    monkeypatch.setattr(profile_rows, "FIELD_BYTES", 4_000)
    assert not load_rows(client, version, table.keys, table.values), "it would push out everything else"


def test_a_valkey_that_is_away_is_not_asked_at_each_micro_batch() -> None:
    now = [0.0]
    client = redis.Redis(port=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
    rows, asked = RedisRows(client, lambda: now[0]), []
    pipeline = client.pipeline
    client.pipeline = lambda **given: asked.append(1) or pipeline(**given)  # type: ignore[func-returns-value]
    for seconds in (0.0, 0.1, 1.9, 2.1):
        now[0] = seconds
        _, said = rows.read("sha256:00", np.array([5], np.uint64), COLUMNS)
        assert not said.any()
    assert len(asked) == 2
