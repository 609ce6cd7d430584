"""Incidents of metrics as the page of alerts reads them: a list by keyset, figures, what people were told lately."""

# ruff: noqa: S608 - only constants are put into statements
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from anomalyze.metrics.incident import OPEN, OVER, PENDING
from anomalyze.storage.array import TextArray
from anomalyze.storage.cursor import FilterError, check_text, decode_cursor, encode_cursor
from anomalyze.storage.metrics_alerts import Alert
from anomalyze.storage.query import LIMIT_MAX, Page, Query

__all__ = [
    "VIEWS",
    "AlertFigures",
    "ToldLine",
    "count_waiting",
    "load_alert_figures",
    "load_told_lines",
    "page_incidents",
]

# Open, told of, and nobody has said whether it is one.
_UNREVIEWED = "NOT EXISTS (SELECT FROM metric_feedback f WHERE f.alert_id = a.alert_id)"
_WAITING = f"a.state = {OPEN} AND a.muted IS NULL AND {_UNREVIEWED}"
# What a list may be narrowed to. What a backfill found is shown where it is asked for.
VIEWS = {
    "": "a.muted IS DISTINCT FROM 'history'",
    "open": f"a.state = {OPEN}",
    "review": _WAITING,
    "resolved": f"a.state = {OVER} AND a.muted IS DISTINCT FROM 'history'",
    "muted": "a.muted IS NOT NULL AND a.muted <> 'history'",
    "history": "a.muted = 'history'",
}
# Open ones first, by importance and severity; then those found last.
_RANK = f"(CASE WHEN a.state = {OPEN} THEN a.priority * 10 - a.severity ELSE 0 END)"


@dataclass(frozen=True, slots=True)
class AlertFigures:
    """Of an account's batches.

    Attributes
    ----------
    open, open_critical, waiting
        Incidents that go on; those of them that nobody has answered and that people were told of.
    told, muted
        Since a moment: told for the first time, and found with nobody told; history counts in neither.
    metrics, newest_ts
        Watched metrics, and the newest value of them.
    """

    open: int
    open_critical: int
    waiting: int
    told: int
    muted: int
    metrics: int
    newest_ts: datetime | None


@dataclass(frozen=True, slots=True)
class ToldLine:
    """A line that people were told; ``count``: how many incidents it tells of."""

    notice_id: int
    alert_id: int
    batch: str
    metric: str
    kind: str
    severity: int
    sentence: str
    at: datetime
    count: int


def page_incidents(
    batches: Sequence[str],
    *,
    view: str = "",
    severity_min: int = 0,
    words: str = "",
    limit: int = 100,
    cursor: str | None = None,
) -> Query[Page[Alert]]:
    """Incidents, open ones first by priority and severity, then those found last; one more row tells of a next page.

    Parameters
    ----------
    view
        One of `VIEWS`.
    words
        Part of the metric's name.

    Raises
    ------
    FilterError, CursorError
        A filter or cursor that cannot be.
    """
    if view not in VIEWS:
        raise FilterError("view", " or ".join(name for name in VIEWS if name), view)
    if not 1 <= limit <= LIMIT_MAX:
        raise FilterError("limit", f"1 to {LIMIT_MAX}", str(limit))
    check_text("words", words)
    filters = {"batches": sorted(batches), "view": view, "severity": severity_min, "words": words}
    key = decode_cursor(cursor, "incidents", filters, tuple[int, int, int]) if cursor is not None else None
    names = ", ".join(f"a.{field.name}" for field in fields(Alert)[:-1])

    def build(rows: list[dict[str, Any]]) -> Page[Alert]:
        ranks = [row.pop("rank") for row in rows]
        alerts = [Alert(**row) for row in rows[:limit]]
        if len(rows) <= limit:
            return Page(alerts, None)
        last = alerts[-1]
        return Page(
            alerts, encode_cursor("incidents", filters, (last.state, ranks[limit - 1], last.alert_id))
        )

    return Query(
        f"SELECT {names}, {_RANK} AS rank, (SELECT verdict FROM metric_feedback f WHERE f.alert_id = a.alert_id "
        f"ORDER BY feedback_id DESC LIMIT 1) AS feedback FROM metric_alerts a WHERE a.state > {PENDING} "
        f"AND a.batch = ANY(%(batches)s) AND {VIEWS[view]} AND a.severity >= %(severity)s "
        "AND (%(words)s = '' OR position(lower(%(words)s) IN lower(a.metric)) > 0) "
        f"AND (%(state)s::int IS NULL OR (a.state, {_RANK}, -a.alert_id) > (%(state)s, %(rank)s, -%(at)s::bigint)) "
        f"ORDER BY a.state, {_RANK}, a.alert_id DESC LIMIT %(limit)s",
        {
            "batches": TextArray(list(batches)),
            "severity": severity_min,
            "words": words,
            "state": None if key is None else key[0],
            "rank": None if key is None else key[1],
            "at": None if key is None else key[2],
            "limit": limit + 1,
        },
        build,
    )


def load_alert_figures(batches: Sequence[str], since: datetime) -> Query[AlertFigures]:
    """How it stands; ``told`` and ``muted`` since a moment."""
    return Query(
        f"SELECT count(*) FILTER (WHERE a.state = {OPEN} AND {VIEWS['']}) AS open, "
        f"count(*) FILTER (WHERE a.state = {OPEN} AND {VIEWS['']} AND a.severity = 4) AS open_critical, "
        f"count(*) FILTER (WHERE {_WAITING}) AS waiting, "
        "count(*) FILTER (WHERE a.notified_at > %(since)s) AS told, "
        "count(*) FILTER (WHERE a.opened_at > %(since)s AND a.muted <> 'history' "
        f"AND a.state > {PENDING}) AS muted, "
        "(SELECT count(*) FROM metric_series WHERE batch = ANY(%(batches)s)) AS metrics, "
        "(SELECT max(newest_ts) FROM metric_series WHERE batch = ANY(%(batches)s)) AS newest_ts "
        "FROM metric_alerts a WHERE a.batch = ANY(%(batches)s) "
        f"AND (a.state = {OPEN} OR a.opened_at > %(since)s OR a.notified_at > %(since)s)",
        {"batches": TextArray(list(batches)), "since": since},
        lambda rows: AlertFigures(**rows[0]),
    )


def count_waiting(batches: Sequence[str]) -> Query[int]:
    """Open incidents that people were told of and nobody has answered."""
    return Query(
        f"SELECT count(*) AS waiting FROM metric_alerts a WHERE a.batch = ANY(%(batches)s) AND {_WAITING}",
        {"batches": TextArray(list(batches))},
        lambda rows: int(rows[0]["waiting"]),
    )


def load_told_lines(batches: Sequence[str], limit: int = 50) -> Query[list[ToldLine]]:
    """The newest lines that people were told, those told together as one."""
    return Query(
        "SELECT n.notice_id, n.alert_id, a.batch, a.metric, n.kind, n.severity, n.sentence, n.at, "
        "1 + (SELECT count(*) FROM metric_notices m WHERE m.told_with = n.alert_id AND m.kind = n.kind "
        "AND m.at = n.at) AS count FROM metric_notices n JOIN metric_alerts a USING (alert_id) "
        "WHERE a.batch = ANY(%(batches)s) AND n.told_with IS NULL ORDER BY n.notice_id DESC LIMIT %(limit)s",
        {"batches": TextArray(list(batches)), "limit": limit},
        lambda rows: [ToldLine(**row) for row in rows],
    )
