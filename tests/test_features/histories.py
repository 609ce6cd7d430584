"""Histories for the tests: dictionaries, hypothesis strategies, and the micro-batches that they become."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_key, user_key
from anomalyze.features import (
    AccountParameters,
    FeatureSpec,
    FeatureState,
    compute_features,
    prepare_rows,
)

START = 1_700_000_000_000  # 2023-11-14T22:13:20Z
DAY = 86_400_000


def record(tx: int, ts: int, amount: int | None = 1000, **other: Any) -> dict[str, Any]:
    """A transaction; amounts in cents, ``place`` = (latitude, longitude, radius)."""
    base = {"user": 0, "account": 0, "status": 0, "merchant": None, "device": None, "country": None}
    base |= {"currency": 1, "place": None, "payload": tx, "append": START}
    return base | {"tx": tx, "ts": ts, "amount": amount} | other


def make_batch(records: list[dict[str, Any]], partition: int = 0, day_only: bool = False) -> MicroBatch:
    """The micro-batch of a list of records, all of one partition."""
    n = len(records)
    accounts = [f"acct_{i}" for i in range(1 + max((r["account"] for r in records), default=0))]

    def keys(name: str, prefix: str) -> np.ndarray:
        texts = [r[name] for r in records]
        return np.array([0 if t is None else text_key(f"{prefix}{t}") for t in texts], dtype=np.uint64)

    def column(name: str, dtype: Any, missing: Any = 0) -> np.ndarray:
        return np.array([missing if r[name] is None else r[name] for r in records], dtype=dtype)

    places = np.array([r["place"] or (np.nan,) * 3 for r in records], dtype=np.float64).reshape(n, 3)
    users = [user_key(accounts[r["account"]], str(r["user"])) for r in records]
    zeros = np.zeros(n, dtype=np.uint64)
    return MicroBatch(
        n=n,
        buffer=np.zeros(1, dtype=np.uint8),
        starts=np.zeros(n, dtype=np.int64),
        ends=np.zeros(n, dtype=np.int64),
        data_end=np.zeros(n, dtype=np.int64),
        partition=np.full(n, partition, dtype=np.int32),
        offset=np.arange(n, dtype=np.int64),
        append_ms=column("append", np.int64),
        groups=[(partition, 0, n)],
        accounts=accounts,
        account=column("account", np.int32),
        user_key=np.array(users, dtype=np.uint64).reshape(n, 2),
        tx_key=keys("tx", "tx"),
        payload_key=keys("payload", "p"),
        ts_ms=column("ts", np.int64),
        amount_minor=column("amount", np.int64),
        currency=column("currency", np.int16),
        status=column("status", np.int8),
        country=column("country", np.int16, -1),
        day_only=np.full(n, day_only),
        latitude=places[:, 0].copy(),
        longitude=places[:, 1].copy(),
        radius_km=places[:, 2].copy(),
        merchant=keys("merchant", "m"),
        merchant_category=zeros,
        device=keys("device", "d"),
        ip=zeros,
        channel=zeros,
    )


def judge(
    spec: FeatureSpec,
    records: list[dict[str, Any]],
    state: FeatureState,
    accounts: AccountParameters | None = None,
    day_only: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, dispositions and flags of records, in order, as one micro-batch."""
    batch = make_batch(records, day_only=day_only)
    missing = np.array([r["amount"] is None for r in records], dtype=np.bool_)
    overrides = None if accounts is None else [accounts] * len(batch.accounts)
    rows = prepare_rows(spec, batch, batch.amount_minor, missing, overrides)
    out = np.full((batch.n, len(spec.names)), -1.0)
    disposition = np.full(batch.n, -1, dtype=np.int8)
    flags = np.full(batch.n, 255, dtype=np.uint8)
    compute_features(spec, rows, 0, batch.n, state, out, disposition, flags)
    return out, disposition, flags


# Steps in time: bursts, hours, days, a jump past the longest window, late arrivals.
_STEPS = st.one_of(
    st.integers(0, 400_000),
    st.integers(0, 5 * 3_600_000),
    st.integers(0, 3 * DAY),
    st.sampled_from([0, 60_000, 300_000, DAY, 30 * DAY, 31 * DAY]),
    st.integers(-3 * DAY, 0),
    st.sampled_from([-31 * DAY, -30 * DAY, -DAY]),
)
_AMOUNTS = st.one_of(
    st.integers(0, 20_000),
    st.integers(-5_000, 0),
    st.none(),
    st.sampled_from([100, 100, 5_000, (1 << 47) - 1]),
)
_PLACES = st.one_of(
    st.none(),
    st.sampled_from([(52.52, 13.405, 10.0), (40.7128, -74.006, 25.0), (48.85, 2.35, 0.0)]),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180), st.floats(0, 4000)),
)


@st.composite
def histories(draw: st.DrawFn, sizes: tuple[int, int] = (1, 80)) -> list[dict[str, Any]]:
    """Records of a few users in the order of their log, with late ones, repeats and updates.

    User 0 may have led a steady life before, enough for a baseline.
    """
    size = draw(st.integers(*sizes))
    before = random_history(draw(st.integers(0, 99)), draw(st.sampled_from([0, 12, 40, 90])), users=1)
    log = [item | {"ts": item["ts"] - 60 * DAY, "tx": item["tx"] + 10_000} for item in before]
    sparse = draw(st.sets(st.sampled_from(["merchant", "device", "country", "place"])))
    users = draw(st.integers(1, 3))
    now = START
    for i in range(size):
        now = max(START - 100 * DAY, now + draw(_STEPS))
        if log and draw(st.integers(0, 9)) == 0:
            again = dict(draw(st.sampled_from(log)))
            change = draw(st.sampled_from(["repeat", "status", "payload"]))
            if change == "status":
                again["status"] = draw(st.integers(0, 4))
            elif change == "payload":
                again["payload"] += 1_000_000
            log.append(again)
            continue
        log.append(
            record(
                i,
                now,
                draw(_AMOUNTS),
                user=draw(st.integers(0, users - 1)),
                status=draw(st.sampled_from([0, 0, 0, 0, 1, 2, 2, 3, 4])),
                currency=draw(st.sampled_from([1, 1, 1, 7])),
                merchant=None if "merchant" in sparse else draw(st.sampled_from([None, 1, 2, 3, 4])),
                device=None if "device" in sparse else draw(st.sampled_from([None, 1, 1, 2])),
                country=None if "country" in sparse else draw(st.sampled_from([None, 0, 0, 5, 249])),
                place=None if "place" in sparse else draw(_PLACES),
            )
        )
    return log


def random_history(seed: int, size: int, users: int = 2, days: float = 60.0) -> list[dict[str, Any]]:
    """A long, seeded history: a steady life with late arrivals, repeats and every kind of event."""
    rng = np.random.default_rng(seed)
    times = (
        START
        + np.sort(rng.integers(0, int(days * DAY), size))
        - np.where(rng.random(size) < 0.1, rng.integers(0, 3 * DAY, size), 0)
    )
    log: list[dict[str, Any]] = []
    for i in range(size):
        if log and rng.random() < 0.05:
            again = dict(log[int(rng.integers(len(log)))])
            again["status"] = int(rng.integers(0, 5))
            log.append(again)
            continue
        place = (float(rng.uniform(-60, 60)), float(rng.uniform(-180, 180)), float(rng.choice([0, 15, 120])))
        log.append(
            record(
                i,
                int(times[i]),
                int(rng.lognormal(8, 1.0)) * int(rng.choice([1, 1, 1, 1, 1, 1, 1, -1])),
                user=int(rng.integers(users)),
                status=int(rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 4])),
                merchant=int(rng.integers(12)) if rng.random() < 0.9 else None,
                device=int(rng.integers(3)) if rng.random() < 0.9 else None,
                country=int(rng.integers(4)) if rng.random() < 0.9 else None,
                place=place if rng.random() < 0.8 else None,
            )
        )
    return log
