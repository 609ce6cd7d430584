"""Signing in with an API key, and out. The key travels in the body of one POST and is kept nowhere."""

from __future__ import annotations

import secrets
from typing import Any

from fasthtml.core import FtResponse
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from anomalyze.access.keys import SECRET_LENGTH_MAX, hash_key
from anomalyze.access.sessions import SESSION_AGE_MAX_S
from anomalyze.storage import board_feed
from dashboard import routes
from dashboard.element import FT, H1, Button, Div, Form, Input, Label, P, Span, ft
from dashboard.formatters import format_day
from dashboard.frame import bare_document
from dashboard.page import Answer
from dashboard.security import FORM_COOKIE, SESSION_COOKIE, ZONE_COOKIE, check_form_token, read_zone

__all__ = ["sign_in", "sign_in_form", "sign_out"]

ZONE_AGE_S = 365 * 86_400


async def sign_in_form(request: Request) -> Answer:
    """GET /sign-in."""
    ended = "This session has ended. Sign in again." if request.query_params.get("ended") else ""
    return _form(request, message=ended, following=request.query_params.get("next", ""))


async def sign_in(request: Request) -> Answer:
    """POST /sign-in: a key becomes a session cookie."""
    sent = await request.form()
    secret, following = str(sent.get("key", "")).strip(), str(sent.get("next", ""))
    if not check_form_token(request, sent.get("csrf")):
        return _form(
            request, status=403, message="This form was out of date. Send it again.", following=following
        )
    state = request.app.state
    principal = await state.verifier.verify_key(secret) if len(secret) <= SECRET_LENGTH_MAX else None
    zone = str(sent.get("tz", ""))
    if principal is None:
        return _form(request, status=401, message=await _refusal(request, secret, zone), following=following)
    if not principal.allows("read"):
        message = "This key sends transactions and sees none. Ask an admin for one with the scope read."
        return _form(request, status=403, message=message, following=following)
    _, token = state.signer.sign(principal.key_id)
    answer = RedirectResponse(routes.own_path(following, routes.NOW), 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        SESSION_COOKIE, token, max_age=SESSION_AGE_MAX_S, httponly=True, samesite="lax", secure=secure
    )
    answer.set_cookie(ZONE_COOKIE, str(read_zone(zone)), max_age=ZONE_AGE_S, samesite="lax", secure=secure)
    answer.delete_cookie(FORM_COOKIE, path=routes.SIGN_IN)
    return answer


async def sign_out(request: Request) -> Response:
    """POST /sign-out."""
    answer = RedirectResponse(routes.SIGN_IN, 303)
    answer.delete_cookie(SESSION_COOKIE)
    return answer


async def _refusal(request: Request, secret: str, zone: str) -> str:
    if not secret:
        return "A key is needed."
    async with request.app.state.pool.connection() as connection:
        ended = await board_feed.find_key_end(connection, hash_key(secret[:SECRET_LENGTH_MAX]))
    if ended is not None:
        return f"This key was revoked on {format_day(ended, read_zone(zone))}. Ask an admin for another."
    return "No such key. It begins with az_ and was shown once, when it was made."


def _form(request: Request, *, message: str = "", following: str = "", status: int = 200) -> FtResponse:
    token = secrets.token_urlsafe(24)
    content: list[Any] = [
        Div(ft("svg", ft("use", href="#logo"), aria_hidden="true"), Span("Anomalyze"), cls="brand"),
        H1("Sign in"),
        P(f"to the dashboard at {request.url.netloc}", cls="muted"),
        Form(
            Input(type="hidden", name="csrf", value=token),
            Input(type="hidden", name="next", value=following) if following else None,
            Input(type="hidden", name="tz", value="", data_zone_field=True),
            Label("API key", fr="key"),
            Input(
                type="password",
                name="key",
                id="key",
                cls="input",
                required=True,
                autofocus=True,
                autocomplete="current-password",
                spellcheck="false",
                aria_describedby="key-note",
                aria_invalid="true" if message and status != 200 else None,
            ),
            P(message, cls="error" if status != 200 else "muted", role="alert") if message else None,
            Button("Sign in", cls="btn primary", type="submit"),
            action=routes.SIGN_IN,
            method="post",
        ),
        P(
            "A key with the scope read sees; one with the scope admin also decides. ",
            ft("code", "anomalyze up", cls="mono"),
            " shows the first key once; ",
            ft("code", "anomalyze keys create", cls="mono"),
            " makes more.",
            cls="muted small",
            id="key-note",
        ),
    ]
    page: FT = bare_document("Sign in", content, request.cookies.get("theme", ""), ("lists.css",))
    answer = FtResponse(page, status_code=status)
    answer.headers = {
        "set-cookie": f"{FORM_COOKIE}={token}; Path={routes.SIGN_IN}; HttpOnly; SameSite=Strict; Max-Age=3600"
        + ("; Secure" if request.url.scheme == "https" else "")
    }
    return answer
