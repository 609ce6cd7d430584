"""What a turn found is stored and told at once: each incident is a row, those of a batch that come together are one line.

Within the transaction that found it; what was said before is not said again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

from anomalyze.log import get
from anomalyze.metrics.incident import OVER, PENDING, Incident
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.sentence import add_also, describe_group, describe_resolved, describe_resolved_group
from anomalyze.storage import metrics_alerts as store
from anomalyze.storage.metrics_alerts import KeptIncident, StoredIncident
from anomalyze.storage.metrics_also import Span, load_also
from anomalyze.storage.metrics_notices import insert_notices, join_notices

__all__ = ["Kept", "Said", "finish", "say"]

# Lines of one turn in the log; all of them are in the table. Of a line that tells of many, so many names.
LOGGED_A_TURN = 20
NAMES_LOGGED = 20
# Of these nobody hears, also not of what else was strange.
UNSAID = ("history", "disabled")
# The order in which one turn tells.
NOTICES = ("opened", "grown", "reminder", "resolved")


@dataclass(frozen=True, slots=True)
class Kept:
    """An incident to be stored, what it was before, and whether people are told of it now for the first time."""

    rule: SeriesRules
    metric: str
    incident: Incident
    before: StoredIncident | None
    sentence: str
    muted: str | None
    tells: bool


@dataclass(frozen=True, slots=True)
class Said:
    """Something to tell of one alert.

    Attributes
    ----------
    number
        Of its kind: 1, the severity it has grown to, the number of the reminder.
    strength
        Which of those of one severity comes first.
    sentence, base
        What is told, and the same without what else of the batch is strange.
    """

    alert_id: int
    metric: str
    kind: Literal["opened", "grown", "reminder", "resolved"]
    number: int
    severity: int
    strength: float
    sentence: str
    base: str
    rule: SeriesRules


def finish(
    connection: psycopg.Connection[Any], batch: str, kept: Sequence[Kept], period_s: float, now: datetime
) -> int:
    """Store what a turn took up, and tell of it; how many incidents began."""
    numbers = store.store_incidents(
        connection, batch,
        [
            KeptIncident(
                one.metric, one.incident, one.sentence, one.muted, now if one.tells else None, one.rule.priority
            )
            for one in kept
        ],
    )  # fmt: skip
    stored = [(number, one) for number, one in zip(numbers, kept, strict=True) if number is not None]
    # A backfill finds thousands that nobody is told of; a page that shows one asks by itself.
    others = _add_others(
        connection, batch,
        [
            (number, Span(one.metric, one.incident.opened_ms, one.incident.last_ms), one.sentence)
            for number, one in stored
            if one.muted not in UNSAID and one.incident.state != PENDING and not _keeps_sentence(one)
        ],
        period_s,
    )  # fmt: skip
    say(
        connection,
        batch,
        [said for number, one in stored for said in _said(number, one, others.get(number, one.sentence))],
    )
    return sum(one.before is None and one.incident.state != PENDING for _, one in stored)


def say(connection: psycopg.Connection[Any], batch: str, said: Sequence[Said]) -> int:
    """Store notices and tell of them in the log, a batch's of one kind together; how many alerts were told of."""
    new = insert_notices(
        connection, [(one.alert_id, one.kind, one.number, one.severity, one.sentence) for one in said]
    )
    told = [one for one, is_new in zip(said, new, strict=True) if is_new]
    told.sort(key=lambda one: (NOTICES.index(one.kind), -one.severity, -one.strength, one.metric))
    lines: list[tuple[Said, str, list[Said]]] = []
    for kind in NOTICES:
        of_kind = [one for one in told if one.kind == kind]
        grouped = [one for one in of_kind if one.rule.grouped]
        if len(grouped) > 1:
            leader, members = grouped[0], grouped[1:]
            text = _together(connection, batch, kind, grouped)
            join_notices(
                connection, kind, (leader.alert_id, leader.number, text),
                [(one.alert_id, one.number) for one in members],
            )  # fmt: skip
            lines.append((leader, text, grouped))
            of_kind = [one for one in of_kind if not one.rule.grouped]
        lines += [(one, one.sentence, [one]) for one in of_kind]
    for one, text, together in lines[:LOGGED_A_TURN]:
        many = {"metrics": [member.metric for member in together[:NAMES_LOGGED]]} if len(together) > 1 else {}
        get().info(
            "metric_alert", kind=one.kind, batch=batch, metric=one.metric, severity=one.severity,
            priority=one.rule.priority, count=len(together), **many, said=text, alert=one.alert_id,
            image=f"/v1/alerts/{one.alert_id}/image",
        )  # fmt: skip
    if len(lines) > LOGGED_A_TURN:
        get().info("metric_alerts", batch=batch, said=len(lines), logged=LOGGED_A_TURN)
    return len(told)


def _add_others(
    connection: psycopg.Connection[Any], batch: str, told: Sequence[tuple[int, Span, str]], period_s: float
) -> dict[int, str]:
    """Say in sentences what else of the batch is strange in the same hours; those that changed, by alert.

    Parameters
    ----------
    told
        Alert, its metric and hours, and its sentence so far.
    """
    also = load_also(connection, batch, [span for _, span, _ in told], period_s)
    changed = {
        alert_id: add_also(sentence, found.names, found.count)
        for (alert_id, _, sentence), found in zip(told, also, strict=True)
        if found.count
    }
    store.set_sentences(connection, changed)
    return changed


def _together(connection: psycopg.Connection[Any], batch: str, kind: str, told: Sequence[Said]) -> str:
    names = list(dict.fromkeys(one.metric for one in told))
    if kind == "resolved":
        return describe_resolved_group(batch, len(told), names, store.count_told_open(connection, batch))
    return describe_group(batch, kind, len(told), names, told[0].base)


def _keeps_sentence(one: Kept) -> bool:
    """Whether its sentence is the one that was stored, with all that was added to it."""
    return one.before is not None and one.sentence == one.before.sentence


def _said(number: int, one: Kept, sentence: str) -> Iterator[Said]:
    """What is to be told of an incident that was stored."""
    incident, before = one.incident, one.before
    is_told = before is not None and before.is_told

    def told(kind: Literal["opened", "grown", "resolved"], count: int, text: str, base: str) -> Said:
        return Said(
            number, one.metric, kind, count, incident.severity, incident.peak_strength, text, base, one.rule
        )

    if one.tells:
        yield told("opened", 1, sentence, one.sentence)
    elif is_told and before is not None and incident.severity > before.incident.severity:
        yield told("grown", incident.severity, sentence, one.sentence)
    if incident.state == OVER and (is_told or one.tells):
        text = describe_resolved(one.metric, incident)
        yield told("resolved", 1, text, text)
