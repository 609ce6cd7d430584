"""Who asks, and what the key allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from anomalyze.access.keys import Principal
from realtime.api.problems import Problem
from realtime.api.state import state_of

__all__ = ["bearer", "is_still_allowed", "require"]

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="anomalyze"'}


def bearer(request: Request) -> str:
    """The key of the Authorization header, or an empty text."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def require(scope: str, *, public: bool = False) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that lets a request pass when its key has the scope.

    Parameters
    ----------
    public
        Whether the route shows data of one account, which the setting ``PUBLIC_ACCOUNT`` may open to anybody.
    """

    async def dependency(request: Request) -> Principal:
        state = state_of(request)
        key = bearer(request)
        if not key and public and state.settings.public_account:
            return Principal("public", state.settings.public_account, frozenset({"read"}), "public")
        if not key:
            raise Problem(
                401,
                "this route needs the header 'Authorization: Bearer <key>'; `anomalyze keys create` makes a key",
                field="Authorization",
                expected="Bearer <key>",
                got="nothing" if "authorization" not in request.headers else "another scheme, or no key",
                headers=CHALLENGE,
            )
        principal = await state.verifier.verify_key(key)
        if principal is None:
            raise Problem(
                401,
                "this key is unknown or was revoked; ask an admin for another",
                field="Authorization",
                expected="a key that exists and was not revoked",
                got="another",
                headers=CHALLENGE,
            )
        if not principal.allows(scope):
            scopes = ", ".join(sorted(principal.scopes))
            raise Problem(
                403,
                f"this route needs a key with the scope {scope!r}; this one has {scopes}",
                field="Authorization",
                expected=f"a key with the scope {scope}",
                got=scopes,
            )
        return principal

    return dependency


async def is_still_allowed(request: Request, scope: str) -> bool:
    """Whether a request that was let in once would be let in again now. Raises ``TransientError``."""
    key = bearer(request)
    if not key:
        return True
    principal = await state_of(request).verifier.verify_key(key)
    return principal is not None and principal.allows(scope)
