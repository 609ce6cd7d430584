"""Polled tables on the Uploads page: how far each was read, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from starlette.requests import Request
from starlette.responses import StreamingResponse

from anomalyze.storage import source as store
from anomalyze.storage.csv_stream import stream_csv
from anomalyze.storage.query import fetch_async
from anomalyze.storage.source import SourceState
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import ago, cell, head_cell, missing, table
from dashboard.element import FT, H2, A, Div, P, Section, Small, Span, Tr, ft
from dashboard.page import Answer, not_found
from dashboard.security import Viewer, viewer_of

__all__ = ["refused_rows", "source_section"]


def source_section(sources: Sequence[SourceState], viewer: Viewer) -> FT | None:
    """A row for each table; nothing where none is configured."""
    if not sources:
        return None
    heads = (
        head_cell("Table"),
        head_cell("State"),
        head_cell("Published", "num wide"),
        head_cell("Refused", "num"),
        head_cell("Read up to", "wide"),
        head_cell("Last rows", "num"),
    )
    rows = [_row(source, viewer) for source in sources]
    return Section(
        Div(H2("Tables that are polled"), cls="fh"),
        Div(table("Polled tables by name", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
        id="sources",
    )


def _row(source: SourceState, viewer: Viewer) -> FT:
    if source.error:
        sign, word = "down", "Failed"
    elif source.looked_at is None:
        sign, word = "late", "Not looked at yet"
    else:
        sign, word = "ok", "Followed"
    said = P(Small(source.error[:300]), cls="muted bad") if source.error else None
    refused = form.format_count(source.rows_refused)
    return Tr(
        cell(Span(source.name, cls="name"), " ", Small(source.table_name, cls="muted"), said, cls="wm"),
        cell(
            Span(
                ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=f"sign {sign}"),
                word,
                cls="with-sign",
            )
        ),
        cell(form.format_count(source.rows_published), cls="num wide", title=f"{source.rows_published:,}"),
        cell(
            A(refused, href=routes.source_refused(source.name), cls="link", download=True)
            if source.rows_refused
            else refused,
            cls="num",
            title=f"{source.rows_refused:,}",
        ),
        cell(
            source.position["cursor"][1] if source.position else missing("no row was read yet"),
            cls="mono wide",
        ),
        cell(
            *(
                ago(source.read_at, viewer.now, viewer.zone)
                if source.read_at
                else (missing("no row was read yet"),)
            ),
            cls="num",
        ),
        role="row",
    )


async def refused_rows(request: Request) -> Answer:
    """GET /sources/{name}/refused.csv: rows of a polled table that were refused, the newest first."""
    viewer, name = viewer_of(request), request.path_params["name"]
    pool = request.app.state.pool
    async with pool.connection() as connection:
        source = await fetch_async(connection, store.load_source(viewer.account_id, name))
    if source is None:
        return await not_found(request, f"No polled table of this name in {viewer.account_id}.")

    text = stream_csv(
        ("at", "column", "reason", "raw"),
        pool.connection(),
        lambda connection: (
            [at.astimezone(UTC).isoformat(timespec="seconds"), *rest]
            async for at, *rest in store.stream_source_errors(connection, viewer.account_id, name)
        ),
    )
    headers = {"Content-Disposition": f'attachment; filename="refused-{source.name}.csv"'}
    return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)
