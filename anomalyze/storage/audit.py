"""The audit log: who did what to which thing, written in the transaction that did it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

__all__ = ["audit_entry"]

_INSERT = "INSERT INTO audit_log (account_id, actor, action, target, detail) VALUES (%s, %s, %s, %s, %s)"


def audit_entry(
    account_id: str, actor: str, action: str, target: str, detail: Mapping[str, Any]
) -> tuple[LiteralString, list[Any]]:
    """Statement and values that note an action.

    Parameters
    ----------
    actor
        The key that acted.
    action
        What was done: ``case.confirmed``, ``lists.change``, ….
    target
        What it was done to.
    detail
        Plain values that tell the rest.
    """
    return _INSERT, [account_id, actor, action, target, Jsonb(dict(detail))]
