"""Flat transactions, as clients send them, to validated records of the log.

A client sends one object with the fields of ``data`` plus ``user_id``, ``timestamp`` (now, when absent) and
``trace_id``. Whoever accepts it adds the account and the source, which no client may name, and the decoder
itself judges the result: what passes here cannot become a dead letter later.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from anomalyze.errors import EventError
from anomalyze.events.decode import decode_records
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.schema import ID_CHARACTERS_MAX, RECORD_BYTES_MAX, SOURCES, parse_record

__all__ = ["Accepted", "Rejected", "build_record", "parse_transaction", "parse_transactions"]

_ENCODER = msgspec.json.Encoder()
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_SPACE = b" \t\r\n"
# The compiled decoder makes its arrays first: for this many transactions the plain parser, which says the same
# of any bytes, has finished by then.
FEW = 4


class Accepted(msgspec.Struct, frozen=True):
    """A record ready for ``transactions``: its key is ``user_id``; ``index`` is its place in the request."""

    index: int
    user_id: str
    tx_id: str
    value: bytes


class Rejected(msgspec.Struct, frozen=True):
    """Why a transaction of a request was refused; ``field`` is the client's own name of it."""

    index: int
    field: str
    expected: str
    got: str


def build_record(
    flat: Mapping[str, Any],
    *,
    account_id: str,
    source: str,
    timestamp: str,
    trace_id: str,
    reply_to: str | None = None,
) -> bytes:
    """The wire form of a flat transaction, not validated. ``timestamp`` and ``trace_id`` fill in absent ones.

    Raises
    ------
    EventError
        The transaction names an account.
    """
    if "account_id" in flat:
        raise EventError("account_id", "nothing: the account is the key's own", str(flat["account_id"]))
    data = dict(flat)
    own_trace, own_time = data.pop("trace_id", None), data.pop("timestamp", None)
    meta = {
        "trace_id": trace_id if own_trace is None else own_trace,
        "timestamp": timestamp if own_time is None else own_time,
        "source": source,
        "account_id": account_id,
    }
    if "user_id" in data:
        meta["user_id"] = data.pop("user_id")
    if reply_to is not None:
        meta["reply_to"] = reply_to
    return _ENCODER.encode({"meta": meta, "data": data})


def parse_transaction(
    body: Mapping[str, Any] | bytes,
    *,
    account_id: str,
    source: str,
    now_ms: int,
    future_tolerance_ms: int,
    trace_id: str,
    reply_to: str | None = None,
) -> Accepted:
    """One flat transaction, validated.

    Raises
    ------
    EventError
        Naming the client's field, or with an empty one when the body as a whole is wrong.
    """
    assert source in SOURCES
    flat = _parse_object(body) if isinstance(body, bytes) else body
    value = build_record(
        flat,
        account_id=account_id,
        source=source,
        timestamp=_format_time(now_ms),
        trace_id=trace_id,
        reply_to=reply_to,
    )
    try:
        if len(value) > RECORD_BYTES_MAX:
            raise EventError("", f"at most {RECORD_BYTES_MAX} bytes", f"{len(value)} bytes")
        transaction = parse_record(value, now_ms, future_tolerance_ms)
    except EventError as error:
        got = (
            error.got if error.field else _excerpt(body if isinstance(body, bytes) else _ENCODER.encode(body))
        )
        raise EventError(_client_field(error.field), error.expected, got) from error
    return Accepted(0, transaction.user_id, transaction.tx_id, value)


def parse_transactions(
    body: bytes,
    *,
    account_id: str,
    source: str,
    now_ms: int,
    future_tolerance_ms: int,
    trace_id: str,
    records_max: int,
) -> tuple[list[Accepted], list[Rejected]]:
    """Transactions of a JSON array, NDJSON, or one object; good ones are taken beside bad ones.

    ``trace_id`` is that of the request: transactions without their own get it with their index behind it.

    Raises
    ------
    EventError
        The body as a whole is no JSON array, or holds more than ``records_max`` transactions.
    """
    assert source in SOURCES
    parts = _split(body)
    if len(parts) > records_max:
        raise EventError("", f"at most {records_max} transactions in a request", str(len(parts)))
    timestamp = _format_time(now_ms)
    rejected: list[Rejected] = []
    indices: list[int] = []
    names: list[tuple[Any, Any]] = []
    values: list[bytes] = []
    for index, part in enumerate(parts):
        try:
            flat = _parse_object(part)
            value = build_record(
                flat,
                account_id=account_id,
                source=source,
                timestamp=timestamp,
                trace_id=f"{trace_id[: ID_CHARACTERS_MAX - 12]}-{index}",
            )
        except EventError as error:
            rejected.append(Rejected(index, error.field, error.expected, error.got))
            continue
        indices.append(index)
        names.append((flat.get("user_id"), flat.get("tx_id")))
        values.append(value)
    refused = _refuse(values, indices, parts, now_ms, future_tolerance_ms)
    rejected += refused.values()
    accepted = [
        Accepted(index, user_id, tx_id, value)
        for index, (user_id, tx_id), value in zip(indices, names, values, strict=True)
        if index not in refused
    ]
    return accepted, sorted(rejected, key=lambda one: one.index)


def _refuse(
    values: list[bytes], indices: list[int], parts: list[bytes], now_ms: int, future_tolerance_ms: int
) -> dict[int, Rejected]:
    """What the decoder would not take, by index in the request."""
    n = len(values)
    if n <= FEW:
        return _refuse_plainly(values, indices, parts, now_ms, future_tolerance_ms)
    decoded = decode_records(
        [0] * n,
        indices,
        [now_ms] * n,
        values,
        partition_count=0,
        future_tolerance_ms=future_tolerance_ms,
        gazetteer=Gazetteer.load(),
    )
    refused = {}
    for letter in decoded.dead:
        index = letter.offset
        # What concerns the record as a whole shows the client's own text, not ours around it.
        got = letter.got if letter.field else _excerpt(parts[index])
        refused[index] = Rejected(index, _client_field(letter.field), letter.expected, got)
    return refused


def _refuse_plainly(
    values: list[bytes], indices: list[int], parts: list[bytes], now_ms: int, future_tolerance_ms: int
) -> dict[int, Rejected]:
    """``_refuse`` by the plain parser."""
    refused = {}
    for index, value in zip(indices, values, strict=True):
        try:
            if len(value) > RECORD_BYTES_MAX:
                raise EventError("", f"at most {RECORD_BYTES_MAX} bytes", f"{len(value)} bytes")
            parse_record(value, now_ms, future_tolerance_ms)
        except EventError as error:
            got = error.got if error.field else _excerpt(parts[index])
            refused[index] = Rejected(index, _client_field(error.field), error.expected, got)
    return refused


def _split(body: bytes) -> list[bytes]:
    """The transactions of a body, one by one, not parsed yet."""
    stripped = body.strip(_SPACE)
    if stripped.startswith(b"["):
        try:
            return [bytes(raw) for raw in _ARRAY.decode(stripped)]
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise EventError("", f"a JSON array ({error})", _excerpt(stripped)) from error
    lines = [line for line in stripped.split(b"\n") if line.strip(_SPACE)]
    if len(lines) > 1 and not lines[0].rstrip(_SPACE).endswith(b"}"):
        return [stripped]  # one object, spread over lines
    return lines or [stripped]


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.decode(body)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise EventError("", f"a JSON object in UTF-8 ({error})", _excerpt(body)) from error


def _client_field(field: str) -> str:
    return field.removeprefix("data.").removeprefix("meta.")


def _excerpt(body: bytes) -> str:
    return body[:120].decode(errors="replace")


def _format_time(now_ms: int) -> str:
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{now_ms % 1000:03d}Z"
