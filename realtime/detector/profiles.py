"""Profiles as a worker has them: versions of days in memory or as a mapped file, of very large ones the rows met lately.

A very large version's rows come from Redis, in one exchange for all new keys of a micro-batch, or from its file where
Redis is away or lacks them. Both hold the same bytes, so that the verdict is the same; a metric counts which it was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from anomalyze.detection.detector import Detector
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys
from anomalyze.features.daily import batch_keys
from anomalyze.features.daily_store import (
    DAILY_KEPT_MAX,
    DailySnapshot,
    Fetched,
    RowSource,
    TableRows,
)
from anomalyze.features.snapshot import SNAPSHOTS_KEPT_MAX, Profiles, Snapshot
from anomalyze.storage.profile_rows import RedisRows

__all__ = ["CACHED_KEYS_MAX", "MAPPED_KEYS_MAX", "CachedRows", "ProfileCache"]

PROFILES_KEPT = 4
SNAPSHOTS_KEPT = 2 * SNAPSHOTS_KEPT_MAX + DAILY_KEPT_MAX
# 124 MB as a mapped file, of which what is looked at takes memory, and only as long as there is enough. Reading it
# costs a twentieth of asking Redis (docs/performance.md); whatever is larger is not laid out on every machine.
MAPPED_KEYS_MAX = 1_000_000
# Of one version: 8 MB. More than a micro-batch can ask for.
CACHED_KEYS_MAX = 65_536


class ProfileCache:
    """Profiles by the ids of their snapshots: partitions that met the same records share them.

    Parameters
    ----------
    load
        A snapshot by its id.
    redis_rows
        Where rows of versions of more than ``mapped_keys_max`` keys are read from; None: from their file.
    count
        Told, after each micro-batch that read profiles of days, where its rows came from.
    """

    def __init__(
        self,
        load: Callable[[str], Snapshot | DailySnapshot],
        redis_rows: RedisRows | None = None,
        count: Callable[[Fetched], None] = lambda fetched: None,
        *,
        mapped_keys_max: int = MAPPED_KEYS_MAX,
    ) -> None:
        self._load = load
        self._redis_rows = redis_rows
        self._count = count
        self._mapped_keys_max = mapped_keys_max
        self._snapshots: OrderedDict[str, Snapshot | DailySnapshot] = OrderedDict()
        self._profiles: OrderedDict[tuple[str, ...], Profiles] = OrderedDict({(): Profiles()})

    def get(self, ids: tuple[str, ...]) -> Profiles:
        """The profiles of these snapshots. Raises what loading raises."""
        profiles = self._profiles.get(ids)
        if profiles is None:
            profiles = self._profiles[ids] = Profiles([self._snapshot(one) for one in ids])
            while len(self._profiles) > PROFILES_KEPT:
                self._profiles.popitem(last=False)
        return profiles

    def extended(self, ids: tuple[str, ...], snapshot: str) -> tuple[str, ...]:
        """The ids with one more snapshot, the oldest left out where there are too many."""
        return self.get(ids).with_snapshot(self._snapshot(snapshot)).ids

    def fetch(self, profiles: Profiles, batch: MicroBatch, detector: Detector) -> None:
        """Have at hand what judging this micro-batch will look up: the detector itself reads memory only.

        Raises
        ------
        TransientError
            Neither Redis nor the object store answers.
        """
        if not detector.daily_entities or profiles.newest_daily is None or not batch.n:
            return
        account_key = text_keys(batch.accounts)[batch.account]
        keys = batch_keys(detector.daily_entities, batch, account_key)
        total = Fetched()
        for snapshot, rows in profiles.daily_rows(batch.ts_ms):
            fetched = snapshot.rows.fetch(np.concatenate([column[rows] for column in keys.values()]))
            total.memory += fetched.memory
            total.redis += fetched.redis
            total.file += fetched.file
        self._count(total)

    def _snapshot(self, snapshot_id: str) -> Snapshot | DailySnapshot:
        found = self._snapshots.get(snapshot_id)
        if found is None:
            found = self._load(snapshot_id)
            if isinstance(found, DailySnapshot):
                found = self._in_service(found)
            self._snapshots[snapshot_id] = found
            while len(self._snapshots) > SNAPSHOTS_KEPT:
                self._snapshots.popitem(last=False)
        return found

    def _in_service(self, snapshot: DailySnapshot) -> DailySnapshot:
        if snapshot.note.keys <= self._mapped_keys_max:
            return snapshot
        return DailySnapshot(snapshot.note, lambda: CachedRows(snapshot, self._redis_rows))


class CachedRows:
    """The rows of a large version that were met lately; at ``CACHED_KEYS_MAX`` it begins anew.

    Parameters
    ----------
    snapshot
        The version; its own rows are opened where Redis does not help.
    redis_rows
        None: its own rows only.
    """

    def __init__(self, snapshot: DailySnapshot, redis_rows: RedisRows | None) -> None:
        self._snapshot = snapshot
        self._redis_rows = redis_rows
        self._columns = np.arange(len(snapshot.note.measures), dtype=np.intp)
        self._table = self._empty()

    def _empty(self) -> TableRows:
        return TableRows(np.empty(0, np.uint64), np.empty((0, len(self._columns)), np.float32))

    def fetch(self, keys: npt.NDArray[np.uint64]) -> Fetched:
        """Have the rows of these keys at hand: from memory, from Redis, from the file, in this order."""
        wanted = np.unique(keys[keys != 0])
        missing = wanted[self._table.find(wanted) < 0]
        if len(self._table.keys) + len(missing) > CACHED_KEYS_MAX:
            self._table, missing = self._empty(), wanted
        fetched = Fetched(memory=len(wanted) - len(missing))
        if not len(missing):
            return fetched
        values = np.full((len(missing), len(self._columns)), np.nan, dtype=np.float32)
        said = np.zeros(len(missing), dtype=np.bool_)
        if self._redis_rows is not None:
            values, said = self._redis_rows.read(self._snapshot.id, missing, len(self._columns))
        fetched.redis = int(said.sum())
        if not said.all():
            rows: RowSource = self._snapshot.rows
            values[~said] = rows.gather(missing[~said], self._columns)
            fetched.file = len(missing) - fetched.redis
        place = np.searchsorted(self._table.keys, missing)
        self._table = TableRows(
            np.insert(self._table.keys, place, missing), np.insert(self._table.values, place, values, axis=0)
        )
        return fetched

    def gather(self, keys: npt.NDArray[np.uint64], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """As ``RowSource`` says, of keys that were fetched."""
        return self._table.gather(keys, columns)
