"""What became known of transactions: chargebacks and decisions, late, repeated and corrected as they come."""

from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.bus.topics import LABELS
from anomalyze.errors import EventError
from anomalyze.events.ingest import Rejected
from anomalyze.events.schema import ID_CHARACTERS_MAX, parse_timestamp
from anomalyze.storage.label import Label, encode_label
from realtime.api.json_body import shown
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.state import state_of
from realtime.api.upload_schemas import LABEL_BODY

__all__ = ["parse_labels", "router"]

router = APIRouter(tags=["labels"])

LABELS_MAX = 10_000
SOURCE_CHARACTERS_MAX = 64
REASON_CHARACTERS_MAX = 2_000
FIELDS = frozenset({"tx_id", "user_id", "fraud", "known_at", "source", "reason"})
JSON_TYPES = frozenset({"", "application/json", "application/x-ndjson", "application/x-www-form-urlencoded"})
CSV_TYPES = frozenset({"text/csv", "text/plain", "application/csv"})
WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "fraud": True,
    "0": False,
    "false": False,
    "no": False,
    "legitimate": False,
}
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, Any])


@router.post(
    "/v1/labels",
    status_code=202,
    responses={
        202: json_answer(
            "Accepted", "Durable: they are in the history of these transactions within a second."
        ),
        **problem_responses(413, 415, 429),
    },
    openapi_extra=LABEL_BODY,
)
async def post_labels(
    request: Request,
    principal: Annotated[Principal, Depends(require("ingest"))],
    source: Annotated[
        str | None,
        Query(min_length=1, max_length=SOURCE_CHARACTERS_MAX, description="of labels that name none"),
    ] = None,
) -> Response:
    """Take labels: one, an array, NDJSON, or CSV with the fields as columns. Bad ones are named, the others taken.

    A label sent again changes nothing; another value of the same source corrects it, `null` takes it back.
    """
    state = state_of(request)
    state.disk.check()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES | CSV_TYPES:
        raise Problem(
            415,
            "send application/json, application/x-ndjson or text/csv",
            field="Content-Type",
            expected="application/json, application/x-ndjson or text/csv",
            got=kind,
        )
    body = await request.body()
    labels, rejected = parse_labels(
        body,
        is_csv=kind in CSV_TYPES,
        account_id=principal.account_id,
        recorded_by=principal.key_id,
        source=source,
        now_ms=time.time_ns() // 1_000_000,
        future_tolerance_ms=state.settings.future_tolerance_s * 1000,
    )
    if not labels:
        first = rejected[0]
        problem = Problem(
            422,
            f"{first.field or 'body'}: expected {first.expected}, got {first.got}",
            field=first.field or "body",
            expected=first.expected,
            got=first.got,
        )
        problem.document["rejected"] = rejected
        raise problem
    state.rate.take(principal.key_id, len(labels))
    await state.ingest.append(
        [label.tx_id.encode() for label in labels], [encode_label(label) for label in labels], LABELS
    )
    distinct = len({(x.user_id, x.tx_id, x.source, x.fraud) for x in labels})
    answer = {"accepted": distinct, "repeated": len(labels) - distinct, "rejected": rejected}
    return Response(msgspec.json.encode(answer), 202, media_type="application/json")


def parse_labels(
    body: bytes,
    *,
    is_csv: bool,
    account_id: str,
    recorded_by: str,
    source: str | None,
    now_ms: int,
    future_tolerance_ms: int,
) -> tuple[list[Label], list[Rejected]]:
    """Labels of a body; good ones beside bad ones.

    Raises
    ------
    EventError
        The body as a whole is no list of labels, or one of more than ``LABELS_MAX``.
    """
    items = _csv_items(body) if is_csv else _json_items(body)
    if not 1 <= len(items) <= LABELS_MAX:
        raise EventError("", f"1 to {LABELS_MAX} labels in a request", str(len(items)))
    labels, rejected = [], []
    for index, item in enumerate(items):
        try:
            flat = item if isinstance(item, dict) else _object(item)
            labels.append(_label(flat, account_id, recorded_by, source, now_ms, future_tolerance_ms))
        except EventError as error:
            rejected.append(Rejected(index, error.field, error.expected, error.got))
    return labels, rejected


def _label(
    flat: dict[str, Any],
    account_id: str,
    recorded_by: str,
    source: str | None,
    now_ms: int,
    future_tolerance_ms: int,
) -> Label:
    if unknown := sorted(map(str, flat.keys() - FIELDS)):
        raise EventError(unknown[0][:128], f"one of {', '.join(sorted(FIELDS))}", unknown[0])
    if "fraud" not in flat:
        raise EventError("fraud", "true, false or null", "nothing")
    fraud = flat["fraud"]
    if fraud is not None and not isinstance(fraud, bool):
        raise EventError("fraud", "true, false or null", shown(fraud))
    known_at = flat.get("known_at")
    known_ms = now_ms
    if known_at is not None:
        try:
            known_ms = parse_timestamp(known_at) if isinstance(known_at, str) else -1
        except EventError as error:
            raise EventError("known_at", error.expected, error.got) from error
        if not 0 <= known_ms <= now_ms + future_tolerance_ms:
            raise EventError("known_at", "a time that has come, RFC 3339 with offset", shown(known_at))
    return Label(
        account_id=account_id,
        tx_id=_text(flat, "tx_id", ID_CHARACTERS_MAX, flat.get("tx_id")),
        user_id=_text(flat, "user_id", ID_CHARACTERS_MAX, flat["user_id"])
        if flat.get("user_id") is not None
        else "",
        fraud=fraud,
        known_at=datetime.fromtimestamp(known_ms / 1000, UTC),
        source=_text(flat, "source", SOURCE_CHARACTERS_MAX, flat.get("source") or source),
        recorded_by=recorded_by,
        reason=_text(flat, "reason", REASON_CHARACTERS_MAX, flat["reason"]) if flat.get("reason") else None,
        known_at_given=known_at is not None,
    )


def _text(flat: dict[str, Any], field: str, length_max: int, value: Any) -> str:
    expected = f"1 to {length_max} characters, none a control character"
    if value is None:
        raise EventError(field, expected, "nothing")
    if not isinstance(value, str) or not 1 <= len(value) <= length_max or not value.isprintable():
        raise EventError(field, expected, shown(value))
    return value


def _json_items(body: bytes) -> list[Any]:
    stripped = body.strip()
    try:
        if stripped.startswith(b"["):
            return list(_ARRAY.decode(stripped))
        lines = [line for line in stripped.split(b"\n") if line.strip()]
        if len(lines) > 1 and not lines[0].rstrip().endswith(b"}"):
            return [stripped]
        return list(lines)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EventError("", f"a JSON array ({error})", body[:120].decode(errors="replace")) from error


def _object(item: Any) -> dict[str, Any]:
    raw = bytes(item)
    try:
        return _OBJECT.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EventError("", "a JSON object", raw[:120].decode(errors="replace")) from error


def _csv_items(body: bytes) -> list[Any]:
    try:
        text = body.decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        rows = list(
            csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="?", strict=True)
        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise EventError("", f"CSV in UTF-8 ({error})", body[:120].decode(errors="replace")) from error
    items: list[Any] = []
    for row in rows:
        item: dict[str, Any] = {
            name.strip(): value for name, value in row.items() if isinstance(value, str) and value
        }
        if "?" in row:
            item["?"] = "more cells than columns"
        if "fraud" in item:
            word = item["fraud"].strip().lower()
            item["fraud"] = WORDS.get(word, item["fraud"])
        items.append(item)
    return items
