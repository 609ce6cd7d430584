"""The batches of a configuration folder, taken up as files change; a broken file leaves its last good batch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo

from anomalyze.config import ConfigProblems, Document, Problem, closest, load_document, validate
from anomalyze.metrics.batch import NAME, Batch, BatchDefaults
from anomalyze.metrics.layers import DEFAULTS, ENVIRONMENT, LayeredDocument, read_overrides
from anomalyze.metrics.source_file import HttpSource
from anomalyze.metrics.statement import SAMPLE, check_statement
from anomalyze.metrics.template import TemplateMistake, render
from anomalyze.settings import find_variables

__all__ = ["BATCHES_MAX", "DEFAULTS_FILE", "FOLDER", "BatchEntry", "Library", "LoadResult", "load_batches"]

FOLDER = "metrics"
DEFAULTS_FILE = "_defaults.yaml"
BATCHES_MAX = 1_000
SQL_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch and where it comes from.

    Attributes
    ----------
    name
        Its file's stem.
    batch
        Its content.
    path
        Its file.
    config_dir
        What relative paths of sources begin at.
    statement
        Its SQL as written, templates and all; None when it is asked otherwise.
    text
        Its file as it was read; defaults and the environment stand elsewhere.
    """

    name: str
    batch: Batch
    path: Path
    config_dir: Path
    statement: str | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a folder holds: batches without a mistake by name, mistakes, and the files with any."""

    batches: Mapping[str, BatchEntry]
    problems: tuple[Problem, ...]
    files: tuple[Path, ...]


def batch_files(config_dir: Path) -> list[Path]:
    """All batch files, in order; names that begin with ``_`` or ``.`` are none."""
    return _files(config_dir, "*.yaml")


def _files(config_dir: Path, pattern: str) -> list[Path]:
    folder = config_dir / FOLDER
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if not any(part[0] in "_." for part in path.relative_to(folder).parts)
    ]


def load_batches(config_dir: Path, variables: Mapping[str, str] | None = None) -> LoadResult:
    """Every batch of a configuration folder and every mistake; never raises for a mistake.

    Parameters
    ----------
    variables
        Overrides by variable; those of the environment when None.
    """
    found = find_variables(ENVIRONMENT) if variables is None else variables
    problems: list[Problem] = []
    paths = batch_files(config_dir)
    files = list(paths)
    defaults = Document("", "", {}, None)
    if (config_dir / FOLDER / DEFAULTS_FILE).is_file():
        files.append(config_dir / FOLDER / DEFAULTS_FILE)
        defaults = _defaults(files[-1], problems)
    for path in _files(config_dir, "*.yml"):
        message = f"expected the suffix .yaml, got {path.name}: rename it, else it is not read"
        problems.append(Problem(str(path), 1, 1, "", message))
    documents = _documents(paths, problems)
    below = {DEFAULTS: defaults.data or {}} | {
        path.stem: document.data for path, document in documents.items() if isinstance(document.data, dict)
    }
    known = below | {path.stem: below.get(path.stem, {}) for path in paths}
    overrides, mistaken = read_overrides(found, known)
    problems += mistaken
    batches: dict[str, BatchEntry] = {}
    for path, own in documents.items():
        layers = [
            *(overrides[name] for name in (path.stem, DEFAULTS) if name in overrides),
            own,
            *([defaults] if defaults.data else []),
        ]
        try:
            batches[path.stem] = _entry(path, own, layers, config_dir)
        except ConfigProblems as error:
            problems += error.problems
    # A mistake that several batches inherit is one.
    return LoadResult(MappingProxyType(batches), tuple(sorted(set(problems))), tuple(sorted(files)))


def _defaults(path: Path, problems: list[Problem]) -> Document:
    try:
        document = load_document(path)
    except ConfigProblems as error:
        problems += error.problems
        return Document(str(path), "", {}, None)
    try:
        validate(document, BatchDefaults)
    except ConfigProblems as error:
        problems += error.problems
        wrong = {problem.path.partition(".")[0] for problem in error.problems}
        if not isinstance(document.data, dict) or "" in wrong:
            return Document(str(path), "", {}, None)
        # What is sound of it still holds, so that mistakes of batches are told in the same breath.
        document.data = {key: value for key, value in document.data.items() if key not in wrong}
    return document


def _documents(paths: Sequence[Path], problems: list[Problem]) -> dict[Path, Document]:
    documents: dict[Path, Document] = {}
    seen: dict[str, Path] = {}
    for path in paths[:BATCHES_MAX]:
        message = ""
        if not re.match(NAME, path.stem) or len(path.stem) > 64:
            message = (
                "expected a file name of lower-case letters and digits, in words joined by one _, "
                f"at most 64 of them, got {path.stem}"
            )
        elif path.stem == DEFAULTS:
            message = f"expected another file name: {DEFAULTS} stands for all batches in the environment"
        elif path.stem in seen:
            message = f"expected each batch once, got {path.stem} already at {seen[path.stem]}"
        seen.setdefault(path.stem, path)
        if message:
            problems.append(Problem(str(path), 1, 1, "", message))
            continue
        try:
            documents[path] = load_document(path)
        except ConfigProblems as error:
            problems += error.problems
    if len(paths) > BATCHES_MAX:
        message = f"expected at most {BATCHES_MAX:,} batches, got {len(paths):,}"
        problems.append(Problem(str(paths[BATCHES_MAX]), 1, 1, "", message))
    return documents


def _entry(path: Path, own: Document, layers: Sequence[Document], config_dir: Path) -> BatchEntry:
    if own.data is not None and not isinstance(own.data, dict):
        raise ConfigProblems([own.problem((), f"expected keys and values, got {str(own.data)[:80]}")])
    layered = LayeredDocument(own, layers)
    batch = validate(layered, Batch)
    key, statement = "sql", batch.sql
    if batch.sql_file is not None:
        key, statement = "sql_file", _read_sql(layered, path, batch.sql_file, config_dir)
    if isinstance(batch.source, HttpSource):
        _check_query(layered, batch, batch.source)
    for key_path, told in _functions(batch):
        _check_function(layered, path, key_path, told)
    if statement is not None:
        check_statement(
            batch, statement, lambda message, meant, at: _located(layered, key, message, meant, at)
        )
    return BatchEntry(path.stem, batch, path, config_dir, statement, own.text)


def _check_query(layered: LayeredDocument, batch: Batch, source: HttpSource) -> None:
    problems = []
    for key, text in source.query.items():
        try:
            render(text, SAMPLE, "sample", batch.params, ZoneInfo(batch.timezone))
        except TemplateMistake as error:
            problems.append(layered.problem(("source", "query", key), str(error), error.suggestion))
    if problems:
        raise ConfigProblems(problems)


def _functions(batch: Batch) -> list[tuple[tuple[str, ...], str]]:
    """The functions that a batch names, and the keys that name them."""
    found = [(("python",), batch.python), (("preprocessing", "function"), batch.preprocessing.function)]
    found += [
        (("metrics", name, "preprocessing", "function"), own.preprocessing.function)
        for name, own in batch.metrics.items()
    ]
    return [(key_path, told) for key_path, told in found if told is not None]


def _check_function(layered: LayeredDocument, path: Path, key_path: tuple[str, ...], told: str) -> None:
    """Whether the module is there; nothing of it is run."""
    module = told.partition(":")[0]
    if path.parent.joinpath(*module.split(".")).with_suffix(".py").is_file():
        return
    # Finding a module within a package would import the package.
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        beside = [file.stem for file in path.parent.glob("*.py")]
        message = f"expected the module {module} as a file beside this one or installed, got neither"
        raise ConfigProblems([layered.problem(key_path, message, closest(module, beside))])


def _located(layered: LayeredDocument, key: str, message: str, meant: str, at: int | None) -> Problem:
    return layered.problem((key,), message, meant, at if key == "sql" else None)


def _read_sql(layered: LayeredDocument, path: Path, name: str, config_dir: Path) -> str:
    file = (path.parent / name).resolve()
    message = ""
    if not file.is_relative_to((config_dir / FOLDER).resolve()):
        message = f"expected a file in {config_dir / FOLDER}, got {name}"
    else:
        try:
            if file.stat().st_size <= SQL_BYTES_MAX:
                return file.read_text(encoding="utf-8")
            message = f"expected at most {SQL_BYTES_MAX:,} bytes in {file}"
        except (OSError, UnicodeDecodeError) as error:
            message = f"expected a readable UTF-8 file, got {error}"
    raise ConfigProblems([layered.problem(("sql_file",), message)])


class Library:
    """Batches that follow their folder: ``refresh`` reads again what changed and keeps the last good of the rest.

    Parameters
    ----------
    config_dir
        Holds ``metrics/``.
    """

    def __init__(self, config_dir: Path) -> None:
        self._config_dir = config_dir
        self._stamp: object = None
        self._batches: dict[str, BatchEntry] = {}
        self._problems: tuple[Problem, ...] = ()
        self._stale: tuple[str, ...] = ()

    @property
    def batches(self) -> Mapping[str, BatchEntry]:
        """The newest good form of every batch that has a file."""
        return MappingProxyType(self._batches)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every mistake as of the last look."""
        return self._problems

    @property
    def stale(self) -> tuple[str, ...]:
        """Batches that run as they were, since their files have mistakes now."""
        return self._stale

    def refresh(self) -> bool:
        """Look at the folder; whether anything in it, or in the environment, is another than at the last look."""
        variables = find_variables(ENVIRONMENT)
        stamp = (_stamp_of(self._config_dir / FOLDER), tuple(sorted(variables.items())))
        if stamp == self._stamp:
            return False
        loaded = load_batches(self._config_dir, variables)
        names = {path.stem for path in batch_files(self._config_dir)}
        kept = {name: entry for name, entry in self._batches.items() if name in names}
        self._stale = tuple(sorted(set(kept) - set(loaded.batches)))
        self._batches = dict(sorted((kept | dict(loaded.batches)).items()))
        self._problems, self._stamp = loaded.problems, stamp
        return True


def _stamp_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of everything in a folder: SQL and Python files change a batch too."""
    found: list[tuple[str, int, int]] = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:
            continue  # gone between the listing and the look
        if path.is_file() and "__pycache__" not in path.parts:
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)
