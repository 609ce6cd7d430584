"""``anomalyze metrics``: what is watched, and a try of one batch before it counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyze.cli.output import complain, print_json, print_line
from anomalyze.cli.tried import Tried

if TYPE_CHECKING:
    import psycopg

    from anomalyze.metrics.library import BatchEntry, LoadResult
    from anomalyze.metrics.sources import Reading
    from anomalyze.metrics.window import Window
    from anomalyze.monitoring.run import Ran

__all__ = ["app"]

app = typer.Typer(help="Metrics: what is watched, and a try of one batch.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ConfigDir = Annotated[
    Path | None, typer.Option(help="Folder with metrics/; the setting CONFIG_DIR when not given.")
]


@app.command("list")
def list_(config_dir: ConfigDir = None, as_json: Json = False) -> None:
    """All batches: source, schedule, when they run next; exit code 1 when a file has a mistake."""
    with complain("metrics list"):
        loaded = _load(config_dir)
        now = dt.datetime.now(dt.UTC)
        rows = [_described(entry, now) for _, entry in sorted(loaded.batches.items())]
    if as_json:
        print_json({"batches": rows, "problems": [problem.to_dict() for problem in loaded.problems]})
    else:
        for row in rows:
            when = row["next_run"] or "disabled"
            print_line(
                f"{row['batch']:<28} {row['source']:<11} {row['schedule']:<16} {when:<26} {row['owner']}"
            )
        if not rows:
            print_line("No batch yet: docs/metrics.md shows how to write one.")
        for problem in loaded.problems:
            print_line(str(problem))
    raise typer.Exit(1 if loaded.problems else 0)


def _described(entry: BatchEntry, now: dt.datetime) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

    batch = entry.batch
    following = next(CronSim(batch.schedule, now.astimezone(ZoneInfo(batch.timezone))))
    kind = "python" if batch.python is not None or batch.source is None else batch.source.kind
    return {
        "batch": entry.name,
        "file": str(entry.path),
        "description": batch.description,
        "owner": batch.owner,
        "tags": list(batch.tags),
        "priority": batch.priority,
        "source": kind,
        "schedule": batch.schedule,
        "timezone": batch.timezone,
        "enabled": batch.enabled,
        "next_run": following.isoformat() if batch.enabled else None,
    }


@app.command()
def run(
    batch: Annotated[str, typer.Argument(help="Name of the batch: its file's, without .yaml")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and show; nothing is stored.")] = False,
    back: Annotated[
        str | None,
        typer.Option(help="With --dry-run: how far back, such as 7d; the batch's history when not given."),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=10_000, help="Rows to show.")] = 10,
    plots: Annotated[int, typer.Option(min=0, max=1_000, help="Metrics to draw.")] = 5,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Read a batch now: store and score it, or with --dry-run show its rows, plots and what would alert.

    Exit code 1 when a metric failed; its neighbours are stored.
    """
    with complain("metrics run"):
        entry = _find(_load(config_dir), batch)
        if back is not None and not dry_run:
            from anomalyze.errors import ConfigError

            raise ConfigError(
                f"expected --back with --dry-run only, got it with a run that is stored: "
                f"anomalyze metrics backfill {batch} --back {back} reads so far"
            )
        if not dry_run:
            _print_ran(entry.name, _run(entry, None), as_json)
            return
        window = entry.batch.window_at(dt.datetime.now(dt.UTC), _back(entry, back))
        tried = _try(entry, window)
    if as_json:
        print_json(tried.to_dict(rows))
    else:
        tried.print_all(rows, plots)


def _try(entry: BatchEntry, window: Window) -> Tried:
    """What a run would store, what it would tell, and what it says of its rows."""
    import polars as pl
    from rich.console import Console

    from anomalyze.metrics.prepare import prepare
    from anomalyze.metrics.relation import relate
    from anomalyze.monitoring.preview import foresee

    with Console(stderr=True).status(f"{entry.name}: reading") as status:
        reading = _read(entry, window)
        status.update(f"{entry.name}: judging {len(reading.frame):,} rows")
        prepared = prepare(reading.frame, entry.batch, window, entry.path.parent)
        frame = pl.concat([prepared.frame, relate(prepared.frame, entry.batch.relations)])
        frame = frame.sort("metric", "timestamp")
        foreseen = list(foresee(frame, entry.batch))
    failed = {**reading.failures, **prepared.failures}
    notes = [*reading.notes, *(f"{metric}: {reason}" for metric, reason in failed.items())]
    if not len(frame) and not notes:
        notes.append("the source answered without a row: are there any in these hours?")
    return Tried(entry, window, notes, frame, foreseen)


@app.command()
def backfill(
    batch: Annotated[str, typer.Argument(help="Name of the batch: its file's, without .yaml")],
    back: Annotated[
        str | None, typer.Option(help="How far back, such as 30d; the batch's history when not given.")
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Read a batch's history, store what is new or corrected, and score it; a repeat changes nothing.

    Exit code 1 when a metric failed; its neighbours are stored.
    """
    with complain("metrics backfill"):
        entry = _find(_load(config_dir), batch)
        window = entry.batch.window_at(dt.datetime.now(dt.UTC), _back(entry, back))
        _print_ran(entry.name, _run(entry, window), as_json)


@app.command()
def rescore(
    batch: Annotated[str, typer.Argument(help="Name of the batch: its file's, without .yaml")],
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Score all that is stored of a batch again, by its file as it is now. No source is read; old points tell nobody."""
    with complain("metrics rescore"):
        from rich.console import Console

        from anomalyze.monitoring.run import retrain_stored

        entry = _find(_load(config_dir), batch)
        with _connected() as (connection, folder, _), Console(stderr=True).status(entry.name):
            done = retrain_stored(connection, entry, folder)
    if as_json:
        print_json({"batch": entry.name} | asdict(done))
        return
    print_line(
        f"{entry.name}: {done.rebuilt:,} metrics scored again, {done.scored + done.scored_by_name:,} scores new or "
        f"others, {done.alerts:,} incidents that go on."
    )
    for failure in done.failures:
        print_line(f"  {failure.metric}: {failure.reason}")
    if done.is_busy:
        print_line("  Another run is scoring this batch: try again when it is over.")
        raise typer.Exit(1)


@app.command()
def digest(
    back: Annotated[str, typer.Option(help="How far back, such as 1d or 12h.")] = "1d",
    account: Annotated[str | None, typer.Option(help="One account; all when not given.")] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """What was strange lately, batch by batch: incidents, failed runs, metrics without data. Nothing is stored."""
    import msgspec

    with complain("metrics digest"):
        from anomalyze.embedded.runtime import find_addresses
        from anomalyze.errors import ConfigError
        from anomalyze.metrics.duration import parse_duration
        from anomalyze.monitoring.digest import build_digest
        from anomalyze.settings import Settings
        from anomalyze.storage.migrate import expect_current
        from anomalyze.storage.pool import connect

        try:
            span = parse_duration(back)
        except ValueError as error:
            raise ConfigError(f"--back: {error}, got {back}") from None
        owned: dict[str, dict[str, BatchEntry]] = {}
        for name, entry in _load(config_dir).batches.items():
            if account in (None, entry.batch.account):
                owned.setdefault(entry.batch.account, {})[name] = entry
        if account is not None and account not in owned:
            raise ConfigError(f"--account: expected an account that has a batch, got {account}")
        now = dt.datetime.now(dt.UTC)
        with connect(find_addresses(Settings()).postgres_dsn) as connection:
            expect_current(connection)
            made = [build_digest(connection, name, own, now, span) for name, own in sorted(owned.items())]
    if as_json:
        print_json({"digests": [msgspec.to_builtins(one) | {"text": one.text} for one in made]})
        return
    for one in made:
        print_line(one.text)
    if not made:
        print_line("No batch yet: docs/metrics.md shows how to write one.")


@contextmanager
def _connected() -> Iterator[tuple[psycopg.Connection[Any], Path, str]]:
    """Our own database, what detectors remember, and the database's address; what is told goes to the log."""
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.log import configure
    from anomalyze.monitoring.run import BANKS_FOLDER
    from anomalyze.settings import Settings
    from anomalyze.storage.migrate import expect_current
    from anomalyze.storage.pool import connect

    settings = Settings()
    dsn = find_addresses(settings).postgres_dsn
    # Whoever is told of incidents reads logs, not this terminal.
    configure("metrics", settings.log_level, settings.data_dir / "logs" / "metrics.log")
    # Scoring a long history takes longer than a page may.
    with connect(dsn, statement_timeout_s=0) as connection:
        expect_current(connection)
        yield connection, settings.data_dir / BANKS_FOLDER, dsn


def _run(entry: BatchEntry, window: Window | None) -> Ran:
    """A run of the batch's own window, or of another; its progress on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    from anomalyze.monitoring.run import backfill_batch, run_batch

    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with _connected() as (connection, folder, dsn), bar:
        task = bar.add_task(entry.name, total=None)

        def told(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        if window is None:
            return run_batch(connection, entry, folder, dsn, progress=told)
        return backfill_batch(connection, entry, folder, window, dsn, progress=told)


def _print_ran(name: str, ran: Ran, as_json: bool) -> None:
    """What a run did; ends with exit code 1 where a metric failed."""
    failures = (*ran.failures, *ran.scored.failures)
    if as_json:
        print_json({"batch": name} | asdict(ran))
        raise typer.Exit(1 if failures else 0)
    print_line(
        f"{name}: {ran.rows:,} rows, {ran.new:,} new, {ran.corrected:,} corrected; {ran.scored.scored:,} scored, "
        f"{ran.scored.alerts:,} incidents."
    )
    for note in ran.notes:
        print_line(f"  {note}")
    for failure in failures:
        print_line(f"  {failure.metric}: {failure.reason}")
    if ran.scored.is_busy:
        print_line("  Another run is scoring this batch: it takes these values too.")
    raise typer.Exit(1 if failures else 0)


def _load(config_dir: Path | None) -> LoadResult:
    from anomalyze.errors import ConfigError
    from anomalyze.metrics.library import FOLDER, load_batches
    from anomalyze.settings import Settings

    folder = config_dir or Settings().config_dir
    if not (folder / FOLDER).is_dir():
        raise ConfigError(f"expected a folder with batches, got none at {folder / FOLDER}")
    return load_batches(folder)


def _find(loaded: LoadResult, name: str) -> BatchEntry:
    from anomalyze.config import ConfigProblems, closest
    from anomalyze.errors import ConfigError

    if name in loaded.batches:
        return loaded.batches[name]
    own = [problem for problem in loaded.problems if Path(problem.file).stem in (name, "_defaults")]
    if any(Path(problem.file).stem == name for problem in own):
        raise ConfigProblems(own)
    meant = closest(name, loaded.batches)
    hint = f"; perhaps {meant}" if meant else ""
    raise ConfigError(f"expected one of {', '.join(loaded.batches) or 'no batch'}, got {name}{hint}")


def _back(entry: BatchEntry, told: str | None) -> dt.timedelta:
    from anomalyze.errors import ConfigError
    from anomalyze.metrics.duration import parse_duration

    try:
        return entry.batch.history if told is None else parse_duration(told)
    except ValueError as error:
        raise ConfigError(f"--back: {error}, got {told}") from None


def _read(entry: BatchEntry, window: Window) -> Reading:
    from anomalyze.metrics.sources import read

    own_dsn = None
    if entry.batch.source is not None and entry.batch.source.kind == "anomalyze":
        from anomalyze.embedded.runtime import find_addresses
        from anomalyze.settings import Settings

        own_dsn = find_addresses(Settings()).postgres_dsn
    return read(entry, window, own_dsn)
