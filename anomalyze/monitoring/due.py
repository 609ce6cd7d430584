"""Which batches have to run now: by their schedules, or because their file is new or another one.

Nothing is rebuilt when a file changes: whoever asks holds a `Watch`, and what it asked for before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from cronsim import CronSim

from anomalyze.config import Problem
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.library import BatchEntry, Library
from anomalyze.metrics.window import Window

__all__ = [
    "Asked",
    "Missing",
    "Watch",
    "build_entry",
    "describe_entry",
    "load_missing",
    "longest_gap",
    "span_to_read",
]

# A Friday: schedules of working days show their longest gap at once. So many times of a schedule are looked at, in so
# many days at least.
_FRIDAY = datetime(2024, 1, 5, tzinfo=UTC)
_TIMES_MAX, _TIMES_MIN, _DAYS_MIN = 3_000, 64, timedelta(days=8)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a batch was last asked to run for: the time of its schedule (s since 1970) and what its file said."""

    due_s: int
    digest: str


class Watch:
    """A folder of batches, and which of them are due.

    Parameters
    ----------
    config_dir
        Holds ``metrics/``.
    """

    def __init__(self, config_dir: Path) -> None:
        self._library = Library(config_dir)
        self._digests: dict[str, str] = {}

    def refresh(self) -> tuple[Problem, ...]:
        """Read again what changed; the mistakes, when anything did."""
        if not self._library.refresh():
            return ()
        self._digests = {
            name: hashlib.sha256(describe_entry(entry).encode()).hexdigest()[:16]
            for name, entry in self._library.batches.items()
            if entry.batch.enabled
        }
        return self._library.problems

    @property
    def stale(self) -> Mapping[str, BatchEntry]:
        """Batches that run as they were, since their files have mistakes now."""
        return {name: self._library.batches[name] for name in self._library.stale}

    @property
    def names(self) -> Collection[str]:
        """Batches that are to run at all."""
        return self._digests.keys()

    def find_due(self, asked: Mapping[str, Asked], now: datetime) -> dict[str, Asked]:
        """What is to be asked for now, the most important and then the longest due first.

        A batch that was never asked for, or whose file changed, is due at once. However many times of its schedule
        went by, it is due once.
        """
        found: list[tuple[int, int, str]] = []
        for name, digest in self._digests.items():
            batch = self._library.batches[name].batch
            due_s = last_due_s(batch, now)
            before = asked.get(name)
            if before is None or before.digest != digest or due_s > before.due_s:
                found.append((batch.priority, due_s, name))
        return {name: Asked(due_s, self._digests[name]) for _, due_s, name in sorted(found)}


def last_due_s(batch: Batch, now: datetime) -> int:
    """The newest time of a batch's schedule that is not after ``now``, in seconds since 1970; 0 when there is none."""
    # What lies before a moment is asked for, and this very second counts.
    following = now.astimezone(ZoneInfo(batch.timezone)).replace(microsecond=0) + timedelta(seconds=1)
    try:
        return int(next(CronSim(batch.schedule, following, reverse=True)).timestamp())
    except StopIteration:
        return 0


def longest_gap(batch: Batch) -> timedelta:
    """The longest time from one run of a batch's schedule to the next, as far as a week or 64 runs show it."""
    return _longest_gap(batch.schedule, batch.timezone)


@lru_cache(maxsize=4096)
def _longest_gap(schedule: str, timezone: str) -> timedelta:
    first = before = _FRIDAY.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)
    gap = timedelta(0)
    times = CronSim(schedule, first.astimezone(ZoneInfo(timezone)))
    for count, at in enumerate(islice(times, _TIMES_MAX)):
        moment = at.astimezone(UTC)
        # What lies before the first time says nothing.
        gap = max(gap, moment - before) if count else gap
        before = moment
        if count >= _TIMES_MIN and moment - first >= _DAYS_MIN:
            break
    return gap or timedelta(days=366)


def describe_entry(entry: BatchEntry) -> str:
    """A batch as text, to be run elsewhere by `build_entry`; addresses in it are names of variables."""
    return json.dumps(
        {
            "name": entry.name,
            "batch": entry.batch.model_dump(mode="json", exclude_unset=True),
            "path": str(entry.path),
            "config_dir": str(entry.config_dir),
            "statement": entry.statement,
        }
    )


def build_entry(text: str) -> BatchEntry:
    """The batch that `describe_entry` described."""
    told: dict[str, Any] = json.loads(text)
    return BatchEntry(
        told["name"],
        Batch.model_validate(told["batch"]),
        Path(told["path"]),
        Path(told["config_dir"]),
        told["statement"],
    )


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing of a batch at a moment.

    Attributes
    ----------
    window
        What a run reads, whoever asked for it: up to the newest complete step, as far back as `span_to_read`.
    last_read
        When the newest run began that read the batch whole; None when none did, or nothing came of it yet.
    """

    window: Window
    last_read: datetime | None


def span_to_read(batch: Batch, last_read: datetime | None, now: datetime) -> timedelta:
    """How far back a run reads: its window, and as much more as was missed; the history when it was never read whole."""
    if last_read is None:
        return batch.history
    return max(batch.window, min(batch.history, batch.window + (now - last_read)))


def load_missing(connection: psycopg.Connection[Any], entry: BatchEntry, now: datetime) -> Missing:
    """What is missing of a batch now; asked once a run."""
    row = connection.execute(
        "SELECT started_at FROM metric_runs WHERE batch = %s AND kind = 'ingest' AND finished_at IS NOT NULL "
        "AND error IS NULL AND EXISTS (SELECT FROM metric_series WHERE batch = %s) ORDER BY run_id DESC LIMIT 1",
        [entry.name, entry.name],
    ).fetchone()
    last_read = None if row is None else row[0].astimezone(UTC)
    return Missing(entry.batch.window_at(now, span_to_read(entry.batch, last_read, now)), last_read)
