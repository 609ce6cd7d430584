"""Bodies in JSON that are read by hand, so that a mistake is told with what was expected and what came."""

from __future__ import annotations

from typing import Any

import msgspec

from anomalyze.errors import EventError

__all__ = ["decode_json", "shown"]


def decode_json(body: bytes, expected: str) -> Any:
    """What a body holds.

    Raises
    ------
    EventError
        It is no JSON.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EventError("", f"{expected} ({error})", body[:120].decode(errors="replace")) from error


def shown(value: Any) -> str:
    """A value as it came, for an ``EventError``, which cuts it."""
    return msgspec.json.encode(value, enc_hook=str).decode()
