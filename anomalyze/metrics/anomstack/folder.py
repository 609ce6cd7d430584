"""Reads the folder of somebody else's configuration: only files within it, few and small enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anomalyze.errors import ConfigError

__all__ = ["DEFAULTS_FILE", "FILE_BYTES_MAX", "Folder", "Note"]

DEFAULTS_FILE = "defaults/defaults.yaml"
FILE_BYTES_MAX = 1 << 20
# Of all kinds: a folder with more is probably not the one that was meant.
ENTRIES_MAX = 20_000
# Of any tool; no batches lie in them.
PASSED_OVER = {"__pycache__", "node_modules"}


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """What could not be carried over as it was, and what to do; ``line`` counts from 1."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Folder:
    """A folder of Anomstack's: its ``metrics``, or what that lies in.

    Attributes
    ----------
    root
        The folder that includes begin at.
    notes
        What was passed over: links that lead out.

    Raises
    ------
    ConfigError
        There is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"expected a folder of Anomstack's with batches, got none at {path}")
        inner = path / "metrics"
        self.root = (inner if (inner / DEFAULTS_FILE).is_file() else path).resolve()
        self.notes: list[Note] = []

    def batch_files(self) -> list[str]:
        """All YAML files below it but the defaults, in order, relative to it.

        Raises
        ------
        ConfigError
            There is too much below it.
        """
        return sorted(name for name in self._files() if name.endswith(".yaml"))

    def read(self, name: str) -> str:
        """The text of a file, by its path within the folder.

        Raises
        ------
        ConfigError
            It is not within the folder, too large, or no UTF-8 text.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root):
            raise ConfigError(f"expected a file within {self.root}, got {name}, which leads out of it")
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) > FILE_BYTES_MAX:
                raise ConfigError(f"expected at most {FILE_BYTES_MAX:,} bytes, got more in {name}")
            return data.decode("utf-8").removeprefix("\ufeff")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"expected a readable UTF-8 file, got {name}: {error}") from None

    def _files(self) -> Iterator[str]:
        count = 0
        for folder, names, files in os.walk(self.root):
            names[:] = sorted(name for name in names if name[0] != "." and name not in PASSED_OVER)
            count += len(names) + len(files)
            if count > ENTRIES_MAX:
                raise ConfigError(
                    f"expected at most {ENTRIES_MAX:,} files below {self.root}, got more: name the folder metrics itself"
                )
            for name in (*names, *files):
                path = Path(folder) / name
                told = path.relative_to(self.root).as_posix()
                if path.is_symlink() and not path.resolve().is_relative_to(self.root):
                    self.notes.append(Note(told, 1, "a link that leads out of the folder is not followed"))
                elif path.is_symlink() and path.is_dir():
                    self.notes.append(Note(told, 1, "a link to a folder is not followed"))
                elif path.is_file() and told != DEFAULTS_FILE and name != "defaults.yaml":
                    yield told
