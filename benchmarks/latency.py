"""Latency at a given rate: from produce to scored, and through ``POST /v1/score``.

``python -m benchmarks.latency --rate R --seconds S [--score-rate R] [--bus kafka|embedded]``. Produce times ride
in each transaction's trace id; a reader of `scored` on the same clock takes the difference.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from typing import Any

from anomalyze.bus.contract import Bus
from anomalyze.bus.control import encode_control
from anomalyze.bus.partitioner import murmur2_partitions
from anomalyze.bus.topics import SCORED, TRANSACTIONS
from benchmarks.harness import Bench, arguments, quantiles_ms, report, say, scored_count, wait_for

TICK_S = 0.002
# A broker that has just started spends half a minute of a core compiling itself.
WARM_UP_S = 45.0
LINGER_MS = 2.0
# Shorter than the server keeps an idle connection, or the two race for it.
KEPT_S = 2.0
HEAD = (
    b"POST /v1/score?timeout_ms=2000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
# Each event is a second of event time after the one before: every user buys once in five and a half hours.
USERS = 20_000
START_S = 1_767_225_600
STAMP = re.compile(rb'"trace_id":"(\d+)"')
TEMPLATE = (
    '{{"meta":{{"trace_id":"{at}","timestamp":"{ts}","source":"KAFKA","user_id":"u{user}","account_id":"bench"}},'
    '"data":{{"tx_id":"{tx}","amount":{amount}.25,"currency":"USD","location":"Berlin","merchant_id":"m_{merchant}",'
    '"device_id":"d_{user}","channel":"online"}}}}'
)

Idle = tuple[asyncio.StreamReader, asyncio.StreamWriter, float]


def run(bus_name: str, rate: int, seconds: float, score_rate: int, partitions: int) -> dict[str, Any]:
    """Measure; returns the figures."""
    with Bench(bus_name, partitions, postgres=True, valkey=True) as bench:
        bundle = bench.publish_bundle()
        bus = bench.open_bus()
        producer = bus.producer()
        for partition in range(partitions):
            producer.send(TRANSACTIONS, partition, None, encode_control("bundle", {"bundle": bundle}))
        producer.flush(30)
        bench.run("realtime.detector", name="detector")
        result: dict[str, Any] = {"rate": rate, "seconds": seconds}
        warm = produce(bus, rate, WARM_UP_S, "w")
        wait_for(lambda: scored_count(bus) >= warm, "the detector judges")
        result |= stream_latency(bus, rate, seconds)
        say(f"produce to scored: {result}")
        result["score"] = score_latency(bench, score_rate, seconds)
        bus.close()
        return result


def produce(bus: Bus, rate: int, seconds: float, prefix: str) -> int:
    """Produce at a steady rate; returns how many."""
    producer = bus.producer(linger_ms=LINGER_MS)
    partitions = bus.partitions(TRANSACTIONS)
    begun_s = time.monotonic()
    sent = 0
    while (elapsed_s := time.monotonic() - begun_s) < seconds:
        due = int(elapsed_s * rate) - sent
        if due <= 0:
            time.sleep(TICK_S)
            continue
        now_ns = time.time_ns()
        values, keys = [], []
        for i in range(sent, sent + due):
            user = i * 7919 % USERS
            ts = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START_S + i))
            values.append(
                TEMPLATE.format(
                    at=now_ns, ts=ts, user=user, tx=f"{prefix}{i}", amount=10 + i % 90, merchant=i % 300
                ).encode()
            )
            keys.append(b"u%d" % user)
        producer.send_many(TRANSACTIONS, murmur2_partitions(keys, partitions), keys, values)
        sent += due
    producer.flush(30)
    producer.close()
    return sent


def stream_latency(bus: Bus, rate: int, seconds: float) -> dict[str, float]:
    """From just before produce to a reader of `scored` having the record."""
    ends = {p: high for p, (_, high) in bus.watermarks(SCORED).items()}
    reader = bus.reader(SCORED, ends)
    found: list[float] = []
    total: list[int] = []

    def read() -> None:
        quiet_since = time.monotonic()
        while not total or (len(found) < total[0] and time.monotonic() - quiet_since < 10):
            records = reader.read(5_000, 0.1)
            now_ns = time.time_ns()
            for value in records.values:
                stamp = STAMP.search(value, 0, 200)
                if stamp is not None:
                    found.append((now_ns - int(stamp[1])) / 1e9)
            if len(records):
                quiet_since = time.monotonic()

    thread = threading.Thread(target=read)
    thread.start()
    total.append(produce(bus, rate, seconds, "s"))
    thread.join()
    reader.close()
    return quantiles_ms(found[len(found) // 10 :])  # the first tenth warms up


def score_latency(bench: Bench, rate: int, seconds: float) -> dict[str, float]:
    """Through ``POST /v1/score`` at a steady rate, as a client sees it."""
    return drive_scores(*bench.start_api(), rate, seconds)


def drive_scores(port: int, key: str, rate: int, seconds: float) -> dict[str, float]:
    """The same through an API that runs."""
    times: list[float] = []
    statuses: dict[int, int] = {}

    async def ask(idle: list[Idle], i: int) -> None:
        body = b'{"user_id":"v%d","tx_id":"score-%d","amount":%d,"currency":"USD"}' % (
            i % USERS,
            i,
            10 + i % 90,
        )
        begun_s = time.perf_counter()
        reader, writer, since_s = idle.pop() if idle else (None, None, 0.0)
        if reader is None or writer is None or begun_s - since_s > KEPT_S:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD % (key.encode(), len(body)) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        times.append(time.perf_counter() - begun_s)
        idle.append((reader, writer, time.perf_counter()))
        status = int(head[9:12])
        statuses[status] = statuses.get(status, 0) + 1

    async def drive() -> None:
        # A client of a few lines: a full one would take more of the machine than the server.
        idle: list[Idle] = []
        begun_s = time.monotonic()
        tasks = []
        for i in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun_s + i / rate - time.monotonic()))
            tasks.append(asyncio.create_task(ask(idle, i)))
        await asyncio.gather(*tasks)
        for _, writer, _ in idle:
            writer.close()

    asyncio.run(drive())
    return {
        "rate": rate,
        **quantiles_ms(times[len(times) // 10 :]),
        "answered_200": statuses.get(200, 0),
        "answered_202": statuses.get(202, 0),
    }


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--score-rate", type=int, default=200)
    parser.add_argument("--partitions", type=int, default=4)
    chosen = parser.parse_args()
    report(run(chosen.bus, chosen.rate, chosen.seconds, chosen.score_rate, chosen.partitions), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
