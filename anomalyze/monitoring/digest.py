"""The digest: what was strange in a day, batch by batch, as text for people.

It reads what is stored and changes nothing else; written twice up to one moment, it is told once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from anomalyze.log import get
from anomalyze.metrics.incident import OPEN
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.sentence import name_some
from anomalyze.storage import metrics_digest as store
from anomalyze.storage.metrics_digest import (
    BatchIncidents,
    BatchRuns,
    SilentMetrics,
    StoredDigest,
    StrongIncident,
)
from anomalyze.storage.query import fetch

__all__ = ["DAY", "BatchDigest", "Digest", "build_digest", "write_digest", "write_digests"]

DAY = timedelta(days=1)
# Sentences a batch, and names of metrics without data.
STRONGEST, NAMES = 3, 3
# Batches that are told of one by one; the rest is counted.
BATCHES_TOLD = 50
REASON_LENGTH = 300
SEVERITIES = ("none", "low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True)
class BatchDigest:
    """One batch of a digest; None and empty where nothing was."""

    batch: str
    priority: int
    incidents: BatchIncidents | None
    strongest: tuple[StrongIncident, ...]
    runs: BatchRuns | None
    silent: SilentMetrics | None

    @property
    def is_quiet(self) -> bool:
        """Nothing is to be told of it."""
        return self.incidents is None and self.runs is None and self.silent is None


@dataclass(frozen=True, slots=True)
class Digest:
    """What an account's batches did from ``since`` to ``until``, the most important first."""

    account_id: str
    since: datetime
    until: datetime
    batches: tuple[BatchDigest, ...]

    @property
    def found(self) -> tuple[int, ...]:
        """Incidents found in the period by severity 1 to 4."""
        every = [one.incidents.found for one in self.batches if one.incidents]
        return tuple(sum(level) for level in zip(*every, strict=True)) if every else (0, 0, 0, 0)

    @property
    def still_open(self) -> int:
        """Incidents that go on."""
        return sum(one.incidents.still_open for one in self.batches if one.incidents)

    @property
    def resolved(self) -> int:
        """Incidents that ended in the period."""
        return sum(one.incidents.resolved for one in self.batches if one.incidents)

    @property
    def text(self) -> str:
        """For people; a line a fact."""
        told = [one for one in self.batches if not one.is_quiet]
        quiet = [one.batch for one in self.batches if one.is_quiet]
        lines = [
            f"{self.account_id}, {_moment(self.since)} to {_moment(self.until)} UTC: "
            f"{_counted(sum(self.found), 'incident')}{_by_severity(self.found)}, {self.still_open} open, "
            f"{self.resolved} resolved; {_counted(len(self.batches), 'batch', 'batches')}."
        ]
        for one in told[:BATCHES_TOLD]:
            lines += _lines(one)
        if len(told) > BATCHES_TOLD:
            lines.append(f"And {_counted(len(told) - BATCHES_TOLD, 'batch', 'batches')} more.")
        if quiet:
            lines.append(f"Nothing of {name_some(quiet, len(quiet))}.")
        return "\n".join(lines)


def build_digest(
    connection: psycopg.Connection[Any],
    account_id: str,
    batches: Mapping[str, BatchEntry],
    now: datetime,
    back: timedelta = DAY,
) -> Digest:
    """The digest of an account's batches for the time ``back`` from ``now``; nothing is stored.

    Parameters
    ----------
    batches
        The account's, by name.
    now
        Aware.
    """
    since, names = now - back, list(batches)
    incidents = fetch(connection, store.load_incidents(names, since, now))
    strongest: dict[str, list[StrongIncident]] = {}
    for one in fetch(connection, store.load_strongest(names, since, now, STRONGEST)):
        strongest.setdefault(one.batch, []).append(one)
    runs = fetch(connection, store.load_failed_runs(names, since, now))
    silent = fetch(connection, store.load_silent(names, since, now, NAMES))
    made = [
        BatchDigest(
            name,
            entry.batch.priority,
            incidents.get(name),
            tuple(strongest.get(name, ())),
            runs.get(name),
            silent.get(name),
        )
        for name, entry in batches.items()
    ]
    return Digest(account_id, since, now, tuple(sorted(made, key=_order)))


def write_digest(
    connection: psycopg.Connection[Any],
    account_id: str,
    batches: Mapping[str, BatchEntry],
    now: datetime,
    back: timedelta = DAY,
) -> Digest:
    """Build an account's digest, store it and tell of it in the log; up to one moment it is told once."""
    digest = build_digest(connection, account_id, batches, now, back)
    found, text = sum(digest.found), digest.text
    kept = StoredDigest(account_id, digest.since, digest.until, found, digest.still_open, text)
    if store.store_digest(connection, kept):
        get().info(
            "metrics_digest", account=account_id, incidents=found, open=digest.still_open,
            resolved=digest.resolved, said=text,
        )  # fmt: skip
    return digest


def write_digests(
    connection: psycopg.Connection[Any],
    batches: Mapping[str, BatchEntry],
    now: datetime,
    back: timedelta = DAY,
) -> list[Digest]:
    """Write the digest of every account that has a batch which is on.

    Parameters
    ----------
    connection
        In autocommit mode.
    batches
        Of all accounts, by name: `load_batches(config_dir).batches`.
    now
        Aware; the time of the schedule, so that a repeat tells nothing twice.
    """
    owned: dict[str, dict[str, BatchEntry]] = {}
    for name, entry in batches.items():
        if entry.batch.enabled:
            owned.setdefault(entry.batch.account, {})[name] = entry
    return [write_digest(connection, account, own, now, back) for account, own in sorted(owned.items())]


def _order(one: BatchDigest) -> tuple[bool, int, tuple[int, ...], str]:
    worst = tuple(-count for count in reversed(one.incidents.found)) if one.incidents else (0,)
    return one.is_quiet, one.priority, worst, one.batch


def _lines(one: BatchDigest) -> list[str]:
    said = []
    if one.incidents is not None:
        counts = one.incidents
        found = sum(counts.found)
        muted = f", {counts.muted} muted" if counts.muted else ""
        said.append(
            f"{_counted(found, 'incident')}{_by_severity(counts.found)}{muted}, {counts.still_open} open, "
            f"{counts.resolved} resolved"
        )
    if one.silent is not None:
        said.append(
            f"no data of {name_some(one.silent.names, one.silent.silent)} ({one.silent.silent} of "
            f"{_counted(one.silent.metrics, 'metric')})"
        )
    if one.runs is not None:
        reason = " ".join(one.runs.reason.split())[:REASON_LENGTH]
        said.append(f"{one.runs.failed} of {_counted(one.runs.runs, 'run')} failed, the last: {reason}")
    lines = [f"{one.batch} (priority {one.priority}): {'; '.join(said)}."]
    for strong in one.strongest:
        state = "open" if strong.state == OPEN else "over"
        muted = f", muted: {strong.muted}" if strong.muted else ""
        lines.append(f"  {SEVERITIES[strong.severity]}, {state}{muted}: {strong.sentence}")
    return lines


def _by_severity(found: Sequence[int]) -> str:
    said = [
        f"{count} {SEVERITIES[level]}"
        for level, count in zip((4, 3, 2, 1), reversed(found), strict=True)
        if count
    ]
    return f" ({', '.join(said)})" if said else ""


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
