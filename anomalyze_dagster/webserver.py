"""Dagster's UI behind a door: Dagster has none, and whoever reaches it may start any job.

It listens on loopback only, and lets in who holds a key of the operator's account with the scope ``admin``: by
the dashboard's session (sign in there, then follow the link: cookies do not know ports), by ``Authorization:
Bearer``, or as the password that the browser asks for. Pages of other origins reach nothing.
"""

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import urlsplit

from dagster_webserver import app as dagster_app
from dagster_webserver.cli import create_dagster_webserver_cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from anomalyze.access.admin import DEFAULT_ACCOUNT
from anomalyze.access.keys import Principal
from anomalyze.access.sessions import SessionSigner
from anomalyze.access.verify import AsyncKeyVerifier
from anomalyze.embedded.runtime import Addresses
from anomalyze.errors import TransientError
from anomalyze.settings import Settings
from anomalyze.storage.pool import AsyncPool

__all__ = ["Door", "serve"]

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SESSION_COOKIE = "anomalyze_session"
CHALLENGE = 'Basic realm="Anomalyze: any name, and the admin key as password", charset="UTF-8"'


class Door:
    """ASGI middleware that lets the operator in and nobody else.

    Parameters
    ----------
    app
        What lies behind.
    dsn
        PostgreSQL, for the keys; away: nobody is let in.
    signer
        Reads the dashboard's sessions.
    """

    def __init__(self, app: ASGIApp, dsn: str, signer: SessionSigner) -> None:
        self._app = app
        self._signer = signer
        self._pool = AsyncPool(dsn, program="anomalyze-dagster", size_max=2)
        self._verifier = AsyncKeyVerifier(self._pool)
        self._opened = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 or 403."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = refuse_foreign(scope, headers)
        if refusal is None:
            try:
                if await self._admits(headers):
                    await self._app(scope, receive, send)
                    return
                refusal = PlainTextResponse(
                    "Sign in at the dashboard, or give the admin key as password.",
                    401,
                    {"WWW-Authenticate": CHALLENGE},
                )
            except TransientError:
                refusal = PlainTextResponse("PostgreSQL is away; try again.", 503, {"Retry-After": "2"})
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await refusal(scope, receive, send)

    async def _admits(self, headers: Headers) -> bool:
        if not self._opened:
            self._opened = True
            await self._pool.open()
        principal: Principal | None = None
        secret = secret_of(headers.get("authorization", ""))
        if secret:
            principal = await self._verifier.verify_key(secret)
        else:
            session = self._signer.load(cookies_of(headers).get(SESSION_COOKIE, ""))
            if session is not None:
                principal = await self._verifier.verify_key_id(session.key_id)
        return principal is not None and principal.account_id == DEFAULT_ACCOUNT and principal.allows("admin")


def refuse_foreign(scope: Scope, headers: Headers) -> PlainTextResponse | None:
    """Refuse names that are not ours (DNS rebinding) and requests that another origin's page sends.

    A link from another page may be followed (a navigation by GET), nothing else.
    """
    host = headers.get("host", "")
    if urlsplit(f"//{host}").hostname not in LOOPBACK_NAMES:
        return PlainTextResponse("Expected localhost as host name.", 403)
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return PlainTextResponse("Requests of other origins are refused.", 403)
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        follows = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if not follows or scope["path"].startswith("/graphql"):
            return PlainTextResponse("Requests of other origins are refused.", 403)
    return None


def secret_of(authorization: str) -> str:
    """The key in an ``Authorization`` header, empty when there is none.

    >>> secret_of("Bearer az_1"), secret_of("Basic YTphel8x"), secret_of("Basic ?")
    ('az_1', 'az_1', '')
    """
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def cookies_of(headers: Headers) -> Mapping[str, str]:
    """Cookies of a request; several headers count together."""
    return cookie_parser("; ".join(headers.getlist("cookie")))


def serve(settings: Settings, addresses: Addresses, workspace: str) -> None:
    """Serve until SIGTERM."""
    signer = SessionSigner.from_data_dir(settings.data_dir)

    class GuardedWebserver(DagsterWebserver):  # type: ignore[type-arg]
        """Dagster's own, with the door before everything else."""

        def build_middleware(self) -> list[Middleware]:
            door = Middleware(Door, dsn=addresses.postgres_dsn, signer=signer)
            return [door, *super().build_middleware()]

    # The one place in which Dagster's command makes its server; a test asks for 401 without a key.
    dagster_app.DagsterWebserver = GuardedWebserver  # type: ignore[attr-defined]
    command = create_dagster_webserver_cli()  # type: ignore[no-untyped-call]
    arguments = ["--host", LOOPBACK, "--port", str(settings.dagster_port), "--workspace", workspace]
    command([*arguments, "--dagster-log-level", "warning", "--suppress-warnings"])
