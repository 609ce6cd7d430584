"""Rows a second from a CSV file onto the log, on one core, and the memory that takes.

``python -m benchmarks.csv --rows 1000000`` writes a made-up file, then measures: polars reading the same file and
nothing else; reading, validating and ordering; publishing to a real log (``--bus embedded`` or ``kafka``); with the
peak of memory of this process. No detector runs: what is measured is the way to the log.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl

from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.ingestion.order import OrderedRows
from anomalyze.ingestion.parse import parse_file
from anomalyze.ingestion.publish import publish_rows
from anomalyze.ingestion.records import Source
from anomalyze.ingestion.work import BATCH_ROWS
from benchmarks.harness import Bench, arguments, report

MAPPING = FileMapping(
    fields={
        "tx_id": "id",
        "user_id": "user",
        "timestamp": "time",
        "amount": "amount",
        "currency": "currency",
        "merchant_id": "merchant",
        "device_id": "device",
        "country": "country",
        "status": "status",
    }
)
START_S = 1_735_689_600
CHUNK_ROWS = 500_000
PARTITIONS = 8


def write_file(path: Path, rows: int, *, shuffled: bool, seed: int) -> None:
    """Made-up transactions of 100,000 people; one row in a thousand is no transaction."""
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        for first in range(0, rows, CHUNK_ROWS):
            n = min(CHUNK_ROWS, rows - first)
            place = np.arange(first, first + n)
            seconds = random.integers(0, rows, n) if shuffled else place
            cents = np.round(random.lognormal(3, 1, n) * 100).astype(np.int64)
            cents[random.random(n) < 0.001] = -1
            frame = pl.DataFrame(
                {
                    "id": place,
                    "user": random.integers(0, 100_000, n),
                    "time": START_S + seconds // 2,
                    "cents": cents,
                    "merchant": random.integers(0, 5_000, n),
                    "device": random.integers(0, 200_000, n),
                }
            ).select(
                pl.format("tx_{}", "id").alias("id"),
                pl.format("user_{}", "user").alias("user"),
                pl.from_epoch("time").dt.strftime("%Y-%m-%d %H:%M:%S").alias("time"),
                pl.when(pl.col("cents") < 0)
                .then(pl.lit("n/a"))
                .otherwise(
                    pl.format(
                        "{}.{}", pl.col("cents") // 100, (pl.col("cents") % 100).cast(pl.String).str.zfill(2)
                    )
                )
                .alias("amount"),
                pl.lit("EUR").alias("currency"),
                pl.format("m_{}", "merchant").alias("merchant"),
                pl.format("d_{}", "device").alias("device"),
                pl.lit("DE").alias("country"),
                pl.lit("settled").alias("status"),
            )
            frame.write_csv(file, include_header=first == 0)


class Peak(threading.Thread):
    """The largest resident memory of this process while it runs, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        """Look ten times a second."""
        while not self._ended.wait(0.1):
            self.mb = max(self.mb, _resident_mb())

    def end(self) -> float:
        """Stop looking."""
        self._ended.set()
        self.join()
        return max(self.mb, _resident_mb())


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def publish(bus: Bus, ordered: OrderedRows) -> None:
    """As the worker does, without waiting for a detector."""
    partitions = bus.partitions(TRANSACTIONS)
    producer = bus.producer()
    for batch in ordered.read(0, BATCH_ROWS):
        publish_rows(producer, partitions, batch)
    producer.close()


def polars_read_s(path: Path) -> float:
    """Seconds that polars takes to read a file and do nothing with it, in a process whose memory is its own."""
    program = (
        "import sys, time, polars as pl; began = time.perf_counter(); "
        "pl.read_csv(sys.argv[1], infer_schema=False); print(time.perf_counter() - began)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    return float(ended.stdout)


def measure(folder: Path, rows: int, bus: Bus, *, shuffled: bool) -> dict[str, Any]:
    """One file from beginning to end."""
    path = folder / "plain.csv"
    write_file(path, rows, shuffled=shuffled, seed=7)
    source = Source("acct", "0" * 64, int(time.time() * 1000), 300_000)
    # Compiling is not what is measured.
    next(parse_file(path, MAPPING, source))
    polars_s = polars_read_s(path)
    peak = Peak()
    peak.start()
    used = time.process_time()
    began = time.perf_counter()
    ordered = OrderedRows(folder)
    read = refused = 0
    for chunk in parse_file(path, MAPPING, source):
        ordered.add(chunk.frame)
        read += chunk.rows
        refused += len(chunk.errors)
    parsed = time.perf_counter()
    publish(bus, ordered)
    ended = time.perf_counter()
    return {
        "rows": read,
        "refused": refused,
        "bytes": path.stat().st_size,
        "polars_rows_s": round(read / polars_s),
        "parse_rows_s": round(read / (parsed - began)),
        "rows_s": round(read / (ended - began)),
        "cpu_rows_s": round(read / (time.process_time() - used)),
        "peak_mb": round(peak.end()),
    }


def main() -> None:
    """Measure a file in order and one in none."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bus", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--order", choices=("sorted", "shuffled", "both"), default="both")
    options = parser.parse_args()
    result: dict[str, Any] = {"bus": options.bus}
    with Bench(options.bus, PARTITIONS) as bench:
        bus = bench.open_bus()
        for order in ("sorted", "shuffled"):
            if options.order in (order, "both"):
                found = measure(bench.folder, options.rows, bus, shuffled=order == "shuffled")
                result |= {f"{order}_{name}": value for name, value in found.items()}
        bus.close()
    result["rows_s"] = min(value for name, value in result.items() if name.endswith("ed_rows_s"))
    report(result, options.json)


if __name__ == "__main__":
    main()
