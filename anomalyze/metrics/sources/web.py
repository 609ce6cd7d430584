"""One GET or POST over HTTP, with a limit on time and on bytes; an address's password never leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from anomalyze.errors import ConfigError
from anomalyze.metrics.sources.contract import CONNECT_TIMEOUT_S, Request, address_of, broken, silent

__all__ = ["ANSWER_BYTES_MAX", "ask", "web_address"]

ANSWER_BYTES_MAX = 64 << 20
SHOWN_BYTES = 300
_RETRIED = (408, 425, 429)


def web_address(told: str) -> httpx.URL:
    """The address that a file writes or names the variable of."""
    text = told if told.startswith(("http://", "https://")) else address_of(told)
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"expected an address that begins with http:// or https://, got another in {told}")
    return url


def ask(
    request: Request,
    url: httpx.URL,
    query: Mapping[str, Any],
    timeout_s: float,
    token: str | None = None,
    body: str | None = None,
    is_passing: Callable[[httpx.Response], bool | None] | None = None,
) -> bytes:
    """The body of the answer.

    Parameters
    ----------
    is_passing
        Whether a refusal passes by itself; None, of it or instead of it: its status says so.

    Raises
    ------
    ConfigError
        A status that says that the request is wrong, or more than ``ANSWER_BYTES_MAX``.
    TransientError
        No answer in time, or a status that says to come back.
    """
    headers = {"Accept": "application/json"}
    auth = None
    secrets = [url.password]
    if token is not None:
        secrets.append(address_of(token))
        headers["Authorization"] = f"Bearer {secrets[-1]}"
    elif url.username:
        auth = httpx.BasicAuth(url.username, url.password)
    bare = url.copy_with(userinfo=b"").copy_merge_params(query)
    deadline = time.monotonic() + timeout_s
    try:
        with (
            httpx.Client(timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S), auth=auth) as client,
            client.stream("GET" if body is None else "POST", bare, headers=headers, content=body) as answer,
        ):
            got = bytearray()
            for chunk in answer.iter_bytes():
                got += chunk
                if len(got) > ANSWER_BYTES_MAX:
                    raise ConfigError(
                        f"batch {request.name}: expected at most {ANSWER_BYTES_MAX:,} bytes, got more: narrow the window"
                    )
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"it took longer than {timeout_s:g} s")
    except httpx.HTTPError as error:
        raise silent(request, error, secrets) from None
    if answer.status_code == 200:
        return bytes(got)
    said = bytes(got[:SHOWN_BYTES]).decode(errors="replace")
    refusal = RuntimeError(f"status {answer.status_code}: {said}")
    passes = is_passing(answer) if is_passing is not None else None
    if passes is None:
        passes = answer.status_code >= 500 or answer.status_code in _RETRIED
    raise (silent if passes else broken)(request, refusal, secrets)
