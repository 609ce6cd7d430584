"""Profiles of whole days against a slow reference; their files; how they are joined."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ContractError
from anomalyze.events.hashing import text_keys
from anomalyze.features import daily
from anomalyze.features.catalogue import DAILY_MEASURES, DAILY_WINDOWS_DAYS, ENTITIES
from anomalyze.features.daily import (
    DAY_MS,
    NO_AMOUNT,
    DailyRows,
    DailyTable,
    compute_daily_profiles,
    entity_keys,
)
from anomalyze.features.daily_store import (
    DAILY_KEPT_MAX,
    LAID_OUT_MAX,
    DailyNote,
    DailySnapshot,
    DailyStore,
    TableRows,
)
from anomalyze.features.snapshot import Profiles, ProfileStore
from anomalyze.storage.objects import LocalObjects

NOW = 200 * DAY_MS
# (hours before NOW, amount in hundredths or none, fraud, entity 0..3: 0 = missing)
ROW = st.tuples(
    st.integers(-30, 24 * 95),
    st.one_of(st.none(), st.integers(0, 50_000)),
    st.booleans(),
    st.integers(0, 3),
)


def make_rows(rows: list[tuple[int, int | None, bool, int]]) -> DailyRows:
    own = text_keys(["one", "two", "three"])
    key = np.array([0 if e == 0 else own[e - 1] for *_, e in rows], dtype=np.uint64)
    account = np.full(len(rows), text_keys(["acct"])[0])
    return DailyRows(
        np.array([NOW - hours * 3_600_000 for hours, *_ in rows], dtype=np.int64),
        np.array([NO_AMOUNT if a is None or f else a for _, a, f, _ in rows], dtype=np.int64),
        np.array([f for _, _, f, _ in rows], dtype=np.bool_),
        {entity: entity_keys(entity, account, key) for entity in ENTITIES},
    )


def reference(rows: list[tuple[int, int | None, bool, int]], entity: int) -> dict[str, float]:
    """One entity's measures, said plainly."""
    mine = [(h, a, f) for h, a, f, e in rows if e == entity and 0 < h <= 90 * 24]
    said = {"first_seen_days": max(h for h, _, _ in mine) / 24}
    for days in DAILY_WINDOWS_DAYS:
        within = [(a, f) for h, a, f in mine if h <= days * 24]
        amounts = [a / 100 for a, f in within if a is not None and not f]
        frauds = sum(f for _, f in within)
        said[f"tx_count_{days}d"] = len(within)
        said[f"fraud_count_{days}d"] = frauds
        said[f"fraud_share_{days}d"] = (frauds + 0.05) / (len(within) + 2)
        said[f"amount_sum_{days}d"] = sum(amounts)
        for name, value in (("mean", np.mean), ("median", np.median)):
            said[f"amount_{name}_{days}d"] = float(value(amounts)) if amounts else np.nan
        said[f"amount_p95_{days}d"] = float(np.quantile(amounts, 0.95)) if amounts else np.nan
    return said


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=60), st.randoms())
def test_profiles_equal_the_slow_reference_in_any_order(rows: list, random: object) -> None:  # type: ignore[type-arg]
    table = compute_daily_profiles(make_rows(rows), NOW)
    present = sorted({e for h, _, _, e in rows if e and 0 < h <= 90 * 24})
    assert len(table.keys) == len(present) * len(ENTITIES)
    own = text_keys(["one", "two", "three"])
    for code, entity in enumerate(ENTITIES):
        for one in present:
            (key,) = entity_keys(entity, text_keys(["acct"]), own[one - 1 : one])
            at = int(np.searchsorted(table.keys, key))
            assert (table.keys[at], table.entity[at]) == (key, code)
            expected = reference(rows, one)
            assert table.values[at] == pytest.approx(
                [expected[name] for name in DAILY_MEASURES], rel=1e-6, nan_ok=True
            )
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = compute_daily_profiles(make_rows(shuffled), NOW)
    assert again.values.tobytes() == table.values.tobytes()


def table_of(first: float, as_of_ms: int = NOW, keys: int = 5) -> DailyTable:
    values = np.full((keys, len(DAILY_MEASURES)), first, dtype=np.float32)
    values[0, 0] = np.nan
    return DailyTable(
        as_of_ms,
        np.arange(10, 10 + 2 * keys, 2, dtype=np.uint64),
        values,
        np.full(keys, as_of_ms - 3 * DAY_MS),
        np.zeros(keys, np.uint8),
    )


def test_who_was_known_before_was_first_seen_then() -> None:
    rows = make_rows([(5, 100, False, 1), (30, 100, False, 2)])
    earlier = compute_daily_profiles(make_rows([(24 * 60, 100, False, 1)]), NOW - 70 * DAY_MS)
    assert not len(earlier.keys), "of later transactions nothing is known"
    earlier = compute_daily_profiles(make_rows([(24 * 80, 100, False, 1)]), NOW - 20 * DAY_MS)
    table = compute_daily_profiles(rows, NOW, earlier)
    days = table.values[table.entity == 1, DAILY_MEASURES.index("first_seen_days")]
    assert sorted(days.tolist()) == [1.25, 80.0]


def test_no_account_can_speak_for_anothers_merchant() -> None:
    one, other = text_keys(["shop"]), text_keys(["acct"])
    assert entity_keys("merchant", one, other)[0] != entity_keys("merchant", other, one)[0]
    assert entity_keys("merchant", one, other)[0] != entity_keys("device", one, other)[0]
    assert doctest.testmod(daily).failed == 0


@pytest.mark.parametrize("held", [True, False])
def test_a_version_comes_back_from_memory_and_from_a_mapped_file(
    tmp_path: Path, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held:
        monkeypatch.setattr("anomalyze.features.daily_store.HELD_KEYS_MAX", 2)
    objects = LocalObjects(tmp_path / "objects")
    store = DailyStore(objects, tmp_path / "rows")
    published = store.publish(table_of(7.0), after="sha256:" + "0" * 64)
    assert store.publish(table_of(7.0), after="sha256:" + "0" * 64).id == published.id
    snapshot = DailyStore(objects, tmp_path / "rows").load(published.id)
    keys = np.array([0, 10, 11, 12, 99], dtype=np.uint64)
    for _ in range(2):
        found = snapshot.gather(keys, ["tx_count_1d", "amount_p95_90d", "of_no_version"])
        assert np.isnan(found).tolist() == [[True] * 3, [True, False, True], [True] * 3, [False, False, True], [True] * 3]  # fmt: skip
        assert found[3, 0] == found[1, 1] == 7.0
    assert snapshot.rows.fetch(keys).memory == (4 if held else 0)
    assert (tmp_path / "rows").exists() is not held
    assert ProfileStore(objects, tmp_path / "rows").open(published.id).as_of_ms == NOW
    if not held:
        for number in range(LAID_OUT_MAX + 2):
            store.publish(table_of(float(number))).gather(keys, ["tx_count_1d"])
            one = store.load(store.publish(table_of(float(number))).id)
            one.gather(keys, ["tx_count_1d"])
        assert len(os.listdir(tmp_path / "rows")) == LAID_OUT_MAX
    store.delete(published.id)
    assert store.find(published.id) is None
    with pytest.raises(ContractError, match="not published"):
        store.load(published.id)


def test_damaged_versions_are_refused(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    store = DailyStore(objects, tmp_path / "rows")
    one = store.publish(table_of(1.0))
    (parquet,) = (path for path in objects.list("profiles/daily") if path.endswith("parquet"))
    data = objects.get(parquet)
    assert data is not None
    objects.put(parquet, data[:-1] + b"x")
    with pytest.raises(ContractError, match="damaged"):
        store.load(one.id).gather(np.array([10], np.uint64), ["tx_count_1d"])
    (note,) = (path for path in objects.list("profiles/daily") if path.endswith("json"))
    objects.put(note, b"{}")
    with pytest.raises(ContractError, match="damaged"):
        store.load(one.id)
    with pytest.raises(ContractError, match="expected an id"):
        store.load("../../etc")


def in_memory(first: float, as_of_ms: int) -> DailySnapshot:
    table = table_of(first, as_of_ms)
    note = DailyNote(as_of_ms, DAILY_MEASURES, len(table.keys), "", 0)
    return DailySnapshot(note, lambda: TableRows(table.keys, table.values))


def test_an_event_is_judged_by_the_day_before_it_or_an_older_one() -> None:
    profiles = Profiles([in_memory(2.0, 12 * DAY_MS), in_memory(1.0, 10 * DAY_MS)])
    ts = np.array([10 * DAY_MS - 1, 10 * DAY_MS, 12 * DAY_MS - 1, 12 * DAY_MS, 99 * DAY_MS, 99 * DAY_MS])
    keys = {
        "merchant": np.array([12, 12, 12, 12, 12, 13], np.uint64),
        "user": np.array([10] * 6, np.uint64),
    }
    out = np.empty((6, 2))
    profiles.join_daily(["merchant_tx_count_1d", "user_amount_sum_90d"], ts, keys, out)
    assert np.array_equal(out[:, 0], [np.nan, 1.0, 1.0, 2.0, 2.0, np.nan], equal_nan=True)
    assert np.array_equal(out[:, 1], [np.nan, 1.0, 1.0, 2.0, 2.0, 2.0], equal_nan=True)
    many = profiles
    for day in range(20, 20 + DAILY_KEPT_MAX):
        many = many.with_snapshot(in_memory(float(day), day * DAY_MS))
    assert len(many.ids) == DAILY_KEPT_MAX
    assert many.newest is None
    assert many.newest_daily == many.ids[-1]
