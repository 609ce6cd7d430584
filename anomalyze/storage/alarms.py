"""Alarms: what the platform found wrong with itself, kept for the operator and said in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from anomalyze.log import get

__all__ = ["Alarm", "StoredAlarm", "load_alarms", "load_alarms_of", "raise_alarm"]

SUMMARY_LENGTH_MAX = 500
KEPT = "180 days"
_SELECT = "SELECT at, kind, key, account_id, summary, detail, run_id FROM alarms"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that an operator should look at.

    Attributes
    ----------
    kind
        ``drift``, ``stream``, ``run`` or ``bundle``.
    key
        Names the finding: raising the same one again does nothing.
    summary
        One sentence for people.
    account_id
        Whose data it is about; None for the platform.
    run_id
        The Dagster run that found it.
    """

    kind: str
    key: str
    summary: str
    account_id: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAlarm:
    """An alarm as it was raised."""

    at: datetime
    kind: str
    key: str
    account_id: str | None
    summary: str
    detail: Mapping[str, Any]
    run_id: str | None


def raise_alarm(connection: psycopg.Connection[Any], alarm: Alarm) -> bool:
    """Keep an alarm and say it in the log; False when it was raised before. Forgets those of half a year ago."""
    with connection.transaction():
        row = connection.execute(
            "INSERT INTO alarms (kind, key, account_id, summary, detail, run_id) VALUES (%s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (key) DO NOTHING RETURNING alarm_id",
            [
                alarm.kind,
                alarm.key,
                alarm.account_id,
                alarm.summary[:SUMMARY_LENGTH_MAX],
                Jsonb(dict(alarm.detail)),
                alarm.run_id,
            ],
        ).fetchone()
        connection.execute(f"DELETE FROM alarms WHERE at < now() - interval '{KEPT}'")  # noqa: S608 - a constant
    if row is None:
        return False
    get().warning(
        "alarm",
        kind=alarm.kind,
        key=alarm.key,
        account=alarm.account_id,
        summary=alarm.summary[:SUMMARY_LENGTH_MAX],
    )
    return True


async def load_alarms_of(
    connection: psycopg.AsyncConnection[Any], account_id: str, *, platform: bool, limit: int = 20
) -> Sequence[StoredAlarm]:
    """An account's newest alarms of the last 7 days; with ``platform`` also those that concern no account."""
    async with connection.cursor(row_factory=class_row(StoredAlarm)) as cursor:
        await cursor.execute(
            f"{_SELECT} WHERE at > now() - interval '7 days' AND (account_id = %s OR (account_id IS NULL AND %s)) "
            "ORDER BY at DESC, alarm_id DESC LIMIT %s",
            [account_id, platform, limit],
        )
        return await cursor.fetchall()


def load_alarms(connection: psycopg.Connection[Any], *, limit: int = 50) -> Sequence[StoredAlarm]:
    """The newest alarms first."""
    with connection.cursor(row_factory=class_row(StoredAlarm)) as cursor:
        return cursor.execute(f"{_SELECT} ORDER BY at DESC, alarm_id DESC LIMIT %s", [limit]).fetchall()
