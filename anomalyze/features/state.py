"""What a partition remembers of its users: flat arrays that grow in place.

Bounds: ``EVENTS_MAX`` events a user (the oldest goes), ``USERS_MAX`` users a partition (a new one beyond
has no user features, flag ``STATE_FULL``). A user unheard of for ``forget_after``, by the append time of
the log, is as new; the memory comes back with the next sweep. All of it follows from the log alone.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import mmap
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.errors import ContractError
from anomalyze.features import history, layout
from anomalyze.features.compiled import COMPILED

__all__ = ["STATE_FORMAT", "USERS_MAX", "Disposition", "FeatureState", "HistoryFlag", "StateArrays"]

# Raised when the meaning of a stored array changes: older checkpoints are then refused.
STATE_FORMAT = 1
USERS_MAX = (1 << 24) - 2
_HUGE_PAGE_BYTES_MIN = 64 << 20
_INDEX_SLOTS_MIN = 256


class Disposition(IntEnum):
    """What a record is to its user's history."""

    JUDGE = 0
    REPEAT = 1
    STATUS_UPDATE = 2
    CONFLICT = 3


class HistoryFlag(IntFlag):
    """What must be known about the history that a row was judged on."""

    INCOMPLETE = 1  # older than the user's newest event by more than the longest window: not remembered
    TRUNCATED = 2  # the events kept do not reach back over the longest window
    GUEST = 4  # the id stands for nobody in particular: user features are NULL
    STATE_FULL = 8  # the partition remembers as many users as it can: user features are NULL
    LATE = 16  # something newer of this user was judged before


class StateArrays(NamedTuple):
    """The arrays as the compiled functions see them; valid until the state grows."""

    users: npt.NDArray[np.int64]
    slots: npt.NDArray[np.uint32]
    events: npt.NDArray[np.int64]
    links: npt.NDArray[np.int32]
    account_keys: npt.NDArray[np.int64]
    account_rows: npt.NDArray[np.int64]
    meta: npt.NDArray[np.int64]


class _Slab:
    """Rows of one array in private memory that grows without copying where the system can (Linux).

    Pages that were never written cost nothing, so growing generously is free.
    """

    def __init__(self, dtype: Any, width: int, rows: int) -> None:
        self._dtype = np.dtype(dtype)
        self._width = width
        self._memory = self._map(rows)
        self.array = self._view()

    @property
    def row_bytes(self) -> int:
        return self._width * self._dtype.itemsize

    def reserve(self, rows: int) -> None:
        """Make room for at least so many rows; what is there stays."""
        if rows <= len(self.array):
            return
        rows = max(rows, len(self.array) + len(self.array) // 2)
        # A mapping moves only while nobody looks at it; a reader elsewhere makes this a copy.
        self.array = np.empty((0, self._width), self._dtype)
        try:
            self._memory.resize(self._rounded(rows))
        except (BufferError, SystemError, ValueError, OSError):
            before = self._memory
            self._memory = self._map(rows)
            self._memory[: len(before)] = before[:]
        self._advise()
        self.array = self._view()

    def _rounded(self, rows: int) -> int:
        page = mmap.PAGESIZE
        return max(1, -(-rows * self.row_bytes // page)) * page

    def _map(self, rows: int) -> mmap.mmap:
        memory = mmap.mmap(-1, self._rounded(rows), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return memory

    def _advise(self) -> None:
        # Random access over gigabytes misses the TLB at every event; small states would only waste memory.
        if len(self._memory) >= _HUGE_PAGE_BYTES_MIN and hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)

    def _view(self) -> npt.NDArray[Any]:
        rows = len(self._memory) // self.row_bytes
        flat = np.frombuffer(self._memory, dtype=self._dtype, count=rows * self._width)
        return flat.reshape(rows, self._width)


class FeatureState:
    """The feature state of one partition.

    Parameters
    ----------
    users_max
        Users remembered at once.
    """

    def __init__(self, users_max: int = USERS_MAX) -> None:
        self._meta = np.zeros(history.META_WORDS, dtype=np.int64)
        self._meta[history.M_FORMAT] = STATE_FORMAT
        self._meta[history.M_FREE_USER] = self._meta[history.M_FREE_CHUNK] = -1
        self._meta[history.M_USERS_MAX] = min(users_max, USERS_MAX)
        self._allocate(64, 256, np.zeros(16, dtype=np.int64), np.zeros(16, dtype=np.int64))

    def _allocate(
        self, users: int, chunks: int, keys: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
    ) -> None:
        self._users = _Slab(np.int64, layout.USER_WORDS, users)
        self._events = _Slab(np.int64, layout.CHUNK_EVENTS * layout.EVENT_WORDS, chunks)
        self._links = _Slab(np.int32, 1, chunks)
        self._index = np.zeros(_INDEX_SLOTS_MIN, dtype=np.uint32)
        self._account_keys, self._account_rows = keys, rows

    @property
    def arrays(self) -> StateArrays:
        """The arrays for a compiled function; ask again after ``reserve``."""
        return StateArrays(
            self._users.array,
            self._index,
            self._events.array,
            self._links.array.reshape(-1),
            self._account_keys,
            self._account_rows,
            self._meta,
        )

    @property
    def users(self) -> int:
        """Rows of users in use or free for the next one."""
        return int(self._meta[history.M_USERS])

    @property
    def bytes_used(self) -> int:
        """Memory of everything remembered: users, index, events, links, accounts."""
        chunk = self._events.row_bytes + self._links.row_bytes
        return (
            self.users * self._users.row_bytes
            + int(self._meta[history.M_CHUNKS]) * chunk
            + self._index.nbytes
            + self._account_keys.nbytes
            + self._account_rows.nbytes
            + self._meta.nbytes
        )

    def reserve(self, users: int, events: int, accounts: int) -> None:
        """Make room for so many more users, events and accounts, so that the kernel never has to."""
        rows = min(self.users + users, int(self._meta[history.M_USERS_MAX]))
        self._users.reserve(rows)
        chunks = int(self._meta[history.M_CHUNKS]) + events
        self._events.reserve(chunks)
        self._links.reserve(chunks)
        slots = self._index.size
        while 4 * rows > 3 * slots:
            slots *= 2
        if slots > self._index.size:
            self._index = np.zeros(slots, dtype=np.uint32)
            _index(self._users.array, self.users, self._index)
        needed = 2 * (int(self._meta[history.M_ACCOUNTS]) + accounts)
        if needed > self._account_keys.size:
            self._grow_accounts(needed)

    def _grow_accounts(self, needed: int) -> None:
        keys, rows = self._account_keys, self._account_rows
        slots = 1 << (needed - 1).bit_length()
        self._account_keys = np.zeros(slots, dtype=np.int64)
        self._account_rows = np.zeros(slots, dtype=np.int64)
        _move_accounts(keys, rows, self._account_keys, self._account_rows, self._meta)

    def sweep(self) -> int:
        """Give back users that are forgotten already; returns how many. Changes no verdict, ever."""
        arrays = self.arrays
        return int(_sweep(arrays.users, arrays.slots, arrays.links, arrays.meta))

    @property
    def sweep_due(self) -> bool:
        """Whether the log's append time has come to another day since the last sweep."""
        return bool(self._meta[history.M_APPEND_DAY] > self._meta[history.M_SWEPT_DAY])

    def mark_fraud(self, user_key: tuple[int, int], tx_key: int, fraud: bool = True) -> bool:
        """Keep a confirmed fraud out of its user's baseline, or take that back; whether it was found.

        Call it only for what a control record says: verdicts depend on it.
        """
        a = self.arrays
        key = np.array([user_key], dtype=np.uint64).view(np.int64)
        word = np.array([tx_key], dtype=np.uint64).view(np.int64)[0]
        return bool(_mark_fraud(a.users, a.slots, a.events, a.links, key[0, 0], key[0, 1], word, fraud))

    def snapshot(self, spent: Mapping[str, npt.NDArray[Any]] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Copies of the arrays, cut to what is used; the index is made again by ``restore``.

        ``spent`` is an earlier snapshot that nobody needs any more: its memory is written again, which takes
        a third of the time that fresh pages take.
        """
        chunks = int(self._meta[history.M_CHUNKS])
        arrays = {
            "users": self._users.array[: self.users],
            "events": self._events.array[:chunks],
            "links": self._links.array[:chunks],
            "account_keys": self._account_keys,
            "account_rows": self._account_rows,
            "meta": self._meta,
        }
        return {name: _copy(array, (spent or {}).get(name)) for name, array in arrays.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FeatureState:
        """The state of a ``snapshot``.

        Raises
        ------
        ContractError
            Not a snapshot of this ``STATE_FORMAT``.
        """
        _check_snapshot(arrays)
        state = cls.__new__(cls)
        state._meta = arrays["meta"].copy()
        users, events = arrays["users"], arrays["events"]
        state._allocate(
            max(64, len(users)),
            max(256, len(events)),
            arrays["account_keys"].copy(),
            arrays["account_rows"].copy(),
        )
        state._users.array[: len(users)] = users
        state._events.array[: len(events)] = events
        state._links.array[: len(events)] = arrays["links"]
        state.reserve(0, 0, 0)
        if state._index.size == _INDEX_SLOTS_MIN:  # else ``reserve`` has built it
            _index(state._users.array, state.users, state._index)
        return state


def _copy(array: npt.NDArray[Any], spent: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """A copy with a little room behind it for the next one, in the memory of ``spent`` if that is enough."""
    memory = spent if spent is None or spent.base is None else spent.base
    if not isinstance(memory, np.ndarray) or len(memory) < len(array):
        memory = np.empty((len(array) + len(array) // 8 + 1, *array.shape[1:]), dtype=array.dtype)
    copy = memory[: len(array)]
    copy[...] = array
    return copy


def _check_snapshot(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    meta = arrays.get("meta")
    if meta is None or meta.shape != (history.META_WORDS,) or meta[history.M_FORMAT] != STATE_FORMAT:
        got = "none" if meta is None or not len(meta) else int(meta[0])
        raise ContractError(
            f"feature state: expected format {STATE_FORMAT}, got {got}; take another checkpoint"
        )
    users, chunks = int(meta[history.M_USERS]), int(meta[history.M_CHUNKS])
    expected = {
        "users": (users, layout.USER_WORDS),
        "events": (chunks, layout.CHUNK_EVENTS * layout.EVENT_WORDS),
        "links": (chunks, 1),
    }
    for name, shape in expected.items():
        got_shape = arrays[name].shape if name in arrays else None
        if got_shape != shape:
            raise ContractError(f"feature state: {name}: expected shape {shape}, got {got_shape}")


@njit(cache=True, **COMPILED)
def _index(users, used, slots):
    history.index_users(users, used, slots)


@njit(cache=True, **COMPILED)
def _sweep(users, slots, links, meta):
    return history.sweep_users(users, slots, links, meta)


@njit(cache=True, **COMPILED)
def _move_accounts(keys, rows, new_keys, new_rows, meta):
    meta[history.M_ACCOUNTS] = 0
    for slot in range(keys.size):
        if keys[slot] != 0:
            new_rows[history.account_slot(new_keys, meta, keys[slot])] = rows[slot]


@njit(cache=True, **COMPILED)
def _mark_fraud(users, index, events, links, key_0, key_1, tx_key, fraud):
    return history.mark_fraud(users, index, events, links, key_0, key_1, tx_key, fraud)
