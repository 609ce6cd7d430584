"""Uploads: drop a file, see what became of those before."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from anomalyze.errors import ConfigError, TransientError
from anomalyze.ingestion.receive import NAME_CHARACTERS_MAX, TooLarge, take_file
from anomalyze.storage import upload as store
from anomalyze.storage.csv_stream import stream_csv
from anomalyze.storage.query import fetch_async
from anomalyze.storage.source import list_sources
from anomalyze.storage.upload import Upload
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, cell, copyable, empty_row, head_cell, table
from dashboard.element import FT, A, Div, Form, Input, Label, P, Section, Span, Tr, ft
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.security import Viewer, viewer_of
from dashboard.sources import source_section

__all__ = ["STATE_WORDS", "refused_csv", "state_sign", "take", "uploads_page"]

COLUMNS = 6
# Sign, word: as the list and the page of one say it.
STATE_WORDS = {
    "waiting": ("late", "Waits for you"),
    "started": ("late", "Queued"),
    "running": ("late", "At work"),
    "done": ("ok", "Done"),
    "failed": ("down", "Failed"),
}


def state_sign(upload: Upload) -> FT:
    """An upload's state: shape, word and colour."""
    sign, word = STATE_WORDS[upload.state]
    return Span(
        ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=f"sign {sign}"), word, cls="with-sign"
    )


async def uploads_page(request: Request) -> Answer:
    """GET /uploads."""
    viewer = viewer_of(request)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        uploads = await fetch_async(connection, store.list_uploads(viewer.account_id))
        polled = await fetch_async(connection, list_sources(viewer.account_id))
    heads = (
        head_cell("File"),
        head_cell("State"),
        head_cell("Judged", "num"),
        head_cell("Refused", "num"),
        head_cell("Size", "num wide"),
        head_cell("Came", "num"),
    )
    rows = [_row(upload, viewer) for upload in uploads] or [
        empty_row(COLUMNS, P("No file yet. Drop one above, or send one:"), _command(viewer))
    ]
    content = [
        page_head("Uploads", right=(zone_note(viewer),)),
        _drop(viewer, request.app.state.upload_bytes_max),
        Section(
            Div(table("Uploads, newest first", heads, rows, cls="grid"), cls="sheet"), cls="s", id="uploads"
        ),
        source_section(polled, viewer),
    ]
    return frame(
        viewer,
        channel.state,
        title="Uploads",
        active="uploads",
        content=remember(request, content),
        styles=("lists.css", "upload.css"),
        scripts=("upload.js",),
    )


def _command(viewer: Viewer) -> FT:
    return copyable(
        f"curl -H 'Authorization: Bearer $KEY' -H 'Content-Type: text/csv' --data-binary @file.csv "
        f"http://localhost:{viewer.api_port}/v1/uploads",
        "the upload command",
    )


def _drop(viewer: Viewer, bytes_max: int) -> FT:
    """The place to drop a file; its input is a plain one, for keys and for those who see nothing."""
    off = not viewer.may_upload
    return Form(
        Label(
            Span("Drop a file here, or choose one", cls="drop-t"),
            Span(
                f"CSV (also in gzip or zip) or parquet, at most {form.format_bytes(bytes_max)}. "
                "You see what its columns are taken for before any row counts.",
                cls="muted",
            ),
            Input(
                type="file",
                id="file",
                name="file",
                disabled=off,
                accept=".csv,.tsv,.txt,.gz,.zip,.parquet,text/csv",
            ),
            fr="file",
            cls="drop",
        ),
        P(
            f"Uploading needs a key with the scope ingest. Ask an admin of {viewer.account_id}."
            if off
            else "",
            id="upload-said",
            cls="muted",
            role="status",
        ),
        ft("progress", id="upload-bar", max="1", value="0", hidden=True, aria_label="Sent"),
        id="upload-form",
        action=routes.UPLOADS,
        method="post",
        data_bytes_max=str(bytes_max),
    )


def _row(upload: Upload, viewer: Viewer) -> FT:
    return Tr(
        cell(A(upload.name, href=routes.upload(upload.upload_id), cls="name"), cls="c-id"),
        cell(state_sign(upload)),
        cell(form.format_count(upload.rows_scored), cls="num", title=f"{upload.rows_scored:,}"),
        cell(form.format_count(upload.rows_refused), cls="num", title=f"{upload.rows_refused:,}"),
        cell(form.format_bytes(upload.bytes), cls="num wide"),
        cell(*ago(upload.created_at, viewer.now, viewer.zone), cls="num"),
        role="row",
    )


async def take(request: Request) -> Answer:
    """POST /uploads?name=: a file as the body; answers with the address of its page."""
    viewer = viewer_of(request)
    if not viewer.may_upload:
        return PlainTextResponse("Uploading needs a key with the scope ingest.", 403)
    state = request.app.state
    name = request.query_params.get("name", "")[:NAME_CHARACTERS_MAX]
    try:
        found = await take_file(
            _body(request),
            state.objects,
            state.pool,
            account_id=viewer.account_id,
            created_by=viewer.principal.key_id,
            name=lambda: name,
            bytes_max=state.upload_bytes_max,
        )
    except TooLarge as error:
        return PlainTextResponse(f"{error}.", 413, headers={"Connection": "close"})
    except ConfigError as error:
        return PlainTextResponse(f"This file cannot be taken: {error}.", 422)
    return JSONResponse({"page": routes.upload(found.upload.upload_id), "repeated": found.repeated})


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for part in request.stream():
            yield part
    except ClientDisconnect as error:
        raise TransientError("the client went away") from error


async def refused_csv(request: Request) -> Answer:
    """GET /uploads/{upload_id}/refused.csv: rows that were refused, to mend and send again."""
    viewer, upload_id = viewer_of(request), request.path_params["upload_id"]
    pool = request.app.state.pool
    async with pool.connection() as connection:
        upload = await fetch_async(connection, store.load_upload(viewer.account_id, upload_id))
    if upload is None:
        return await not_found(request, f"No upload with this id in {viewer.account_id}.")

    text = stream_csv(
        ("line", "column", "reason", "raw"),
        pool.connection(),
        lambda connection: store.stream_errors(connection, upload.upload_id),
    )
    headers = {"Content-Disposition": f'attachment; filename="refused-{upload.upload_id}.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)
