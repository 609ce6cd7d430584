"""``anomalyze import-anomstack``: batches of Anomstack's become batches of ours, with a report of what did not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyze.cli.output import complain, print_json, print_line

if TYPE_CHECKING:
    from anomalyze.metrics.anomstack import Plan

__all__ = ["import_anomstack"]

IMPORTED = "imported"


def import_anomstack(
    folder: Annotated[
        Path, typer.Argument(help="Anomstack's folder metrics, or what it lies in.", metavar="DIR")
    ],
    into: Annotated[
        Path | None,
        typer.Option(help="Folder for the batches, below metrics/; metrics/imported when not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report; nothing is written.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are others.")] = False,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Its PyOD models in place of the detectors here.")
    ] = False,
    config_dir: Annotated[
        Path | None, typer.Option(help="Folder with metrics/; the setting CONFIG_DIR when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Import batches of Anomstack's; exit code 1 when one cannot be."""
    from anomalyze.metrics.anomstack import check_plan, plan_import, write_plan
    from anomalyze.metrics.anomstack.folder import Folder
    from anomalyze.metrics.library import FOLDER, batch_files
    from anomalyze.settings import Settings, find_variables

    with complain("import-anomstack"):
        own = (config_dir or Settings().config_dir).resolve()
        target = _target(own / FOLDER, into)
        taken = {path.stem for path in batch_files(own) if path.parent != target}
        schema = Path(os.path.relpath(own / "schema" / "metrics.json", target)).as_posix()
        plan = plan_import(Folder(folder), taken, find_variables("ANOMSTACK_"), schema, keep_models)
        plan = check_plan(plan, own, target)
        written = 0 if dry_run else write_plan(plan, target, force)
    lost = sum(not one.name for one in plan.batches)
    if as_json:
        print_json(_as_json(plan, target, written))
    else:
        _print(plan, target, written, dry_run)
    raise typer.Exit(1 if lost or not plan.batches else 0)


def _target(metrics: Path, into: Path | None) -> Path:
    """Where files go: it must lie below the folder of batches, links followed."""
    from anomalyze.errors import ConfigError

    target = metrics / IMPORTED if into is None else into.resolve()
    if not target.resolve().is_relative_to(metrics.resolve()) or target.resolve() == metrics.resolve():
        raise ConfigError(f"expected a folder below {metrics}, got {target}")
    if any(part[0] in "_." for part in target.relative_to(metrics).parts):
        raise ConfigError(
            f"expected a folder whose name does not begin with _ or ., got {target}: no batch is read there"
        )
    return target


def _as_json(plan: Plan, target: Path, written: int) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "into": str(target),
        "written": written,
        "batches": [
            {
                "batch": one.batch,
                "file": one.file,
                "imported_as": one.name or None,
                "about": one.about,
                "files": list(one.files),
                "notes": [asdict(note) for note in one.notes],
            }
            for one in plan.batches
        ],
        "notes": [asdict(note) for note in plan.notes],
        "general": list(plan.general),
        "packages": sorted({name for one in plan.batches for name in one.packages}),
    }


def _print(plan: Plan, target: Path, written: int, dry_run: bool) -> None:
    width = max([len(one.batch) for one in plan.batches], default=5)
    print_line(f"{'batch':<{width}}  imported as")
    for one in plan.batches:
        print_line(f"{one.batch:<{width}}  {f'{one.name} ({one.about})' if one.name else 'NOT IMPORTED'}")
        for note in one.notes:
            print_line(f"{'':<{width}}    {note}")
    if plan.notes:
        print_line()
        for note in plan.notes:
            print_line(str(note))
    if plan.general:
        print_line()
        print_line("For all of them:")
        for text in plan.general:
            print_line(f"  {text}")
    print_line()
    packages = sorted({name for one in plan.batches for name in one.packages})
    if packages:
        print_line(f"Missing here, where batches would run: pip install {' '.join(packages)}")
    good = sum(bool(one.name) for one in plan.batches)
    done = "nothing is written" if dry_run else f"{written:,} files written to {target}"
    print_line(f"{good:,} of {len(plan.batches):,} batches imported; {done}.")
    if not plan.batches:
        print_line("Expected YAML files with metric_batch below DIR, got none: is it Anomstack's folder?")
    if good and not dry_run:
        print_line("Try one with: anomalyze metrics run NAME --dry-run")
