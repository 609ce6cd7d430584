"""`anomalyze up`, `anomalyze status` and `anomalyze logs`."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from anomalyze.cli.output import complain
from anomalyze.errors import AnomalyzeError
from anomalyze.log import configure

if TYPE_CHECKING:
    from anomalyze.embedded.up import Platform

__all__ = ["logs", "status", "up"]

EVENTS_SHOWN = 6
STATE_EVERY_S = 1.0
# A heartbeat older than this: the program is starting, or busy dying.
SILENT_S = 6.0
FOLLOW_S = 0.3


def up() -> None:
    """Run everything on this machine: servers, API, detector, sink, dashboard, Dagster. Ctrl-C stops all."""
    from anomalyze.embedded.up import run_platform, watch
    from anomalyze.settings import Settings

    settings = Settings()
    console = Console()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    configure("up", settings.log_level, settings.data_dir / "logs" / "up.log")
    display = Display(console)
    with complain("up"):
        try:
            with run_platform(settings, display.step, display.event) as platform:
                display.begin(platform)
                watch(platform, stop, display.refresh)
                display.end()
        finally:
            display.end()
    console.print("Stopped; the data stays in", str(settings.data_dir), highlight=False, soft_wrap=True)


def status(
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output.")
    ] = False,
) -> None:
    """What runs, how fast, how far behind."""
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.settings import Settings

    console = Console()
    with complain("status"):
        states = read_states(find_addresses(Settings()).postgres_dsn)
    if json_output:
        typer.echo(json.dumps({"programs": states}))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("program", "state", "rate", "lag", "p99"):
        table.add_column(column)
    for found in states:
        table.add_row(found["program"], found["says"], *figures(found))
    console.print(table if states else "No program has said anything yet.")


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines arrive.")] = False,
    program: Annotated[str, typer.Option(help="Only this program.")] = "",
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="Last lines of each program.")] = 100,
) -> None:
    """The logs of all programs in one view, in the order of their times."""
    from anomalyze.settings import Settings

    folder = Settings().data_dir / "logs"
    paths = sorted(folder.glob(f"{program or '*'}.log"))
    if not paths:
        typer.echo(f"No logs in {folder}: `anomalyze up` writes them.", err=True)
        raise typer.Exit(1)
    tails = [(line_time(line), path.stem, line) for path in paths for line in tail(path, lines)]
    for _, name, line in sorted(tails):
        typer.echo(f"{name:<10} {line}")
    if follow:
        for name, line in appended(paths):
            typer.echo(f"{name:<10} {line}")


class Display:
    """What `up` shows: one line a program with address and state, and below them what happened lately.

    Not on a terminal it prints a line when something changes.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._events: list[str] = []
        self._platform: Platform | None = None
        self._live: Live | None = None
        self._next_s = 0.0
        self._states: dict[str, dict[str, Any]] = {}
        self._shown: dict[str, str] = {}
        self._status = console.status("starting") if console.is_terminal else None
        if self._status is not None:
            self._status.start()

    def step(self, text: str) -> None:
        """A step of the start."""
        if self._status is not None:
            self._status.update(text)
        else:
            self._console.print(text, highlight=False)

    def event(self, text: str) -> None:
        """Something that an operator should know."""
        line = f"{datetime.now().astimezone():%H:%M:%S}  {text}"
        self._events = [*self._events, line][-EVENTS_SHOWN:]
        if self._live is None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def begin(self, platform: Platform) -> None:
        """Everything was started."""
        self._platform = platform
        if self._status is not None:
            self._status.stop()
        for line in welcome(platform):
            self._console.print(line, highlight=False, soft_wrap=True)
        if self._console.is_terminal:
            self._live = Live(self._render(), console=self._console, auto_refresh=False)
            self._live.start()

    def refresh(self) -> None:
        """Called a few times a second."""
        if self._platform is None or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + STATE_EVERY_S
        try:
            found = read_states(self._platform.addresses.postgres_dsn)
            self._states = {state["program"]: state for state in found}
        except AnomalyzeError:
            self._states = {}
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            return
        for name, address, says in self._lines():
            if self._shown.get(name) != says:
                self._shown[name] = says
                self._console.print(f"{name:<12} {says:<12} {address}", highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Stop drawing."""
        if self._status is not None:
            self._status.stop()
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print("Stopping: what was accepted is being finished.", highlight=False)

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        assert self._platform is not None
        for server in self._platform.servers:
            yield server.name, server.address, server.state
        if self._platform.settings.kafka_bootstrap_servers:
            yield "kafka", self._platform.settings.kafka_bootstrap_servers, "elsewhere"
        for state in self._platform.supervisor.states:
            found = self._states.get(state.program.name)
            if not state.running:
                says = "restarting" if state.restarts else "waiting"
            elif found is None or found["silent_s"] > SILENT_S:
                says = "starting"
            else:
                says = "running"
            yield state.program.name, state.program.address, says

    def _render(self) -> RenderableType:
        assert self._platform is not None
        table = Table(box=None, pad_edge=False)
        for column in ("program", "state", "address", "rate", "lag", "p99", "restarts"):
            table.add_column(
                column, justify="right" if column in ("rate", "lag", "p99", "restarts") else "left"
            )
        restarts = {state.program.name: state.restarts for state in self._platform.supervisor.states}
        restarts |= {server.name: server.restarts for server in self._platform.servers}
        colours = {"running": "green", "starting": "yellow", "waiting": "yellow", "restarting": "red"}
        for name, address, says in self._lines():
            again = restarts.get(name, 0)
            table.add_row(
                name,
                Text(says, style=colours.get(says, "")),
                address,
                *figures(self._states.get(name, {})),
                str(again) if again else "",
            )
        return Group(
            table,
            Text(""),
            *(Text(line, style="dim") for line in self._events),
            Text("Ctrl-C stops all of it."),
        )


def welcome(platform: Platform) -> Iterator[str]:
    """Where to go next."""
    settings = platform.settings
    dashboard = next(s.program.address for s in platform.supervisor.states if s.program.name == "dashboard")
    yield ""
    yield f"[bold]Anomalyze runs.[/] Open {dashboard} and sign in with the admin key."
    if platform.admin_key.is_new:
        yield f"Admin key, shown this once and kept in {platform.admin_key.path}: [bold]{platform.admin_key.secret}[/]"
    elif platform.admin_key.path is not None:
        yield f"The admin key is in {platform.admin_key.path}"
    else:
        yield "The admin key is the one of ANOMALYZE_ADMIN_KEY."
    if settings.dagster:
        yield f"Training and pipelines: Dagster, a moment later, at http://localhost:{settings.dagster_port}"
    if platform.bundle_is_starter:
        yield "Starter bundle, trained on simulated history: expect false alarms."
    yield f"No traffic yet? In another terminal: anomalyze simulate.  Logs: anomalyze logs -f, or {settings.data_dir / 'logs'}"
    yield ""


def read_states(dsn: str) -> list[dict[str, Any]]:
    """Heartbeats of the last minute, one row a program instance."""
    from anomalyze.storage.pool import connect, postgres_errors

    with connect(dsn, program="anomalyze-status") as connection, postgres_errors():
        rows = connection.execute(
            "SELECT program, instance, state, extract(epoch FROM now() - seen_at)::float8 FROM program_states "
            "WHERE seen_at > now() - interval '1 minute' ORDER BY program, instance"
        ).fetchall()
    names = [program for program, _, _, _ in rows]
    return [
        {
            "program": program if names.count(program) == 1 else f"{program}-{instance.rsplit('-', 1)[-1]}",
            "says": "running" if silent_s <= SILENT_S else "silent",
            "silent_s": silent_s,
            **state,
        }
        for program, instance, state, silent_s in rows
    ]


def figures(state: dict[str, Any]) -> tuple[str, str, str]:
    """Rate, lag and p99 as people read them.

    >>> figures({"rate": 12.0, "lag": 0, "p99_ms": 8.5})
    ('12/s', '0', '8.5 ms')
    """
    rate, lag, p99_ms = state.get("rate"), state.get("lag"), state.get("p99_ms")
    return (
        "" if rate is None else f"{rate:,.0f}/s",
        "" if lag is None else f"{lag:,}",
        "" if p99_ms is None else f"{p99_ms:g} ms",
    )


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log."""
    return path.read_text(errors="replace").splitlines()[-lines:]


def line_time(line: str) -> str:
    """The time of a structured line, for sorting; empty for any other."""
    try:
        return str(json.loads(line).get("timestamp", ""))
    except (ValueError, AttributeError):
        return ""


def appended(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """Lines as they arrive; never ends."""
    files = [(path.stem, path.open(errors="replace")) for path in paths]
    for _, file in files:
        file.seek(0, 2)
    while True:
        quiet = True
        for name, file in files:
            for line in file:
                quiet = False
                yield name, line.rstrip("\n")
        if quiet:
            time.sleep(FOLLOW_S)
