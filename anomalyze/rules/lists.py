"""Lists of values per account: block lists, allow lists and whatever else rules look up with ``in_list``.

A table belongs to the state of one partition: it changes only by the log's control records, and what it
answers depends on the time that the caller gives, never on a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError, EventError
from anomalyze.rules.column import TEXT_COLUMNS

__all__ = [
    "MAX_ENTRIES",
    "NEVER_MS",
    "TEXT_COLUMNS",
    "ListEntry",
    "ListTable",
    "list_value_key",
    "parse_entry",
]

# 1 million entries are 32 MB; whoever needs more wants a profile, not a list.
MAX_ENTRIES = 1_000_000
# Expiry of an entry that stays until it is removed.
NEVER_MS = (1 << 63) - 1

_FORMAT = 1

_HASH_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth 6.4): spreads small codes
_SCOPES_MAX = 1 << 16
# Room in the filter for each entry: a row on no list passes it once in so many times.
_FILTER_SPARE = 16

_Row = tuple[np.uint64, np.uint64, np.uint64]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class ListEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a list, as a control record of kind ``list`` carries it.

    ``{"control": "list", "op": "add", "account_id": "acct_7", "list": "block", "field": "device_id",
    "value": "dev_1", "expires_ms": 1767225600000}``
    """

    op: Literal["add", "remove"]
    account_id: _Name
    list: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,39}$")]
    field: str
    value: _Name
    expires_ms: Annotated[int, msgspec.Meta(ge=0, le=NEVER_MS)] | None = None


@dataclass(frozen=True, slots=True)
class _Scope:
    list_name: str
    field: str


def list_value_key(account_id: str, field: str, value: str) -> int:
    """Hash under which a value stands in the column ``field``; that of ``user_id`` includes the account."""
    from anomalyze.events.hashing import text_key, user_key  # here: it loads compiled code

    return user_key(account_id, value)[0] if field == "user_id" else text_key(value)


class ListTable:
    """Entries (account, list, field, value, expiry), looked up for whole columns.

    Examples
    --------
    >>> table = ListTable()
    >>> table.apply({"op": "add", "account_id": "a", "list": "block", "field": "ip", "value": "10.0.0.1"})
    >>> column = np.array([list_value_key("a", "ip", "10.0.0.1"), 7], dtype=np.uint64)
    >>> table.contains(["a"], np.zeros(2, np.int32), "block", "ip", column, np.zeros(2, np.int64)).tolist()
    [True, False]
    """

    def __init__(self) -> None:
        self._accounts: list[str] = []
        self._account_code: dict[str, int] = {}
        self._scopes: list[_Scope] = []
        self._scope_code: dict[_Scope, int] = {}
        self._scope_size: list[int] = []
        # One entry an index, ascending by key: account and scope in one number, the value, its expiry.
        self._key = np.empty(0, np.uint64)
        self._place = np.empty(0, np.uint64)
        self._value = np.empty(0, np.uint64)
        self._expires_ms = np.empty(0, np.int64)
        self._build_filter()

    def __len__(self) -> int:
        return len(self._key)

    def apply(self, body: Mapping[str, Any]) -> None:
        """Follow one control record of kind ``list``.

        An entry that is added again takes the new expiry; one that is removed and was not there is no error.

        Raises
        ------
        EventError
            Not such a record, an unknown field, or the table is full: the record changes nothing.
        """
        entry = parse_entry(body)
        scope = _Scope(entry.list, entry.field)
        if entry.op == "remove":
            if scope in self._scope_code and entry.account_id in self._account_code:
                self._remove(entry, scope)
            return
        if len(self) >= MAX_ENTRIES or (len(self._scopes) >= _SCOPES_MAX and scope not in self._scope_code):
            raise EventError("list", f"at most {MAX_ENTRIES:,} entries in {_SCOPES_MAX:,} lists", "one more")
        _code(self._accounts, self._account_code, entry.account_id)
        if _code(self._scopes, self._scope_code, scope) == len(self._scope_size):
            self._scope_size.append(0)
        self._add(entry, scope)

    def _find(self, entry: ListEntry, scope: _Scope) -> tuple[_Row, int, bool]:
        """Key, place and value of an entry, its index in the arrays, and whether it is there."""
        value = np.array([list_value_key(entry.account_id, entry.field, entry.value)], np.uint64)
        place = _places(np.array([self._account_code[entry.account_id]]), self._scope_code[scope])
        key = value ^ _mixed(place)
        index = int(np.searchsorted(self._key, key[0]))
        return (key[0], place[0], value[0]), index, index < len(self) and bool(self._key[index] == key[0])

    def _add(self, entry: ListEntry, scope: _Scope) -> None:
        (key, place, value), index, there = self._find(entry, scope)
        expires_ms = NEVER_MS if entry.expires_ms is None else entry.expires_ms
        if there:
            self._expires_ms[index] = expires_ms
            return
        self._key = np.insert(self._key, index, key)
        self._place = np.insert(self._place, index, place)
        self._value = np.insert(self._value, index, value)
        self._expires_ms = np.insert(self._expires_ms, index, expires_ms)
        self._scope_size[self._scope_code[scope]] += 1
        if len(self) * _FILTER_SPARE > 2 * len(self._maybe):
            self._build_filter()
        self._maybe[key >> self._shift] = True

    def _remove(self, entry: ListEntry, scope: _Scope) -> None:
        _, index, there = self._find(entry, scope)
        if there:
            self._key, self._place = np.delete(self._key, index), np.delete(self._place, index)
            self._value, self._expires_ms = np.delete(self._value, index), np.delete(self._expires_ms, index)
            self._scope_size[self._scope_code[scope]] -= 1

    def _build_filter(self) -> None:
        """A table by the first bits of a key: where it holds False there is no entry.

        Nearly every row is on no list; one gather tells so, where a search costs 20 times as much.
        """
        bits = max(10, (len(self) * _FILTER_SPARE - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=bool)
        self._maybe[self._key >> self._shift] = True

    def contains(
        self,
        accounts: Sequence[str],
        account: npt.NDArray[np.int32],
        list_name: str,
        field: str,
        hashes: npt.NDArray[np.uint64],
        at_ms: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """Where a row's account has the row's value on a list.

        Parameters
        ----------
        accounts, account
            Account ids, and each row's index into them (int32 ``[n]``).
        list_name, field
            The list, and the column that ``hashes`` is.
        hashes
            uint64 ``[n]``, 0 = NULL, which is on no list.
        at_ms
            int64 ``[n]``: an entry holds while ``at_ms < expires_ms``.
        """
        return self.bind(accounts, account, at_ms)(list_name, field, hashes)

    def bind(
        self, accounts: Sequence[str], account: npt.NDArray[np.int32], at_ms: npt.NDArray[np.int64]
    ) -> Callable[[str, str, npt.NDArray[np.uint64]], npt.NDArray[np.bool_]]:
        """``contains`` for the rows of one micro-batch, which map their accounts once."""
        codes = np.array([self._account_code.get(name, -1) for name in accounts], dtype=np.int64)

        def lookup(list_name: str, field: str, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
            found = np.zeros(len(hashes), dtype=bool)
            scope = self._scope_code.get(_Scope(list_name, field), -1)
            if scope < 0 or not self._scope_size[scope]:
                return found
            places = _places(codes, scope)
            keys = hashes ^ _mixed(places)[account]
            rows = np.flatnonzero(self._maybe[keys >> self._shift])
            if len(rows):
                owner = account[rows]
                entry = np.minimum(np.searchsorted(self._key, keys[rows]), len(self) - 1)
                found[rows] = (
                    (self._value[entry] == hashes[rows])
                    & (self._place[entry] == places[owner])
                    & (self._expires_ms[entry] > at_ms[rows])
                    & (hashes[rows] != 0)
                    & (codes[owner] >= 0)
                )
            return found

        return lookup

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """The table as arrays (copies): equal logs give equal bytes."""
        names = msgspec.json.encode(
            {
                "format": _FORMAT,
                "accounts": self._accounts,
                "scopes": [[scope.list_name, scope.field] for scope in self._scopes],
            }
        )
        return {
            "names": np.frombuffer(names, np.uint8).copy(),
            "place": self._place.copy(),
            "value": self._value.copy(),
            "expires_ms": self._expires_ms.copy(),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> ListTable:
        """The table that ``snapshot`` wrote.

        Raises
        ------
        ContractError
            Another format, or not such arrays.
        """
        table = cls()
        try:
            names = msgspec.json.decode(arrays["names"].tobytes())
            place, value = arrays["place"].astype(np.uint64), arrays["value"].astype(np.uint64)
            key = value ^ _mixed(place)
            if names["format"] != _FORMAT or not len(place) == len(value) == len(arrays["expires_ms"]):
                raise ValueError(f"format {names['format']} with {len(place)} entries")
            if np.any(key[1:] <= key[:-1]):
                raise ValueError("entries out of order")
            for name in names["accounts"]:
                _code(table._accounts, table._account_code, name)
            for list_name, field in names["scopes"]:
                _code(table._scopes, table._scope_code, _Scope(list_name, field))
        except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
            raise ContractError(f"expected lists of format {_FORMAT}, got {error}") from error
        table._key, table._place, table._value = key, place, value
        table._expires_ms = arrays["expires_ms"].astype(np.int64)
        scopes = (place & np.uint64(_SCOPES_MAX - 1)).astype(np.int64)
        table._scope_size = np.bincount(scopes, minlength=len(table._scopes)).tolist()
        table._build_filter()
        return table


def parse_entry(body: Mapping[str, Any]) -> ListEntry:
    """One change from a control record's body. Raises ``EventError`` when it is none."""
    known = {name: body[name] for name in ListEntry.__struct_fields__ if name in body}
    try:
        entry = msgspec.convert(known, ListEntry)
        entry.value.encode()
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise EventError(
            "list", "op, account_id, list, field, value and maybe expires_ms", str(error)
        ) from error
    if entry.field not in TEXT_COLUMNS:
        raise EventError("field", f"one of {', '.join(TEXT_COLUMNS)}", entry.field)
    return entry


def _code(names: list[Any], codes: dict[Any, int], name: Any) -> int:
    """Small number of a name, the next free one when it is new."""
    found = codes.get(name)
    if found is None:
        found = codes[name] = len(names)
        names.append(name)
    return found


def _places(accounts: npt.NDArray[np.int64], scope: int) -> npt.NDArray[np.uint64]:
    """Account and scope in one number; an unknown account (-1) gives one that no entry has."""
    places: npt.NDArray[np.uint64] = (accounts * _SCOPES_MAX + scope).astype(np.uint64)
    return places


def _mixed(places: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """What turns a value into the entry's sort key; value and place are compared again when found."""
    mixed: npt.NDArray[np.uint64] = (places + np.uint64(1)) * _HASH_MIX
    return mixed
