"""``anomalyze simulate``: seeded traffic with labelled incidents, and how many of them were found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyze.cli.output import complain, print_json
from anomalyze.errors import ConfigError, TransientError

if TYPE_CHECKING:
    from anomalyze.settings import Settings
    from anomalyze.simulation.record import Found, Labels
    from anomalyze.simulation.traffic import Traffic

__all__ = ["simulate"]

SENDS_A_SECOND = 20
ROWS_MAX = 5_000
RETRIES_S_MAX = 60.0
JUDGED_TIMEOUT_S = 60.0

Send = Callable[[list[bytes], list[str]], int]


def simulate(
    rate: Annotated[float, typer.Option(min=0.1, max=1_000_000, help="transactions a second")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="how long to send")] = 30.0,
    seed: Annotated[int, typer.Option(help="the same seed gives the same people and incidents")] = 1,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="only this kind of incident (repeatable); all kinds when not given"),
    ] = None,
    incidents: Annotated[
        float, typer.Option(min=0, max=5_000, help="incidents per 10,000 transactions")
    ] = 20.0,
    via: Annotated[str, typer.Option(help="rest or kafka (the log itself)")] = "rest",
    key: Annotated[str, typer.Option(help="API key; the data folder's admin key when not given")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Send the last 30 days of simulated people, in fast motion, and report which incidents were found."""
    from anomalyze.settings import Settings
    from anomalyze.simulation.scenario import SCENARIOS

    with complain("simulate"):
        unknown = set(scenario or ()) - set(SCENARIOS[1:])
        if unknown:
            raise ConfigError(
                f"--scenario: expected some of {', '.join(SCENARIOS[1:])}, got {sorted(unknown)[0]}"
            )
        if via not in ("rest", "kafka"):
            raise ConfigError(f"--via: expected rest or kafka, got {via}")
        report = run(Settings(), rate, seconds, seed, tuple(scenario or ()), incidents, via, key, as_json)
    if as_json:
        print_json(report)
    else:
        show(report)


def run(
    settings: Settings,
    rate: float,
    seconds: float,
    seed: int,
    scenarios: tuple[str, ...],
    incidents: float,
    via: str,
    key: str,
    quiet: bool,
) -> dict[str, Any]:
    """Send everything, wait until it was judged, hold the anomalies against the labels."""
    import httpx
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from anomalyze.simulation.record import Labels, evaluate_found
    from anomalyze.simulation.world import plan_simulation

    begun_ms = int(time.time() * 1000)
    prefix = f"sim{seed}-{begun_ms // 1000}"
    total = int(rate * seconds)
    world = plan_simulation(total, seed, begun_ms, incidents_per_10k=incidents, scenarios=scenarios)
    chunks, shift_ms = aligned(list(world.chunks()), total, begun_ms)
    total = sum(len(chunk) for chunk in chunks)
    labels = Labels({})
    bind = "127.0.0.1" if settings.bind in ("0.0.0.0", "::") else settings.bind  # noqa: S104
    client = httpx.Client(
        base_url=f"http://{bind}:{settings.api_port}",
        headers={"Authorization": f"Bearer {key or admin_key(settings)}"},
        timeout=10.0,
    )
    send, close = sender(settings, client, via)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        sending = progress.add_task("sent", total=total)
        last_user = ""
        for rows, users in paced(chunks, prefix, labels, via, rate):
            send(rows, users)
            last_user = users[-1]
            progress.advance(sending, len(rows))
        close()
        judging = progress.add_task("judged", total=None)
        last_tx = f"{prefix}-{chunks[-1].day}-{len(chunks[-1]) - 1}"
        wait_until_judged(client, last_user, last_tx)
        progress.update(judging, total=total, completed=total)
    elapsed_s = time.time() - begun_ms / 1000
    flagged = list(anomalous(client, prefix, begun_ms - shift_ms))
    found = evaluate_found(labels, flagged)
    return summary(found, labels, total, elapsed_s, len(flagged))


def aligned(chunks: list[Traffic], total: int, now_ms: int) -> tuple[list[Traffic], int]:
    """The last ``total`` transactions, moved so that the very last one happens now; and how long they span."""
    excess = sum(len(chunk) for chunk in chunks) - total
    kept = []
    for chunk in chunks:
        drop = min(max(excess, 0), len(chunk))
        excess -= drop
        if drop < len(chunk):
            import numpy as np

            kept.append(chunk.take(np.arange(drop, len(chunk))))
    if not kept:
        raise ConfigError("too few transactions for a simulation: raise --rate or --seconds")
    move_ms = now_ms - int(kept[-1].ts_ms[-1])
    for chunk in kept:
        chunk.ts_ms = chunk.ts_ms + move_ms
    return kept, now_ms - int(kept[0].ts_ms[0])


def paced(
    chunks: list[Traffic], prefix: str, labels: Labels, via: str, rate: float
) -> Iterator[tuple[list[bytes], list[str]]]:
    """Portions of records and their users, each when it is due."""
    from anomalyze.access.admin import DEFAULT_ACCOUNT
    from anomalyze.simulation.record import flat_records, user_ids, wire_records

    size = max(1, min(ROWS_MAX, round(rate / SENDS_A_SECOND)))
    begun_s, sent = time.monotonic(), 0
    for chunk in chunks:
        labels.add(chunk, prefix)
        rows = flat_records(chunk, prefix) if via == "rest" else wire_records(chunk, prefix, DEFAULT_ACCOUNT)
        users = user_ids(chunk)
        for at in range(0, len(rows), size):
            time.sleep(max(0.0, begun_s + sent / rate - time.monotonic()))
            yield rows[at : at + size], users[at : at + size]
            sent += len(rows[at : at + size])


def sender(settings: Settings, client: Any, via: str) -> tuple[Send, Callable[[], None]]:
    """How portions get out, and what to do at the end."""
    if via == "rest":
        return lambda rows, _: post(client, rows), lambda: None
    from anomalyze.bus import open_bus
    from anomalyze.bus.partitioner import murmur2_partitions
    from anomalyze.bus.topics import TRANSACTIONS
    from anomalyze.embedded.runtime import find_addresses

    bus = open_bus(settings, postgres_dsn=find_addresses(settings).postgres_dsn)
    producer, partitions = bus.producer(), bus.partitions(TRANSACTIONS)

    def send(rows: list[bytes], users: list[str]) -> int:
        keys = [user.encode() for user in users]
        producer.send_many(TRANSACTIONS, murmur2_partitions(keys, partitions), keys, rows)
        return len(rows)

    def close() -> None:
        producer.flush(30.0)
        producer.close()
        bus.close()

    return send, close


def post(client: Any, rows: list[bytes]) -> int:
    """Post one portion; what is not known to be taken is sent again."""
    import httpx

    deadline_s = time.monotonic() + RETRIES_S_MAX
    while True:
        try:
            answer = client.post(
                "/v1/transactions",
                content=b"[" + b",".join(rows) + b"]",
                headers={"Content-Type": "application/json"},
            )
        except httpx.HTTPError as error:
            if time.monotonic() > deadline_s:
                raise TransientError(
                    f"the API at {client.base_url} does not answer: {error}; is `anomalyze up` running?"
                ) from None
            time.sleep(0.5)
            continue
        if answer.status_code == 202:
            return int(answer.json()["accepted"])
        if answer.status_code not in (429, 503) or time.monotonic() > deadline_s:
            raise ConfigError(f"the API refused: {answer.status_code} {answer.text[:300]}")
        time.sleep(float(answer.headers.get("Retry-After", "1")))


def wait_until_judged(client: Any, user_id: str, tx_id: str) -> None:
    """Wait until the last transaction sent is stored with its verdict."""
    deadline_s = time.monotonic() + JUDGED_TIMEOUT_S
    while time.monotonic() < deadline_s:
        answer = client.get("/transactions", params={"user_id": user_id, "limit": 20})
        if answer.status_code == 200 and any(row["id"] == tx_id for row in answer.json()["transactions"]):
            return
        time.sleep(0.25)
    raise TransientError(
        f"{tx_id} was not judged within {JUDGED_TIMEOUT_S:.0f} s; `anomalyze status` says what lags"
    )


def anomalous(client: Any, prefix: str, since_ms: int) -> Iterator[str]:
    """Transaction ids of this simulation's anomalies."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since_ms / 1000 - 1))
    parameters: dict[str, Any] = {"limit": 1000, "from": since}
    while True:
        answer = client.get("/v1/anomalies", params=parameters)
        answer.raise_for_status()
        page = answer.json()
        yield from (row["tx_id"] for row in page["anomalies"] if row["tx_id"].startswith(prefix))
        if not page["anomalies"] or not page["cursor"]:
            return
        parameters["cursor"] = page["cursor"]


def admin_key(settings: Settings) -> str:
    """The operator's key on this machine."""
    from anomalyze.access.admin import ADMIN_KEY_FILE

    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    try:
        return (settings.data_dir / ADMIN_KEY_FILE).read_text().strip()
    except OSError:
        raise ConfigError(
            f"no key: {settings.data_dir / ADMIN_KEY_FILE} is not there; give --key, or start `anomalyze up` first"
        ) from None


def summary(found: Found, labels: Labels, sent: int, seconds: float, flagged: int) -> dict[str, Any]:
    """What was sent and what was found."""
    return {
        "sent": sent,
        "seconds": round(seconds, 1),
        "anomalies": flagged,
        "labelled_transactions": len(labels.incident),
        "incidents": {name: {"found": hit, "sent": of} for name, (hit, of) in found.incidents.items()},
        "transactions": {
            name: {"flagged": hit, "sent": of} for name, (hit, of) in found.transactions.items()
        },
        "false_alarms": found.false_alarms,
        "recall": round(found.recall, 4),
    }


def show(report: dict[str, Any]) -> None:
    """The report for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{report['sent']:,} transactions sent and judged in {report['seconds']} s; {report['anomalies']:,} anomalies.",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("incident")
    for column in ("found", "sent", "transactions flagged"):
        table.add_column(column, justify="right")
    for name, counts in report["incidents"].items():
        rows = report["transactions"][name]
        table.add_row(name, str(counts["found"]), str(counts["sent"]), f"{rows['flagged']} of {rows['sent']}")
    console.print(table)
    ordinary = max(1, report["sent"] - report["labelled_transactions"])
    console.print(
        f"{report['false_alarms']:,} ordinary transactions flagged: {report['false_alarms'] / ordinary:.2%}.",
        highlight=False,
    )
