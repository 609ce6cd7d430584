"""Bytes to columns and verdicts to bytes: the compiled codec, the plain parser, and msgspec beside them.

Microseconds of CPU an event on one core, for one micro-batch of ordinary records; ``decode_some_unusual`` has a
text in every 25th record that sends it to the plain parser. ``msgspec`` decodes the same bytes into Python objects
and nothing else: no validation, no hashes, no columns. ``ingest`` is a bulk request of the API.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from anomalyze.events import decode, encode
from anomalyze.events.batch import Decoded
from anomalyze.events.decode import decode_records, decode_records_plain
from anomalyze.events.encode import ScoredEncoder
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.ingest import parse_transactions

FEATURES = 12
NOW_MS = 1_766_232_000_000


def main() -> None:
    """Measure each in turns, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000, help="in one micro-batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()

    started = time.perf_counter()
    decode.warm()
    encode.warm()
    warm_s = time.perf_counter() - started
    values = build_records(options.events, options.seed)
    measured = measure(values, options.rounds)
    result = {
        **{name: round(value, 3) for name, value in measured.items()},
        "record_bytes": round(sum(map(len, values)) / len(values)),
        "warm_s": round(warm_s, 2),
    }
    table = Table("stage", "microseconds an event", title="codec, one core")
    for name, value in measured.items():
        table.add_row(name.removesuffix("_us").replace("_", " "), f"{value:.2f}")
    Console().print(table)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document + "\n")
    print(document)


def build_records(count: int, seed: int) -> list[bytes]:
    """Records as the API writes them, of 700 users."""
    random = np.random.default_rng(seed)
    places = ["NY", "Lagos, NG", "Berlin", "CA", "London", "Austin, TX"]
    encoder = msgspec.json.Encoder()
    records = []
    for i in range(count):
        meta = {
            "trace_id": f"req-{i}",
            "timestamp": f"2025-12-20T11:{i % 60:02d}:{i * 7 % 60:02d}.{i % 1000:03d}Z",
            "source": "REALTIME_API",
            "user_id": f"user_{random.integers(700)}",
            "account_id": "acct_7",
        }
        data = {
            "tx_id": f"tx_{i:012d}",
            "amount": int(random.integers(100, 100_000)) / 100,
            "currency": "USD",
            "location": places[i % len(places)],
            "merchant_id": f"merchant_{random.integers(500)}",
            "merchant_category": "5411",
            "device_id": f"device_{random.integers(900)}",
            "channel": "online",
        }
        records.append(encoder.encode({"meta": meta, "data": data}))
    return records


def measure(values: list[bytes], rounds: int) -> dict[str, float]:
    """The fastest of ``rounds`` for each stage, taken in turns so that a busy moment hits all."""
    n = len(values)
    gazetteer = Gazetteer.load()
    partitions, offsets, append_ms = [0] * n, list(range(n)), [NOW_MS] * n

    def run(function: Callable[..., Decoded], records: list[bytes]) -> Decoded:
        return function(
            partitions,
            offsets,
            append_ms,
            records,
            partition_count=1,
            future_tolerance_ms=0,
            gazetteer=gazetteer,
        )

    escaped = [v.replace(b"online", b"on\\u006cine") if i % 25 == 0 else v for i, v in enumerate(values)]
    generic = msgspec.json.Decoder()
    body = b"[" + b",".join(flat(value) for value in values) + b"]"
    random = np.random.default_rng(1)
    features = np.round(random.exponential(50.0, (n, FEATURES)), 2)
    one, rows = random.random(n), np.arange(n)
    batch = run(decode_records, values).batch
    encoder = ScoredEncoder(
        [f"user_feature_{i}_10m" for i in range(FEATURES)], [2] * FEATURES, "sha256:" + "a" * 64
    )
    stages: dict[str, Callable[[], object]] = {
        "msgspec_us": lambda: [generic.decode(value) for value in values],
        "decode_us": lambda: run(decode_records, values),
        "decode_some_unusual_us": lambda: run(decode_records, escaped),
        "decode_plain_us": lambda: run(decode_records_plain, values),
        "encode_us": lambda: encoder.encode(
            batch, rows, features, one * 100, one * 1000, one, np.zeros(n, dtype=np.bool_), rows - 1, {}
        ),
        "ingest_us": lambda: parse_transactions(
            body,
            account_id="acct_7",
            source="REALTIME_API",
            now_ms=NOW_MS,
            future_tolerance_ms=0,
            trace_id="r",
            records_max=n,
        ),
    }
    best = dict.fromkeys(stages, float("inf"))
    for _ in range(rounds):
        for name, stage in stages.items():
            started = time.thread_time()
            stage()
            best[name] = min(best[name], (time.thread_time() - started) / n * 1e6)
    return best


def flat(value: bytes) -> bytes:
    """What a client would have sent for this record."""
    record = msgspec.json.decode(value)
    meta = {name: record["meta"][name] for name in ("user_id", "timestamp")}
    return msgspec.json.encode({**meta, **record["data"]})


if __name__ == "__main__":
    main()
