"""Dead letters: records that could not be judged or stored, kept with reason and bytes.

On the topic `dead-letters` each is one JSON object: ``partition``, ``offset`` (its place in `transactions`),
``reason`` (a short fixed code), ``field``, ``expected``, ``got``, ``value_base64``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import psycopg

from anomalyze.errors import ContractError
from anomalyze.events.batch import DeadLetter
from anomalyze.storage.position import advancing

__all__ = ["decode_dead_letter", "encode_dead_letter", "insert_dead_letters", "store_dead_letters"]

# PostgreSQL's text holds no NUL, and a lone surrogate is no UTF-8: both are shown as the replacement sign.
_REPLACEMENT = "\ufffd"


class _Wire(msgspec.Struct):
    partition: int
    offset: int
    reason: str
    field: str
    expected: str
    got: str
    value_base64: bytes


class _Meta(msgspec.Struct):
    account_id: str


class _Owned(msgspec.Struct):
    meta: _Meta


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The record for the topic `dead-letters`."""
    return msgspec.json.encode(
        _Wire(
            letter.partition,
            letter.offset,
            _storable(letter.reason),
            _storable(letter.field),
            _storable(letter.expected),
            _storable(letter.got),
            letter.value,
        )
    )


def decode_dead_letter(value: bytes) -> DeadLetter:
    """A record of the topic `dead-letters`. Raises ``ContractError`` when it is none."""
    try:
        wire = msgspec.json.decode(value, type=_Wire)
    except msgspec.MsgspecError as error:
        raise ContractError(
            f"a record of the topic dead-letters: expected partition, offset, reason, field, expected, got, "
            f"value_base64; got {value[:120]!r} ({error})"
        ) from error
    return DeadLetter(
        wire.partition, wire.offset, wire.reason, wire.field, wire.expected, wire.got, wire.value_base64
    )


def store_dead_letters(
    connection: psycopg.Connection[Any],
    letters: Sequence[DeadLetter],
    *,
    consumer: str,
    log_id: str,
    topic: str,
    next_offsets: Mapping[int, int],
) -> int:
    """Store dead letters and how far their topic was read, in one transaction; return how many are new.

    A letter is known by its place in the log: the same one again (a worker died between producing and
    committing) changes nothing.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now: nothing was stored, try again.
    """
    with advancing(connection, consumer, log_id, topic, next_offsets):
        return insert_dead_letters(connection, log_id, letters)


def insert_dead_letters(
    connection: psycopg.Connection[Any], log_id: str, letters: Sequence[DeadLetter]
) -> int:
    """Insert those that are not there yet, as a part of the caller's transaction; return how many."""
    if not letters:
        return 0
    rows = [
        (
            log_id,
            letter.partition,
            letter.offset,
            _account_of(letter.value),
            _storable(letter.reason),
            _storable(letter.field),
            _storable(letter.expected),
            _storable(letter.got),
            letter.value,
        )
        for letter in sorted(letters, key=lambda x: (x.partition, x.offset))
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO dead_letters (log_id, src_partition, src_offset, account_id, reason, field, expected, got, "
            "value) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            rows,
        )
        return cursor.rowcount


def _account_of(value: bytes) -> str | None:
    """Whose record it is, when it says so; a record that lies about it is a producer's that is trusted."""
    try:
        return _storable(msgspec.json.decode(value, type=_Owned).meta.account_id) or None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _storable(text: str) -> str:
    return text.replace("\0", _REPLACEMENT).encode("utf-8", "replace").decode()
