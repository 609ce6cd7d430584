"""The topic `scored` on its way into PostgreSQL: from JSON records to rows ready for COPY.

Sections are sliced, never encoded again: what is stored of `enrichment`, `analysis` and `verdict` is what the
detector wrote, to the byte. Rows are made in PostgreSQL's binary COPY format, which needs no escaping.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from anomalyze.errors import ContractError
from anomalyze.events.batch import Action, Severity, Status

__all__ = ["COPY_COLUMNS", "Kind", "Rejected", "ScoredRows", "Trait", "decode_scored"]

# Columns of a row in COPY order, with their types: the staging table is made of them.
COPY_COLUMNS = (
    ("kind", "smallint"),
    ("src_partition", "integer"),
    ("src_offset", "bigint"),
    ("ts", "timestamptz"),
    ("status", "smallint"),
    ("severity", "smallint"),
    ("action", "smallint"),
    ("score", "real"),
    ("account_id", "text"),
    ("user_id", "text"),
    ("tx_id", "text"),
    ("amount", "text"),
    ("currency", "text"),
    ("source", "text"),
    ("trace_id", "text"),
    ("case_id", "text"),
    ("bundle", "text"),
    ("flags", "text"),  # rule ids, one a line: few rows have any
    ("data", "jsonb"),
    ("enrichment", "json"),
    ("analysis", "json"),
    ("verdict", "json"),
)

TS_MIN_S = 0.0  # 1970: older events have no partition
POSTGRES_EPOCH_S = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
_STATUSES = {status.name.lower(): int(status) for status in Status}
_SEVERITIES = {severity.name: int(severity) for severity in Severity}
_ACTIONS = {action.name: int(action) for action in Action}

_FIXED = struct.Struct(">h ih ii iq iq ih ih ih if")
_FIXED_NO_SCORE = struct.Struct(">h ih ii iq iq ih ih ih i")
_LENGTH = struct.Struct(">i").pack
_NULL = _LENGTH(-1)
_EMPTY_JSON = b"{}"
_JSONB_VERSION = b"\x01"
# An escaped NUL, which PostgreSQL's text cannot hold; not an escaped backslash before "u0000".
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Kind:
    """What a record asks of the tables (column ``kind`` of the staging table)."""

    TRANSACTION = 0
    STATUS_UPDATE = 1


class Trait:
    """Bits that say which statements a set of rows needs."""

    STATUS_UPDATE = 1
    ANOMALY = 2
    FLAGGED = 4


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record whose place in the log is known but which cannot be stored: a dead letter."""

    partition: int
    offset: int
    field: str
    expected: str
    got: str
    value: bytes


@dataclass(slots=True)
class ScoredRows:
    """Decoded records, in the order given, as parallel lists.

    Attributes
    ----------
    partition, offset, previous
        ``src``: place in `transactions`, and the offset of the record before it in `scored`.
    ts_s
        Event time, seconds since 1970; 0 for a rejected record.
    traits
        Which of the tables beside `transactions` it concerns: bits of `Trait`.
    row
        The row in binary COPY format (`COPY_COLUMNS`), without header; empty for a rejected record.
    values
        The records themselves.
    rejected
        By position in these lists.
    """

    values: Sequence[bytes]
    partition: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    ts_s: list[float] = field(default_factory=list)
    traits: list[int] = field(default_factory=list)
    row: list[bytes] = field(default_factory=list)
    rejected: dict[int, Rejected] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)


class _Meta(msgspec.Struct, gc=False):
    timestamp: datetime
    user_id: str
    account_id: str
    source: str = ""
    trace_id: str | None = None


class _Source(msgspec.Struct, gc=False):
    partition: int
    offset: int
    previous: int


class _Record(msgspec.Struct, gc=False):
    meta: _Meta
    data: msgspec.Raw
    verdict: msgspec.Raw
    src: _Source
    enrichment: msgspec.Raw = msgspec.Raw(_EMPTY_JSON)
    analysis: msgspec.Raw = msgspec.Raw(_EMPTY_JSON)


class _Data(msgspec.Struct, gc=False):
    tx_id: str
    amount: msgspec.Raw
    currency: str
    status: str = "approved"


class _Analysis(msgspec.Struct, gc=False):
    bundle: str = ""
    ml_score: float | None = None
    rule_flags: list[str] = []


class _Verdict(msgspec.Struct, gc=False):
    final_severity: str = ""
    action: str = ""
    case_id: str | None = None
    status_update: msgspec.Raw | None = None


class _Place(msgspec.Struct, gc=False):
    src: _Source


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_data = msgspec.json.Decoder(_Data).decode
_decode_analysis = msgspec.json.Decoder(_Analysis).decode
_decode_verdict = msgspec.json.Decoder(_Verdict).decode
_decode_place = msgspec.json.Decoder(_Place).decode


def decode_scored(values: Sequence[bytes]) -> ScoredRows:
    """Decode records of `scored` (CONTRACTS §1).

    A record that cannot be stored, though its ``src`` can be read, is in ``rejected``: the others go on.

    Raises
    ------
    ContractError
        A record without a readable ``src``: it was not written by the detector, and what comes after it
        cannot be trusted to be complete.
    """
    rows = ScoredRows(values)
    for index, value in enumerate(values):
        try:
            record = _decode_record(value)
            source = record.src
            row, ts_s, traits = _build_row(record, source, value)
        except (msgspec.MsgspecError, ValueError, KeyError, struct.error) as error:
            source = _source_of(value, error)
            rows.rejected[index] = Rejected(
                source.partition, source.offset, "scored", "a judged transaction", str(error)[:120], value
            )
            row, ts_s, traits = b"", 0.0, 0
        rows.partition.append(source.partition)
        rows.offset.append(source.offset)
        rows.previous.append(source.previous)
        rows.ts_s.append(ts_s)
        rows.traits.append(traits)
        rows.row.append(row)
    return rows


def _source_of(value: bytes, error: Exception) -> _Source:
    try:
        return _decode_place(value).src
    except msgspec.MsgspecError:
        raise ContractError(
            f"a record of the topic scored: expected sections meta, data, enrichment, analysis, verdict and src, "
            f"got {value[:120]!r} ({error}): something other than the detector writes to this topic"
        ) from error


def _build_row(record: _Record, source: _Source, value: bytes) -> tuple[bytes, float, int]:
    """The row in COPY format, its event time in seconds, and its traits. Raises what `decode_scored` catches."""
    meta = record.meta
    data_json, analysis_json, verdict_json = bytes(record.data), bytes(record.analysis), bytes(record.verdict)
    data, analysis, verdict = (
        _decode_data(data_json),
        _decode_analysis(analysis_json),
        _decode_verdict(verdict_json),
    )
    if b"\\" in value and _NUL_ESCAPE.search(value):
        raise ValueError("a text with the character NUL")
    ts_s = meta.timestamp.timestamp()  # exact to the microsecond until the year 2255
    if ts_s < TS_MIN_S:
        raise ValueError(f"an event of {meta.timestamp.isoformat()}, before 1970")
    kind, severity, action, traits = Kind.TRANSACTION, 0, 0, 0
    if verdict.status_update is None:
        severity, action = _SEVERITIES[verdict.final_severity], _ACTIONS[verdict.action]
    else:
        kind, traits = Kind.STATUS_UPDATE, Trait.STATUS_UPDATE
    if severity:
        traits = Trait.ANOMALY
        if verdict.case_id is None:
            raise ValueError("an anomaly without case_id")
    flags = b""
    if analysis.rule_flags:
        traits |= Trait.FLAGGED
        flags = "\n".join(analysis.rule_flags).encode()
    status, score = _STATUSES[data.status], analysis.ml_score
    ts_us = round((ts_s - POSTGRES_EPOCH_S) * 1e6)
    # Each value stands after its length in bytes.
    if score is None:
        fixed = _FIXED_NO_SCORE.pack(
            len(COPY_COLUMNS), 2, kind, 4, source.partition, 8, source.offset, 8, ts_us,
            2, status, 2, severity, 2, action, -1,
        )  # fmt: skip
    else:
        fixed = _FIXED.pack(
            len(COPY_COLUMNS), 2, kind, 4, source.partition, 8, source.offset, 8, ts_us,
            2, status, 2, severity, 2, action, 4, score,
        )  # fmt: skip
    account, user, transaction = meta.account_id.encode(), meta.user_id.encode(), data.tx_id.encode()
    amount, currency, origin = bytes(data.amount), data.currency.encode(), meta.source.encode()
    bundle, enrichment_json = analysis.bundle.encode(), bytes(record.enrichment)
    parts = (
        fixed,
        _LENGTH(len(account)), account,
        _LENGTH(len(user)), user,
        _LENGTH(len(transaction)), transaction,
        _LENGTH(len(amount)), amount,
        _LENGTH(len(currency)), currency,
        _LENGTH(len(origin)), origin,
        _nullable(meta.trace_id),
        _nullable(verdict.case_id),
        _LENGTH(len(bundle)), bundle,
        _LENGTH(len(flags) or -1), flags,
        _LENGTH(len(data_json) + 1), _JSONB_VERSION, data_json,
        _LENGTH(len(enrichment_json)), enrichment_json,
        _LENGTH(len(analysis_json)), analysis_json,
        _LENGTH(len(verdict_json)), verdict_json,
    )  # fmt: skip
    return b"".join(parts), ts_s, traits


def _nullable(text: str | None) -> bytes:
    if text is None:
        return _NULL
    encoded = text.encode()
    return _LENGTH(len(encoded)) + encoded
