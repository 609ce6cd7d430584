"""What people are told of alerts of metrics: opened, grown, reminder, resolved; each once, some in one line with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from anomalyze.storage.array import BigintArray, TextArray
from anomalyze.storage.query import Query

__all__ = ["NOTICES_MAX", "Notice", "insert_notices", "join_notices", "list_notices"]


# Of one alert, the newest: one that is reminded of each hour has so many in eight days.
NOTICES_MAX = 200


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people were told of an alert.

    Attributes
    ----------
    kind
        ``opened``, ``grown``, ``reminder`` or ``resolved``.
    told_with
        The alert in whose line it was told, which names how many there are; None: in a line of its own.
    """

    kind: str
    severity: int
    sentence: str
    at: datetime
    told_with: int | None


def insert_notices(
    connection: psycopg.Connection[Any], notices: Sequence[tuple[int, str, int, int, str]]
) -> list[bool]:
    """Note what people are told: alert, kind, number, severity, sentence each; whether each is told for the first time."""
    if not notices:
        return []
    alert_id, kind, number, severity, sentence = zip(*notices, strict=True)
    rows = connection.execute(
        "INSERT INTO metric_notices (alert_id, kind, number, severity, sentence) SELECT n.alert_id, n.kind, n.number, n.severity, n.sentence FROM unnest(%s::bigint[], "
        "%s::text[], %s::bigint[], %s::bigint[], %s::text[]) WITH ORDINALITY AS n (alert_id, kind, number, severity, "
        "sentence, place) ORDER BY n.place ON CONFLICT DO NOTHING RETURNING alert_id, kind, number",
        [
            BigintArray(alert_id),
            TextArray(kind),
            BigintArray(number),
            BigintArray(severity),
            TextArray(sentence),
        ],
    ).fetchall()
    new = set(rows)
    return [key in new for key in zip(alert_id, kind, number, strict=True)]


def join_notices(
    connection: psycopg.Connection[Any],
    kind: str,
    leader: tuple[int, int, str],
    members: Sequence[tuple[int, int]],
) -> None:
    """Note that notices of a kind (alert and number each) were told in the line of another: its alert, number, text."""
    alert_id, number, text = leader
    connection.execute(
        "UPDATE metric_notices SET sentence = %s WHERE alert_id = %s AND kind = %s AND number = %s",
        [text, alert_id, kind, number],
    )
    connection.execute(
        "UPDATE metric_notices n SET told_with = %s FROM unnest(%s::bigint[], %s::bigint[]) AS m (alert_id, number) "
        "WHERE n.alert_id = m.alert_id AND n.kind = %s AND n.number = m.number",
        [alert_id, BigintArray(one for one, _ in members), BigintArray(one for _, one in members), kind],
    )


def list_notices(alert_id: int) -> Query[list[Notice]]:
    """What people were told of an alert, the oldest first; the newest `NOTICES_MAX`."""
    return Query(
        "SELECT kind, severity, sentence, at, told_with FROM metric_notices WHERE alert_id = %(alert_id)s "
        "ORDER BY notice_id DESC LIMIT %(limit)s",
        {"alert_id": alert_id, "limit": NOTICES_MAX},
        lambda rows: [Notice(**row) for row in reversed(rows)],
    )
