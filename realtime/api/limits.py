"""A limit on every body, whatever its header says of its length."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.api.problems import Problem

__all__ = ["BODY_BYTES_MAX", "BodyLimit"]

BODY_BYTES_MAX = 8 * 1024 * 1024


class BodyLimit:
    """Refuses bodies over the limit with 413: by their header at once, else when they grow past it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > BODY_BYTES_MAX):
                await too_large(value.decode("latin-1")).response()(scope, receive, send)
                return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > BODY_BYTES_MAX:
                    raise too_large(f"more than {BODY_BYTES_MAX}")
            return message

        await self._app(scope, limited, send)


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
