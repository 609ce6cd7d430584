"""Cost of a transaction's features, and memory of a user, at one thousand to a million users.

Every user has 60 transactions over 30 days. Then transactions of random users are timed, in micro-batches,
against the state as filled: everything that the detector does between decoding and judging.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from anomalyze.features import FeatureSpec, FeatureState, RowInputs, compute_features, warm

EVENTS = 60
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
BATCH_ROWS = 5_000
ROUNDS = 30
FILL_ROWS = 200_000


def main() -> None:
    """Measure each number of users and print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", default="1000,100000,1000000", help="numbers of users, comma-separated")
    parser.add_argument("--config", type=Path, default=Path("metrics_config/features.yaml"))
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    spec = FeatureSpec.load(options.config)
    warm(spec)
    filled = [Filled(spec, int(part)) for part in options.users.split(",")]
    for _ in range(ROUNDS):  # in turns, so that a busy machine is busy for all of them
        for one in filled:
            one.time_batch()
    result = {
        "microseconds_per_event": {str(f.users): round(statistics.median(f.timings), 3) for f in filled},
        "bytes_per_user": {str(f.users): round(f.bytes_used / f.users, 1) for f in filled},
        "resident_bytes_per_user": {str(f.users): round(f.resident_bytes / f.users, 1) for f in filled},
        "snapshot_ms": {str(f.users): round(f.snapshot_ms, 1) for f in filled},
    }
    show(result)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


class Filled:
    """A state with ``EVENTS`` events of each of ``users`` users."""

    def __init__(self, spec: FeatureSpec, users: int) -> None:
        self.spec, self.users = spec, users
        self.rng = np.random.default_rng(7)
        self.keys = self.rng.integers(-(1 << 63), 1 << 63, (users, 2), dtype=np.int64)
        gc.collect()
        before = psutil.Process().memory_info().rss
        self.state = FeatureState()
        for turn in range(EVENTS):
            order = self.rng.permutation(users)
            for first in range(0, users, FILL_ROWS):
                chosen = self.keys[order[first : first + FILL_ROWS]]
                judge(spec, self.state, make_rows(self.rng, chosen, turn * DAY_MS // 2))
        gc.collect()
        self.resident_bytes = psutil.Process().memory_info().rss - before
        self.bytes_used = self.state.bytes_used
        begin = time.perf_counter()
        saved = self.state.snapshot()
        self.snapshot_ms = (time.perf_counter() - begin) * 1000
        # Few users would soon leave their 60 transactions behind: each batch meets them as filled.
        self.saved = saved if users < ROUNDS * BATCH_ROWS else None
        self.timings: list[float] = []

    def time_batch(self) -> None:
        """Judge one micro-batch of random users; adds microseconds an event to ``timings``."""
        if self.saved is not None:
            self.state = FeatureState.restore(self.saved)
        chosen = self.keys[self.rng.integers(0, self.users, BATCH_ROWS)]
        rows = make_rows(self.rng, chosen, EVENTS * DAY_MS // 2)
        self.timings.append(judge(self.spec, self.state, rows) / BATCH_ROWS * 1e6)


def make_rows(rng: np.random.Generator, keys: np.ndarray, after_ms: int) -> RowInputs:
    """Ordinary transactions: 30 merchants and two devices a user, within half a day."""
    n = len(keys)
    city = rng.integers(0, 5, n)
    merchant = (keys[:, 0] + rng.integers(1, 31, n)) & 0x1FFFFF
    device = (keys[:, 1] + rng.integers(1, 3, n)) & 0xFFFF
    ts = START_MS + after_ms + np.sort(rng.integers(0, DAY_MS // 2, n))
    status = np.where(rng.random(n) < 0.03, 2, 0)
    codes = np.zeros((n, 10), dtype=np.int64)
    codes[:, :2] = keys
    codes[:, 2] = ts << 21 | (1 + city // 3) << 4 | status
    codes[:, 3] = rng.integers(-(1 << 63), 1 << 63, n, dtype=np.int64)
    codes[:, 4] = rng.lognormal(8.0, 1.0, n).astype(np.int64) << 16 | device
    codes[:, 5] = (((20_000 + 200 * city) << 16 | 30_000) << 4 | 6) << 29 | merchant << 8
    codes[:, 6] = START_MS
    return RowInputs(codes, np.array([99]), np.array([100.0]), np.array([50.0]))


def judge(spec: FeatureSpec, state: FeatureState, rows: RowInputs) -> float:
    """Judge the rows; returns the seconds of this thread, which a busy machine stretches less than the clock."""
    n = len(rows.codes)
    out = np.empty((n, len(spec.names)))
    disposition, flags = np.empty(n, dtype=np.int8), np.empty(n, dtype=np.uint8)
    begin = time.thread_time()
    compute_features(spec, rows, 0, n, state, out, disposition, flags)
    seconds = time.thread_time() - begin
    assert not disposition.any(), "every transaction of the benchmark is new"
    return seconds


def show(result: dict[str, dict[str, float]]) -> None:
    """The table for people."""
    table = Table("users", "microseconds an event", "bytes a user", "resident bytes a user", "snapshot ms")
    for users in result["bytes_per_user"]:
        table.add_row(users, *(str(column[users]) for column in result.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
