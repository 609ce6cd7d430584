"""Every refusal as an RFC 9457 problem document that names field, expectation and what came. HTTP codes
live here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomalyze.errors import ConfigError, EventError, TransientError
from anomalyze.log import get
from anomalyze.storage.cursor import FilterError

__all__ = ["Problem", "Unforeseen", "install", "problem_responses"]

MEDIA_TYPE = "application/problem+json"
GOT_LENGTH_MAX = 120

TITLES = {
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Changed by somebody else",
    413: "Too large",
    415: "Unsupported media type",
    422: "Not acceptable as sent",
    429: "Too many requests",
    500: "Internal error",
    503: "Temporarily unavailable",
}


class Problem(Exception):
    """A refusal.

    Parameters
    ----------
    status
        HTTP status.
    detail
        A sentence for people: what was expected, what came, what to do.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        self.document: dict[str, Any] = {
            "type": "about:blank",
            "title": TITLES.get(status, "Error"),
            "status": status,
            "detail": printable(detail),
        }
        for name, value in (("field", field), ("expected", expected), ("got", got)):
            if value is not None:
                self.document[name] = printable(value)[:GOT_LENGTH_MAX]

    def response(self) -> Response:
        """The document as a response."""
        return Response(
            msgspec.json.encode(self.document), self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(EventError)
    async def event(_: Request, error: EventError) -> Response:
        field = error.field or "body"
        detail = f"{field}: expected {error.expected}, got {error.got}"
        return Problem(422, detail, field=field, expected=error.expected, got=error.got).response()

    @app.exception_handler(FilterError)
    async def filtered(_: Request, error: FilterError) -> Response:
        return Problem(422, str(error), field=error.field, expected=error.expected, got=error.got).response()

    @app.exception_handler(TransientError)
    async def transient(_: Request, error: TransientError) -> Response:
        get().warning("unavailable", reason=str(error))
        return Problem(
            503,
            "a store that is needed does not answer now; nothing is known to be lost: send the same request again",
            retry_after_s=error.retry_after_s,
        ).response()

    @app.exception_handler(ConfigError)
    async def config(_: Request, error: ConfigError) -> Response:
        return Problem(422, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return Problem(
            422,
            f"{field}: {first['msg']}",
            field=field,
            expected=str(first["msg"]),
            got=repr(first.get("input")),
        ).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = {
            404: f"there is no route {request.url.path}; /docs lists them",
            405: f"{request.url.path} does not take {request.method}; /docs lists what it takes",
        }.get(error.status_code, str(error.detail))
        return Problem(error.status_code, detail, headers=error.headers).response()


class Unforeseen:
    """Answers 500 for what no handler knows, and logs it with our logger, which hides secrets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if scope["type"] != "http":
                raise
            get().error("request_failed", path=scope["path"], exc_info=error)
            if not has_begun:
                problem = Problem(500, "this request failed in a way nobody foresaw; it was logged")
                await problem.response()(scope, receive, send)


def printable(text: str) -> str:
    """The text without lone surrogates, which are no UTF-8."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI descriptions of these refusals."""
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
