"""``anomalyze check``: every mistake in every configuration file, with file, line and a suggestion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyze.cli.output import print_json, print_line

if TYPE_CHECKING:
    from anomalyze.cli.configuration import CheckResult

__all__ = ["check", "schema_text", "write_schemas"]


def check(
    config_dir: Annotated[
        Path | None, typer.Option(help="Folder to check; the setting CONFIG_DIR when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    schemas: Annotated[
        bool, typer.Option("--schemas", help="Write the JSON Schemas that editors use to schema/.")
    ] = False,
) -> None:
    """Check all configuration; exit code 1 when there is any mistake."""
    from anomalyze.cli.configuration import check_configuration

    if config_dir is None:
        from anomalyze.settings import Settings

        config_dir = Settings().config_dir
    if schemas:
        write_schemas(config_dir / "schema")
    result = check_configuration(config_dir)
    if as_json:
        print_json(
            {
                "ok": not result.problems,
                "files": result.files,
                "problems": [problem.to_dict() for problem in result.problems],
            }
        )
    else:
        _print_for_people(result)
    raise typer.Exit(1 if result.problems else 0)


def _print_for_people(result: CheckResult) -> None:
    for problem in result.problems:
        print_line(str(problem))
    if result.problems:
        count = len(result.problems)
        print_line(f"{count} {'mistake' if count == 1 else 'mistakes'} in {len(result.files)} files.")
        return
    rules = result.loaded["rules"]
    modes = ", ".join(
        f"{count} {name}"
        for name in ("live", "shadow", "off")
        if (count := sum(rule.mode.name.lower() == name for rule in rules))
    )
    print_line(
        f"{len(result.files)} files, no mistake: {len(result.loaded['features'].names)} features, "
        f"{len(rules)} rules ({modes}), {len(result.loaded.get('metrics', ()))} batches of metrics."
    )


def write_schemas(folder: Path) -> None:
    """Write the JSON Schema of each kind of file."""
    from anomalyze.cli.configuration import KINDS

    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / f"{kind.name}.json").write_text(schema_text(kind.name), encoding="utf-8")


def schema_text(kind_name: str) -> str:
    """A kind's JSON Schema as it stands in its file."""
    import json

    from anomalyze.cli.configuration import KINDS

    kind = next(kind for kind in KINDS if kind.name == kind_name)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
