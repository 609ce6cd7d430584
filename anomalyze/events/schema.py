"""The wire form of a transaction, and the plain parser that says what is wrong with one.

This is the slow path of the decoder (unusual JSON, everything that is refused) and the oracle that the
compiled scanner is held against: both must accept the same records and read the same values.

A record is ``{"meta": {...}, "data": {...}}`` and nothing beside; unknown fields of ``meta`` and ``data`` are
kept, unknown sections are refused, since nobody sends his own verdict. An empty optional text counts as
missing. Of a key sent twice the last one counts, as in PostgreSQL's jsonb.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from anomalyze.errors import EventError
from anomalyze.events.batch import Status
from anomalyze.events.gazetteer import COUNTRY_INDEX
from anomalyze.events.money import CURRENCY_INDEX, parse_amount

__all__ = [
    "DEPTH_MAX",
    "ID_CHARACTERS_MAX",
    "LOCATION_CHARACTERS_MAX",
    "RECORD_BYTES_MAX",
    "REPLY_TO_CHARACTERS_MAX",
    "RESOLUTIONS",
    "SOURCES",
    "STATUS_INDEX",
    "TEXT_CHARACTERS_MAX",
    "Transaction",
    "parse_record",
    "parse_timestamp",
]

RECORD_BYTES_MAX = 64 * 1024
ID_CHARACTERS_MAX = 128
TEXT_CHARACTERS_MAX = 128
LOCATION_CHARACTERS_MAX = 256
REPLY_TO_CHARACTERS_MAX = 256
DEPTH_MAX = 16  # levels of objects and arrays, the record itself being the first

SOURCES = ("REALTIME_API", "CSV", "KAFKA", "WEBSOCKET", "POLL", "SIMULATION")
RESOLUTIONS = ("second", "day")
STATUS_INDEX: dict[str, int] = {status.name.lower(): int(status) for status in Status}

_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_TIMESTAMP_EXPECTED = "RFC 3339 with an offset, such as 2025-12-20T12:00:00Z"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


class _Meta(msgspec.Struct):
    timestamp: str
    user_id: str
    account_id: str
    source: str | None = None
    trace_id: str | None = None
    reply_to: str | None = None


class _Data(msgspec.Struct):
    tx_id: str
    amount: msgspec.Raw
    currency: str
    location: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    country: str | None = None
    merchant_id: str | None = None
    merchant_category: str | None = None
    device_id: str | None = None
    ip: str | None = None
    channel: str | None = None
    status: str | None = None
    time_resolution: str | None = None


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    meta: _Meta
    data: _Data


_RECORD = msgspec.json.Decoder(_Record)
_ANY = msgspec.json.Decoder()

_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_WRONG = re.compile(r"Expected `(?P<expected>.*)`, got `(?P<got>.*?)`(?: - at `\$\.?(?P<path>[^`]*)`)?$")


@dataclass(frozen=True, slots=True)
class Transaction:
    """One valid record, read but not yet placed or hashed.

    ``ts_ms`` is ms since 1970 UTC, ``amount_minor`` minor units; ``currency``, ``country`` and ``status`` are
    the numbers of ``MicroBatch``; missing text is ``""``, missing coordinates are NaN; ``day_only`` when the time
    is known only to the day.
    """

    account_id: str
    user_id: str
    tx_id: str
    ts_ms: int
    amount_minor: int
    currency: int
    status: int
    country: int
    latitude: float
    longitude: float
    location: str
    merchant_id: str
    merchant_category: str
    device_id: str
    ip: str
    channel: str
    reply_to: str
    day_only: bool


def parse_record(value: bytes, append_ms: int, future_tolerance_ms: int) -> Transaction:
    """Read one record of ``transactions``, without its size limit.

    Raises
    ------
    EventError
        With an empty ``field`` when it is no JSON object of the right build, else naming the field.
    """
    content = _parse_any(value)
    try:
        record = _RECORD.decode(value)
    except msgspec.MsgspecError as error:
        raise _explain(error, content) from error
    meta, data = record.meta, record.data
    for field, text in (
        ("meta.user_id", meta.user_id),
        ("meta.account_id", meta.account_id),
        ("data.tx_id", data.tx_id),
    ):
        _check_id(field, text)
    _check_source(meta)
    ts_ms = parse_timestamp(meta.timestamp)
    if ts_ms > append_ms + future_tolerance_ms:
        raise EventError(
            "meta.timestamp", f"at most {future_tolerance_ms // 1000} s after it was sent", meta.timestamp
        )
    currency = CURRENCY_INDEX.get(data.currency, -1)
    if currency < 0:
        raise EventError("data.currency", "an ISO 4217 code such as USD", data.currency)
    amount_minor = parse_amount(bytes(data.amount).decode(), currency)
    latitude, longitude = _check_coordinates(data.latitude, data.longitude)
    country = -1
    if data.country:
        country = COUNTRY_INDEX.get(data.country, -1)
        if country < 0:
            raise EventError("data.country", "an ISO 3166 alpha-2 code such as US", data.country)
    status = STATUS_INDEX.get(data.status or "approved", -1)
    if status < 0:
        raise EventError("data.status", f"one of {', '.join(STATUS_INDEX)}", data.status or "")
    if data.time_resolution and data.time_resolution not in RESOLUTIONS:
        raise EventError("data.time_resolution", f"one of {', '.join(RESOLUTIONS)}", data.time_resolution)
    return Transaction(
        account_id=meta.account_id,
        user_id=meta.user_id,
        tx_id=data.tx_id,
        ts_ms=ts_ms,
        amount_minor=amount_minor,
        currency=currency,
        status=status,
        country=country,
        latitude=latitude,
        longitude=longitude,
        location=_check_text("data.location", data.location, LOCATION_CHARACTERS_MAX),
        merchant_id=_check_text("data.merchant_id", data.merchant_id),
        merchant_category=_check_text("data.merchant_category", data.merchant_category),
        device_id=_check_text("data.device_id", data.device_id),
        ip=_check_text("data.ip", data.ip),
        channel=_check_text("data.channel", data.channel),
        reply_to=_check_text("meta.reply_to", meta.reply_to, REPLY_TO_CHARACTERS_MAX),
        day_only=data.time_resolution == "day",
    )


def parse_timestamp(text: str) -> int:
    """Milliseconds since 1970 UTC of an RFC 3339 timestamp with offset; finer digits are cut off.

    Raises
    ------
    EventError
        Another form, no offset, a day that does not exist, or before 1970.

    >>> parse_timestamp("1970-01-02T01:00:00.0019+01:00")
    86400001
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise EventError("meta.timestamp", _TIMESTAMP_EXPECTED, text)
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    offset_hour, offset_minute = int(match[9] or 0), int(match[10] or 0)
    if hour > 23 or minute > 59 or second > 59 or offset_hour > 23 or offset_minute > 59:
        raise EventError("meta.timestamp", _TIMESTAMP_EXPECTED, text)
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise EventError("meta.timestamp", "a day that exists", text) from error
    offset_s = (offset_hour * 3600 + offset_minute * 60) * (-1 if match[8] == "-" else 1)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset_s
    ts_ms = seconds * 1000 + int((match[7] or "").ljust(3, "0")[:3])
    if ts_ms < 0:
        raise EventError("meta.timestamp", "1970 or later", text)
    return ts_ms


def _parse_any(value: bytes) -> Any:
    """The JSON value; what is accepted here every later reader can read (UTF-8, numbers, depth, no NUL)."""
    try:
        value.decode()
        if value.count(b"{") + value.count(b"[") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
            raise EventError("", f"at most {DEPTH_MAX} levels of nesting", _excerpt(value))
        content = _ANY.decode(value)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise EventError("", f"a JSON object in UTF-8 ({error})", _excerpt(value)) from error
    if b"\\u0000" in value and _has_nul(content):
        raise EventError("", "text without the character NUL", _excerpt(value))
    return content


def _depth(value: bytes) -> int:
    depth = deepest = 0
    for byte in _STRING.sub(b"", value):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _has_nul(content: Any) -> bool:
    if isinstance(content, str):
        return "\0" in content
    if isinstance(content, dict):
        return any("\0" in key or _has_nul(item) for key, item in content.items())
    return isinstance(content, list) and any(_has_nul(item) for item in content)


def _excerpt(value: bytes) -> str:
    return value[:120].decode(errors="replace")


def _explain(error: Exception, content: Any) -> EventError:
    """Our error for one of msgspec's, with the value that came."""
    message = str(error)
    if found := _UNKNOWN.match(message):
        return EventError(found["name"], "only the sections meta and data", found["name"])
    if found := _MISSING.match(message):
        return EventError(".".join(filter(None, (found["path"], found["name"]))), "a value", "nothing")
    if found := _WRONG.match(message):
        path = found["path"] or ""
        for part in filter(None, path.split(".")):
            content = content[part]
        kind = {"str": "text", "float": "a number", "object": "an object"}
        wanted = [kind.get(name.strip(), name.strip()) for name in found["expected"].split("|")]
        return EventError(path, " or ".join(wanted), _excerpt(msgspec.json.encode(content)))
    return EventError("", f"a transaction ({message})", _excerpt(msgspec.json.encode(content)))


def _check_id(field: str, text: str) -> None:
    if not 1 <= len(text) <= ID_CHARACTERS_MAX or _CONTROL.search(text):
        raise EventError(field, f"1 to {ID_CHARACTERS_MAX} characters, none a control character", repr(text))


def _check_source(meta: _Meta) -> None:
    if meta.source is not None and meta.source not in SOURCES:
        raise EventError("meta.source", f"one of {', '.join(SOURCES)}", meta.source)
    _check_text("meta.trace_id", meta.trace_id)


def _check_text(field: str, text: str | None, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    if text is None:
        return ""
    if len(text) > characters_max:
        raise EventError(field, f"at most {characters_max} characters", f"{len(text)}: {text}")
    return text


def _check_coordinates(latitude: float | None, longitude: float | None) -> tuple[float, float]:
    if latitude is None and longitude is None:
        return math.nan, math.nan
    if latitude is None or longitude is None:
        missing = "latitude" if latitude is None else "longitude"
        raise EventError(f"data.{missing}", "latitude and longitude together, or neither", "nothing")
    if not -90 <= latitude <= 90:
        raise EventError("data.latitude", "-90 to 90 degrees", repr(latitude))
    if not -180 <= longitude <= 180:
        raise EventError("data.longitude", "-180 to 180 degrees", repr(longitude))
    return latitude + 0.0, longitude + 0.0  # minus zero and zero are one place
