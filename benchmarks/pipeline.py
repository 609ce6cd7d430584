"""From the log to rows in PostgreSQL, detector and sink running: ``python -m benchmarks.pipeline --events N``.

``stored_tx_s`` counts rows of the table `transactions` while both programs work at once on one machine.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import psycopg

from benchmarks.harness import Bench, arguments, report, say


def run(bus_name: str, events: int, partitions: int) -> dict[str, Any]:
    """Measure; returns the figures."""
    with Bench(bus_name, partitions, postgres=True) as bench:
        bundle = bench.publish_bundle()
        bus = bench.open_bus()
        bench.fill(bus, events, bundle)
        bench.run("realtime.detector", name="detector")
        bench.run("realtime.sink", name="sink")
        with psycopg.connect(bench.dsn, autocommit=True) as connection:
            marks = [(time.monotonic(), 0)]
            begun_s = time.monotonic()
            while marks[-1][1] < events:
                time.sleep(0.25)
                row = connection.execute(
                    "SELECT coalesce(sum(transactions), 0)::bigint FROM hourly"
                ).fetchone()
                assert row is not None
                marks.append((time.monotonic(), row[0]))
                if time.monotonic() - begun_s > 1_800:
                    say((bench.folder / "sink.log").read_text()[-3000:])
                    raise RuntimeError(f"{row[0]:,} of {events:,} rows after half an hour")
            count = connection.execute("SELECT count(*) FROM transactions").fetchone()
        bus.close()
    low = next(mark for mark in marks if mark[1] >= 0.05 * events)
    high = next(mark for mark in marks if mark[1] >= 0.95 * events)
    return {
        "events": events,
        "stored": count[0] if count else 0,
        "stored_tx_s": (high[1] - low[1]) / max(1e-9, high[0] - low[0]),
    }


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    chosen = parser.parse_args()
    report(run(chosen.bus, chosen.events, chosen.partitions), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
