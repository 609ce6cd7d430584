"""The REST API alone: single posts a second and bulk transactions a second, each durable when it is answered.

``python -m benchmarks.api [--bus kafka|embedded] [--seconds S]``. The client shares the machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from anomalyze.simulation.record import flat_records
from anomalyze.simulation.world import Simulation
from benchmarks.harness import END_MS, Bench, arguments, report

CONNECTIONS = 64
# A broker that has just started spends half a minute of a core compiling itself.
WARM_UP_S = 30.0
BULK_ROWS = 1_000
BULK_CONNECTIONS = 4


def run(bus_name: str, seconds: float, partitions: int) -> dict[str, Any]:
    """Measure; returns the figures."""
    with Bench(bus_name, partitions, postgres=True, valkey=True) as bench:
        bench.open_bus().close()
        port, key = bench.start_api()
        world = Simulation(users=2_000, seed=3, start_ms=END_MS - 30 * 86_400_000, days=20)
        rows = [row for chunk in world.chunks() for row in flat_records(chunk, "api")]
        headers = [f"Authorization: Bearer {key}", "Content-Type: application/json"]
        asyncio.run(drive(port, headers, "/transaction", rows, CONNECTIONS, WARM_UP_S))
        singles = asyncio.run(drive(port, headers, "/transaction", rows, CONNECTIONS, seconds))
        bulks = [
            b"[" + b",".join(rows[at : at + BULK_ROWS]) + b"]"
            for at in range(0, len(rows) - BULK_ROWS, BULK_ROWS)
        ]
        posted = asyncio.run(drive(port, headers, "/v1/transactions", bulks, BULK_CONNECTIONS, seconds))
    return {
        "single_req_s": singles,
        "bulk_tx_s": posted * BULK_ROWS,
        "connections": CONNECTIONS,
        "bulk_rows": BULK_ROWS,
    }


async def drive(
    port: int, headers: list[str], path: str, bodies: list[bytes], connections: int, seconds: float
) -> float:
    """Requests a second that were answered 202, over so many kept connections.

    A client of a few lines: a full one would take more of the machine than the server.
    """
    answered = [0]
    end_s = time.monotonic() + seconds

    async def work(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        i = first
        while time.monotonic() < end_s:
            body = bodies[i % len(bodies)]
            i += connections
            lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(f"{head!r} {answer[:300]!r}")
            answered[0] += 1
        writer.close()

    begun_s = time.monotonic()
    await asyncio.gather(*(work(i) for i in range(connections)))
    return answered[0] / (time.monotonic() - begun_s)


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--partitions", type=int, default=8)
    chosen = parser.parse_args()
    report(run(chosen.bus, chosen.seconds, chosen.partitions), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
