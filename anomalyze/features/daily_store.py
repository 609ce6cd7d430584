"""Profiles of whole days as files, and as the detector reads them.

A version is two objects: a parquet file of all entities, named by the hash of its bytes, and a note of a few hundred
bytes that says what it is. The note's hash is the version's id, so that a program knows how large a version is
before it reads it. One of at most ``HELD_KEYS_MAX`` entities is held in memory. A larger one is laid out as rows in
a folder of this machine and mapped: what is not looked at takes no memory, and all programs here share the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError, TransientError
from anomalyze.features.catalogue import DAILY_MEASURES
from anomalyze.features.daily import DailyTable
from anomalyze.features.daily_lookup import bucket_starts, find_rows, gather_rows

__all__ = [
    "DAILY_KEPT_MAX",
    "HELD_KEYS_MAX",
    "DailyNote",
    "DailySnapshot",
    "DailyStore",
    "Fetched",
    "RowSource",
    "TableRows",
    "warm",
]

FORMAT = 1
# 116 bytes of values and 8 of key for each: 12 MB a version.
HELD_KEYS_MAX = 100_000
KEYS_MAX = 20_000_000
BYTES_MAX = 2 << 30
NOTE_BYTES_MAX = 8_192
# An event that comes more than eight days late has NULL, nearly as with the profiles of labels.
DAILY_KEPT_MAX = 9
# Laid out versions kept on a machine: those in force, and room for a swap.
LAID_OUT_MAX = DAILY_KEPT_MAX + 2
FOLDER = "profiles/daily"


class DailyNote(msgspec.Struct, frozen=True, dict=True):
    """What a version is.

    Attributes
    ----------
    as_of_ms
        The first moment of the day after, ms since 1970 UTC.
    measures
        Columns of its values, in order.
    keys
        How many entities.
    data, bytes
        ``sha256:…`` and size of its parquet file.
    after
        Id of the older version that says since when entities are known; empty: none.
    """

    as_of_ms: int
    measures: tuple[str, ...]
    keys: int
    data: str
    bytes: int
    after: str = ""
    kind: str = "daily profiles"
    format: int = FORMAT

    @cached_property
    def id(self) -> str:
        """``sha256:…`` of the note: the version's name in the log and in verdicts."""
        return _hash(msgspec.json.encode(self))


class Fetched(msgspec.Struct):
    """How many rows asked for were at hand, and how many came from where."""

    memory: int = 0
    redis: int = 0
    file: int = 0


class RowSource(Protocol):
    """Rows of a version by key."""

    def fetch(self, keys: npt.NDArray[np.uint64]) -> Fetched:
        """Have the rows of these keys at hand (0 = none): what ``gather`` then needs is in memory."""
        ...

    def gather(self, keys: npt.NDArray[np.uint64], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Values ``[len(keys), len(columns)]``; NaN where no profile knows the key."""
        ...


class TableRows:
    """Rows in memory, or in a mapped file.

    Parameters
    ----------
    keys
        uint64 ``[m]``, ascending.
    values
        float32 ``[m, c]``.
    mapped
        Whether they come from a file as they are looked at.
    """

    def __init__(
        self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.float32], *, mapped: bool = False
    ) -> None:
        self.keys, self.values, self._mapped = keys, values, mapped
        self._starts, self._shift = bucket_starts(keys)

    def fetch(self, keys: npt.NDArray[np.uint64]) -> Fetched:
        """Nothing to be done."""
        wanted = int(np.count_nonzero(keys))
        return Fetched(file=wanted) if self._mapped else Fetched(memory=wanted)

    def gather(self, keys: npt.NDArray[np.uint64], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """As ``RowSource`` says."""
        found = np.empty((len(keys), len(columns)), dtype=np.float32)
        gather_rows(self.values, self.find(keys), columns, found)
        return found

    def find(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Where each of the keys stands; -1: nowhere."""
        place = np.empty(len(keys), dtype=np.int64)
        find_rows(self.keys, self._starts, self._shift, np.ascontiguousarray(keys), place)
        return place


def warm() -> None:
    """Compile the look-up, or load it from numba's cache."""
    rows = TableRows(np.ones(1, np.uint64), np.ones((1, 1), np.float32))
    rows.gather(np.ones(1, np.uint64), np.zeros(1, np.intp))


class DailySnapshot:
    """A version of daily profiles; its rows are opened when they are first asked for.

    Parameters
    ----------
    note
        What it is.
    open_rows
        Gives its rows.
    keep
        Whether to ask for them only once.
    """

    def __init__(self, note: DailyNote, open_rows: Callable[[], RowSource], *, keep: bool = True) -> None:
        self.note = note
        self._open_rows = open_rows
        self._keep = keep
        self._rows: RowSource | None = None
        self._columns = {name: i for i, name in enumerate(note.measures)}

    @property
    def id(self) -> str:
        """The version's name."""
        return self.note.id

    @property
    def as_of_ms(self) -> int:
        """The first moment of the day after."""
        return self.note.as_of_ms

    @property
    def rows(self) -> RowSource:
        """Its rows. Raises what reading them raises."""
        if self._rows is not None:
            return self._rows
        rows = self._open_rows()
        if self._keep:
            self._rows = rows
        return rows

    def gather(self, keys: npt.NDArray[np.uint64], measures: Sequence[str]) -> npt.NDArray[np.float32]:
        """Values of these measures for these keys; a measure that the version lacks is NULL."""
        columns = np.array([self._columns.get(name, -1) for name in measures], dtype=np.intp)
        if (columns >= 0).all():
            return self.rows.gather(keys, columns)
        found = np.full((len(keys), len(columns)), np.nan, dtype=np.float32)
        there = np.flatnonzero(columns >= 0)
        found[:, there] = self.rows.gather(keys, columns[there])
        return found


class Objects(Protocol):
    """What this module asks of an object store (``anomalyze.storage.objects`` has it)."""

    def put(self, path: str, data: bytes, *, if_absent: bool = False) -> bool: ...

    def get(self, path: str, *, bytes_max: int | None = None) -> bytes | None: ...

    def delete(self, path: str) -> None: ...


class DailyStore:
    """Versions in an object store.

    Parameters
    ----------
    objects
        The store.
    folder
        Where this machine lays out large versions as rows; made when needed.
    """

    def __init__(self, objects: Objects, folder: Path) -> None:
        self._objects = objects
        self._folder = folder

    def publish(self, table: DailyTable, after: str = "") -> DailySnapshot:
        """Write a table's version, the note last; publishing it again changes nothing."""
        data = _encode(table)
        note = DailyNote(table.as_of_ms, DAILY_MEASURES, len(table.keys), _hash(data), len(data), after)
        self._objects.put(_path(note.data, "parquet"), data, if_absent=True)
        self._objects.put(_path(note.id, "json"), msgspec.json.encode(note), if_absent=True)
        return DailySnapshot(note, lambda: TableRows(table.keys, table.values))

    def load(self, version: str) -> DailySnapshot:
        """A version by its id; its rows are read when they are first asked for.

        Raises
        ------
        ContractError
            There is none of that id, or its note is damaged or of a newer format. Reading its rows: they are not
            what the note says.
        """
        note = self.find(version)
        if note is None:
            raise ContractError(f"daily profiles {version}: not published in this object store")
        return self.open(note)

    def open(self, note: DailyNote) -> DailySnapshot:
        """The version of a note."""
        return DailySnapshot(note, lambda: self.open_rows(note))

    def find(self, version: str) -> DailyNote | None:
        """A version's note, None when there is none of that id."""
        content = self._objects.get(_path(version, "json"), bytes_max=NOTE_BYTES_MAX)
        if content is None:
            return None
        if _hash(content) != version:
            raise ContractError(f"daily profiles: the note is not {version}: damaged; compute that day again")
        try:
            note = msgspec.json.decode(content, type=DailyNote)
        except msgspec.DecodeError as error:
            raise ContractError(f"daily profiles {version}: expected a note, got {error}") from error
        if note.format != FORMAT or not 0 <= note.keys <= KEYS_MAX:
            raise ContractError(
                f"daily profiles {version}: expected format {FORMAT} and at most {KEYS_MAX} keys, got "
                f"{note.format} and {note.keys}; upgrade"
            )
        return note

    def open_rows(self, note: DailyNote) -> TableRows:
        """A version's rows: in memory, or mapped where they are many."""
        if note.keys <= HELD_KEYS_MAX:
            table = self.read(note)
            return TableRows(table.keys, table.values)
        laid_out = self._folder / note.data.removeprefix("sha256:")
        if not laid_out.is_dir():
            self._lay_out(note, laid_out)
        # Never written; "c" only spares the look-up a second compiled form for arrays that cannot be.
        keys, values = (
            np.asarray(np.load(laid_out / f"{name}.npy", mmap_mode="c")) for name in ("keys", "values")
        )
        return TableRows(keys, values, mapped=True)

    def read(self, note: DailyNote) -> DailyTable:
        """A version as it was computed. Raises `ContractError` when its file is not what the note says."""
        data = self._objects.get(_path(note.data, "parquet"), bytes_max=BYTES_MAX)
        if data is None:
            raise ContractError(f"daily profiles {note.id}: its file is gone; compute that day again")
        if _hash(data) != note.data:
            raise ContractError(
                f"daily profiles {note.id}: its file is not {note.data}: damaged; compute that day again"
            )
        return _decode(data, note)

    def delete(self, version: str) -> None:
        """Remove a version if it is there; the note first, so that nobody begins to read what goes."""
        note = self.find(version)
        if note is not None:
            self._objects.delete(_path(version, "json"))
            self._objects.delete(_path(note.data, "parquet"))

    def _lay_out(self, note: DailyNote, target: Path) -> None:
        """Write rows as they are read, aside first; whoever else did the same at that time wins."""
        table = self.read(note)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            aside = Path(tempfile.mkdtemp(dir=self._folder, prefix=".incoming-"))
            try:
                np.save(aside / "keys.npy", table.keys)
                np.save(aside / "values.npy", table.values)
                with contextlib.suppress(OSError):
                    os.rename(aside, target)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            # Whoever has one open goes on reading it.
            for old in sorted(self._folder.iterdir(), key=_age)[LAID_OUT_MAX:]:
                shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise TransientError(f"daily profiles: cannot write to {self._folder}: {error}") from error


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _encode(table: DailyTable) -> bytes:
    # Only who writes or reads a file pays for it: 80 ms.
    import polars as pl

    columns = {"key": table.keys, "entity": table.entity, "first_ms": table.first_ms}
    columns |= {name: table.values[:, i] for i, name in enumerate(DAILY_MEASURES)}
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file, compression="zstd", compression_level=1)
    return file.getvalue()


def _decode(data: bytes, note: DailyNote) -> DailyTable:
    import polars as pl

    try:
        frame = pl.read_parquet(io.BytesIO(data), n_rows=KEYS_MAX + 1)
        values = np.empty((frame.height, len(note.measures)), dtype=np.float32)
        for i, name in enumerate(note.measures):
            values[:, i] = frame[name].to_numpy()
        table = DailyTable(
            note.as_of_ms,
            frame["key"].to_numpy().astype(np.uint64),
            values,
            frame["first_ms"].to_numpy().astype(np.int64),
            frame["entity"].to_numpy().astype(np.uint8),
        )
    except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
        raise ContractError(f"daily profiles {note.id}: expected its columns, got {error!r:.200}") from error
    if frame.height != note.keys or (table.keys[1:] <= table.keys[:-1]).any():
        raise ContractError(f"daily profiles {note.id}: expected {note.keys} ascending keys, each once")
    return table


def _hash(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _path(name: str, ending: str) -> str:
    digest = name.removeprefix("sha256:")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ContractError(f"daily profiles: expected an id sha256:<64 hex digits>, got {name[:80]!r}")
    return f"{FOLDER}/{digest}.{ending}"
