"""The sink's write path alone: from records of `scored` in memory to committed rows in PostgreSQL.

Time of the whole, and the processor time that Python and PostgreSQL take for a row, which a busy machine
changes less.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from anomalyze.storage.partition import PartitionKeeper
from anomalyze.storage.pool import connect
from anomalyze.storage.scored import decode_scored
from anomalyze.storage.store import store_scored
from benchmarks.transactions_index import open_server

FEATURES = 20
ANOMALY_SHARE = 0.01


def main() -> None:
    """Store, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--dsn", help="an empty database of this machine; else an embedded PostgreSQL")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    rng = random.Random(7)
    batches = [
        [record(i, rng, options.users) for i in range(first, first + options.batch)]
        for first in range(0, options.rows, options.batch)
    ]
    with open_server(options.dsn) as dsn, connect(dsn) as connection:
        server, ourselves = psutil.Process(connection.info.backend_pid), psutil.Process()
        keeper = PartitionKeeper()
        decode_s = 0.0
        for number, batch in enumerate(batches):
            if number == 1:  # the first one makes plans and partitions
                begun = (time.perf_counter(), processor_s(ourselves), processor_s(server))
                decode_s = 0.0
            decode_begun_s = time.process_time()
            rows = decode_scored(batch)
            decode_s += time.process_time() - decode_begun_s
            counts = store_scored(
                connection,
                rows,
                consumer="sink",
                log_id="benchmark",
                topic="scored",
                next_offsets={0: (number + 1) * options.batch},
                partitions=keeper,
            )
            assert counts.stored == options.batch
        rows_measured = (len(batches) - 1) * options.batch
        elapsed_s = time.perf_counter() - begun[0]
        python_s, server_s = processor_s(ourselves) - begun[1], processor_s(server) - begun[2]
    result: dict[str, Any] = {
        "rows_s": round(rows_measured / elapsed_s),
        "record_bytes": len(batches[0][0]),
        "microseconds": {
            "decode": round(decode_s / rows_measured * 1e6, 1),
            "python": round(python_s / rows_measured * 1e6, 1),
            "postgresql": round(server_s / rows_measured * 1e6, 1),
        },
    }
    table = Table("rows/s", "decode µs", "Python µs (with decode)", "PostgreSQL µs", box=None)
    table.add_row(str(result["rows_s"]), *map(str, result["microseconds"].values()))
    Console(stderr=True).print(table)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


def processor_s(process: psutil.Process) -> float:
    """Processor time of a process so far."""
    return float(sum(process.cpu_times()[:2]))


def record(number: int, rng: random.Random, users: int) -> bytes:
    """One record of `scored`, with as many features as are published."""
    user = f"user_{rng.randrange(users)}"
    is_anomaly = rng.random() < ANOMALY_SHARE
    verdict: dict[str, Any] = {"final_severity": "NONE", "action": "ALLOW"}
    if is_anomaly:
        verdict = {
            "final_severity": "HIGH",
            "action": "REVIEW",
            "case_id": f"case_{user}",
            "anomaly_id": f"an_{number}",
            "late": False,
            "explanation": "4,500.50 USD is 37 times this user's usual 120.00",
        }
    return msgspec.json.encode(
        {
            "meta": {
                "trace_id": f"trace-{number}",
                "timestamp": datetime.now(UTC) - timedelta(days=1) + timedelta(milliseconds=number),
                "source": "KAFKA",
                "user_id": user,
                "account_id": "acct_7",
            },
            "data": {
                "tx_id": f"tx_{number}",
                "amount": round(rng.lognormvariate(3, 1), 2),
                "currency": "USD",
                "location": "NY",
                "merchant_id": f"m_{rng.randrange(500)}",
                "device_id": f"d_{rng.randrange(5000)}",
            },
            "enrichment": {
                "user_avg_spend": 120.0,
                "distance_from_last_tx": 5000,
                "features": {
                    f"user_amount_feature_{k}_24h": round(rng.random() * 100, 2) for k in range(FEATURES)
                }
                | {"amount_base": 12.5},
            },
            "analysis": {
                "rule_flags": ["AMOUNT_SPIKE"] if is_anomaly else [],
                "ml_score": round(rng.random(), 6),
                "ml_prediction": "NORMAL",
                "bundle": "sha256:" + "a" * 64,
                "profiles": None,
            },
            "verdict": verdict,
            "src": {"partition": 0, "offset": number, "previous": number - 1},
        }
    )


if __name__ == "__main__":
    main()
