"""One upload: how far it is, what was refused, and before that what its columns are taken for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from anomalyze.errors import AnomalyzeError, ConfigError, TransientError
from anomalyze.ingestion.mapping import parse_mapping
from anomalyze.ingestion.receive import preview_upload
from anomalyze.storage import upload as store
from anomalyze.storage.query import fetch_async
from anomalyze.storage.upload import ERRORS_MAX, Upload
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, cell, head_cell, table
from dashboard.element import (  # fmt: skip
    FT,
    H2,
    A,
    Div,
    Li,
    P,
    Section,
    Small,
    Span,
    Tr,
    Ul,
    ft,
)
from dashboard.estimate import estimate_part, lacking_part
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.security import Viewer, viewer_of
from dashboard.upload_mapping import mapping_form, mapping_of_form
from dashboard.upload_parts import cases_part, preview_table
from dashboard.uploads import state_sign

__all__ = ["start_upload", "upload_page"]

REFRESH_S = 1
# Verdicts lie in the log when an upload is done; the tables follow within seconds.
STORED_WITHIN = timedelta(seconds=15)


async def upload_page(request: Request) -> Answer:
    """GET /uploads/{upload_id}; while it is at work the page's middle is asked for again every second."""
    viewer, upload_id = viewer_of(request), request.path_params["upload_id"]
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        upload = await fetch_async(connection, store.load_upload(viewer.account_id, upload_id))
        reasons = await fetch_async(connection, store.load_reasons(upload_id)) if upload else []
        counted = upload is not None and upload.state == "done" and upload.first_ts is not None
        query = store.load_case_counts(viewer.account_id, upload_id)
        cases = await fetch_async(connection, query) if counted else None
    if upload is None:
        return await not_found(request, f"No upload with this id in {viewer.account_id}.")
    parts: list[Any] = [_figures(upload, viewer), _told(upload, viewer, request.app.state.dagster_port)]
    if cases is not None:
        parts.append(cases_part(upload, cases))
    if upload.state in ("waiting", "failed"):
        parts.append(await _mapping_part(request, upload, viewer))
    elif lacking := lacking_part(upload):
        parts.append(Section(lacking, cls="s"))
    if upload.rows_refused:
        parts.append(_refused(upload, reasons))
    polled: dict[str, Any] = (
        {
            "hx_get": request.url.path,
            "hx_select": "#upload",
            "hx_swap": "outerHTML",
            "hx_trigger": f"every {REFRESH_S}s",
            "hx_sync": "this:drop",
        }
        if upload.is_open or _settles(upload, viewer)
        else {}
    )
    content = [
        page_head(upload.name, right=(zone_note(viewer),)),
        Div(*parts, id="upload", **polled),
    ]
    return frame(
        viewer,
        channel.state,
        title=upload.name,
        active="uploads",
        content=remember(request, content),
        styles=("lists.css", "upload.css"),
    )


def _settles(upload: Upload, viewer: Viewer) -> bool:
    """Whether its last verdicts may not be stored yet."""
    ended = upload.finished_at
    return upload.state == "done" and ended is not None and viewer.now - ended < STORED_WITHIN


def _figures(upload: Upload, viewer: Viewer) -> FT:
    def figure(title: str, value: str, small: str, exact: int | None = None) -> FT:
        return Div(
            H2(title),
            P(
                value,
                Small(small) if small else None,
                cls="fig",
                title=None if exact is None else f"{exact:,}",
            ),
        )

    seconds = (
        max((upload.seen_at - upload.started_at).total_seconds(), 0.1)
        if upload.seen_at and upload.started_at
        else None
    )
    rate = f"{form.format_count(upload.rows_scored / seconds)}/s" if seconds and upload.rows_scored else ""
    left_s = upload.seconds_left
    left = "" if left_s is None else f"{form.format_duration(left_s)} left"
    share = upload.rows_refused / upload.rows_read if upload.rows_read else 0.0
    return Div(
        figure("Read", form.format_count(upload.rows_read), "", upload.rows_read),
        figure("Accepted", form.format_count(upload.rows_accepted), "", upload.rows_accepted),
        figure(
            "Refused",
            form.format_count(upload.rows_refused),
            form.format_percent(share) if upload.rows_refused else "",
            upload.rows_refused,
        ),
        figure("Judged", form.format_count(upload.rows_scored), left or rate, upload.rows_scored),
        cls="strip",
    )


def _told(upload: Upload, viewer: Viewer, dagster_port: int) -> FT:
    said = {
        "waiting": "Nothing of it counts yet: look at its columns, then start.",
        "started": "It begins within a few seconds.",
        "running": f"{(upload.note or 'at work').capitalize()}.",
        "done": "Every accepted row was judged.",
        "failed": f"{(upload.error or 'no reason was noted').rstrip('.')}.",
    }[upload.state]
    total = upload.rows_accepted if upload.rows_total is not None else 0
    bar = (
        ft(
            "progress",
            max=str(total or 1),
            value=str(upload.rows_scored) if total else None,
            aria_label="Judged",
            cls="wide-bar",
        )
        if upload.is_open
        else None
    )
    at = upload.finished_at or upload.started_at or upload.created_at
    run = (
        (
            " ",
            A("Run", href=f"http://localhost:{dagster_port}/runs/{upload.run_id}", cls="link"),
        )
        if upload.run_id
        else ()
    )
    days = {}
    if upload.first_ts and upload.last_ts:
        days = {
            "from_date": f"{upload.first_ts.astimezone(viewer.zone):%Y-%m-%d}",
            "to_date": f"{upload.last_ts.astimezone(viewer.zone):%Y-%m-%d}",
        }
    links = (
        (" ", A("Show the transactions of its days", href=routes.transactions(**days), cls="link"))
        if upload.state == "done"
        else ()
    )
    return Section(
        P(
            state_sign(upload),
            ". ",
            said,
            " ",
            Span(*ago(at, viewer.now, viewer.zone), cls="muted"),
            *run,
            *links,
            cls="lead",
            role="alert" if upload.state == "failed" else None,
        ),
        bar,
        cls="s",
    )


def _refused(upload: Upload, reasons: list[tuple[str, str, int]]) -> FT:
    kept = min(upload.rows_refused, ERRORS_MAX)
    heads = (head_cell("Column"), head_cell("Why"), head_cell("Rows", "num"))
    rows = [
        Tr(
            cell(column or "the row", cls="mono c-id"),
            cell(reason),
            cell(form.format_count(count), cls="num", title=f"{count:,}"),
            role="row",
        )
        for column, reason, count in reasons
    ]
    note = "" if kept == upload.rows_refused else f" The first {form.format_count(kept)} are kept."
    return Section(
        Div(
            H2("Refused rows"),
            A(
                "Download to mend",
                href=f"{routes.upload(upload.upload_id)}/refused.csv",
                cls="btn",
                download=True,
                title=f"Line, column, reason and the row as it came.{note}",
            ),
            cls="fh",
        ),
        Div(table("Why rows were refused, most frequent first", heads, rows, cls="grid"), cls="sheet"),
        P(note, cls="muted") if note else None,
        cls="s",
    )


async def _mapping_part(request: Request, upload: Upload, viewer: Viewer) -> FT:
    """The form of the mapping with what it makes of the first rows."""
    state, tried = request.app.state, dict(request.query_params)
    wrong = ""
    try:
        shown = await asyncio.to_thread(preview_upload, state.objects, upload, None, state.future_tolerance_s)
        if tried:
            shown["mapping"] = mapping_of_form(tried, shown["mapping"])
            shown["rows"], shown["complete"] = [], False
            chosen = parse_mapping(_json(shown["mapping"]))
            shown = await asyncio.to_thread(
                preview_upload, state.objects, upload, chosen, state.future_tolerance_s
            )
    except TransientError:
        raise
    except ConfigError as error:
        wrong = str(error).removeprefix("mapping: ")
        if not tried:
            return Section(P(f"This file cannot be read: {wrong}.", cls="banner down", role="alert"), cls="s")
    except AnomalyzeError as error:
        return Section(P(f"{error}.", cls="banner down", role="alert"), cls="s")
    doubts = Ul(*(Li(doubt) for doubt in shown["doubts"]), cls="doubts") if shown["doubts"] else None
    return Section(
        Div(H2("What the columns are taken for"), cls="fh"),
        P(f"Not so: {wrong}.", cls="error", role="alert") if wrong else None,
        doubts,
        mapping_form(upload, shown, viewer),
        estimate_part(upload, shown["mapping"]) if shown["complete"] else None,
        preview_table(shown),
        cls="s",
    )


def _json(mapping: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(mapping)


async def start_upload(request: Request) -> Answer:
    """POST /uploads/{upload_id}/start with the form of the mapping."""
    viewer, upload_id = viewer_of(request), request.path_params["upload_id"]
    if not viewer.may_upload:
        return PlainTextResponse("Starting an upload needs a key with the scope ingest.", 403)
    sent = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    state = request.app.state
    async with state.pool.connection() as connection:
        upload = await fetch_async(connection, store.load_upload(viewer.account_id, upload_id))
    if upload is None:
        return await not_found(request, f"No upload with this id in {viewer.account_id}.")
    sent.pop("csrf", None)
    try:
        shown = await asyncio.to_thread(preview_upload, state.objects, upload, None, state.future_tolerance_s)
        mapping = parse_mapping(_json(mapping_of_form(sent, shown["mapping"])))
    except ConfigError:
        # Its page says what is wrong, with what was chosen still there.
        return RedirectResponse(routes.with_query(routes.upload(upload_id), **sent), 303)
    async with state.pool.connection() as connection:
        await fetch_async(connection, store.start_upload(viewer.account_id, upload_id, mapping.model_dump()))
    return RedirectResponse(routes.upload(upload_id), 303)
