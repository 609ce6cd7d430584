"""Profiles of merchants against a slow reference; snapshots as files; the join."""

from __future__ import annotations

import hashlib
import io
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ContractError
from anomalyze.features.catalogue import MERCHANT_PROFILE
from anomalyze.features.profile import LABEL_COLUMNS, compute_profiles
from anomalyze.features.snapshot import SNAPSHOTS_KEPT_MAX, Profiles, ProfileStore, Snapshot, merchant_keys
from anomalyze.storage.objects import LocalObjects

DAY = 86_400_000
NEVER = np.iinfo(np.int64).max
NAN = math.nan


def table(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=LABEL_COLUMNS, orient="row")


@st.composite
def label_rows(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Labels of a few merchants over 120 days: late, replaced, without a log ratio."""
    rows = []
    for _ in range(draw(st.integers(0, 60))):
        ts = draw(st.integers(0, 120 * 24)) * (DAY // 24)
        known = ts + draw(st.sampled_from([0, 1, 7, 7, 7, 40])) * DAY
        until = draw(st.sampled_from([NEVER, NEVER, NEVER, known + 3 * DAY]))
        ratio = draw(st.sampled_from([0.1, 0.7, 0.69, 2.0, -3.0, NAN, None]))
        rows.append((draw(st.integers(0, 3)), ts, ratio, draw(st.booleans()), known, until))
    return rows


def reference(rows: list[tuple[Any, ...]], merchant: int, now: int) -> list[float] | None:
    """One merchant's seven values, one formula at a time, from docs/features.md."""
    mine = [r for r in rows if r[0] == merchant and r[4] < now <= r[5] and r[1] < now]
    if not mine:
        return None
    frauds = [r for r in mine if r[3]]
    odd = sorted((r for r in frauds if r[2] is None or math.isnan(r[2]) or r[2] < 0.7), key=lambda r: r[1])
    began = None
    for before, this in zip([None, *odd], odd, strict=False):
        if before is None or this[1] - before[1] > 14 * DAY:
            began = this[1]
    genuine = [r[1] for r in mine if not r[3]]
    late_14 = [r for r in mine if now - r[4] <= 14 * DAY]
    late_30 = [r for r in mine if now - r[4] <= 30 * DAY]
    last_fraud = max((r[1] for r in frauds), default=None)
    return [
        NAN if began is None else (now - began) / DAY,
        min(99.0, (now - odd[-1][1]) / DAY) if odd else NAN,
        sum(ts > odd[-1][1] for ts in genuine) if odd else NAN,
        sum(ts > last_fraud for ts in genuine) if last_fraud is not None else NAN,
        sum(2 ** (-(now - r[1]) / DAY / 7) for r in odd),
        (sum(r in odd for r in late_14) + 0.05) / (len(late_14) + 2),
        (sum(r[3] for r in late_30) + 0.05) / (len(late_30) + 2),
    ]


@settings(max_examples=150, deadline=None)
@given(rows=label_rows(), now=st.integers(0, 140))
def test_profiles_equal_the_slow_reference(rows: list[tuple[Any, ...]], now: int) -> None:
    rows = list(dict.fromkeys(rows))
    snapshot = compute_profiles(table(rows), now * DAY)
    expected = {m: v for m in (1, 2, 3) if (v := reference(rows, m, now * DAY)) is not None}
    assert snapshot.keys.tolist() == sorted(expected)
    for values, wanted in zip(snapshot.values, (expected[m] for m in sorted(expected)), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(rows=label_rows(), now=st.integers(1, 140))
def test_what_becomes_known_later_changes_nothing(rows: list[tuple[Any, ...]], now: int) -> None:
    known = [r for r in rows if r[4] < now * DAY]
    whole, part = (compute_profiles(table(r), now * DAY) for r in (rows, known))
    assert whole.values.tobytes() == part.values.tobytes()
    assert whole.keys.tolist() == part.keys.tolist()


def test_the_order_of_labels_changes_no_bit() -> None:
    rng = np.random.default_rng(3)
    rows = [
        (int(m), int(ts), float(lr), bool(lr > 0.4), int(ts) + 7 * DAY, NEVER)
        for m, ts, lr in zip(
            rng.integers(1, 50, 3_000), rng.integers(0, 90 * DAY, 3_000), rng.random(3_000), strict=True
        )
    ]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    one, other = (compute_profiles(table(r), 95 * DAY) for r in (rows, shuffled))
    assert one.values.tobytes() == other.values.tobytes()


def test_other_columns_are_refused() -> None:
    with pytest.raises(ContractError, match="expected the columns"):
        compute_profiles(table([]).drop("known_ms"), DAY)


def make_snapshot(as_of_ms: int, keys: list[int], first: float = 1.0) -> Snapshot:
    values = np.full((len(keys), len(MERCHANT_PROFILE)), np.nan)
    values[:, 0] = first + np.arange(len(keys))
    return Snapshot(as_of_ms, MERCHANT_PROFILE, np.array(keys, dtype=np.uint64), values)


def test_an_event_is_judged_by_the_newest_snapshot_before_it() -> None:
    profiles = Profiles([make_snapshot(20, [5, 9], 20.0), make_snapshot(10, [5], 10.0)])
    ts = np.array([9, 10, 19, 20, 99, 99, 99], dtype=np.int64)
    keys = np.array([5, 5, 5, 5, 9, 0, 7], dtype=np.uint64)
    out = np.empty((7, 2))
    profiles.join(["merchant_unexplained_chain_days", "merchant_of_no_snapshot"], ts, keys, out)
    np.testing.assert_array_equal(out[:, 0], [NAN, 10.0, 10.0, 20.0, 21.0, NAN, NAN])
    assert np.isnan(out[:, 1]).all()
    Profiles().join(["x"], ts, keys, out[:, :1])
    assert np.isnan(out).all()


def test_the_newest_are_kept_however_they_come() -> None:
    one, other = Profiles(), Profiles()
    for at in range(SNAPSHOTS_KEPT_MAX + 5):
        one = one.with_snapshot(make_snapshot(at, [1]))
        other = other.with_snapshot(make_snapshot(SNAPSHOTS_KEPT_MAX + 4 - at, [1]))
    assert one.ids == other.ids
    assert len(one.ids) == SNAPSHOTS_KEPT_MAX
    again = one.with_snapshot(make_snapshot(SNAPSHOTS_KEPT_MAX + 4, [1], 7.0))
    assert len(again.ids) == SNAPSHOTS_KEPT_MAX
    assert again.ids[:-1] == one.ids[:-1]
    assert again.ids[-1] != one.ids[-1]


def test_merchants_of_two_accounts_are_two() -> None:
    keys = merchant_keys(np.array([3, 4, 4], dtype=np.uint64), np.array([8, 8, 0], dtype=np.uint64))
    assert len(set(keys.tolist())) == 3
    assert keys[2] == 0


def test_a_snapshot_comes_back_from_the_store(tmp_path: Any) -> None:
    store = ProfileStore(LocalObjects(tmp_path))
    snapshot = make_snapshot(12, [3, 2**64 - 1])
    assert store.publish(snapshot) == store.publish(snapshot) == snapshot.id
    again = store.load(snapshot.id)
    assert (again.as_of_ms, again.names, again.id) == (12, snapshot.names, snapshot.id)
    assert again.keys.tolist() == snapshot.keys.tolist()
    assert again.values.tobytes() == snapshot.values.tobytes()
    with pytest.raises(ContractError, match="not published"):
        store.load("sha256:" + "0" * 64)
    with pytest.raises(ContractError, match="expected an id"):
        store.load("../../etc/passwd")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_refused(data: st.DataObject) -> None:
    snapshot = make_snapshot(12, list(range(1, 40)))
    damaged = bytearray(snapshot.data)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(damaged) == snapshot.data:
        return
    with pytest.raises(ContractError):
        Snapshot.from_bytes(bytes(damaged), snapshot.id)


def test_files_of_something_else_are_refused() -> None:
    frame = io.BytesIO()
    pl.DataFrame({"key": [1]}).write_parquet(frame)
    for data in (b"", b"PAR1", frame.getvalue()):
        with pytest.raises(ContractError, match="a snapshot's parquet file"):
            Snapshot.from_bytes(data, "sha256:" + hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("keys", "message"), [([2, 1], "ascending"), ([1, 1], "ascending"), ([], "expected 1 to 64 names")]
)
def test_contradictions_are_refused(keys: list[int], message: str) -> None:
    names = MERCHANT_PROFILE if keys else ()
    with pytest.raises(ContractError, match=message):
        Snapshot(0, names, np.array(keys, dtype=np.uint64), np.zeros((len(keys), len(names))))
