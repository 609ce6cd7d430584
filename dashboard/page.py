"""What every page's handler does the same way: borrow a connection, keep its last good content, fail softly."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
from fasthtml.core import FtResponse
from starlette.requests import Request
from starlette.responses import Response

from dashboard import formatters as form
from dashboard import routes
from dashboard.element import H1, A, Header, NotStr, P, to_xml
from dashboard.frame import FrameState, bare_document, frame
from dashboard.security import SESSION_COOKIE, Viewer

__all__ = ["Answer", "PageMemory", "not_found", "open_page", "remember", "unavailable"]

# An FT tree, several, or a response: what FastHTML answers with.
Answer = Any

PAGES_KEPT = 64
RETRY_S = 5
# What each page is about, for the sentence that says it could not be loaded.
_SUBJECTS = {
    routes.NOW: "Anomalies",
    routes.METRICS: "Metrics",
    routes.ALERTS: "Alerts",
    routes.BUDGET: "The budget",
    "/anomalies": "This anomaly",
    routes.TRANSACTIONS: "Transactions",
    routes.USERS: "Users",
    routes.UPLOADS: "Uploads",
    routes.BUNDLES: "Bundles",
    routes.QUALITY: "Quality",
    routes.SYSTEM: "Programs",
    routes.SETTINGS: "Settings",
}


class PageMemory:
    """The last good content of a few pages, by session and address, for when PostgreSQL is away.

    Then nobody can ask whether a session's key still lives; a signed session sees again what it saw last, and
    nothing else. A session that was refused is forgotten.
    """

    def __init__(self) -> None:
        self._pages: OrderedDict[tuple[str, str], tuple[Viewer, str]] = OrderedDict()

    def keep(self, viewer: Viewer, url: str, content: str) -> None:
        """Remember a page, forgetting the one longest not seen."""
        name = (viewer.session.session_id, url)
        self._pages[name] = (viewer, content)
        self._pages.move_to_end(name)
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)

    def find(self, session_id: str, url: str) -> tuple[Viewer, str] | None:
        """Who saw a page last, as of when, and what it was."""
        return self._pages.get((session_id, url))

    def forget(self, session_id: str) -> None:
        """Drop what a session saw."""
        for name in [n for n in self._pages if n[0] == session_id]:
            del self._pages[name]


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
    request.app.state.memory.keep(viewer, _address(request), rendered)
    return [NotStr(rendered)]


async def unavailable(request: Request, error: Exception) -> Answer:
    """The answer while PostgreSQL does not: the last good content with the reason above it."""
    slow = isinstance(error.__cause__, psycopg.errors.QueryCanceled)
    reason = "PostgreSQL took longer than 5\u00a0s" if slow else "PostgreSQL does not answer"
    subject = next((s for path, s in _SUBJECTS.items() if request.url.path.startswith(path)), "This page")
    headers = {"Retry-After": str(RETRY_S)}
    if "hx-request" in request.headers:
        done = "stored" if request.method == "POST" else "loaded"
        return Response(f"Not {done}: {reason}. Try again.", 503, headers, "text/plain; charset=utf-8")
    session = request.app.state.signer.load(request.cookies.get(SESSION_COOKIE, ""))
    kept = request.app.state.memory.find(session.session_id, _address(request)) if session else None
    viewer: Viewer | None = request.scope.get("viewer") or (kept[0] if kept else None)
    if viewer is None:
        content = [H1("Anomalyze"), P(f"{reason}. Next try in {RETRY_S}\u00a0s.", role="alert")]
        return FtResponse(
            bare_document("Not available", content),
            status_code=503,
            headers={**headers, "Refresh": str(RETRY_S)},
        )
    shown = f" Shown as of {form.format_clock(kept[0].now, viewer.zone)}." if kept else ""
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
        styles=("now.css", "anomaly.css", "lists.css", "metric.css", "metrics.css", "alerts.css"),
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
