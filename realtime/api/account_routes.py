"""What an account says of how it is judged: read, saved as versions, restored."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from anomalyze.access.keys import Principal
from anomalyze.config import ConfigProblems
from anomalyze.detection.account import DOCUMENT_BYTES_MAX
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.errors import AnomalyzeError
from anomalyze.log import get
from anomalyze.storage.account_version import (
    StoredVersion,
    TooManySaves,
    VersionConflict,
    list_versions,
    load_version,
)
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch_async
from realtime.api.account_schemas import ACCOUNT_BODY
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer
from realtime.api.security import require
from realtime.api.shapes import time_text
from realtime.api.state import State, state_of

__all__ = ["router", "settle"]

router = APIRouter(tags=["account"])

PROBLEMS_TOLD_MAX = 50
NOTE_CHARACTERS_MAX = 500
_ETAG = re.compile(r'(?:W/)?"?([0-9]{1,9})"?')
_VERSION_MAX = 2**31 - 1

Reader = Annotated[Principal, Depends(require("read"))]
Admin = Annotated[Principal, Depends(require("admin"))]
Note = Annotated[str, Query(max_length=NOTE_CHARACTERS_MAX, description="why, for the history")]
VersionId = Annotated[int, Path(ge=1, le=_VERSION_MAX)]
SAVED: dict[int | str, dict[str, Any]] = {
    200: json_answer("AccountSaved", "In force: verdicts name the new bundle within seconds."),
    202: json_answer(
        "AccountSaved", "Stored, but not in force yet: the store or the log is away. It will be."
    ),
}


@router.get("/v1/account", responses={200: json_answer("Account", "`ETag` is the version.")})
async def get_account(request: Request, principal: Reader) -> Response:
    """The account's settings: the newest version, or what the platform's files say of it."""
    state = state_of(request)
    async with state.pool.connection() as connection:
        newest = await fetch_async(connection, load_version(principal.account_id))
    shown = (
        version_shape(newest)
        if newest is not None
        else await asyncio.to_thread(_unsaved, state, principal.account_id)
    )
    made = answer({"account_id": principal.account_id, **shown})
    made.headers["ETag"] = f'"{shown["version"]}"'
    return made


@router.put(
    "/v1/account",
    responses={**SAVED, **problem_responses(409, 412, 413, 429)},
    openapi_extra=ACCOUNT_BODY,
)
async def put_account(
    request: Request,
    principal: Admin,
    note: Note = "",
    dry_run: Annotated[bool, Query(description="say what would change, and save nothing")] = False,
) -> Response:
    """Save settings as a new version, and bring them into force: rules, time zone, currency, thresholds, label delay.

    Checked against the rules that judge now; every mistake is named. The same again makes no new version. Body: JSON
    or YAML.
    """
    state, after = state_of(request), _expected(request)
    body = await request.body()
    if len(body) > DOCUMENT_BYTES_MAX:
        raise Problem(
            413,
            f"settings: expected at most {DOCUMENT_BYTES_MAX:,} bytes, got {len(body):,}",
            field="body",
            expected=f"at most {DOCUMENT_BYTES_MAX:,} bytes",
            got=str(len(body)),
        )
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(422, f"body: expected UTF-8, got {error}", field="body", expected="UTF-8") from error
    return await asyncio.to_thread(_save, state, principal, text, _plain(note), after, dry_run)


@router.get("/v1/account/versions", responses={200: json_answer("AccountVersions", "Newest first, a page.")})
async def get_versions(
    request: Request,
    principal: Reader,
    before: Annotated[int | None, Query(ge=1, le=_VERSION_MAX, description="versions below this one")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Who changed what, when and why."""
    async with state_of(request).pool.connection() as connection:
        found = await fetch_async(connection, list_versions(principal.account_id, before=before, limit=limit))
    cursor = found[-1].version if found and found[-1].version > 1 else None
    return answer({"versions": [version_shape(one) for one in found], "cursor": cursor})


@router.get(
    "/v1/account/versions/{version_id}",
    responses={200: json_answer("AccountVersion", "As it was saved."), **problem_responses(404)},
)
async def get_version(request: Request, principal: Reader, version_id: VersionId) -> Response:
    """One version."""
    return answer(version_shape(await _find(state_of(request), principal, version_id)))


@router.post(
    "/v1/account/versions/{version_id}/restore",
    responses={**SAVED, **problem_responses(404, 409, 429)},
)
async def restore_version(
    request: Request, principal: Admin, version_id: VersionId, note: Note = ""
) -> Response:
    """Save an older version's document as the newest."""
    state = state_of(request)
    found = await _find(state, principal, version_id)
    text = msgspec.json.encode(found.document).decode()
    told = _plain(note) or f"version {version_id} restored"
    return await asyncio.to_thread(_save, state, principal, text, told, None, False)


async def settle(state: State) -> None:
    """Bring into force what a program stored and died over; at the start, beside what else goes on."""

    def work() -> None:
        from anomalyze.learning.account import bring_into_force, is_unsettled, tell_lists

        with connect(state.dsn, program="anomalyze-api") as connection:
            if is_unsettled(connection):
                bring_into_force(connection, BundleStore(state.objects), state.bus)
                tell_lists(connection, state.bus)

    try:
        await asyncio.to_thread(work)
    except AnomalyzeError as error:
        # The next save does it, or the next start.
        get().warning("settings_not_in_force", reason=str(error))


def _save(
    state: State, principal: Principal, text: str, note: str, after: int | None, dry_run: bool
) -> Response:
    from anomalyze.learning.account import (  # here: it loads what compiles rules
        check_settings,
        save_settings,
        view_champion,
    )

    store = BundleStore(state.objects)
    try:
        with connect(state.dsn, program="anomalyze-api") as connection:
            if dry_run:
                checked = check_settings(connection, view_champion(store), principal.account_id, text)
                return answer(
                    {
                        "version": checked.version,
                        "saved": False,
                        "in_force": False,
                        "bundle": None,
                        "changes": checked.changes,
                    }
                )
            saved = save_settings(
                connection,
                store,
                state.bus,
                principal.account_id,
                text,
                by=principal.key_id,
                note=note,
                after=after,
            )
    except ConfigProblems as error:
        raise _mistakes(error) from error
    except VersionConflict as error:
        status = 409 if after is None else 412
        raise Problem(
            status, str(error), field="If-Match", expected=str(error.found), got=str(error.expected)
        ) from error
    except TooManySaves as error:
        raise Problem(429, str(error), retry_after_s=3600) from error
    made = answer(
        {
            "version": saved.version.version,
            "saved": True,
            "in_force": saved.in_force,
            "bundle": saved.version.bundle,
            "changes": saved.changes,
        },
        200 if saved.in_force else 202,
    )
    made.headers["ETag"] = f'"{saved.version.version}"'
    return made


def _unsaved(state: State, account_id: str) -> dict[str, Any]:
    from anomalyze.detection.account_overlay import document_of
    from anomalyze.learning.account import view_champion

    view = view_champion(BundleStore(state.objects))
    return {
        "version": 0,
        "document": document_of(view.bundle, account_id).document.to_json(),
        "in_force": True,
        "bundle": view.id,
        "saved_at": None,
        "saved_by": None,
        "note": "",
        "changes": [],
    }


def version_shape(one: StoredVersion) -> dict[str, Any]:
    """A version as answers show it."""
    return {
        "version": one.version,
        "document": one.document,
        "in_force": one.bundle is not None,
        "bundle": one.bundle,
        "saved_at": time_text(one.saved_at),
        "saved_by": one.saved_by,
        "note": one.note,
        "changes": list(one.changes),
    }


async def _find(state: State, principal: Principal, version_id: int) -> StoredVersion:
    async with state.pool.connection() as connection:
        found = await fetch_async(connection, load_version(principal.account_id, version_id))
    if found is None:
        raise Problem(
            404,
            f"there is no version {version_id} of the settings of {principal.account_id}; "
            "GET /v1/account/versions lists them",
        )
    return found


def _expected(request: Request) -> int | None:
    """The version that If-Match names."""
    header = request.headers.get("if-match", "").strip()
    if header in ("", "*"):
        return None
    found = _ETAG.fullmatch(header)
    if found is None:
        raise Problem(
            422,
            f'If-Match: expected a version as ETag gives it, such as "3", got {header[:60]!r}',
            field="If-Match",
            expected='a version such as "3"',
            got=header,
        )
    return int(found[1])


def _mistakes(error: ConfigProblems) -> Problem:
    first = error.problems[0]
    problem = Problem(
        422,
        "; ".join(told(one) for one in error.problems[:PROBLEMS_TOLD_MAX]),
        field=first.path or "body",
        expected=first.message,
    )
    problem.document["problems"] = [
        {"field": one.path, "line": one.line, "column": one.column, "message": one.message, "suggestion": one.suggestion}
        for one in error.problems[:PROBLEMS_TOLD_MAX]
    ]  # fmt: skip
    return problem


def told(problem: Any) -> str:
    """A mistake in one sentence, without the name of a file that nobody has."""
    return str(problem).partition(": ")[2]


def _plain(note: str) -> str:
    if not all(sign.isprintable() for sign in note):
        raise Problem(422, "note: expected no control characters", field="note", expected="printable text")
    return note


def answer(content: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
