"""Kill programs at seeded moments under load, while files are worked off and bundles swapped, then hold what is stored
against an undisturbed replay.

``python -m tests.simulation.chaos --bus kafka|embedded --kills K --seed S --transactions N`` prints a table and,
as its last line, one JSON object. ``--canary`` runs a worker whose commit order is broken on purpose: it must
be found out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg

from anomalyze.bus.topics import SCORED, TRANSACTIONS
from anomalyze.simulation.record import flat_records
from anomalyze.simulation.world import Simulation
from tests.simulation.change import Swaps, Uploads
from tests.simulation.ledger import Comparison, compare, replay
from tests.simulation.stack import CHECKOUT, Stack

SENDERS = 4
REQUEST_ROWS = 25
# Load between two kills: programs are killed while they work, and recovered when the next one comes.
SECONDS_A_KILL = 3.0
REPEAT_SHARE = 0.03
STATUS_SHARE = 0.02
DRAIN_TIMEOUT_S = 240.0
# Nothing moves for so long: longer than the longest back-off of a program that fails at its start.
STALLED_S = 60.0
# How long a program that was killed a moment ago may take until it can be killed again: its back-off grows to 30 s.
DOWN_TIMEOUT_S = 60.0
GROUP = "detector"
# Users whose transactions come in files instead: one in so many.
FILE_USERS = 4
FILES = 2
# Of the time that kills take at most: a little less than they take on the average, since restarts come on top.
FILES_SHARE = 0.6


class NotDrainedError(RuntimeError):
    """What was accepted is not all judged and stored, and nothing moves any more."""


@dataclass(slots=True)
class Load:
    """What was sent and what was accepted."""

    sent: int = 0
    refused: int = 0
    accepted: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def run(
    bus: str,
    kills: int,
    seed: int,
    transactions: int,
    folder: Path,
    canary: bool = False,
    only: str | None = None,
) -> dict[str, Any]:
    """One chaos run; see the module's docstring. ``only`` names the one program to kill."""
    choose = random.Random(seed)
    extra = {"ANOMALYZE_CHECKPOINT_INTERVAL_S": "2"}
    if canary:
        extra["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).with_name("canary")), str(CHECKOUT)])
    stack = Stack(folder, bus, **extra)
    stack.start()
    killed: Counter[str] = Counter()
    load = Load()
    bodies, in_files = traffic(seed, transactions)
    uploads = Uploads(stack, in_files, FILES, kills * SECONDS_A_KILL * FILES_SHARE)
    swaps = Swaps(stack)
    try:
        stop = threading.Event()
        uploads.start()
        swaps.publish()
        senders = start_senders(stack, load, bodies, seed, kills * SECONDS_A_KILL, stop)
        begun_s = time.monotonic()
        for number, target in enumerate([only] * kills if only else rounds(choose, bus, kills)):
            # In the middle of what happens next, and of its recovery.
            if number == kills // 3:
                swaps.promote()
            if number == 2 * kills // 3:
                swaps.roll_back()
            # From the last kill on, however long that took: what is killed should be at work.
            time.sleep(choose.uniform(0.3, 1.0) * SECONDS_A_KILL)
            if target == "uploader":
                uploads.kill()
            else:
                kill(stack, target, choose.randrange(8))
            killed[target] += 1
            say(f"{time.monotonic() - begun_s:6.1f} s  killed {target:<10} accepted {len(load.accepted)}")
        for sender in senders:
            sender.join()
        try:
            say("; ".join(swaps.wait()))
            load.sent += len(uploads.sent)
            load.accepted |= uploads.wait()
            drain(stack)
        except (NotDrainedError, TimeoutError) as error:
            say(f"{error}\n{stack.output()}")
            return report(load, Comparison(examples=[str(error)]), killed, is_drained=False)
        say("drained; replaying the log undisturbed")
        log = stack.open_bus()
        try:
            scored, statuses = replay(log, stack.settings, seed)
        finally:
            log.close()
        with psycopg.connect(stack.dsn) as connection:
            result = compare(connection, load.accepted, scored, statuses)
        if not result.clean:
            say(stack.output())
        return report(load, result, killed)
    finally:
        uploads.stop()
        stack.stop()


def rounds(choose: random.Random, bus: str, kills: int) -> list[str]:
    """Whom to kill: every program in turn, in another order each time; the detector twice as often."""
    targets = ["api", "detector", "detector", "sink", "postgresql", "valkey", "uploader"]
    targets += ["broker"] if bus == "kafka" else []
    order: list[str] = []
    while len(order) < kills:
        order += choose.sample(targets, len(targets))
    return order[:kills]


def kill(stack: Stack, target: str, number: int) -> None:
    """Kill one process of a program, as soon as one runs; a broker is started again at once."""
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while not stack.kill(target, number):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{target} did not come back within {DOWN_TIMEOUT_S:.0f} s\n{stack.output()}")
        time.sleep(0.1)
    if target == "broker":
        assert stack.broker is not None
        stack.broker.start()


def traffic(seed: int, transactions: int) -> tuple[list[bytes], list[bytes]]:
    """Flat records of simulated people: those to post, and those that come in files."""
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=20)
    world = Simulation(
        users=400,
        seed=seed,
        start_ms=int(start.timestamp() * 1000),
        days=18,
        per_day_mean=max(1.0, transactions / 400 / 16),
        incidents_per_10k=40.0,
    )
    bodies: list[bytes] = []
    for chunk in world.chunks():
        bodies += flat_records(chunk, f"c{seed}")
    bodies = bodies[:transactions]
    in_files = [body for body in bodies if user_hash(body) % FILE_USERS == 0]
    return [body for body in bodies if user_hash(body) % FILE_USERS], in_files


def user_hash(body: bytes) -> int:
    """A number by user: a user's transactions stay together, and in order."""
    return zlib.crc32(body[: body.index(b",")])


def start_senders(
    stack: Stack, load: Load, bodies: list[bytes], seed: int, seconds: float, stop: threading.Event
) -> list[threading.Thread]:
    """Threads that post until each of their transactions was accepted."""
    by_sender: list[list[bytes]] = [[] for _ in range(SENDERS)]
    for body in bodies:
        by_sender[user_hash(body) // FILE_USERS % SENDERS].append(body)
    pause_s = seconds / max(1, len(bodies) / REQUEST_ROWS / SENDERS)
    threads = [
        threading.Thread(target=send, args=(stack, load, rows, seed + i, pause_s, stop), daemon=True)
        for i, rows in enumerate(by_sender)
    ]
    for thread in threads:
        thread.start()
    return threads


def send(
    stack: Stack, load: Load, rows: list[bytes], seed: int, pause_s: float, stop: threading.Event
) -> None:
    """Post all rows in order; what is not known to be accepted is sent again."""
    choose = random.Random(seed)
    ids: list[str] = [msgspec.json.decode(row)["tx_id"] for row in rows]
    with httpx.Client(timeout=5.0) as client:
        for at in range(0, len(rows), REQUEST_ROWS):
            part = rows[at : at + REQUEST_ROWS]
            extra = []
            if choose.random() < REPEAT_SHARE * REQUEST_ROWS and at:
                extra.append(rows[choose.randrange(at)])
            if choose.random() < STATUS_SHARE * REQUEST_ROWS and at:
                changed = msgspec.json.decode(rows[choose.randrange(at)])
                changed["status"] = "reversed"
                extra.append(msgspec.json.encode(changed))
            body = b"[" + b",".join(part + extra) + b"]"
            begun_s = time.monotonic()
            while not stop.is_set():
                if post(client, stack, load, body):
                    break
                time.sleep(0.1)
            with load.lock:
                load.sent += len(part)
                load.accepted.update(ids[at : at + REQUEST_ROWS])
            time.sleep(max(0.0, pause_s - (time.monotonic() - begun_s)))


def post(client: httpx.Client, stack: Stack, load: Load, body: bytes) -> bool:
    """One try; True when the API said that it has everything."""
    try:
        answer = client.post(
            f"{stack.api}/v1/transactions",
            content=body,
            headers={**stack.headers, "Content-Type": "application/json"},
        )
    except httpx.HTTPError:
        return False
    if answer.status_code != 202:
        if answer.status_code not in (429, 503):
            raise RuntimeError(f"unexpected answer {answer.status_code}: {answer.text[:500]}")
        return False
    refused = answer.json()["rejected"]
    if refused:
        raise RuntimeError(f"the API refused what it should take: {refused[:3]}")
    return True


def drain(stack: Stack) -> None:
    """Wait until every record was judged and every verdict stored.

    Both are known, not guessed: the detector commits what it has flushed, the sink's place is in PostgreSQL.
    """
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    last: dict[str, dict[int, int]] = {}
    moved_s = time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - moved_s < STALLED_S:
        try:
            now = places(stack)
        except Exception:
            time.sleep(0.2)
            continue
        if reached(now["judged"], now["log"]) and reached(now["stored"], now["scored"]):
            return
        if now != last:
            last, moved_s = now, time.monotonic()
        time.sleep(0.2)
    raise NotDrainedError(f"not drained: {last}")


def places(stack: Stack) -> dict[str, dict[int, int]]:
    """How far the log, the detector, its verdicts and the sink are, by partition."""
    log = stack.open_bus()
    try:
        ends = {p: high for p, (_, high) in log.watermarks(TRANSACTIONS).items()}
        judged = log.committed(TRANSACTIONS, GROUP)
        # After what was judged: a verdict that came in between is waited for.
        scored = {p: high for p, (_, high) in log.watermarks(SCORED).items()}
    finally:
        log.close()
    with psycopg.connect(stack.dsn, connect_timeout=3) as connection:
        rows = connection.execute(
            "SELECT partition, next_offset FROM positions WHERE consumer = 'sink' AND topic = 'scored'"
        ).fetchall()
    return {"log": ends, "judged": judged, "scored": scored, "stored": dict(rows)}


def reached(now: dict[int, int], ends: dict[int, int]) -> bool:
    """Whether every partition is at its end."""
    return bool(ends) and all(now.get(p, 0) >= end for p, end in ends.items())


def report(
    load: Load, result: Comparison, killed: Counter[str], *, is_drained: bool = True
) -> dict[str, Any]:
    """The ledger as one object."""
    return {
        "sent": load.sent,
        "accepted": len(load.accepted),
        "drained": is_drained,
        "stored": result.stored,
        "bundles": result.bundles,
        "challenged": result.challenged,
        "missing": result.missing,
        "doubled": result.doubled,
        "verdicts_differ": result.verdicts_differ,
        "counters_differ": result.counters_differ,
        "kills": dict(sorted(killed.items())),
        "examples": result.examples,
    }


def is_clean(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or judged otherwise."""
    return result["drained"] and not any(
        result[name] for name in ("missing", "doubled", "verdicts_differ", "counters_differ")
    )


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Command line; the exit code is 1 when anything was lost, doubled, differs or is stuck."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transactions", type=int, default=10_000)
    parser.add_argument("--canary", action="store_true")
    parser.add_argument("--only", help="kill this program only")
    parser.add_argument("--keep", action="store_true", help="keep the data folder")
    parser.add_argument("--json", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="anomalyze-chaos-"))
    try:
        result = run(
            arguments.bus,
            arguments.kills,
            arguments.seed,
            arguments.transactions,
            folder,
            arguments.canary,
            arguments.only,
        )
    finally:
        if arguments.keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for name, value in result.items():
        say(f"{name:>16}  {value}")
    line = json.dumps(result)
    if arguments.json:
        arguments.json.write_text(line)
    print(line)
    return 0 if is_clean(result) else 1


if __name__ == "__main__":
    sys.exit(main())
