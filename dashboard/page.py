"""What every page's handler does the same way: borrow a connection, keep its last good content, fail softly."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import psycopg
from fasthtml.core import FtResponse
from starlette.requests import Request
from starlette.responses import Response

from dashboard import formatters as form
from dashboard import routes
from dashboard.element import H1, A, Header, NotStr, P, to_xml
from dashboard.frame import FrameState, bare_document, frame
from dashboard.security import Viewer

__all__ = ["Answer", "PageMemory", "not_found", "open_page", "remember", "unavailable"]

# An FT tree, several, or a response: what FastHTML answers with.
Answer = Any

PAGES_KEPT = 64
RETRY_S = 5
# What each page is about, for the sentence that says it could not be loaded.
_SUBJECTS = {
    routes.NOW: "Anomalies",
    "/anomalies": "This anomaly",
    routes.TRANSACTIONS: "Transactions",
    routes.USERS: "Users",
    routes.SYSTEM: "Programs",
}


class PageMemory:
    """The last good content of a few pages, by session and address, for when PostgreSQL is away."""

    def __init__(self) -> None:
        self._pages: OrderedDict[tuple[str, str], tuple[datetime, str]] = OrderedDict()

    def keep(self, session_id: str, url: str, at: datetime, content: str) -> None:
        """Remember a page, forgetting the one longest not seen."""
        self._pages[session_id, url] = (at, content)
        self._pages.move_to_end((session_id, url))
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)

    def find(self, session_id: str, url: str) -> tuple[datetime, str] | None:
        """When a page was last good, and what it was."""
        return self._pages.get((session_id, url))


@contextlib.asynccontextmanager
async def open_page(request: Request) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection whose queries all see one moment."""
    async with request.app.state.pool.connection() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection


def remember(request: Request, content: Sequence[Any]) -> Sequence[Any]:
    """Keep a page's content for `unavailable` and hand it on."""
    viewer: Viewer = request.scope["viewer"]
    rendered = to_xml(tuple(content), indent=False)
    request.app.state.memory.keep(viewer.session.session_id, _address(request), viewer.now, rendered)
    return [NotStr(rendered)]


async def unavailable(request: Request, error: Exception) -> Answer:
    """The answer while PostgreSQL does not: the last good content with the reason above it."""
    slow = isinstance(error.__cause__, psycopg.errors.QueryCanceled)
    reason = "PostgreSQL took longer than 5\u00a0s" if slow else "PostgreSQL does not answer"
    subject = next((s for path, s in _SUBJECTS.items() if request.url.path.startswith(path)), "This page")
    headers = {"Retry-After": str(RETRY_S)}
    viewer: Viewer | None = request.scope.get("viewer")
    if "hx-request" in request.headers:
        return Response(f"Not stored: {reason}. Try again.", 503, headers, "text/plain; charset=utf-8")
    if viewer is None:
        content = [H1("Anomalyze"), P(f"{reason}. Next try in {RETRY_S}\u00a0s.", role="alert")]
        return FtResponse(
            bare_document("Not available", content),
            status_code=503,
            headers={**headers, "Refresh": str(RETRY_S)},
        )
    kept = request.app.state.memory.find(viewer.session.session_id, _address(request))
    shown = f" Shown as of {form.format_clock(kept[0], viewer.zone)}." if kept else ""
    banner = P(
        f"{subject} could not be loaded: {reason}.{shown} Next try in {RETRY_S}\u00a0s.",
        cls="banner down",
        role="alert",
    )
    content = [banner, NotStr(kept[1])] if kept else [Header(H1(subject), cls="head"), banner]
    page = frame(
        viewer,
        FrameState(None, None),
        title="Not available",
        active="",
        content=content,
        styles=("now.css", "anomaly.css", "lists.css"),
        refresh_s=RETRY_S,
    )
    return FtResponse(page, status_code=503, headers=headers)


async def not_found(request: Request, what: str) -> FtResponse:
    """The page for an address that leads nowhere."""
    viewer: Viewer | None = request.scope.get("viewer")
    if viewer is None:
        content = [H1("Not found"), P(what), P(A("Now", href=routes.NOW, cls="link"))]
        return FtResponse(bare_document("Not found", content), status_code=404)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    content = [
        Header(H1("Not found"), cls="head"),
        P(what),
        P(A("Back to Now", href=routes.NOW, cls="link"), cls="after"),
    ]
    return FtResponse(
        frame(viewer, channel.state, title="Not found", active="", content=content), status_code=404
    )


def _address(request: Request) -> str:
    return f"{request.url.path}?{request.url.query}"
