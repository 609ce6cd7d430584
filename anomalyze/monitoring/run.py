"""One run of a batch: its source is read, what is new is stored, what was stored is scored, who has to know is told.

A run may be killed anywhere and come again: values and scores are stored once, an alert is one. The first run of a batch
reads its whole history, in pieces, so that no answer is larger than it has to be.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import psycopg

from anomalyze.errors import AnomalyzeError
from anomalyze.log import get
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.duration import format_duration
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.mark import mark_of_reading
from anomalyze.metrics.prepare import prepare
from anomalyze.metrics.rules import BatchRules, rules_of
from anomalyze.metrics.sources import read
from anomalyze.metrics.window import Window, floor_to_step, go_back
from anomalyze.monitoring.due import Missing, load_missing
from anomalyze.monitoring.score import Scored, retrain_batch, score_batch, tell_batch
from anomalyze.monitoring.turn import DETECTOR, VERSION
from anomalyze.storage.metrics_runs import begin_run, finish_run, note_reading
from anomalyze.storage.metrics_scores import load_series
from anomalyze.storage.metrics_values import FAILURES_MAX, Failure, store_values

__all__ = [
    "BANKS_FOLDER",
    "PIECE",
    "Ingested",
    "Ran",
    "backfill_batch",
    "ingest_batch",
    "pieces_of",
    "retrain_stored",
    "run_batch",
    "score_stored",
    "tell_stored",
    "window_between",
]

# In the data folder: what detectors remember, derived from what is stored.
BANKS_FOLDER = "metrics"
# What one read of a backfill spans, at least: a week of 300 hourly metrics is 50,000 rows.
PIECE = dt.timedelta(days=7)

_OF_NOW = "values without a timestamp tell of now: nothing of the past is read"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was read and stored; as of `Ran`."""

    rows: int
    new: int
    corrected: int
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run did.

    Attributes
    ----------
    rows, new, corrected
        Rows read; values stored that were not known, and known ones with another value.
    notes
        What was put right of what the source gave.
    failures
        Metrics of which rows were left out, with the reason; their neighbours went on.
    scored
        What scoring did.
    """

    rows: int
    new: int
    corrected: int
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]
    scored: Scored


def run_batch(
    connection: psycopg.Connection[Any],
    entry: BatchEntry,
    folder: Path,
    own_dsn: str | None = None,
    now: dt.datetime | None = None,
    progress: Progress | None = None,
    missing: Missing | None = None,
) -> Ran:
    """A run at ``now``: the batch's window and what was missed, or its history when it was never read whole.

    Parameters
    ----------
    connection
        To our own database, in autocommit mode.
    folder
        Of all banks on this machine.
    own_dsn
        Address of our own database, for the source ``anomalyze``.
    progress
        As in ``backfill_batch``.
    missing
        What `load_missing` said for ``now``; None: it is asked.

    Raises
    ------
    ConfigError, TransientError
        As ``sources.read``; the run is noted with the reason, and what was read before is stored and scored.
    """
    now = now or dt.datetime.now(dt.UTC)
    missing = missing or load_missing(connection, entry, now)
    return _run(connection, entry, folder, missing.window, missing, own_dsn, now, progress)


def backfill_batch(
    connection: psycopg.Connection[Any],
    entry: BatchEntry,
    folder: Path,
    window: Window,
    own_dsn: str | None = None,
    now: dt.datetime | None = None,
    progress: Progress | None = None,
) -> Ran:
    """Read a window in pieces, store them, then score.

    Parameters
    ----------
    progress
        Told after each piece: pieces done, and of how many.

    Raises
    ------
    ConfigError, TransientError
        As ``run_batch``.
    """
    now = now or dt.datetime.now(dt.UTC)
    missing = load_missing(connection, entry, now)
    return _run(connection, entry, folder, window, missing, own_dsn, now, progress)


def _run(
    connection: psycopg.Connection[Any], entry: BatchEntry, folder: Path, window: Window, missing: Missing,
    own_dsn: str | None, now: dt.datetime, progress: Progress | None,
) -> Ran:  # fmt: skip
    read_, failed = _ingest(connection, entry, window, missing, own_dsn, now, progress)
    scored = score_stored(connection, entry, folder, now)
    if failed is not None:
        get().warning("metrics_run_failed", batch=entry.name, reason=str(failed))
        raise failed
    return Ran(read_.rows, read_.new, read_.corrected, read_.notes, read_.failures, scored)


def ingest_batch(
    connection: psycopg.Connection[Any],
    entry: BatchEntry,
    own_dsn: str | None = None,
    now: dt.datetime | None = None,
) -> Ingested:
    """Read what is missing in pieces and store it; what is stored waits for `score_stored`. As `run_batch`."""
    now = now or dt.datetime.now(dt.UTC)
    missing = load_missing(connection, entry, now)
    read_, failed = _ingest(connection, entry, missing.window, missing, own_dsn, now, None)
    if failed is not None:
        raise failed
    return read_


def score_stored(
    connection: psycopg.Connection[Any], entry: BatchEntry, folder: Path, now: dt.datetime | None = None
) -> Scored:
    """Score what was stored of a batch and bring its alerts to it, without a look at its source."""
    return score_batch(connection, entry.name, _rules(connection, entry), folder, now)


def retrain_stored(
    connection: psycopg.Connection[Any], entry: BatchEntry, folder: Path, now: dt.datetime | None = None
) -> Scored:
    """Let a batch's detectors learn anew from all that is stored of it."""
    return retrain_batch(connection, entry.name, _rules(connection, entry), folder, now)


def tell_stored(
    connection: psycopg.Connection[Any], entry: BatchEntry, now: dt.datetime | None = None
) -> Scored:
    """Tell of a batch what the clock says: data that are late, incidents to be reminded of. Nothing is scored."""
    return tell_batch(connection, entry.name, _rules(connection, entry), now)


def _ingest(
    connection: psycopg.Connection[Any],
    entry: BatchEntry,
    window: Window,
    missing: Missing,
    own_dsn: str | None,
    now: dt.datetime,
    progress: Progress | None,
) -> tuple[Ingested, AnomalyzeError | None]:
    pieces = list(pieces_of(entry.batch, window))
    newest = entry.batch.window_at(now)
    run_id = begin_run(connection, entry.name, _kind(window, missing.window))
    rows = new = corrected = 0
    notes: dict[str, None] = {}
    failures: dict[str, Failure] = {}
    failed: AnomalyzeError | None = None
    is_of_now = False
    for count, piece in enumerate(pieces, 1):
        try:
            reading = read(entry, piece, own_dsn)
            is_of_now |= reading.is_of_now
            if reading.is_of_now and piece.end < newest.end:
                notes[_OF_NOW] = None
                continue
            prepared = prepare(reading.frame, entry.batch, piece, entry.path.parent)
            stored = store_values(connection, entry.name, prepared.frame, now)
        except AnomalyzeError as error:
            failed = error
            break
        rows, new, corrected = rows + stored.rows, new + stored.new, corrected + stored.corrected
        notes |= dict.fromkeys(reading.notes)
        named = {**reading.failures, **prepared.failures}
        failures |= {metric: Failure(metric, reason) for metric, reason in named.items()}
        failures |= {failure.metric: failure for failure in stored.failures}
        if progress is not None:
            progress(count, len(pieces))
    if failed is None:
        notes |= dict.fromkeys(_read_otherwise(connection, entry, window, now, is_of_now=is_of_now))
    told = tuple(failures.values())[:FAILURES_MAX]
    finish_run(
        connection, run_id, rows_read=rows, rows_new=new, rows_corrected=corrected, failures=told,
        error=None if failed is None else str(failed),
    )  # fmt: skip
    return Ingested(rows, new, corrected, tuple(notes), told), failed


def _read_otherwise(
    connection: psycopg.Connection[Any], entry: BatchEntry, window: Window, now: dt.datetime, *, is_of_now: bool
) -> Iterator[str]:  # fmt: skip
    """What there is to say of values that were read before the batch's statement was another one."""
    mark = mark_of_reading(entry.batch, entry.statement)
    found = note_reading(connection, entry.name, mark, window.start, window.end, is_of_now=is_of_now)
    if found is None:
        return
    before, batch = found.before.astimezone(dt.UTC), entry.batch
    is_history = batch.window_at(now, batch.history).start < before
    back = "" if is_history else f" --back {format_duration(batch.retention)}"
    said = (
        f"values before {before:%Y-%m-%d %H:%M} UTC were read in another way than the file says now: "
        f"anomalyze metrics backfill {entry.name}{back} reads them again"
    )
    if found.is_new:
        get().warning("metric_reading_changed", batch=entry.name, said=said)
    yield said


def window_between(batch: Batch, since: dt.datetime, until: dt.datetime, now: dt.datetime) -> Window | None:
    """What a backfill of some time reads: the whole steps that touch it, also those of values that are resampled, up to
    the newest complete one; None when there is none yet.
    """
    zone, step = ZoneInfo(batch.timezone), _widest_step(batch)
    start, end = floor_to_step(since, step, zone), floor_to_step(until, step, zone)
    if end < until:
        # The middle of the next one, whichever way the clocks are set.
        end = floor_to_step(go_back(end, -step, zone) + step / 2, step, zone)
    end = min(end, batch.window_at(now).end)
    return Window(start, end, batch.step) if start < end else None


def _widest_step(batch: Batch) -> dt.timedelta:
    spans = [batch.preprocessing.resample, *(own.preprocessing.resample for own in batch.metrics.values())]
    return max([batch.step, *(span for span in spans if span is not None)])


def _kind(window: Window, missing: Window) -> Literal["ingest", "backfill"]:
    """Whether a read takes in all that is missing: only then the next one may begin where this one ends."""
    return "ingest" if window.start <= missing.start and window.end >= missing.end else "backfill"


def pieces_of(batch: Batch, window: Window) -> Iterator[Window]:
    """A window as windows one after another, each of whole steps, also of those that values are resampled to."""
    zone = ZoneInfo(batch.timezone)
    step = _widest_step(batch)
    size = max(PIECE, batch.window, 2 * step)
    start = window.start
    while start < window.end:
        # Midnight and a day further on, so that an hour that daylight saving takes makes no piece an empty one.
        end = floor_to_step(go_back(start, -size, zone) + step / 2, step, zone)
        end = window.end if end + step >= window.end or end <= start else end
        yield Window(start, end, window.step)
        start = end


def _rules(connection: psycopg.Connection[Any], entry: BatchEntry) -> BatchRules:
    return rules_of(entry.batch, load_series(connection, entry.name, DETECTOR, VERSION).names)
