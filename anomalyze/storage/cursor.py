"""Cursors: where a walk through a list goes on.

A cursor is the key of the last row shown, with a digest of the filters it was made for, as URL-safe text. It is
opaque to clients and neither secret nor trusted: what comes back is checked like any other input, and the account
never comes from it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from anomalyze.errors import AnomalyzeError

__all__ = ["CursorError", "FilterError", "check_text", "decode_cursor", "encode_cursor"]

CURSOR_LENGTH_MAX = 2048
_EXPECTED = "a cursor from the answer before this one, with the same filters"


class FilterError(AnomalyzeError):
    """A list was asked for in a way that cannot be answered.

    Parameters
    ----------
    field, expected, got
        Which part of the request, what would have been accepted, what came.
    """

    def __init__(self, field: str, expected: str, got: str) -> None:
        self.field = field
        self.expected = expected
        self.got = got[:120]
        super().__init__(f"{field}: expected {expected}, got {self.got}")


class CursorError(FilterError):
    """A cursor that was not made by this list with these filters."""

    def __init__(self, got: str) -> None:
        super().__init__("cursor", _EXPECTED, got)


def encode_cursor(kind: str, filters: Mapping[str, Any], key: tuple[Any, ...]) -> str:
    """The cursor behind a row with this key.

    Parameters
    ----------
    kind
        Name of the list.
    filters
        What selects its rows; not the limit, which may change on the way.
    """
    content = msgspec.json.encode([kind, _digest(filters), key])
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_cursor(text: str, kind: str, filters: Mapping[str, Any], key_type: Any) -> Any:
    """The key in a cursor, as ``key_type`` (a tuple type).

    Raises
    ------
    CursorError
        Damaged, of another list, or made with other filters.

    >>> cursor = encode_cursor("users", {}, ("user_99",))
    >>> decode_cursor(cursor, "users", {}, tuple[str])
    ('user_99',)
    """
    if not 0 < len(text) <= CURSOR_LENGTH_MAX:
        raise CursorError(f"{len(text)} characters")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found_kind, digest, key = msgspec.json.decode(content, type=tuple[str, str, key_type])
    except (binascii.Error, msgspec.MsgspecError, UnicodeError, ValueError) as error:
        raise CursorError(text) from error
    if found_kind != kind:
        raise CursorError(f"a cursor of {found_kind[:40]!r}")
    if digest != _digest(filters):
        raise CursorError("a cursor made with other filters")
    for part in key:
        if isinstance(part, str):
            check_text("cursor", part)
    return key


def check_text(field: str, value: str) -> str:
    """The value, unless PostgreSQL could not even compare it. Raises ``FilterError``."""
    if "\0" in value or (not value.isascii() and value.encode("utf-8", "replace").decode() != value):
        raise FilterError(field, "text without NUL and lone surrogates", ascii(value))
    return value


def _digest(filters: Mapping[str, Any]) -> str:
    content = msgspec.json.encode(
        sorted((name, value) for name, value in filters.items() if value is not None)
    )
    return hashlib.blake2b(content, digest_size=6).hexdigest()
