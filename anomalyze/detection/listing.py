"""Allow and block lists of one partition: users, devices, merchants and more, by account, with expiry.

Lists change only by control records, which stand on every partition of the log, so that a verdict depends on
the log alone. An entry ends by the broker's append time of the record that is judged, not by a clock.
A control record looks so (``expires_at`` may be missing or null; ``op`` is ``put`` or ``remove``)::

    {"control": "list", "op": "put", "account_id": "acct_7", "list": "block", "field": "device_id",
     "value": "d_91e4", "expires_at": "2026-01-01T00:00:00Z"}
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_key, user_key

__all__ = ["ENTRIES_MAX", "FIELDS", "ListState"]

# The text columns of a transaction; a field's place is part of stored states: add at the end only.
FIELDS = (
    "user_id",
    "device_id",
    "merchant_id",
    "ip",
    "merchant_category",
    "channel",
    "country",
    "currency",
    "status",
)
ENTRIES_MAX = 200_000  # of one partition, all accounts together: 8 MB of keys
NEVER_MS = np.iinfo(np.int64).max
# Spreads account hashes before they are combined with value hashes (the 64-bit golden ratio).
SPREAD = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1

Key = tuple[int, int, int, int]  # account, list, number of the field, value


class ListState:
    """What stands on the lists, as far as this partition's log says."""

    __slots__ = ("_entries", "_tables")

    def __init__(self) -> None:
        self._entries: dict[Key, int] = {}
        self._tables: dict[tuple[int, int], tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, body: dict[str, Any]) -> str | None:
        """Follow a control record; returns why it was refused (the lists are then as before), else None."""
        wanted = {name: body.get(name) for name in ("op", "account_id", "list", "field", "value")}
        for name, value in wanted.items():
            if not isinstance(value, str) or not value:
                return f"{name}: expected text, got {value!r}"
        if wanted["op"] not in ("put", "remove"):
            return f"op: expected put or remove, got {wanted['op']!r}"
        if wanted["field"] not in FIELDS:
            return f"field: expected one of {', '.join(FIELDS)}, got {wanted['field']!r}"
        try:
            expires_ms = parse_expiry(body.get("expires_at"))
        except ValueError as error:
            return f"expires_at: expected a time with offset, got {error}"
        account, name, field, value = (str(wanted[n]) for n in ("account_id", "list", "field", "value"))
        hashed = user_key(account, value)[0] if field == "user_id" else text_key(value)
        key = (text_key(account), text_key(name), FIELDS.index(field), hashed)
        if wanted["op"] == "remove":
            self._entries.pop(key, None)
        elif key not in self._entries and len(self._entries) >= ENTRIES_MAX:
            return f"lists are full: at most {ENTRIES_MAX} entries; remove expired ones"
        else:
            self._entries[key] = expires_ms
        self._tables = build_tables(self._entries)
        return None

    def contains(
        self,
        name: str,
        field: str,
        values: npt.NDArray[np.uint64],
        accounts: npt.NDArray[np.uint64],
        append_ms: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """Whether each row's value stands on its account's list when it is judged.

        Parameters
        ----------
        name, field
            The list, and one of ``FIELDS``.
        values, accounts
            Hashes of the values (0 = missing: on no list) and of the account ids, ``[n]``.
        append_ms
            Append time of each row.
        """
        table = self._tables.get((text_key(name), FIELDS.index(field)))
        if table is None:
            return np.zeros(len(values), dtype=np.bool_)
        keys, expires = table
        wanted = values ^ (accounts * np.uint64(SPREAD))
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found: npt.NDArray[np.bool_] = (keys[place] == wanted) & (values != 0) & (append_ms < expires[place])
        return found

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """The entries as arrays, sorted."""
        entries = sorted(self._entries.items())
        return {
            "list_key": np.array([key for key, _ in entries], dtype=np.uint64).reshape(-1, 4),
            "list_expires_ms": np.array([expires for _, expires in entries], dtype=np.int64),
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Become what ``snapshot`` described."""
        keys = [(k[0], k[1], k[2], k[3]) for k in arrays["list_key"].tolist()]
        self._entries = dict(zip(keys, arrays["list_expires_ms"].tolist(), strict=True))
        self._tables = build_tables(self._entries)


def account_keys(batch: MicroBatch) -> npt.NDArray[np.uint64]:
    """Hash of each row's account id."""
    keys = np.array([text_key(account) for account in batch.accounts], dtype=np.uint64)
    return keys[batch.account]


def parse_expiry(value: Any) -> int:
    """RFC 3339 to ms since 1970; None means never."""
    if value is None:
        return int(NEVER_MS)
    if not isinstance(value, str):
        raise ValueError(repr(value))
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError(repr(value))
    return int(at.timestamp() * 1000)


def build_tables(
    entries: dict[Key, int],
) -> dict[tuple[int, int], tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]]:
    """Sorted keys (value combined with account) and expiry, for each list and field."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (account, name, field, value), expires_ms in entries.items():
        combined = value ^ (account * SPREAD & WORD)
        groups.setdefault((name, field), []).append((combined, expires_ms))
    return {
        group: (
            np.array([key for key, _ in sorted(rows)], dtype=np.uint64),
            np.array([expires for _, expires in sorted(rows)], dtype=np.int64),
        )
        for group, rows in groups.items()
    }
