"""The topics of a log: what each one carries and how long it keeps it."""

from __future__ import annotations

__all__ = [
    "ANOMALIES",
    "DEAD_LETTERS",
    "ENTITY_EVENTS",
    "LABELS",
    "RECORD_BYTES_MAX",
    "RETENTION_MS",
    "SCORED",
    "TOPICS",
    "TRANSACTIONS",
]

TRANSACTIONS = "transactions"
SCORED = "scored"
ANOMALIES = "anomalies"
ENTITY_EVENTS = "entity-events"
LABELS = "labels"
DEAD_LETTERS = "dead-letters"

TOPICS = (TRANSACTIONS, SCORED, ANOMALIES, ENTITY_EVENTS, LABELS, DEAD_LETTERS)

_DAY_MS = 86_400_000

# How long a record can be read again. A week covers a long weekend in which nobody looked at a stopped sink;
# labels and dead letters are few and wanted for longer.
RETENTION_MS = {
    TRANSACTIONS: 7 * _DAY_MS,
    SCORED: 7 * _DAY_MS,
    ANOMALIES: 7 * _DAY_MS,
    ENTITY_EVENTS: 2 * _DAY_MS,
    LABELS: 90 * _DAY_MS,
    DEAD_LETTERS: 30 * _DAY_MS,
}

# Key and value of one record. An event has at most 64 KiB; what the detector adds stays far below the rest.
RECORD_BYTES_MAX = 1_000_000
