"""What live traffic notices of an upload: ``POST /v1/score`` at a steady rate before a file comes and while it is at work.

``python -m benchmarks.upload --rows 400000 --seconds 12``: API, detector, sink and the upload's run (at the niceness that
`anomalyze up` gives it) share the machine, as in the product; only Dagster itself is left out.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx

from anomalyze.bus.control import encode_control
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.embedded.process import GuardedProcess
from anomalyze.embedded.up import LATE_NICENESS
from benchmarks.csv import MAPPING, write_file
from benchmarks.harness import Bench, arguments, report, say, wait_for
from benchmarks.latency import drive_scores

PARTITIONS = 8
WARM_UP_S = 8.0
WORK = (
    "import sys; from anomalyze.ingestion import pace; "
    "pace.UNJUDGED_MIN, pace.LIVE_S = (10_000, 0) if sys.argv[2] == 'heedless' else (pace.UNJUDGED_MIN, pace.LIVE_S); "
    "from anomalyze.bus import open_bus; from anomalyze.ingestion.work import work_off; "
    "from anomalyze.settings import Settings; from anomalyze.storage.objects import open_objects; s = Settings(); "
    "dsn = s.postgres_dsn.get_secret_value(); work_off(sys.argv[1], dsn=dsn, objects=open_objects(s.object_store), "
    "bus=open_bus(s, postgres_dsn=dsn), future_tolerance_s=300)"
)


def run(bus_name: str, rows: int, rate: int, seconds: float, heedless: bool) -> dict[str, Any]:
    """Measure; returns the figures. ``heedless``: 10,000 rows may always wait for the detector, and the file never rests."""
    with Bench(bus_name, PARTITIONS, postgres=True, valkey=True) as bench:
        bundle = bench.publish_bundle()
        bus = bench.open_bus()
        producer = bus.producer()
        for partition in range(PARTITIONS):
            producer.send(TRANSACTIONS, partition, None, encode_control("bundle", {"bundle": bundle}))
        producer.flush(30)
        producer.close()
        bench.run("realtime.detector", name="detector")
        bench.run("realtime.sink", name="sink")
        port, key = bench.start_api()
        path = bench.folder / "file.csv"
        write_file(path, rows, shuffled=True, seed=3)
        drive_scores(port, key, rate, WARM_UP_S)
        alone = drive_scores(port, key, rate, seconds)
        say(f"alone: {alone}")
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
        ) as client:
            query = {"mapping": MAPPING.model_dump_json(exclude_defaults=True)}
            with path.open("rb") as file:
                sent = client.post("/v1/uploads", params=query, content=file, timeout=120)
            taken = sent.raise_for_status().json()
            worker = GuardedProcess(
                "upload",
                [sys.executable, "-c", WORK, taken["id"], "heedless" if heedless else "heedful"],
                bench.folder / "upload.log",
                env=bench.environment,
                niceness=LATE_NICENESS,
            )
            bench.stack.callback(worker.stop)

            def look() -> dict[str, Any]:
                return dict(client.get(f"/v1/uploads/{taken['id']}").json())

            wait_for(lambda: look()["rows"]["published"] > 0, "rows go out")
            began_s, before = time.monotonic(), look()["rows"]["scored"]
            beside = drive_scores(port, key, rate, seconds)
            after = look()
            rows_s = (after["rows"]["scored"] - before) / (time.monotonic() - began_s)
            if after["state"] != "running":
                say("the file was done before the measurement: give more rows")
            worker.kill()
        bus.close()
    return {"rows": rows, "alone": alone, "beside": beside, "upload_rows_s": round(rows_s)}


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default="embedded")
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--heedless", action="store_true", help="as if nobody else sent transactions")
    chosen = parser.parse_args()
    report(run(chosen.bus, chosen.rows, chosen.rate, chosen.seconds, chosen.heedless), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
