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
from decimal import Decimal
from typing import Annotated

import msgspec

from anomalyze.errors import ContractError
from anomalyze.events.batch import Action, Severity, Status

__all__ = [
    "COPY_COLUMNS",
    "Difference",
    "Rejected",
    "ScoredRows",
    "StatusUpdate",
    "decode_scored",
    "encode_numeric",
]

# Columns of `transactions` in COPY order.
COPY_COLUMNS = (
    "src_partition", "src_offset", "ts", "status", "severity", "action", "score", "account_id", "user_id", "tx_id",
    "amount", "currency", "source", "trace_id", "case_id", "bundle", "data", "enrichment", "analysis", "verdict",
)  # fmt: skip

POSTGRES_EPOCH_US = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_STATUSES = {status.name.lower(): int(status) for status in Status}
_SEVERITIES = {severity.name: int(severity) for severity in Severity}
_ACTIONS = {action.name: int(action) for action in Action}

_FIXED = struct.Struct(">h ii iq iq ih ih ih if")
_FIXED_NO_SCORE = struct.Struct(">h ii iq iq ih ih ih i")
_LENGTH = struct.Struct(">i").pack
_NULL = _LENGTH(-1)
_EMPTY_JSON = b"{}"
_JSONB_VERSION = b"\x01"
# ``src`` is the last section: it can be read also where the rest cannot.
_PLACE = re.compile(
    rb'"src"\s*:\s*\{\s*"partition"\s*:\s*([0-9]+)\s*,\s*"offset"\s*:\s*([0-9]+)\s*,'
    rb'\s*"previous"\s*:\s*(-?[0-9]+)\s*\}\s*\}\s*\Z'
)
PLACE_LENGTH_MAX = 256
_PLAIN_NUMBER = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]+))?")
# Amounts repeat; how many encoded ones are kept.
_NUMERICS_MAX = 100_000
_numerics: dict[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record whose place in the log is known but which cannot be stored: a dead letter."""

    partition: int
    offset: int
    field: str
    expected: str
    got: str
    value: bytes


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """A payment known by its identity has another status now (``Status``)."""

    account_id: str
    user_id: str
    tx_id: str
    status: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of which champion and challenger say different severities.

    Attributes
    ----------
    tx_id, amount, currency
        The transaction; ``amount`` as the record writes it.
    scores, flags
        ``ml_score`` and the rules that fired: the champion's, then the challenger's.
    """

    tx_id: str
    amount: str
    currency: str
    scores: tuple[float | None, float | None]
    flags: tuple[list[str], list[str]]


@dataclass(slots=True)
class ScoredRows:
    """Decoded records, in the order given, as parallel lists.

    Attributes
    ----------
    values
        The records themselves.
    partition, offset, previous
        ``src``: place in `transactions`, and the offset of the record before it in `scored`.
    row
        Its row of `transactions` in binary COPY format; empty for a status update or a rejected record.
    account, user, ts_us, severity
        Whose it is, event time (µs since 1970), ``Severity``.
    flags
        Rules that fired, by position in these lists; for those with any.
    challenges
        (champion, challenger, the challenger's ``Severity``) by position; for those of which one said something.
    differences
        More of those whose severity differs.
    updates, rejected
        What is not a row to insert, by position.
    """

    values: Sequence[bytes]
    partition: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    row: list[bytes] = field(default_factory=list)
    account: list[str] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    ts_us: list[int] = field(default_factory=list)
    severity: list[int] = field(default_factory=list)
    flags: dict[int, list[str]] = field(default_factory=dict)
    challenges: dict[int, tuple[str, str, int]] = field(default_factory=dict)
    differences: dict[int, Difference] = field(default_factory=dict)
    updates: dict[int, StatusUpdate] = field(default_factory=dict)
    rejected: dict[int, Rejected] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)


class _Meta(msgspec.Struct, gc=False):
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
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
    status: str | None = None


class _Challenger(msgspec.Struct, gc=False):
    bundle: str
    final_severity: str
    ml_score: float | None = None
    rule_flags: list[str] = []


class _Analysis(msgspec.Struct, gc=False):
    bundle: str = ""
    ml_score: float | None = None
    rule_flags: list[str] = []
    challenger: _Challenger | None = None


class _Verdict(msgspec.Struct, gc=False):
    final_severity: str = ""
    action: str = ""
    case_id: str | None = None
    status_update: str | None = None


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_data = msgspec.json.Decoder(_Data).decode
_decode_analysis = msgspec.json.Decoder(_Analysis).decode
_decode_verdict = msgspec.json.Decoder(_Verdict).decode


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
    for value in values:
        try:
            _append(rows, value)
        except (
            msgspec.MsgspecError,
            ValueError,
            KeyError,
            ArithmeticError,
            RecursionError,
            struct.error,
        ) as error:
            _append_rejected(rows, value, error)
    return rows


def encode_numeric(text: bytes) -> bytes:
    """A JSON number as PostgreSQL's binary ``numeric``, exact, behind its length.

    Groups of four decimal digits, and the power of 10,000 of the first one (PostgreSQL: src/backend/utils/adt/
    numeric.c, ``numeric_send``).

    Raises
    ------
    ValueError, ArithmeticError
        Not a finite number.
    """
    found = _numerics.get(text)
    if found is not None:
        return found
    match = _PLAIN_NUMBER.fullmatch(text)
    if match is None:
        number = Decimal(text.decode())
        if not number.is_finite():
            raise ValueError(f"amount: expected a finite number, got {text[:120]!r}")
        match = _PLAIN_NUMBER.fullmatch(format(number, "f").encode())
        assert match is not None
    sign, whole, fraction = match[1], match[2], match[3] or b""
    digits = b"0" * (-len(whole) % 4) + whole + fraction + b"0" * (-len(fraction) % 4)
    groups = [int(digits[i : i + 4]) for i in range(0, len(digits), 4)]
    weight = (len(whole) + 3) // 4 - 1
    while groups and groups[-1] == 0:
        groups.pop()
    first = next((i for i, group in enumerate(groups) if group), len(groups))
    groups, weight = groups[first:], weight - first if groups else 0
    is_negative = bool(sign and groups)
    content = struct.pack(
        f">hhHh{len(groups)}h", len(groups), weight, 0x4000 if is_negative else 0, len(fraction), *groups
    )
    if len(_numerics) >= _NUMERICS_MAX:
        _numerics.clear()
    encoded = _numerics[text] = _LENGTH(len(content)) + content
    return encoded


def _append(rows: ScoredRows, value: bytes) -> None:
    """Decode one record and append it to all lists, or to none. Raises what `decode_scored` catches."""
    record = _decode_record(value)
    meta, source = record.meta, record.src
    data_json, analysis_json, verdict_json = bytes(record.data), bytes(record.analysis), bytes(record.verdict)
    data, analysis, verdict = (
        _decode_data(data_json),
        _decode_analysis(analysis_json),
        _decode_verdict(verdict_json),
    )
    ts_us = round(meta.timestamp.timestamp() * 1e6)  # exact until the year 2255
    if ts_us < 0:
        raise ValueError(f"an event of {meta.timestamp.isoformat()}, before 1970")
    index = len(rows.row)
    row, severity = b"", 0
    if verdict.status_update is None:
        severity = _SEVERITIES[verdict.final_severity]
        if severity and verdict.case_id is None:
            raise ValueError("an anomaly without case_id")
        row = _build_row(record, data, analysis, verdict, ts_us, data_json, analysis_json, verdict_json)
        if analysis.challenger is not None:
            _append_challenge(rows, index, analysis, analysis.challenger, data, severity)
        if analysis.rule_flags:
            rows.flags[index] = analysis.rule_flags
    else:
        status = _STATUSES[verdict.status_update]
        rows.updates[index] = StatusUpdate(meta.account_id, meta.user_id, data.tx_id, status)
    rows.partition.append(source.partition)
    rows.offset.append(source.offset)
    rows.previous.append(source.previous)
    rows.row.append(row)
    rows.account.append(meta.account_id)
    rows.user.append(meta.user_id)
    rows.ts_us.append(ts_us)
    rows.severity.append(severity)


def _append_challenge(
    rows: ScoredRows, index: int, analysis: _Analysis, challenger: _Challenger, data: _Data, severity: int
) -> None:
    says = _SEVERITIES[challenger.final_severity]
    rows.challenges[index] = analysis.bundle, challenger.bundle, says
    if says != severity:
        rows.differences[index] = Difference(
            data.tx_id,
            bytes(data.amount).decode(),
            data.currency,
            (analysis.ml_score, challenger.ml_score),
            (analysis.rule_flags, challenger.rule_flags),
        )


def _append_rejected(rows: ScoredRows, value: bytes, error: Exception) -> None:
    place = _PLACE.search(value[-PLACE_LENGTH_MAX:])
    if place is None:
        raise ContractError(
            f"a record of the topic scored: expected the sections meta, data, enrichment, analysis, verdict and src, "
            f"got {value[:120]!r} ({error}): something other than the detector writes to this topic"
        ) from error
    source = _Source(*map(int, place.groups()))
    rows.rejected[len(rows.row)] = Rejected(
        source.partition, source.offset, "scored", "a judged transaction", str(error)[:120], value
    )
    rows.partition.append(source.partition)
    rows.offset.append(source.offset)
    rows.previous.append(source.previous)
    rows.row.append(b"")
    rows.account.append("")
    rows.user.append("")
    rows.ts_us.append(0)
    rows.severity.append(0)


def _build_row(
    record: _Record,
    data: _Data,
    analysis: _Analysis,
    verdict: _Verdict,
    ts_us: int,
    data_json: bytes,
    analysis_json: bytes,
    verdict_json: bytes,
) -> bytes:
    """The row in COPY format: the number of columns, and each value behind its length in bytes."""
    meta, source = record.meta, record.src
    severity, action = _SEVERITIES[verdict.final_severity], _ACTIONS[verdict.action]
    status = 0 if data.status is None else _STATUSES[data.status]
    score = analysis.ml_score
    ts = ts_us - POSTGRES_EPOCH_US
    if score is None:
        fixed = _FIXED_NO_SCORE.pack(
            20, 4, source.partition, 8, source.offset, 8, ts, 2, status, 2, severity, 2, action, -1
        )
    else:
        fixed = _FIXED.pack(
            20, 4, source.partition, 8, source.offset, 8, ts, 2, status, 2, severity, 2, action, 4, score
        )
    account, user, transaction = meta.account_id.encode(), meta.user_id.encode(), data.tx_id.encode()
    currency, origin, bundle = data.currency.encode(), meta.source.encode(), analysis.bundle.encode()
    enrichment_json = bytes(record.enrichment)
    parts = (
        fixed,
        _LENGTH(len(account)), account,
        _LENGTH(len(user)), user,
        _LENGTH(len(transaction)), transaction,
        encode_numeric(bytes(data.amount)),
        _LENGTH(len(currency)), currency,
        _LENGTH(len(origin)), origin,
        _nullable(meta.trace_id),
        _nullable(verdict.case_id),
        _LENGTH(len(bundle)), bundle,
        _LENGTH(len(data_json) + 1), _JSONB_VERSION, data_json,
        _LENGTH(len(enrichment_json)), enrichment_json,
        _LENGTH(len(analysis_json)), analysis_json,
        _LENGTH(len(verdict_json)), verdict_json,
    )  # fmt: skip
    return b"".join(parts)


def _nullable(text: str | None) -> bytes:
    if text is None:
        return _NULL
    encoded = text.encode()
    return _LENGTH(len(encoded)) + encoded
