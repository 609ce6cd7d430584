"""Writes what an import planned: tried first, whole files only, nothing over a file that is another."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anomalyze.errors import ConfigError
from anomalyze.metrics.anomstack.folder import Note
from anomalyze.metrics.anomstack.plan import Imported, Plan
from anomalyze.metrics.library import DEFAULTS_FILE, FOLDER, load_batches

__all__ = ["check_plan", "write_plan"]


def check_plan(plan: Plan, config_dir: Path, into: Path) -> Plan:
    """The same plan, after ``anomalyze check`` of it in a folder of its own: what has a mistake is not imported.

    Parameters
    ----------
    config_dir
        Ours, whose defaults hold.
    into
        Folder below its ``metrics``.
    """
    with tempfile.TemporaryDirectory(prefix="anomalyze-import-") as name:
        tried = Path(name)
        target = tried / into.relative_to(config_dir)
        target.mkdir(parents=True)
        defaults = config_dir / FOLDER / DEFAULTS_FILE
        if defaults.is_file():
            shutil.copyfile(defaults, tried / FOLDER / DEFAULTS_FILE)
        for one in plan.batches:
            for file, text in one.files.items():
                (target / file).write_text(text, encoding="utf-8")
        loaded = load_batches(tried)
        checked: list[Imported] = []
        for one in plan.batches:
            if not one.name or one.name in loaded.batches:
                checked.append(one)
                continue
            wrong = [problem for problem in loaded.problems if Path(problem.file).stem == one.name]
            said = "; ".join(problem.message for problem in wrong) or "see anomalyze check"
            note = Note(one.file, 1, f"not imported: what it would become has a mistake: {said}")
            checked.append(replace(one, name="", files={}, about="", packages=(), notes=(*one.notes, note)))
    return replace(plan, batches=tuple(checked))


def write_plan(plan: Plan, into: Path, force: bool = False) -> int:
    """Write all files of a plan; how many are new or others. A batch's YAML comes after what it names.

    Parameters
    ----------
    force
        Write over files that are others.

    Raises
    ------
    ConfigError
        A file is there and another; nothing was written then.
    """
    wanted = [(into / file, text) for one in plan.batches for file, text in one.files.items()]
    try:
        changed = [(path, text) for path, text in wanted if not _is_written(path, text)]
        if not force:
            _refuse_others([path for path, _ in changed if path.exists() or path.is_symlink()])
        into.mkdir(parents=True, exist_ok=True)
        for path, text in changed:
            _write(path, text, force)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected to write into {into}, got {error}") from None
    return len(changed)


def _is_written(path: Path, text: str) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode()


def _refuse_others(paths: Sequence[Path]) -> None:
    if paths:
        names = ", ".join(path.name for path in paths[:10])
        raise ConfigError(
            f"expected no other file in {paths[0].parent}, got {len(paths):,}: {names}. Nothing was written; "
            "--force writes over them"
        )


def _write(path: Path, text: str, force: bool) -> None:
    """A whole file or none; without ``force`` never over one that came meanwhile."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        if force:
            os.replace(name, path)
        else:
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
