"""A limit on every body, whatever its header says of its length, and on all bodies at once."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomalyze.errors import TransientError
from realtime.api.problems import Problem

__all__ = ["BODY_BYTES_MAX", "HELD_BYTES_MAX", "BodyLimit"]

BODY_BYTES_MAX = 8 * 1024 * 1024
# Files are streamed on and counted by their route, which has a limit of its own.
STREAMED_PATHS = frozenset({"/v1/uploads"})
# Bodies that are being read or parsed, together: many clients with large bodies must not fill the memory.
HELD_BYTES_MAX = 128 * 1024 * 1024


class BodyLimit:
    """Refuses bodies over the limit with 413: by their header at once, else when they grow past it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in STREAMED_PATHS:
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and not is_allowed(value):
                await too_large(value.decode("latin-1")).response()(scope, receive, send)
                return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self._held += size
                if received > BODY_BYTES_MAX:
                    raise too_large(f"more than {BODY_BYTES_MAX} bytes")
                if self._held > HELD_BYTES_MAX:
                    raise TransientError("too many large requests at once", 1.0)
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._held -= received


def is_allowed(length: bytes) -> bool:
    """Whether a Content-Length is a number within the limit."""
    return length.isdigit() and len(length) <= 20 and int(length) <= BODY_BYTES_MAX


def too_large(got: str) -> Problem:
    """The refusal."""
    return Problem(
        413,
        f"a request may have {BODY_BYTES_MAX} bytes; send the transactions in several requests",
        field="body",
        expected=f"at most {BODY_BYTES_MAX} bytes",
        got=got,
        headers={"Connection": "close"},
    )
