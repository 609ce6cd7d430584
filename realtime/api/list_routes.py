"""An account's lists: values that are blocked, allowed, or looked up by rules of one's own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.bus.control import announce_all
from anomalyze.errors import EventError, TransientError
from anomalyze.events.schema import parse_timestamp
from anomalyze.log import get
from anomalyze.rules.column import TEXT_COLUMNS
from anomalyze.rules.lists import parse_entry
from anomalyze.storage.list_change import (
    ListChange,
    TooManyEntries,
    list_entries,
    store_changes,
    tell_changes,
)
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch_async
from realtime.api.account_schemas import LIST_BODY
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.shapes import time_text
from realtime.api.state import State, state_of

__all__ = ["router"]

router = APIRouter(tags=["lists"])

CHANGES_MAX = 500
NOTE_CHARACTERS_MAX = 500
FIELDS = frozenset({"list", "field", "value", "expires_at", "note"})
CURSOR_CHARACTERS_MAX = 1_024

Reader = Annotated[Principal, Depends(require("read"))]
Admin = Annotated[Principal, Depends(require("admin"))]
Name = Annotated[str | None, Query(max_length=40)]
CHANGED: dict[int | str, dict[str, Any]] = {
    200: json_answer("ListChanged", "Every partition of the log knows: it counts from its place there on."),
}


@router.get("/v1/lists", responses={200: json_answer("ListEntries", "A page, in the order of names.")})
async def get_lists(
    request: Request,
    principal: Reader,
    list_name: Annotated[str | None, Query(alias="list", max_length=40)] = None,
    field: Name = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=CURSOR_CHARACTERS_MAX)] = None,
) -> Response:
    """What is on the account's lists and has not expired."""
    after = None if cursor is None else _read_cursor(cursor)
    for name, value in (("list", list_name), ("field", field)):
        if value is not None and not value.isprintable():
            raise Problem(422, f"{name}: expected no control characters", field=name)
    async with state_of(request).pool.connection() as connection:
        found = await fetch_async(
            connection,
            list_entries(principal.account_id, list_name=list_name, field=field, after=after, limit=limit),
        )
    last = found[-1] if found else None
    return _answer(
        {
            "entries": [
                {
                    "list": one.list,
                    "field": one.field,
                    "value": one.value,
                    "expires_at": None if one.expires_at is None else time_text(one.expires_at),
                    "note": one.note,
                    "changed_at": time_text(one.changed_at),
                    "changed_by": one.changed_by,
                }
                for one in found
            ],
            "cursor": None
            if last is None
            else msgspec.json.encode([last.list, last.field, last.value]).decode(),
        }
    )


@router.post("/v1/lists", responses={**CHANGED, **problem_responses(409, 413)}, openapi_extra=LIST_BODY)
async def post_lists(request: Request, principal: Admin) -> Response:
    """Put values on lists: one, or an array of up to 500. All of them, or none. Again: with another expiry."""
    try:
        sent = msgspec.json.decode(await request.body())
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EventError("", "one entry or an array of entries, as JSON", str(error)) from error
    items = sent if isinstance(sent, list) else [sent]
    if not 1 <= len(items) <= CHANGES_MAX:
        raise EventError("", f"1 to {CHANGES_MAX} entries", str(len(items)))
    changes = [_entry(item, principal.account_id, i) for i, item in enumerate(items)]
    return await asyncio.to_thread(change_lists, state_of(request), principal, changes)


@router.delete("/v1/lists", responses=CHANGED)
async def delete_lists(
    request: Request,
    principal: Admin,
    list_name: Annotated[
        str, Query(alias="list", pattern="^[a-z][a-z0-9_]{0,39}$", description="block, allow or your own")
    ],
    field: Annotated[str, Query(json_schema_extra={"enum": sorted(TEXT_COLUMNS)})],
    value: Annotated[str, Query(min_length=1, max_length=128, description="as it stands in transactions")],
) -> Response:
    """Take a value off a list; one that is not on it changes nothing."""
    entry = {"list": list_name, "field": field, "value": value}
    change = _entry(entry, principal.account_id, 0, "remove")
    return await asyncio.to_thread(change_lists, state_of(request), principal, [change])


def change_lists(state: State, principal: Principal, changes: list[ListChange]) -> Response:
    """Store changes and tell the log of them."""
    try:
        with connect(state.dsn, program="anomalyze-api") as connection:
            changed = store_changes(connection, principal.account_id, changes, principal.key_id)
            try:
                tell_changes(connection, lambda bodies: announce_all(state.bus, "list", bodies))
                told = True
            except TransientError as error:
                # Stored: the next change of anybody tells it, or the next start.
                get().warning("lists_not_told", account=principal.account_id, reason=str(error))
                told = False
    except TooManyEntries as error:
        raise Problem(409, str(error)) from error
    return _answer({"changed": changed, "told": told})


def _entry(item: Any, account_id: str, index: int, op: str = "add") -> ListChange:
    """One entry of a request. Raises ``EventError``."""
    where = f"entries.{index}"
    if not isinstance(item, dict):
        raise EventError(where, "an object with list, field and value", type(item).__name__)
    if unknown := sorted(set(map(str, item)) - FIELDS):
        raise EventError(f"{where}.{unknown[0][:60]}", f"one of {', '.join(sorted(FIELDS))}", unknown[0])
    expires_at = item.get("expires_at")
    expires_ms: int | None = None
    if expires_at is not None:
        if not isinstance(expires_at, str):
            raise EventError(
                f"{where}.expires_at", "a time in RFC 3339 with offset, or null", str(expires_at)
            )
        expires_ms = parse_timestamp(expires_at)
    note = item.get("note") or ""
    if not isinstance(note, str) or len(note) > NOTE_CHARACTERS_MAX or not note.isprintable():
        raise EventError(f"{where}.note", f"at most {NOTE_CHARACTERS_MAX} printable characters", str(note))
    value = item.get("value")
    if isinstance(value, str) and not value.isprintable():
        raise EventError(f"{where}.value", "printable characters", value.encode(errors="replace").decode())
    parsed = parse_entry({**item, "op": op, "account_id": account_id, "expires_ms": expires_ms})
    moment = None if expires_ms is None else datetime.fromtimestamp(expires_ms / 1000, UTC)
    return ListChange(op, parsed.list, parsed.field, parsed.value, moment, note)


def _read_cursor(cursor: str) -> tuple[str, str, str]:
    try:
        name, field, value = msgspec.json.decode(cursor, type=tuple[str, str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Problem(
            422,
            "cursor: expected one from an earlier answer",
            field="cursor",
            expected="a cursor",
            got=cursor,
        ) from error
    if "\0" in name + field + value:
        raise Problem(422, "cursor: expected one from an earlier answer", field="cursor")
    return name, field, value


def _answer(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
