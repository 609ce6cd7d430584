"""``anomalyze metrics``: what is watched, and a try of one batch before it counts."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyze.cli.output import complain, print_json, print_line

if TYPE_CHECKING:
    import polars as pl

    from anomalyze.metrics.library import BatchEntry, LoadResult
    from anomalyze.metrics.sources import Reading
    from anomalyze.metrics.window import Window

__all__ = ["app"]

PLOT_HEIGHT = 6
PLOT_WIDTH_MAX = 100
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
        str | None, typer.Option(help="How far back to read, such as 7d; the batch's history when not given.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=10_000, help="Rows to show.")] = 10,
    plots: Annotated[int, typer.Option(min=0, max=1_000, help="Metrics to draw.")] = 5,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Read a batch now and show its rows, its metrics as plots, and what would alert."""
    from anomalyze.errors import ConfigError

    with complain("metrics run"):
        if not dry_run:
            raise ConfigError(
                "expected --dry-run: batches run by themselves, on their schedule, under `anomalyze up`"
            )
        entry = _find(_load(config_dir), batch)
        window = entry.batch.window_at(dt.datetime.now(dt.UTC), _back(entry, back))
        reading = _read(entry, window)
    if as_json:
        print_json(_as_json(entry, window, reading, rows))
        return
    _print_rows(entry, window, reading, rows)
    _print_plots(entry, reading.frame, plots)


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


def _as_json(entry: BatchEntry, window: Window, reading: Reading, rows: int) -> dict[str, Any]:
    return {
        "batch": entry.name,
        "from": window.start.isoformat(),
        "to": window.end.isoformat(),
        "rows": len(reading.frame),
        "metrics": reading.frame["metric"].n_unique(),
        "notes": list(reading.notes),
        "values": [
            {"metric": metric, "timestamp": at.isoformat(), "value": value}
            for metric, at, value in reading.frame.tail(rows).iter_rows()
        ],
    }


def _print_rows(entry: BatchEntry, window: Window, reading: Reading, rows: int) -> None:
    frame = reading.frame
    print_line(
        f"{entry.name}: {len(frame):,} rows of {frame['metric'].n_unique():,} metrics, "
        f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC. Nothing is stored."
    )
    for note in reading.notes:
        print_line(f"  {note}")
    newest = frame.sort("timestamp", "metric").tail(rows)
    for metric, at, value in newest.iter_rows():
        unit = entry.batch.settings(metric).unit
        shown = "missing" if value is None else f"{value:,.6g}"
        print_line(f"  {at:%Y-%m-%d %H:%M}  {shown:>14} {unit:<6} {metric}")


def _print_plots(entry: BatchEntry, frame: pl.DataFrame, plots: int) -> None:
    from anomalyze.cli.plot import plot

    width = min(PLOT_WIDTH_MAX, shutil.get_terminal_size().columns - 16)
    names = frame["metric"].unique(maintain_order=True).to_list()
    for name in names[:plots]:
        values = frame.filter(frame["metric"] == name)["value"].to_list()
        unit = entry.batch.settings(name).unit
        print_line()
        print_line(f"{name}{f' ({unit})' if unit else ''}")
        for line in plot(values, width, PLOT_HEIGHT):
            print_line(line)
    if len(names) > plots:
        print_line()
        print_line(f"{len(names) - plots:,} more metrics; --plots shows more.")
