"""From a request's body to records of the log: flat objects get their envelope, and what is wrong with one is
said by the decoder that would refuse it downstream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from anomalyze.events.decode import decode_records
from anomalyze.events.gazetteer import Gazetteer
from realtime.api.problems import Problem

__all__ = ["ROWS_MAX", "Parsed", "Rejected", "parse_body"]

ROWS_MAX = 10_000
GOT_LENGTH_MAX = 120
# The second is what curl says of `-d` when nobody told it otherwise; the third, browsers of text.
JSON = ("application/json", "application/x-www-form-urlencoded", "text/plain")
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
# Fields of the flat object that belong to the section `meta`.
META_FIELDS = ("user_id", "timestamp", "trace_id")


@dataclass(frozen=True, slots=True)
class Rejected:
    """One transaction of a request that is refused; the others are taken."""

    index: int
    field: str
    expected: str
    got: str

    def as_dict(self) -> dict[str, Any]:
        """As the answer shows it."""
        return {"index": self.index, "field": self.field, "expected": self.expected, "got": self.got}


@dataclass(slots=True)
class Parsed:
    """A request's transactions.

    Attributes
    ----------
    keys, values, tx_ids
        Records for the log, in the order of the request, and what they are called.
    repeated
        Transactions equal to an earlier one of this request.
    single
        Whether the body was one object.
    """

    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    tx_ids: list[str] = field(default_factory=list)
    repeated: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    single: bool = False


def parse_body(
    body: bytes,
    content_type: str,
    *,
    account_id: str,
    request_id: str,
    now: datetime,
    future_tolerance_s: int,
    gazetteer: Gazetteer,
    reply_to: str | None = None,
) -> Parsed:
    """Parse one object, an array, or NDJSON.

    Parameters
    ----------
    request_id
        Names transactions that bring no ``trace_id``, with their index.
    now
        Event time of transactions that bring none, and what the future is measured from.
    reply_to
        Where a worker answers.

    Raises
    ------
    Problem
        400 when the body is no JSON, 413 past ``ROWS_MAX``, 415 for another content type.
    """
    parsed = Parsed()
    rows = list(split(body, content_type, parsed))
    if len(rows) > ROWS_MAX:
        raise Problem(
            413,
            f"a request may carry {ROWS_MAX} transactions; send them in several",
            field="body",
            expected=f"at most {ROWS_MAX} transactions",
            got=str(len(rows)),
        )
    timestamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    index, values, seen = [], [], set()
    for i, row in rows:
        value = wrap(row, account_id, timestamp, f"{request_id}-{i}", reply_to)
        if isinstance(value, Rejected):
            parsed.rejected.append(Rejected(i, value.field, value.expected, value.got))
            continue
        content = msgspec.json.encode(row)
        if content in seen:
            parsed.repeated += 1
            continue
        seen.add(content)
        index.append(i)
        values.append(value)
    now_ms = int(now.timestamp() * 1000)
    decoded = decode_records(
        [0] * len(values),
        range(len(values)),
        [now_ms] * len(values),
        values,
        partition_count=0,
        future_tolerance_ms=future_tolerance_s * 1000,
        gazetteer=gazetteer,
    )
    dead = set()
    for letter in decoded.dead:
        dead.add(letter.offset)
        name = letter.field.removeprefix("data.").removeprefix("meta.")
        parsed.rejected.append(Rejected(index[letter.offset], name, letter.expected, letter.got))
    by_index = dict(rows)
    for place, value in enumerate(values):
        if place not in dead:
            row = by_index[index[place]]
            parsed.keys.append(row["user_id"].encode())
            parsed.values.append(value)
            parsed.tx_ids.append(row["tx_id"])
    parsed.rejected.sort(key=lambda rejected: rejected.index)
    return parsed


def split(body: bytes, content_type: str, parsed: Parsed) -> Iterator[tuple[int, Any]]:
    """(index, JSON value) of each transaction; notes lines that are no JSON."""
    kind = content_type.partition(";")[0].strip().lower() or JSON[0]
    if kind in NDJSON:
        lines = [line for line in body.split(b"\n") if line.strip()]
        for i, line in enumerate(lines):
            try:
                yield i, msgspec.json.decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
                parsed.rejected.append(Rejected(i, "", f"a JSON object on one line ({error})", shorten(line)))
        return
    if kind not in JSON:
        raise Problem(
            415,
            f"send {JSON[0]} (an object or an array) or {NDJSON[0]} (an object a line)",
            field="Content-Type",
            expected=f"{JSON[0]} or {NDJSON[0]}",
            got=kind,
        )
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Problem(
            400,
            f"the body is no JSON: {error}",
            field="body",
            expected="a JSON object or an array of objects, in UTF-8",
            got=shorten(body),
        ) from None
    if isinstance(value, list):
        yield from enumerate(value)
    else:
        parsed.single = True
        yield 0, value


def wrap(row: Any, account_id: str, timestamp: str, trace_id: str, reply_to: str | None) -> bytes | Rejected:
    """A flat object as a record of the log."""
    if not isinstance(row, dict):
        return Rejected(0, "", "a JSON object", shorten(msgspec.json.encode(row)))
    user_id = row.get("user_id")
    if not isinstance(user_id, str):
        got = "nothing" if user_id is None else shorten(msgspec.json.encode(user_id))
        return Rejected(0, "user_id", "text of 1 to 128 characters", got)
    meta = {
        "trace_id": row.get("trace_id") or trace_id,
        "timestamp": row.get("timestamp") or timestamp,
        "source": "REALTIME_API",
        "user_id": user_id,
        "account_id": account_id,
    }
    if reply_to is not None:
        meta["reply_to"] = reply_to
    data = {name: value for name, value in row.items() if name not in META_FIELDS}
    try:
        return msgspec.json.encode({"meta": meta, "data": data})
    except (UnicodeError, RecursionError) as error:  # a lone surrogate, or nesting beyond any limit
        return Rejected(0, "", f"JSON in UTF-8 ({error})", repr(row)[:GOT_LENGTH_MAX])


def shorten(value: bytes) -> str:
    """The beginning of what came."""
    return value[:GOT_LENGTH_MAX].decode(errors="replace")
