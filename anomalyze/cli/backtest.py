"""``anomalyze backtest``: a history through the detector, and what would have been flagged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyze.cli.output import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalyze.backtest.mapping import SourceChunk
    from anomalyze.detection.bundle import Bundle
    from anomalyze.features.snapshot import Profiles
    from anomalyze.settings import Settings

__all__ = ["backtest"]


def backtest(
    data: Annotated[
        Path | None, typer.Option(help="CSV or parquet file; stored transactions when not given.")
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML that maps the file's columns.")] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="field=column, field='constant', label=column; goes before the YAML."),
    ] = None,
    account: Annotated[str, typer.Option(help="Account whose transactions or overlays count.")] = "default",
    bundle: Annotated[
        str, typer.Option(help="A file, an id, champion or challenger; config: rules and statistics alone.")
    ] = "config",
    train_until: Annotated[
        str | None, typer.Option(help="Train model and statistics on the rows before this day.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First day that is evaluated.")] = None,
    to: Annotated[str | None, typer.Option(help="Day before which it ends.")] = None,
    since: Annotated[str | None, typer.Option(help="Leave out rows before this day altogether.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run stored transactions or a file through the detector; count firings, cases, hits."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from anomalyze.backtest.mapping import count_rows
    from anomalyze.backtest.report import print_report, summarise
    from anomalyze.backtest.run import run_backtest
    from anomalyze.errors import AnomalyzeError
    from anomalyze.settings import Settings

    settings = Settings()
    try:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), disable=as_json) as progress:
            task = progress.add_task(
                "transactions", total=count_rows(data) if data and not (since or to) else None
            )
            findings, judge = run_backtest(
                _source(settings, data, mapping, map_ or [], account, since or (None if data else from_), to),
                _bundle(settings, bundle),
                train_until_ms=_day_ms(train_until),
                start_ms=_day_ms(from_ or train_until),
                profiles=None if data else _profiles(settings, since or from_, to),
                progress=lambda rows: progress.advance(task, rows),
            )
    except AnomalyzeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    report = {"bundle": judge.id, "kind": judge.kind, **summarise(findings)}
    if as_json:
        print_json(report)
    else:
        print_report(report, Console())


def _source(
    settings: Settings,
    data: Path | None,
    mapping: Path | None,
    pairs: list[str],
    account: str,
    since: str | None,
    to: str | None,
) -> Iterator[SourceChunk]:
    from anomalyze.backtest.mapping import ColumnMapping, load_mapping, read_file
    from anomalyze.backtest.stored import read_stored
    from anomalyze.embedded.runtime import find_addresses

    start_ms, end_ms = _day_ms(since), _day_ms(to)
    if data is not None:
        base = load_mapping(mapping) if mapping else None
        columns = ColumnMapping.of_options(pairs, base) if pairs or base is None else base
        return read_file(data, columns, account, start_ms=start_ms, end_ms=end_ms)
    return read_stored(
        find_addresses(settings).postgres_dsn, account, start_ms or 0, end_ms or 4_102_444_800_000
    )


def _profiles(settings: Settings, since: str | None, to: str | None) -> Profiles:
    """The profiles of whole days that stored transactions were judged by."""
    from anomalyze.embedded.runtime import find_addresses
    from anomalyze.features.daily_store import DailyStore
    from anomalyze.learning.daily import load_profiles_of
    from anomalyze.storage.objects import open_objects
    from anomalyze.storage.pool import connect

    objects = open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url)
    with connect(find_addresses(settings).postgres_dsn, program="anomalyze-backtest") as connection:
        return load_profiles_of(
            connection,
            DailyStore(objects, settings.data_dir / "profiles"),
            _day_ms(since) or 0,
            _day_ms(to) or 4_102_444_800_000,
        )


def _bundle(settings: Settings, name: str) -> Bundle:
    from anomalyze.detection.bundle import Bundle
    from anomalyze.detection.bundle_store import BundleStore
    from anomalyze.detection.training import build_bundle
    from anomalyze.errors import ConfigError
    from anomalyze.storage.objects import open_objects

    if name == "config":
        return build_bundle(settings.config_dir)
    if Path(name).is_file():
        return Bundle.from_bytes(Path(name).read_bytes())
    store = BundleStore(open_objects(settings.object_store, s3_endpoint_url=settings.s3_endpoint_url))
    found = name if name.startswith("sha256:") else store.pointer(name)
    if found is None:
        raise ConfigError(
            f"--bundle {name}: expected a file, an id, or a pointer that is set; config needs none"
        )
    return store.load(found)


def _day_ms(text: str | None) -> int | None:
    from datetime import UTC, datetime

    from anomalyze.errors import ConfigError

    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"expected a day such as 2025-12-20, got {text!r}") from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
