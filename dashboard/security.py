"""Who looks, and what a browser may do with our pages.

Every route but those named in `OPEN_PATHS` needs a session; the account of every query is the session's. Each
POST must come from one of our own forms (CSRF token), and what a page may load is the server's own files: no
inline script or style, no other host.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomalyze.access.keys import Principal
from anomalyze.access.sessions import Session
from dashboard import routes
from dashboard.heartbeat import Requests

__all__ = [
    "FORM_COOKIE",
    "OPEN_PATHS",
    "SESSION_COOKIE",
    "SecurityMiddleware",
    "Viewer",
    "admit",
    "check_form_token",
    "read_zone",
    "viewer_of",
]

SESSION_COOKIE = "anomalyze_session"
FORM_COOKIE = "anomalyze_form"
THEME_COOKIE = "theme"
ZONE_COOKIE = "tz"
CSRF_HEADER = "X-CSRF-Token"
OPEN_PATHS = (routes.HEALTH, routes.SIGN_IN)
# Our largest form is a note.
BODY_BYTES_MAX = 16_384

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}
# A policy belongs to documents; on each small file it would cost more than it guards.
_STATIC_HEADERS = {
    name: _HEADERS[name] for name in ("X-Content-Type-Options", "Cross-Origin-Resource-Policy")
}


@dataclass(frozen=True, slots=True)
class Viewer:
    """The signed-in reader of one request: key, account, clock and looks."""

    principal: Principal
    session: Session
    csrf: str
    account_name: str
    zone: ZoneInfo
    theme: str
    now: datetime
    api_port: int

    @property
    def account_id(self) -> str:
        """Whose data every query of this request is about."""
        return self.principal.account_id

    @property
    def may_decide(self) -> bool:
        """Confirm, dismiss, undo."""
        return self.principal.allows("admin")

    @property
    def may_upload(self) -> bool:
        """Send files of transactions."""
        return self.principal.allows("ingest")

    @property
    def role(self) -> str:
        """As the foot of the sidebar says it."""
        return "analyst" if self.may_decide else "reader"


def viewer_of(request: Request) -> Viewer:
    """The viewer that `admit` found."""
    viewer: Viewer = request.scope["viewer"]
    return viewer


def read_zone(name: str | None) -> ZoneInfo:
    """The reader's time zone, as the sign-in form noted it; UTC when unknown."""
    try:
        return ZoneInfo(name) if name and len(name) < 64 else ZoneInfo("UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


async def admit(request: Request) -> Response | None:
    """Before every protected handler: find the viewer, refuse forged posts; None lets the request through."""
    state = request.app.state
    session = state.signer.load(request.cookies.get(SESSION_COOKIE, ""))
    principal = await state.verifier.verify_key_id(session.key_id) if session else None
    if session is None or principal is None or not principal.allows("read"):
        if session is not None:
            state.memory.forget(session.session_id)
        return _to_sign_in(request, ended=session is not None)
    if request.method != "GET":
        token = request.headers.get(CSRF_HEADER) or (await request.form()).get("csrf")
        if not state.signer.check_csrf_token(session, token if isinstance(token, str) else None):
            return PlainTextResponse("This form is out of date: reload the page and send it again.", 403)
    theme = request.cookies.get(THEME_COOKIE, "")
    request.scope["viewer"] = Viewer(
        principal,
        session,
        state.signer.csrf_token(session),
        await state.account_name(principal.account_id),
        read_zone(request.cookies.get(ZONE_COOKIE)),
        theme if theme in ("light", "dark") else "",
        state.clock(),
        state.api_port,
    )
    return None


def check_form_token(request: Request, token: object) -> bool:
    """For the sign-in form, which has no session yet: its token must equal the cookie set with the form."""
    cookie = request.cookies.get(FORM_COOKIE, "")
    return (
        isinstance(token, str) and len(cookie) >= 20 and hmac.compare_digest(cookie.encode(), token.encode())
    )


def _to_sign_in(request: Request, *, ended: bool) -> Response:
    page = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = routes.with_query(
        routes.SIGN_IN,
        next=page if request.method == "GET" and page != "/" else "",
        ended="1" if ended else "",
    )
    if "hx-request" in request.headers or "text/event-stream" in request.headers.get("accept", ""):
        target = routes.with_query(routes.SIGN_IN, ended="1" if ended else "")
        return PlainTextResponse("Sign in again.", 401, headers={"HX-Redirect": target})
    return RedirectResponse(target, 303)


class SecurityMiddleware:
    """Adds the headers to every answer, refuses bodies larger than any form of ours, notes how long pages take."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        # A file is streamed on and counted there; with the token in its header nobody reads it as a form before.
        is_file = scope["path"] == routes.UPLOADS and CSRF_HEADER.lower().encode() in headers
        if not is_file and (
            headers.get(b"transfer-encoding")
            or int(headers.get(b"content-length", b"0") or 0) > BODY_BYTES_MAX
        ):
            refused = PlainTextResponse(
                f"Expected a form of at most {BODY_BYTES_MAX} bytes.", 413, headers=_HEADERS
            )
            await refused(scope, receive, send)
            return
        static = scope["path"].startswith(f"{routes.STATIC}/")

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in (_STATIC_HEADERS if static else _HEADERS).items():
                    out[name] = value
                if static and message["status"] == 200:
                    # Addresses carry the content's hash.
                    out["Cache-Control"] = "public, max-age=31536000, immutable"
                else:
                    out["Cache-Control"] = "no-store"
            await send(message)

        begun = time.monotonic()
        await self._app(scope, receive, send_secured)
        if not static and scope["path"] != routes.EVENTS:
            self._requests.note(time.monotonic() - begun)
