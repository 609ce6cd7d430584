"""Who asks, and what the key allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from anomalyze.access.keys import Principal
from realtime.api.problems import Problem
from realtime.api.state import state_of

__all__ = ["bearer", "require"]


def bearer(request: Request) -> str:
    """The key of the Authorization header, or an empty text."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def require(scope: str) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that lets a request pass when its key has the scope."""

    async def dependency(request: Request) -> Principal:
        state = state_of(request)
        key = bearer(request)
        if not key and scope == "read" and state.settings.public_account:
            return Principal("public", state.settings.public_account, frozenset({"read"}), "public")
        challenge = {"WWW-Authenticate": 'Bearer realm="anomalyze"'}
        if not key:
            raise Problem(
                401,
                "this route needs the header 'Authorization: Bearer <key>'; `anomalyze keys create` makes a key",
                headers=challenge,
            )
        principal = await state.verifier.verify_key(key)
        if principal is None:
            raise Problem(
                401, "this key is unknown or was revoked; ask an admin for another", headers=challenge
            )
        if not principal.allows(scope):
            raise Problem(
                403,
                f"this route needs a key with the scope {scope!r}; this one has {', '.join(sorted(principal.scopes))}",
            )
        return principal

    return dependency
