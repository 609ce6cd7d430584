"""Throughput of the detector worker from log to log, against the same client doing nothing and against peers.

``python -m benchmarks.stream --bus kafka|embedded --events N [--workers W] [--peers bytewax,quix] [--challenger]``.
With ``--challenger`` another bundle of the same kind is shadowed: run it with and without. Everything
is on: validation, identity, 30-day windows, starter rules, forest, verdict, checkpoints, each event written back.
Peers get the same events, the same ONNX model and a handful of features in plain Python; they run in an
environment of their own (`make bench` makes it).
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalyze.bus.contract import Bus, Rebalance, Records
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.detector import PartitionState
from anomalyze.detection.output import encode_scored, pick_anomalies
from anomalyze.events.decode import decode_records
from anomalyze.learning.promotion import publish_challenger
from anomalyze.storage.objects import open_objects
from benchmarks.harness import CHECKOUT, Bench, arguments, follow, report, say
from realtime.detector.detector_cache import DetectorCache

PASSTHROUGH = "entity-events"  # a topic of the same shape that nothing else uses yet
RECORDS_MAX = 8_000
TIMEOUT_S = 3_600.0
PEERS_PYTHON = CHECKOUT / ".venv-peers" / "bin" / "python"


def run(
    bus_name: str, events: int, workers: int, partitions: int, peers: list[str], *, shadowed: bool = False
) -> dict[str, Any]:
    """Measure; returns the figures. ``shadowed``: with a challenger."""
    with Bench(bus_name, partitions) as bench:
        bundle = bench.publish_bundle()
        bus = bench.open_bus()
        if shadowed:
            store = BundleStore(open_objects(bench.settings.object_store))
            changed = replace(store.load(bundle), created_from={"parent": bundle})
            publish_challenger(store, bus, changed)
        size = bench.fill(bus, events, bundle)
        say(f"{events:,} transactions of {size / events:.0f} bytes")
        result: dict[str, Any] = {"events": events, "bytes": round(size / events), "workers": workers}
        result["challenger"] = shadowed
        result["microseconds"] = stages(bench, bus, bundle)
        passing = bench.run(
            "benchmarks.stream", "--role", "passthrough", "--bus", bus_name, name="passthrough"
        )
        result["passthrough_tx_s"] = follow(bus, PASSTHROUGH, events, TIMEOUT_S)
        passing.stop()
        say(f"passthrough {result['passthrough_tx_s']:,.0f}/s")
        detectors = [
            bench.run("realtime.detector", "--instance", str(n), name=f"detector-{n}") for n in range(workers)
        ]
        result["tx_s"] = follow(bus, SCORED, events, TIMEOUT_S)
        for detector in detectors:
            detector.stop()
        say(f"detector {result['tx_s']:,.0f}/s")
        result["ratio_passthrough"] = round(result["tx_s"] / result["passthrough_tx_s"], 3)
        for peer in peers:
            rate = measure_peer(bench, bus, bundle, peer, min(events, 300_000))
            if rate is not None:
                result[f"{peer}_onnx_tx_s"] = rate
                result[f"ratio_{peer}"] = round(result["tx_s"] / rate, 2)
        bus.close()
        return result


def stages(bench: Bench, bus: Bus, bundle: str) -> dict[str, float]:
    """Microseconds an event of each stage, alone on one core, on up to 200,000 events of the log."""
    records = Records(TRANSACTIONS, [], [], [], [], [])
    reader = bus.reader(TRANSACTIONS, {0: 0})
    begun_s = time.perf_counter()
    while len(records) < 200_000:
        part = reader.read(RECORDS_MAX, 2.0)
        if not len(part):
            break
        for name in ("partitions", "offsets", "append_ms", "keys", "values"):
            getattr(records, name).extend(getattr(part, name))
    consume_s = time.perf_counter() - begun_s
    reader.close()
    cache = DetectorCache(BundleStore(open_objects(bench.settings.object_store)).load)
    detector = cache.get(bundle)
    states = {0: PartitionState.empty()}
    spent = {"decode": 0.0, "judge": 0.0, "encode": 0.0}
    n = 0
    for at in range(1, len(records), RECORDS_MAX):
        end = min(len(records), at + RECORDS_MAX)
        laps = [time.perf_counter()]
        batch = decode_records(
            records.partitions[at:end],
            records.offsets[at:end],
            records.append_ms[at:end],
            records.values[at:end],
            partition_count=bench.partitions,
            future_tolerance_ms=300_000,
            gazetteer=detector.gazetteer,
        ).batch
        laps.append(time.perf_counter())
        verdicts = detector.process(batch, states)
        laps.append(time.perf_counter())
        import numpy as np

        rows = np.arange(batch.n)
        pick_anomalies(verdicts, rows, encode_scored(batch, verdicts, rows, rows))
        laps.append(time.perf_counter())
        if at > RECORDS_MAX:  # the first micro-batch warms up
            n += batch.n
            for name, before, after in zip(spent, laps, laps[1:], strict=False):
                spent[name] += after - before
    found = {name: round(1e6 * seconds / max(1, n), 2) for name, seconds in spent.items()}
    return {"consume": round(1e6 * consume_s / max(1, len(records)), 2), **found}


def passthrough(bus_name: str) -> None:
    """Read and write the same bytes with the same client, nothing between."""
    from anomalyze.bus import open_bus
    from anomalyze.settings import Settings

    settings = Settings()
    dsn = (
        settings.postgres_dsn.get_secret_value() if settings.postgres_dsn and bus_name == "embedded" else None
    )
    bus = open_bus(settings, postgres_dsn=dsn)
    producer = bus.producer()
    consumer = bus.consumer(
        TRANSACTIONS, "passthrough", Rebalance(lambda _: None, lambda _: None, lambda _: None)
    )
    flushed_s = time.monotonic()
    while True:
        records = consumer.poll(RECORDS_MAX, 0.2)
        if len(records):
            producer.send_many(PASSTHROUGH, records.partitions, records.keys, records.values)
        if time.monotonic() - flushed_s > 1.0:
            producer.flush(30.0)
            consumer.commit({p: o + 1 for p, o in zip(records.partitions, records.offsets, strict=True)})
            flushed_s = time.monotonic()


def measure_peer(bench: Bench, bus: Bus, bundle: str, peer: str, events: int) -> float | None:
    """A peer's rate on the first ``events`` events; None when its environment is not there."""
    if not PEERS_PYTHON.exists() or bench.broker is None:
        say(
            f"{peer}: left out ({'`make bench` makes its environment' if bench.broker else 'it needs Kafka'})"
        )
        return None
    model = bench.folder / "model.onnx"
    found = BundleStore(open_objects(bench.settings.object_store)).load(bundle)
    assert found.model is not None
    model.write_bytes(found.model)
    topic = {"bytewax": "labels", "quix": "dead-letters"}[peer]
    log = (bench.folder / f"{peer}.log").open("wb")
    process = subprocess.Popen(
        [
            PEERS_PYTHON,
            Path(__file__).parent / "peers" / f"{peer}_onnx.py",
            bench.broker.bootstrap_servers,
            TRANSACTIONS,
            topic,
            model,
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=bench.folder,
    )
    try:
        rate = follow(bus, topic, events, 600.0)
    except RuntimeError as error:
        say(f"{peer}: {error}\n{(bench.folder / f'{peer}.log').read_text()[-2000:]}")
        return None
    finally:
        process.kill()
        process.wait()
    say(f"{peer} {rate:,.0f}/s")
    return rate


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--peers", default="", help="bytewax,quix")
    parser.add_argument("--challenger", action="store_true", help="shadow another bundle")
    parser.add_argument("--role", choices=("passthrough",), help="internal")
    chosen = parser.parse_args()
    if chosen.role:
        passthrough(chosen.bus)
    peers = [peer for peer in chosen.peers.split(",") if peer]
    result = run(
        chosen.bus, chosen.events, chosen.workers, chosen.partitions, peers, shadowed=chosen.challenger
    )
    report(result, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
