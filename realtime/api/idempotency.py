"""The answer to a request that was sent before with the same `Idempotency-Key`.

It spares the client a difference in counts; that nothing is judged twice does not depend on it, so a Redis
that is away changes nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Any

import redis
from starlette.responses import Response

from anomalyze.log import get
from realtime.api.problems import Problem

__all__ = ["Replay"]

KEPT_S = 86_400
KEY_LENGTH_MAX = 256


class Replay:
    """One request's look at what was answered before; does nothing for a request without a key.

    Parameters
    ----------
    client
        Redis, with short timeouts.
    account_id, key, body
        Whose request, its `Idempotency-Key`, and what the key is bound to.
    """

    def __init__(self, client: Any, account_id: str, key: str | None, body: bytes) -> None:
        self._redis = client
        self._name = None
        if not key:
            return
        if len(key) > KEY_LENGTH_MAX:
            raise Problem(
                422,
                "the header Idempotency-Key is too long",
                field="Idempotency-Key",
                expected=f"at most {KEY_LENGTH_MAX} characters",
                got=f"{len(key)} characters",
            )
        named = f"{account_id}\0{key}".encode()
        self._name = f"anomalyze:idempotency:{hashlib.sha256(named).hexdigest()}"
        self._digest = hashlib.sha256(body).hexdigest().encode()

    async def find(self) -> Response | None:
        """The earlier answer. Raises ``Problem`` 409 when the key came with another body."""
        if self._name is None:
            return None
        try:
            kept = await self._redis.get(self._name)
        except (redis.RedisError, OSError) as error:
            get().warning("idempotency_unknown", reason=repr(error))
            return None
        if kept is None:
            return None
        digest, _, answer = kept.partition(b"\n")
        if digest != self._digest:
            raise Problem(
                409,
                "this Idempotency-Key was used with another body within the last day; choose a new one",
                field="Idempotency-Key",
                expected="the body it was first sent with",
                got="another body",
            )
        return Response(answer, 202, headers={"Idempotent-Replayed": "true"}, media_type="application/json")

    async def keep(self, answer: bytes) -> None:
        """Remember the answer for a day."""
        if self._name is None:
            return
        try:
            await self._redis.set(self._name, self._digest + b"\n" + answer, ex=KEPT_S, nx=True)
        except (redis.RedisError, OSError) as error:
            get().warning("idempotency_not_kept", reason=repr(error))
