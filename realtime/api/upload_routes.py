"""Files in: streamed to the object store, looked at, worked off by the orchestrator, followed while that lasts."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, WebSocket
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from anomalyze.access.keys import Principal
from anomalyze.errors import ConfigError, TransientError
from anomalyze.ingestion.account import choose_mapping
from anomalyze.ingestion.mapping import FileMapping, parse_mapping
from anomalyze.ingestion.receive import (
    NAME_CHARACTERS_MAX,
    TooLarge,
    guess_upload,
    preview_upload,
    take_file,
)
from anomalyze.storage import upload as store
from anomalyze.storage.csv_stream import stream_csv
from anomalyze.storage.query import fetch_async
from anomalyze.storage.upload import Upload
from realtime.api.problems import Problem, problem_responses
from realtime.api.schemas import json_answer
from realtime.api.security import is_still_allowed, require
from realtime.api.shapes import time_text
from realtime.api.state import State, state_of
from realtime.api.upload_body import UploadBody, check_upload_type
from realtime.api.upload_schemas import START_BODY, UPLOAD_BODY

__all__ = ["router", "upload_shape"]

router = APIRouter(tags=["uploads"])

authorized = require("ingest")
FOLLOW_S = 0.5
FOLLOWERS_MAX = 200
ALLOWED_EVERY_S = 5.0

Reader = Annotated[Principal, Depends(require("read"))]
Writer = Annotated[Principal, Depends(authorized)]
UploadId = Annotated[str, Path(min_length=1, max_length=64)]
TAKEN: dict[int | str, dict[str, Any]] = {
    202: json_answer("UploadTaken", "It lies in the object store. `Location` leads to its progress."),
    **problem_responses(413, 415),
}
_followers = 0


@router.post(
    "/v1/uploads",
    status_code=202,
    responses=TAKEN,
    openapi_extra=UPLOAD_BODY,
)
async def post_upload(
    request: Request,
    principal: Writer,
    name: Annotated[str, Query(max_length=NAME_CHARACTERS_MAX, description="the file's name")] = "",
    mapping: Annotated[str | None, Query(max_length=4_096, description="JSON; see Mapping")] = None,
    start: Annotated[
        Literal["auto", "false"],
        Query(description="auto: at once when a mapping was sent, or the guess leaves no doubt"),
    ] = "auto",
) -> Response:
    """Take a file of transactions: CSV (also in gzip or zip) or parquet.

    The same bytes again are answered with the first upload. Without a doubt about the columns its rows go onto the
    log at once; else it waits: look at `/preview`, then `/start` it.
    """
    state = state_of(request)
    state.disk.check()
    kind = check_upload_type(request)
    chosen = parse_mapping(mapping) if mapping is not None else None
    body = UploadBody(request, kind)
    try:
        found = await take_file(
            body.stream(),
            state.objects,
            state.pool,
            account_id=principal.account_id,
            created_by=principal.key_id,
            name=lambda: name or body.name,
            bytes_max=state.settings.upload_bytes_max,
        )
    except TooLarge as error:
        raise Problem(
            413,
            str(error),
            field="body",
            expected=f"at most {error.bytes_max} bytes",
            got="more",
            headers={"Connection": "close"},
        ) from error
    except ConfigError as error:
        raise Problem(
            422, f"body: {error}", field="body", expected="a file of rows", got="something else"
        ) from error
    upload, guess = found.upload, found.guess
    doubts = guess.doubts if guess else []
    if upload.state == "waiting" and start == "auto":
        if body.mapping:
            chosen = parse_mapping(body.mapping)
        wanted = chosen or choose_mapping(state.settings.config_dir, upload.account_id, upload.name, guess)
        if wanted is not None:
            async with state.pool.connection() as connection:
                started = await fetch_async(
                    connection, store.start_upload(upload.account_id, upload.upload_id, wanted.model_dump())
                )
            upload, doubts = started or upload, []
    made = answer({**upload_shape(upload), "repeated": found.repeated, "doubts": doubts}, 202)
    made.headers["Location"] = f"/v1/uploads/{upload.upload_id}"
    return made


@router.get("/v1/uploads", responses={200: json_answer("Uploads", "The newest hundred.")})
async def list_uploads(request: Request, principal: Reader) -> Response:
    """Uploads of the account, newest first."""
    async with state_of(request).pool.connection() as connection:
        found = await fetch_async(connection, store.list_uploads(principal.account_id))
    return answer({"uploads": [upload_shape(upload) for upload in found]})


@router.get(
    "/v1/uploads/{upload_id}",
    responses={200: json_answer("Upload", "How far it is."), **problem_responses(404)},
)
async def get_upload(request: Request, principal: Reader, upload_id: UploadId) -> Response:
    """One upload: state, mapping, counts, rate and time left."""
    return answer(upload_shape(await find(state_of(request), principal, upload_id)))


@router.get(
    "/v1/uploads/{upload_id}/preview",
    responses={
        200: json_answer("UploadPreview", "The guess, and what 20 rows become."),
        **problem_responses(404),
    },
)
async def get_preview(
    request: Request,
    principal: Reader,
    upload_id: UploadId,
    mapping: Annotated[str | None, Query(max_length=4_096, description="JSON; try this one")] = None,
) -> Response:
    """What the columns are taken for, what is not sure, the first rows as transactions, and how many cases to expect.

    The first who asks begins the `estimate`, which takes some seconds: ask again while its state is `working`.
    """
    state = state_of(request)
    upload = await find(state, principal, upload_id)
    chosen = parse_mapping(mapping) if mapping is not None else None
    shown = await asyncio.to_thread(
        preview_upload, state.objects, upload, chosen, state.settings.future_tolerance_s
    )
    wanted = shown["complete"] and upload.state in ("waiting", "failed")
    return answer({**shown, "estimate": state.estimates.ask(upload, shown["mapping"]) if wanted else None})


@router.post(
    "/v1/uploads/{upload_id}/start",
    status_code=202,
    responses={202: json_answer("Upload", "It will be worked off."), **problem_responses(404, 409)},
    openapi_extra=START_BODY,
)
async def start_upload(request: Request, principal: Writer, upload_id: UploadId) -> Response:
    """Have an upload worked off: with the mapping in the body, else with the guess; also one that failed, again."""
    state = state_of(request)
    upload = await find(state, principal, upload_id)
    body = await request.body()
    if body.strip():
        mapping = parse_mapping(body)
    elif upload.mapping is not None:
        mapping = FileMapping.model_validate(upload.mapping)
    else:
        guess = await asyncio.to_thread(guess_upload, state.objects, upload)
        complete = guess.complete()
        if complete is None:
            raise Problem(
                422,
                f"the guess lacks something: {' '.join(guess.doubts)} Send a mapping",
                field="body",
                expected="a mapping",
                got="nothing",
            )
        mapping = complete
    async with state.pool.connection() as connection:
        started = await fetch_async(
            connection, store.start_upload(principal.account_id, upload_id, mapping.model_dump())
        )
    if started is None:
        raise Problem(409, f"this upload is {upload.state}: only one that waits or failed can be started")
    return answer(upload_shape(started), 202)


@router.get(
    "/v1/uploads/{upload_id}/errors",
    responses={
        200: {
            "description": "line, column, reason, raw: a row for each that was refused.",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **problem_responses(404),
    },
    response_class=StreamingResponse,
)
async def get_errors(request: Request, principal: Reader, upload_id: UploadId) -> StreamingResponse:
    """The rows that were refused, as CSV, the first 100,000 of them."""
    state = state_of(request)
    upload = await find(state, principal, upload_id)

    text = stream_csv(
        ("line", "column", "reason", "raw"),
        state.pool.connection(),
        lambda connection: store.stream_errors(connection, upload.upload_id),
    )
    headers = {"Content-Disposition": f'attachment; filename="refused-{upload.upload_id}.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.websocket("/v1/uploads/{upload_id}/progress")
async def follow(websocket: WebSocket, upload_id: str) -> None:
    """Each change of an upload as a JSON text of the shape of `GET /v1/uploads/{id}`; closed when it has ended."""
    global _followers
    try:
        # What the checks read of a request, a socket has too: headers and application.
        principal = await require("read")(websocket)  # type: ignore[arg-type]
        state: State = websocket.app.state.shared
        if _followers >= FOLLOWERS_MAX:
            raise Problem(503, f"{FOLLOWERS_MAX} uploads are followed already", retry_after_s=10)
        await find(state, principal, upload_id)
    except TransientError as error:
        problem = Problem(503, "a store does not answer now", retry_after_s=error.retry_after_s)
        await websocket.send_denial_response(problem.response())
        return
    except Problem as problem:
        await websocket.send_denial_response(problem.response())
        return
    await websocket.accept()
    _followers += 1
    listening = asyncio.create_task(websocket.receive())
    try:
        await tell(websocket, state, principal, upload_id, listening)
        await websocket.close()
    except (WebSocketDisconnect, TransientError, Problem, RuntimeError):
        pass  # the client went, or comes back and asks again
    finally:
        listening.cancel()
        _followers -= 1


async def tell(
    websocket: WebSocket,
    state: State,
    principal: Principal,
    upload_id: str,
    listening: asyncio.Task[Any],
) -> None:
    """Send changes until the upload has ended, the client went away or its key was revoked."""
    sent = b""
    allowed_at = time.monotonic()
    while not listening.done():
        upload = await find(state, principal, upload_id)
        shape = msgspec.json.encode(upload_shape(upload))
        if shape != sent:
            sent = shape
            await websocket.send_text(shape.decode())
        if upload.state in ("done", "failed"):
            return
        if time.monotonic() - allowed_at > ALLOWED_EVERY_S:
            allowed_at = time.monotonic()
            if not await is_still_allowed(websocket, "read"):  # type: ignore[arg-type]
                return
        await asyncio.wait([listening], timeout=FOLLOW_S)


async def find(state: State, principal: Principal, upload_id: str) -> Upload:
    """An upload of the account; ``Problem`` 404 when there is none."""
    upload = None
    if "\0" not in upload_id:
        async with state.pool.connection() as connection:
            upload = await fetch_async(connection, store.load_upload(principal.account_id, upload_id))
    if upload is None:
        raise Problem(404, f"no upload {upload_id} in this account", field="upload_id", got=upload_id)
    return upload


def upload_shape(upload: Upload) -> dict[str, Any]:
    """An upload as clients see it."""
    rate = None
    left = upload.seconds_left
    if upload.started_at and upload.seen_at and upload.state == "running" and upload.rows_read:
        seconds = max((upload.seen_at - upload.started_at).total_seconds(), 0.001)
        rate = round((upload.rows_scored or upload.rows_read) / seconds, 1)
    return {
        "id": upload.upload_id,
        "name": upload.name,
        "bytes": upload.bytes,
        "sha256": upload.sha256,
        "state": upload.state,
        "attempt": upload.attempt,
        "mapping": upload.mapping,
        "rows": {
            "total": upload.rows_total,
            "read": upload.rows_read,
            "accepted": upload.rows_accepted,
            "refused": upload.rows_refused,
            "published": upload.rows_published,
            "scored": upload.rows_scored,
        },
        "rows_per_s": rate,
        "seconds_left": None if left is None else round(left, 1),
        "note": upload.note or None,
        "error": upload.error,
        "lacking": upload.lacking,
        "run_id": upload.run_id,
        "created_at": time_text(upload.created_at),
        "started_at": time_text(upload.started_at) if upload.started_at else None,
        "finished_at": time_text(upload.finished_at) if upload.finished_at else None,
    }


def answer(content: Any, status: int = 200) -> Response:
    """JSON."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
