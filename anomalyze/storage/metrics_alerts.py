"""Alerts of metrics: one row an incident, what people were told of it, and what they said.

All of it is written within the turn of scoring that found it. An incident is known by metric, kind and the time it
began, and a notice by its alert, kind and number: whatever runs twice says nothing twice.
"""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import psycopg

from anomalyze.errors import EventError
from anomalyze.metrics.incident import OPEN, OVER, PENDING, Incident
from anomalyze.storage.array import BigintArray, TextArray
from anomalyze.storage.query import Query

__all__ = [
    "Alert",
    "Dismissed",
    "KeptIncident",
    "Snooze",
    "StoredIncident",
    "add_feedback",
    "check_note",
    "count_told_open",
    "delete_pending",
    "list_snoozes",
    "load_dismissed",
    "load_open",
    "load_resolved",
    "load_spans",
    "set_sentences",
    "set_snooze",
    "store_incidents",
]

NOTE_LENGTH_MAX = 2_000
ACTOR_LENGTH_MAX = 200
# In one answer.
SNOOZES_MAX = 500
# What was dismissed longer ago is forgiven.
DISMISSED_FOR = "90 days"

_TIMES = ("opened", "last", "seen", "peak")
_SELECT = (
    "SELECT alert_id, metric, notified_at IS NOT NULL, muted, sentence, kind, direction, state, severity, "
    + ", ".join(f"(extract(epoch FROM {name}_ts) * 1000)::bigint" for name in _TIMES[:3])
    + ", strange_points, calm_points, (extract(epoch FROM peak_ts) * 1000)::bigint, "
    + ", ".join(f"coalesce(peak_{name}, 'NaN')" for name in ("value", "expected", "lower", "upper"))
    + ", peak_strength, resolution, coalesce(peak_tail, 'NaN') FROM metric_alerts "
)

_STORE = (
    "INSERT INTO metric_alerts AS a (batch, metric, kind, direction, state, severity, opened_ts, last_ts, seen_ts, "
    "strange_points, calm_points, peak_ts, peak_value, peak_expected, peak_lower, peak_upper, peak_strength, peak_tail, "
    "sentence, muted, notified_at, resolved_at, resolution, priority) VALUES (%(batch)s, %(metric)s, %(kind)s, "
    "%(direction)s, %(state)s, %(severity)s, %(opened_ts)s, %(last_ts)s, %(seen_ts)s, %(strange_points)s, "
    "%(calm_points)s, %(peak_ts)s, nullif(%(peak_value)s::float8, 'NaN'), nullif(%(peak_expected)s::float8, 'NaN'), "
    "nullif(%(peak_lower)s::float8, 'NaN'), nullif(%(peak_upper)s::float8, 'NaN'), %(peak_strength)s, "
    "nullif(%(peak_tail)s::float8, 'NaN'), %(sentence)s, %(muted)s, %(told_at)s, "
    f"CASE WHEN %(state)s = {OVER} THEN now() END, %(resolution)s, %(priority)s) "
    "ON CONFLICT (batch, metric, kind, opened_ts) DO UPDATE SET direction = excluded.direction, "
    "state = excluded.state, severity = excluded.severity, last_ts = excluded.last_ts, "
    "seen_ts = excluded.seen_ts, strange_points = excluded.strange_points, calm_points = excluded.calm_points, "
    "peak_ts = excluded.peak_ts, peak_value = excluded.peak_value, peak_expected = excluded.peak_expected, "
    "peak_lower = excluded.peak_lower, peak_upper = excluded.peak_upper, peak_strength = excluded.peak_strength, "
    "peak_tail = excluded.peak_tail, sentence = excluded.sentence, muted = excluded.muted, "
    "notified_at = coalesce(a.notified_at, excluded.notified_at), resolved_at = excluded.resolved_at, "
    f"resolution = excluded.resolution, priority = excluded.priority WHERE a.state < {OVER} RETURNING alert_id"
)


@dataclass(frozen=True, slots=True)
class StoredIncident:
    """An incident with its row's number, and whether people were told of it."""

    alert_id: int
    metric: str
    is_told: bool
    muted: str | None
    sentence: str
    incident: Incident


@dataclass(frozen=True, slots=True)
class Dismissed:
    """People said of alerts of this metric, kind and direction that they are none: how often, and the strongest."""

    times: int
    strength: float


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as lists show it."""

    alert_id: int
    batch: str
    metric: str
    kind: str
    direction: int
    state: int
    severity: int
    opened_ts: datetime
    last_ts: datetime
    strange_points: int
    peak_ts: datetime
    peak_value: float | None
    peak_expected: float | None
    peak_lower: float | None
    peak_upper: float | None
    sentence: str
    muted: str | None
    opened_at: datetime
    notified_at: datetime | None
    resolved_at: datetime | None
    resolution: str | None
    priority: int
    feedback: str | None


@dataclass(frozen=True, slots=True)
class Snooze:
    """Nobody is told of a metric, or (None) of a whole batch, until a moment; why, and the key of who said so."""

    batch: str
    metric: str | None
    until: datetime
    reason: str | None
    actor: str | None


def load_open(connection: psycopg.Connection[Any], batch: str) -> list[StoredIncident]:
    """What is not over, pending ones too."""
    rows = connection.execute(f"{_SELECT} WHERE batch = %s AND state < {OVER}", [batch]).fetchall()
    return [_stored(row) for row in rows]


def load_spans(
    connection: psycopg.Connection[Any], batch: str, metrics: Collection[str], since_ms: int, until_ms: int
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """From when to when (ms) the incidents of metrics between two times last, by (metric, kind)."""
    rows = connection.execute(
        "SELECT metric, kind, (extract(epoch FROM opened_ts) * 1000)::bigint, "
        "(extract(epoch FROM last_ts) * 1000)::bigint FROM metric_alerts WHERE batch = %s AND metric = ANY(%s) "
        "AND opened_ts <= %s AND last_ts >= %s",
        [batch, list(metrics), _time(until_ms), _time(since_ms)],
    ).fetchall()
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for metric, kind, opened, last in rows:
        found.setdefault((metric, kind), []).append((opened, last))
    return found


def load_resolved(
    connection: psycopg.Connection[Any], batch: str, metrics: Collection[str]
) -> dict[tuple[str, str], int]:
    """When the newest incident of each (metric, kind) that is over had its last point, in ms."""
    rows = connection.execute(
        "SELECT metric, kind, (extract(epoch FROM max(last_ts)) * 1000)::bigint FROM metric_alerts "
        f"WHERE batch = %s AND metric = ANY(%s) AND state = {OVER} GROUP BY 1, 2",
        [batch, list(metrics)],
    ).fetchall()
    return {(metric, kind): ms for metric, kind, ms in rows}


def load_dismissed(
    connection: psycopg.Connection[Any], batch: str, metrics: Collection[str]
) -> dict[tuple[str, str, int], Dismissed]:
    """What was dismissed lately and not confirmed since, by (metric, kind, direction)."""
    rows = connection.execute(
        "SELECT a.metric, a.kind, a.direction, count(*), max(a.peak_strength) FROM metric_alerts a "
        "JOIN LATERAL (SELECT verdict, at FROM metric_feedback f WHERE f.alert_id = a.alert_id "
        "ORDER BY feedback_id DESC LIMIT 1) f ON f.verdict = 'dismiss' "
        f"WHERE a.batch = %s AND a.metric = ANY(%s) AND f.at > now() - interval '{DISMISSED_FOR}' "
        "AND NOT EXISTS (SELECT FROM metric_alerts c JOIN metric_feedback g USING (alert_id) WHERE c.batch = a.batch "
        "AND c.metric = a.metric AND c.kind = a.kind AND c.direction = a.direction AND g.verdict = 'confirm' "
        "AND g.at > f.at) GROUP BY 1, 2, 3",
        [batch, list(metrics)],
    ).fetchall()
    return {(row[0], row[1], row[2]): Dismissed(row[3], row[4]) for row in rows}


@dataclass(frozen=True, slots=True)
class KeptIncident:
    """An incident to be stored.

    Attributes
    ----------
    told_at
        When people are told of it for the first time; None: they were before, or are not.
    """

    metric: str
    incident: Incident
    sentence: str
    muted: str | None
    told_at: datetime | None
    priority: int


def store_incidents(
    connection: psycopg.Connection[Any], batch: str, kept: Sequence[KeptIncident]
) -> list[int | None]:
    """Insert or update incidents, in their order; the number of each, or None of one that was over before (it stays).

    All of them go to the server at once.
    """
    numbers: list[int | None] = []
    with connection.cursor() as cursor:
        cursor.executemany(_STORE, [_values(batch, one) for one in kept], returning=True)
        for _ in kept:
            row = cursor.fetchone()
            numbers.append(None if row is None else int(row[0]))
            cursor.nextset()
    return numbers


def set_sentences(connection: psycopg.Connection[Any], sentences: Mapping[int, str]) -> None:
    """Say something else of alerts, by number."""
    if sentences:
        connection.execute(
            "UPDATE metric_alerts a SET sentence = n.sentence FROM unnest(%s::bigint[], %s::text[]) "
            "AS n (alert_id, sentence) WHERE a.alert_id = n.alert_id",
            [BigintArray(sentences), TextArray(sentences.values())],
        )


def count_told_open(connection: psycopg.Connection[Any], batch: str) -> int:
    """Incidents of a batch that people were told of and that go on."""
    row = connection.execute(
        f"SELECT count(*) FROM metric_alerts WHERE batch = %s AND state = {OPEN} AND notified_at IS NOT NULL",
        [batch],
    ).fetchone()
    assert row is not None
    return int(row[0])


def delete_pending(connection: psycopg.Connection[Any], alert_id: int) -> None:
    """Forget an incident that was over before it lasted long enough to be one."""
    connection.execute(f"DELETE FROM metric_alerts WHERE alert_id = %s AND state = {PENDING}", [alert_id])


def add_feedback(
    connection: psycopg.Connection[Any], alert_id: int, verdict: str, actor: str, note: str | None = None
) -> bool:
    """Keep what somebody says of an alert; False when there is no such alert.

    Raises
    ------
    EventError
        Another verdict than ``confirm`` and ``dismiss``, or a text that is too long.
    """
    if verdict not in ("confirm", "dismiss"):
        raise EventError("verdict", "confirm or dismiss", verdict)
    if len(actor) > ACTOR_LENGTH_MAX:
        raise EventError("actor", f"at most {ACTOR_LENGTH_MAX} characters", str(len(actor)))
    check_note("note", note)
    row = connection.execute(
        "INSERT INTO metric_feedback (alert_id, verdict, actor, note) SELECT alert_id, %s, %s, %s FROM metric_alerts "
        "WHERE alert_id = %s RETURNING feedback_id",
        [verdict, actor, note, alert_id],
    ).fetchone()
    return row is not None


def set_snooze(
    connection: psycopg.Connection[Any],
    batch: str,
    metric: str | None,
    until: datetime | None,
    reason: str | None = None,
    actor: str | None = None,
) -> bool:
    """Tell nobody of a metric, or (None) of a whole batch, until a moment (None: from now on they are told again).

    Returns
    -------
    False when there is no such metric or batch.

    Raises
    ------
    EventError
        A reason that is too long.
    """
    check_note("reason", reason)
    told = [until, None if until is None else reason or None, None if until is None else actor, batch]
    if metric is None:
        done = connection.execute(
            "UPDATE metric_batches SET snoozed_until = %s, snooze_reason = %s, snoozed_by = %s WHERE batch = %s",
            told,
        )
    else:
        done = connection.execute(
            "UPDATE metric_series SET snoozed_until = %s, snooze_reason = %s, snoozed_by = %s "
            "WHERE batch = %s AND metric = %s",
            [*told, metric],
        )
    return done.rowcount == 1


def list_snoozes(batches: Sequence[str], now: datetime) -> Query[list[Snooze]]:
    """What nobody is told of now, whole batches first; those that end first, at most `SNOOZES_MAX`."""
    return Query(
        "SELECT batch, metric, until, reason, actor FROM (SELECT batch, NULL AS metric, snoozed_until AS until, "
        "snooze_reason AS reason, snoozed_by AS actor FROM metric_batches UNION ALL SELECT batch, metric, "
        "snoozed_until, snooze_reason, snoozed_by FROM metric_series) s WHERE batch = ANY(%(batches)s) "
        "AND until > %(now)s ORDER BY metric IS NOT NULL, until, batch, metric LIMIT %(limit)s",
        {"batches": TextArray(list(batches)), "now": now, "limit": SNOOZES_MAX},
        lambda rows: [Snooze(**row) for row in rows],
    )


def check_note(field: str, text: str | None) -> None:
    """Raise ``EventError`` for a text of people that is too long or cannot be stored."""
    if text is not None and (len(text) > NOTE_LENGTH_MAX or "\0" in text):
        raise EventError(field, f"at most {NOTE_LENGTH_MAX} characters, none of them NUL", text[:60])


def _stored(row: tuple[Any, ...]) -> StoredIncident:
    return StoredIncident(row[0], row[1], row[2], row[3], row[4], Incident(*row[5:]))


def _values(batch: str, kept: KeptIncident) -> dict[str, Any]:
    incident = kept.incident
    return {
        **{field.name: getattr(incident, field.name) for field in fields(incident)},
        **{f"{name}_ts": _time(getattr(incident, f"{name}_ms")) for name in _TIMES},
        "batch": batch,
        "metric": kept.metric,
        "sentence": kept.sentence,
        "muted": kept.muted,
        "told_at": kept.told_at,
        "priority": kept.priority,
    }


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
