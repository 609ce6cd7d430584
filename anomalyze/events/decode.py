"""Records of the log to a columnar micro-batch.

``decode_records`` reads most records with the compiled scanner (``scan.py``) and everything unusual with the
plain parser (``schema.py``); ``decode_records_plain`` reads all of them with the latter. Both give the same
arrays and the same dead letters for any bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.errors import EventError
from anomalyze.events.batch import Control, DeadLetter, Decoded, MicroBatch
from anomalyze.events.columns import PAYLOAD_WORDS, Columns, pack_code
from anomalyze.events.gazetteer import COUNTRIES, Gazetteer
from anomalyze.events.hashing import hash_word_rows, text_keys, user_keys
from anomalyze.events.memory import PADDING
from anomalyze.events.money import CURRENCIES
from anomalyze.events.murmur2 import murmur2_partition_bytes
from anomalyze.events.scan import scan_records
from anomalyze.events.schema import RECORD_BYTES_MAX, Transaction, parse_record

__all__ = ["CONTROL_PREFIX", "decode_records", "decode_records_plain", "warm"]

# A value that begins like this is a control record, whatever its size: only our own programs write them.
CONTROL_PREFIX = b'{"control":'

# Optional texts by their names in a transaction, and in the columns.
_TEXTS = {
    "merchant_id": "merchant",
    "merchant_category": "merchant_category",
    "device_id": "device",
    "ip": "ip",
    "channel": "channel",
}


@dataclass(slots=True)
class _Joined:
    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    append_ms: npt.NDArray[np.int64]
    values: Sequence[bytes]
    buffer: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def decode_records(
    partitions: Sequence[int],
    offsets: Sequence[int],
    append_ms: Sequence[int],
    values: Sequence[bytes],
    *,
    partition_count: int,
    future_tolerance_ms: int,
    gazetteer: Gazetteer,
) -> Decoded:
    """Valid rows sorted by (partition, offset), dead letters and control records in that order too.

    ``partition_count`` is that of the topic: a record whose user belongs elsewhere is a dead letter; 0
    leaves this unchecked. Never raises for any bytes.
    """
    joined = _join(partitions, offsets, append_ms, values)
    columns = Columns.allocate(len(joined.values))
    accounts = scan_records(
        joined.buffer,
        joined.starts,
        joined.ends,
        joined.append_ms,
        joined.partitions,
        partition_count,
        future_tolerance_ms,
        gazetteer,
        columns,
    )
    return _assemble(joined, columns, accounts, partition_count, future_tolerance_ms, gazetteer)


def decode_records_plain(
    partitions: Sequence[int],
    offsets: Sequence[int],
    append_ms: Sequence[int],
    values: Sequence[bytes],
    *,
    partition_count: int,
    future_tolerance_ms: int,
    gazetteer: Gazetteer,
) -> Decoded:
    """``decode_records`` without the compiled scanner: slower, obvious, the oracle of its test."""
    joined = _join(partitions, offsets, append_ms, values)
    columns = Columns.allocate(len(joined.values))
    return _assemble(joined, columns, [], partition_count, future_tolerance_ms, gazetteer)


def warm() -> None:
    """Compile everything that decoding needs (from numba's cache when it is there)."""
    record = (
        b'{"meta":{"timestamp":"2025-12-20T12:00:00Z","user_id":"u","account_id":"a"},'
        b'"data":{"tx_id":"t","amount":1,"currency":"USD","location":"NY"}}'
    )
    decode_records(
        [0], [0], [1 << 42], [record], partition_count=1, future_tolerance_ms=0, gazetteer=Gazetteer.load()
    )


def _join(
    partitions: Sequence[int], offsets: Sequence[int], append_ms: Sequence[int], values: Sequence[bytes]
) -> _Joined:
    partition = np.array(partitions, dtype=np.int32)
    offset = np.array(offsets, dtype=np.int64)
    appended = np.array(append_ms, dtype=np.int64)
    later, earlier = partition[1:], partition[:-1]
    if not np.all((later > earlier) | ((later == earlier) & (offset[1:] >= offset[:-1]))):
        order = np.lexsort((offset, partition))
        partition, offset, appended = partition[order], offset[order], appended[order]
        values = [values[i] for i in order]
    # A NUL behind each record ends every scan that a malformed one would let run on.
    buffer = np.frombuffer(bytearray(b"\0").join([*values, bytes(PADDING)]), dtype=np.uint8)
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    ends = np.cumsum(lengths + 1) - 1
    return _Joined(partition, offset, appended, values, buffer, ends - lengths, ends)


def _assemble(
    joined: _Joined,
    columns: Columns,
    accounts: list[str],
    partition_count: int,
    future_tolerance_ms: int,
    gazetteer: Gazetteer,
) -> Decoded:
    dead: list[DeadLetter] = []
    controls: list[Control] = []
    rows: list[int] = []
    read: list[Transaction] = []
    account_index = {account: i for i, account in enumerate(accounts)}
    replies = columns.read_replies(joined.buffer)
    _place(columns, joined.buffer, gazetteer)
    for row in np.flatnonzero(~columns.valid).tolist():
        value = joined.values[row]
        partition, offset = int(joined.partitions[row]), int(joined.offsets[row])
        try:
            if value.startswith(CONTROL_PREFIX):
                controls.append(_parse_control(partition, offset, value))
                continue
            if len(value) > RECORD_BYTES_MAX:
                raise EventError("", f"at most {RECORD_BYTES_MAX} bytes", f"{len(value)} bytes")
            transaction = parse_record(value, int(joined.append_ms[row]), future_tolerance_ms)
            home = _home_partition(transaction.user_id, partition_count) if partition_count else partition
            if home != partition:
                raise _WrongPartitionError("meta.user_id", f"partition {home}", f"partition {partition}")
        except EventError as error:
            reason = _reason(error, value)
            dead.append(DeadLetter(partition, offset, reason, error.field, error.expected, error.got, value))
            continue
        rows.append(row)
        read.append(transaction)
        columns.data_end[row] = joined.starts[row] + value.rindex(b"}")
        columns.account[row] = account_index.setdefault(transaction.account_id, len(account_index))
        if transaction.reply_to:
            replies[row] = transaction.reply_to
    if read:
        _fill(columns, rows, read, gazetteer)
    return Decoded(_build_batch(joined, columns, list(account_index), replies), dead, controls)


def _home_partition(user_id: str, partition_count: int) -> int:
    key = user_id.encode()
    return int(
        murmur2_partition_bytes(np.frombuffer(bytearray(key), dtype=np.uint8), 0, len(key), partition_count)
    )


class _WrongPartitionError(EventError):
    """The producer's partitioner is not ours: one user would have two states."""


def _reason(error: EventError, value: bytes) -> str:
    if isinstance(error, _WrongPartitionError):
        return "wrong_partition"
    if len(value) > RECORD_BYTES_MAX and not value.startswith(CONTROL_PREFIX):
        return "too_large"
    return "invalid" if error.field else "malformed"


def _parse_control(partition: int, offset: int, value: bytes) -> Control:
    try:
        body = msgspec.json.decode(value)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise EventError("", f"a control record ({error})", value[:120].decode(errors="replace")) from error
    kind = body["control"]
    if not isinstance(kind, str):
        raise EventError("control", "text", repr(kind))
    return Control(partition, offset, kind, body)


def _place(columns: Columns, buffer: npt.NDArray[np.uint8], gazetteer: Gazetteer) -> None:
    """Look up the locations that the scanner could not fold."""
    known: dict[tuple[bytes, int, int], int] = {}
    for row in np.flatnonzero(columns.location_end).tolist():
        text = buffer[columns.location_start[row] : columns.location_end[row]].tobytes()
        country, currency = int(columns.country[row]), int(columns.currency[row])
        place = known.get((text, country, currency))
        if place is None:
            code = COUNTRIES[country] if country >= 0 else None
            place = gazetteer.lookup(text.decode(), code, CURRENCIES[currency])
            known[text, country, currency] = place
        if place < 0:
            continue
        if country < 0:
            columns.country[row] = gazetteer.country[place]
        if np.isnan(columns.latitude[row]):
            columns.latitude[row] = gazetteer.latitude[place]
            columns.longitude[row] = gazetteer.longitude[place]
            columns.radius_km[row] = gazetteer.radius_km[place]


def _fill(columns: Columns, at: list[int], read: list[Transaction], gazetteer: Gazetteer) -> None:
    """Write transactions of the plain parser into rows ``at`` of the columns."""
    rows = np.array(at, dtype=np.int64)
    columns.valid[rows] = True
    columns.user_key[rows] = user_keys([t.account_id for t in read], [t.user_id for t in read])
    columns.tx_key[rows] = text_keys([t.tx_id for t in read])
    columns.ts_ms[rows] = [t.ts_ms for t in read]
    columns.amount_minor[rows] = [t.amount_minor for t in read]
    columns.currency[rows] = [t.currency for t in read]
    columns.status[rows] = [t.status for t in read]
    columns.day_only[rows] = [t.day_only for t in read]
    latitude = np.array([t.latitude for t in read])
    longitude = np.array([t.longitude for t in read])
    country = np.array([t.country for t in read], dtype=np.int16)
    currencies = [CURRENCIES[t.currency] for t in read]
    countries = [COUNTRIES[t.country] if t.country >= 0 else "" for t in read]

    words = np.empty((len(read), PAYLOAD_WORDS), dtype=np.uint64)
    words[:, 0] = columns.amount_minor[rows].view(np.uint64)
    words[:, 1] = [pack_code(code) for code in currencies]
    words[:, 2] = latitude.view(np.uint64)
    words[:, 3] = longitude.view(np.uint64)
    words[:, 4] = [pack_code(code) for code in countries]
    words[:, 5] = _optional_keys([t.location for t in read])
    for word, (name, column) in enumerate(_TEXTS.items(), start=6):
        words[:, word] = _optional_keys([getattr(t, name) for t in read])
        getattr(columns, column)[rows] = words[:, word]
    payload_key = np.empty(len(read), dtype=np.uint64)
    hash_word_rows(words, payload_key)
    columns.payload_key[rows] = payload_key

    place = np.array(
        [
            gazetteer.lookup(t.location, of or None, currency)
            for t, of, currency in zip(read, countries, currencies, strict=True)
        ]
    )
    columns.country[rows] = np.where((country < 0) & (place >= 0), gazetteer.country[place], country)
    own = ~np.isnan(latitude)
    columns.latitude[rows] = np.where(own, latitude, np.where(place >= 0, gazetteer.latitude[place], np.nan))
    columns.longitude[rows] = np.where(
        own, longitude, np.where(place >= 0, gazetteer.longitude[place], np.nan)
    )
    columns.radius_km[rows] = np.where(own, 0.0, np.where(place >= 0, gazetteer.radius_km[place], np.nan))


def _optional_keys(texts: list[str]) -> npt.NDArray[np.uint64]:
    """Hash of each text, 0 for an empty one."""
    return np.where([bool(text) for text in texts], text_keys(texts), np.uint64(0))


def _build_batch(
    joined: _Joined, columns: Columns, accounts: list[str], replies: dict[int, str]
) -> MicroBatch:
    placed: dict[str, npt.NDArray[Any]] = {
        "starts": joined.starts,
        "ends": joined.ends,
        "partition": joined.partitions,
        "offset": joined.offsets,
        "append_ms": joined.append_ms,
        **columns.published(),
    }
    if not columns.valid.all():
        kept = np.flatnonzero(columns.valid)
        placed = {name: array[kept] for name, array in placed.items()}
        if replies:
            new_row = {int(row): i for i, row in enumerate(kept)}
            replies = {new_row[row]: channel for row, channel in replies.items()}
    n = len(placed["starts"])
    partition = placed["partition"]
    edges = [0, *(np.flatnonzero(partition[1:] != partition[:-1]) + 1).tolist(), n] if n else []
    groups = [(int(partition[first]), first, end) for first, end in pairwise(edges)]
    return MicroBatch(n=n, buffer=joined.buffer, groups=groups, accounts=accounts, replies=replies, **placed)
