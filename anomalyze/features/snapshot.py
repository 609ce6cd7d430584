"""Profiles as the detector reads them: immutable files, joined to a micro-batch by merchant, and by whom each day's
profiles are about (``anomalyze.features.daily_store``).

A snapshot holds what was known before an instant. An event is judged by the newest snapshot whose instant is not
after the event's own time, in the stream and in training alike; without one its profile features are NULL. The
file is parquet, named by the hash of its bytes, and never changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError
from anomalyze.features.catalogue import DAILY_PROFILE
from anomalyze.features.daily_store import DAILY_KEPT_MAX, DailySnapshot, DailyStore

__all__ = [
    "SNAPSHOTS_KEPT_MAX",
    "SNAPSHOT_BYTES_MAX",
    "ProfileStore",
    "Profiles",
    "Snapshot",
    "merchant_keys",
]

FORMAT = 1
SNAPSHOT_BYTES_MAX = 256 << 20
KEYS_MAX = 5_000_000
COLUMNS_MAX = 64
# Nearly nine days of them at one every six hours: an event that comes later than that has NULL.
SNAPSHOTS_KEPT_MAX = 35
_METADATA = "anomalyze"
_ID = re.compile(r"sha256:[0-9a-f]{64}")


def merchant_keys(
    account_key: npt.NDArray[np.uint64], merchant: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Key of each merchant within its account, from ``text_key`` of both; 0 where there is no merchant.

    >>> merchant_keys(np.array([5, 5], dtype=np.uint64), np.array([9, 0], dtype=np.uint64)).tolist()
    [12, 0]
    """
    return np.where(merchant == 0, np.uint64(0), merchant ^ account_key)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What was known of every merchant before an instant.

    Attributes
    ----------
    as_of_ms
        The instant, ms since 1970 UTC.
    names
        Features, the columns of ``values``.
    keys
        uint64 ``[m]``, ascending, each once: ``merchant_keys``.
    values
        float64 ``[m, len(names)]``, NaN = NULL.
    """

    as_of_ms: int
    names: tuple[str, ...]
    keys: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.keys), len(self.names)) or len(self.keys) > KEYS_MAX:
            raise ContractError(
                f"profiles: expected [{len(self.keys)}, {len(self.names)}] values of at most {KEYS_MAX} keys, "
                f"got {self.values.shape}"
            )
        if not 0 < len(set(self.names)) == len(self.names) <= COLUMNS_MAX:
            raise ContractError(f"profiles: expected 1 to {COLUMNS_MAX} names, each once, got {self.names}")
        if (self.keys[1:] <= self.keys[:-1]).any():
            raise ContractError("profiles: expected ascending keys, each once")

    @cached_property
    def data(self) -> bytes:
        """The snapshot's file."""
        # Only who writes or reads a file pays for it: 80 ms.
        import polars as pl

        columns: dict[str, Any] = {"key": self.keys}
        columns |= {name: self.values[:, i] for i, name in enumerate(self.names)}
        about = json.dumps(
            {"format": FORMAT, "as_of_ms": self.as_of_ms, "names": list(self.names)}, sort_keys=True
        )
        file = io.BytesIO()
        pl.DataFrame(columns).write_parquet(file, metadata={_METADATA: about})
        return file.getvalue()

    @cached_property
    def id(self) -> str:
        """``sha256:…`` of the file: the version's name in the object store and in the log."""
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, expected_id: str) -> Snapshot:
        """Read a snapshot's file, which must hash to its id: a damaged one can end polars' parquet reader.

        Raises
        ------
        ContractError
            It is damaged, too large, of a newer format, or not what its id says.
        """
        import polars as pl

        if len(data) > SNAPSHOT_BYTES_MAX:
            raise ContractError(f"profiles: expected at most {SNAPSHOT_BYTES_MAX} bytes, got {len(data)}")
        if "sha256:" + hashlib.sha256(data).hexdigest() != expected_id:
            raise ContractError(f"profiles: the content is not {expected_id}: damaged; publish them again")
        try:
            about = json.loads(pl.read_parquet_metadata(io.BytesIO(data))[_METADATA])
            if about["format"] != FORMAT:
                raise ContractError(
                    f"profiles: expected format {FORMAT}, got {str(about['format'])[:40]}; upgrade"
                )
            names = tuple(str(name) for name in about["names"])
            frame = pl.read_parquet(io.BytesIO(data), n_rows=KEYS_MAX + 1)
            if frame.columns != ["key", *names] or frame["key"].dtype != pl.UInt64:
                raise ContractError(f"profiles: expected the columns key and {names}, got {frame.columns}")
            snapshot = cls(
                as_of_ms=int(about["as_of_ms"]),
                names=names,
                keys=frame["key"].to_numpy().astype(np.uint64),
                values=np.column_stack([frame[name].cast(pl.Float64).to_numpy() for name in names]),
            )
        except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError, OSError) as error:
            raise ContractError(
                f"profiles: expected a snapshot's parquet file, got {error!r:.200}"
            ) from error
        snapshot.__dict__["data"] = data  # its name is of these bytes, whoever would write others
        return snapshot


class Profiles:
    """The snapshots that a detector may need, by their instants; never changed.

    Parameters
    ----------
    snapshots
        What labels say, and profiles of whole days. Of an instant given twice the later one of a kind counts.
    """

    def __init__(self, snapshots: Iterable[Snapshot | DailySnapshot] = ()) -> None:
        found: dict[int, Snapshot] = {}
        daily: dict[int, DailySnapshot] = {}
        for snapshot in snapshots:
            if isinstance(snapshot, DailySnapshot):
                daily[snapshot.as_of_ms] = snapshot
            else:
                found[snapshot.as_of_ms] = snapshot
        self._snapshots = tuple(found[instant] for instant in sorted(found))
        self._instants = np.array(sorted(found), dtype=np.int64)
        self._daily = tuple(daily[instant] for instant in sorted(daily))
        self._daily_instants = np.array(sorted(daily), dtype=np.int64)

    def with_snapshot(self, snapshot: Snapshot | DailySnapshot) -> Profiles:
        """These and one more; of each kind the newest ``SNAPSHOTS_KEPT_MAX`` and ``DAILY_KEPT_MAX``."""
        all_of_them = Profiles([*self._snapshots, *self._daily, snapshot])
        return Profiles(
            [*all_of_them._snapshots[-SNAPSHOTS_KEPT_MAX:], *all_of_them._daily[-DAILY_KEPT_MAX:]]
        )

    def joined(self, other: Profiles) -> Profiles:
        """These and another's, without a limit: for a replay of many days."""
        return Profiles([*self._snapshots, *self._daily, *other._snapshots, *other._daily])

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the snapshots, oldest first, those of days after the others."""
        return (*(one.id for one in self._snapshots), *(one.id for one in self._daily))

    @property
    def newest(self) -> str | None:
        """Id of the newest snapshot of what labels say: the version that a verdict names."""
        return self._snapshots[-1].id if self._snapshots else None

    @property
    def newest_daily(self) -> str | None:
        """Id of the newest profiles of a whole day: the other version that a verdict names."""
        return self._daily[-1].id if self._daily else None

    def join(
        self,
        names: Sequence[str],
        ts_ms: npt.NDArray[np.int64],
        keys: npt.NDArray[np.uint64],
        out: npt.NDArray[np.float64],
    ) -> None:
        """Write the profile features of rows.

        Parameters
        ----------
        names
            Features wanted, the columns of ``out``; one that a snapshot lacks is NULL.
        ts_ms, keys
            ``[n]``: event times, and merchants as ``merchant_keys`` gives them (0 = none).
        out
            float64 ``[n, len(names)]``, written.
        """
        out[:] = np.nan
        newest = np.searchsorted(self._instants, ts_ms, side="right") - 1
        for number in np.unique(newest):
            if number < 0 or not len(self._snapshots[number].keys):
                continue
            snapshot = self._snapshots[number]
            rows = np.flatnonzero((newest == number) & (keys != 0))
            place = np.minimum(np.searchsorted(snapshot.keys, keys[rows]), len(snapshot.keys) - 1)
            known = snapshot.keys[place] == keys[rows]
            rows, place = rows[known], place[known]
            for column, name in enumerate(names):
                if name in snapshot.names:
                    out[rows, column] = snapshot.values[place, snapshot.names.index(name)]

    def daily_rows(
        self, ts_ms: npt.NDArray[np.int64]
    ) -> Iterator[tuple[DailySnapshot, npt.NDArray[np.intp] | slice]]:
        """Each version of daily profiles that events at these times are judged by, and their rows.

        That of the day before, else the newest older one; rows older than all are in none.
        """
        if not self._daily or not len(ts_ms):
            return
        if ts_ms.min() >= self._daily_instants[-1]:  # nearly always
            yield self._daily[-1], slice(None)
            return
        newest = np.searchsorted(self._daily_instants, ts_ms, side="right") - 1
        for number in np.unique(newest[newest >= 0]).tolist():
            yield self._daily[number], np.flatnonzero(newest == number)

    def join_daily(
        self,
        names: Sequence[str],
        ts_ms: npt.NDArray[np.int64],
        keys: Mapping[str, npt.NDArray[np.uint64]],
        out: npt.NDArray[np.float64],
    ) -> None:
        """Write the features of rows that come from profiles of whole days.

        Parameters
        ----------
        names
            Features wanted (``DAILY_PROFILE``), the columns of ``out``.
        ts_ms
            ``[n]``: event times.
        keys
            ``[n]`` by entity, as ``entity_keys`` gives them (0 = none), of each entity that ``names`` are of.
        out
            float64 ``[n, len(names)]``, written.
        """
        out[:] = np.nan
        columns: dict[str, list[int]] = {}
        for column, name in enumerate(names):
            columns.setdefault(DAILY_PROFILE[name][0], []).append(column)
        for snapshot, rows in self.daily_rows(ts_ms):
            for entity, places in columns.items():
                measures = [DAILY_PROFILE[names[place]][1] for place in places]
                found = snapshot.gather(keys[entity][rows], measures)
                for i, place in enumerate(places):
                    out[rows, place] = found[:, i]


class Objects(Protocol):
    """What this module asks of an object store (``anomalyze.storage.objects`` has it)."""

    def put(self, path: str, data: bytes, *, if_absent: bool = False) -> bool: ...

    def get(self, path: str, *, bytes_max: int | None = None) -> bytes | None: ...

    def delete(self, path: str) -> None: ...


class ProfileStore:
    """Snapshots in an object store, each under its hash.

    Parameters
    ----------
    objects
        The store.
    folder
        Where this machine lays out large profiles of days (``DailyStore``); None: only what labels say is read.
    """

    def __init__(self, objects: Objects, folder: Path | None = None) -> None:
        self._objects = objects
        self._daily = None if folder is None else DailyStore(objects, folder)

    def open(self, snapshot_id: str) -> Snapshot | DailySnapshot:
        """A snapshot of either kind. Raises as ``load`` does."""
        note = None if self._daily is None else self._daily.find(snapshot_id)
        if self._daily is None or note is None:
            return self.load(snapshot_id)
        return self._daily.open(note)

    def publish(self, snapshot: Snapshot) -> str:
        """Write a snapshot; publishing it again changes nothing. Returns its id."""
        self._objects.put(_path(snapshot.id), snapshot.data, if_absent=True)
        return snapshot.id

    def load(self, snapshot_id: str) -> Snapshot:
        """Read and verify a snapshot.

        Raises
        ------
        ContractError
            There is none of that id, or its file is not what the id says.
        """
        data = self._objects.get(_path(snapshot_id), bytes_max=SNAPSHOT_BYTES_MAX)
        if data is None:
            raise ContractError(f"profiles {snapshot_id}: not published in this object store")
        return Snapshot.from_bytes(data, snapshot_id)


def _path(snapshot_id: str) -> str:
    if not _ID.fullmatch(snapshot_id):
        raise ContractError(f"profiles: expected an id sha256:<64 hex digits>, got {snapshot_id[:80]!r}")
    return f"profiles/{snapshot_id.removeprefix('sha256:')}.parquet"
