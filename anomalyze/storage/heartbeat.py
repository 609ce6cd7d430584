"""Heartbeats: each running program says every few seconds that it lives, and how it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

__all__ = ["beat", "forget_program"]

# A program gone for longer was taken away on purpose: it leaves the list.
FORGET_AFTER = "7 days"


def beat(
    connection: psycopg.Connection[Any],
    *,
    program: str,
    instance: str,
    started_at: datetime,
    state: Mapping[str, Any],
) -> None:
    """Note that this process lives.

    Parameters
    ----------
    program, instance
        What it is, and which of several.
    started_at
        When it was started.
    state
        What pages show of it: rate, lag, bundle, partitions; anything that JSON can hold.
    """
    connection.execute(
        "INSERT INTO program_states (program, instance, pid, started_at, state) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (program, instance) DO UPDATE SET pid = excluded.pid, started_at = excluded.started_at, "
        "seen_at = now(), state = excluded.state",
        [program, instance, os.getpid(), started_at, Jsonb(dict(state))],
    )
    connection.execute(
        f"DELETE FROM program_states WHERE seen_at < now() - interval '{FORGET_AFTER}'"  # noqa: S608 - a constant
    )


def forget_program(connection: psycopg.Connection[Any], *, program: str, instance: str) -> None:
    """Take a program off the list: it ended on purpose."""
    connection.execute("DELETE FROM program_states WHERE program = %s AND instance = %s", [program, instance])
