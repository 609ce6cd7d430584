"""What jobs and assets do with one batch, and what they show of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from anomalyze.errors import ConfigError
from anomalyze.settings import Settings
from anomalyze_dagster.resources import PostgresResource

if TYPE_CHECKING:
    import psycopg

    from anomalyze.metrics.library import BatchEntry, LoadResult
    from anomalyze.metrics.window import Window
    from anomalyze.monitoring.run import Ran
    from anomalyze.storage.metrics_values import Failure

__all__ = [
    "FIRST_DAY",
    "NAMED_MAX",
    "WHOLE",
    "Done",
    "find_entry",
    "load_entry",
    "show_check",
    "work_off",
    "work_off_days",
]

NAMED_MAX = 20
# The check of each batch: every metric of its newest run was read and stored.
WHOLE = "no_metric_failed"
# Days before it cannot be chosen; a batch keeps two years unless it says otherwise.
FIRST_DAY = "2020-01-01"
# Days that a run marks as read: a first one reads years.
DAYS_MAX = 1_000
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Done:
    """A run of a batch: what is shown of it, the metrics that failed, and the days of its zone that it read."""

    metadata: dict[str, Any]
    failures: "tuple[Failure, ...]"
    days: tuple[str, ...]

    @property
    def reason(self) -> str:
        """What failed of which metric, or nothing."""
        return "; ".join(f"metric {one.metric}: {one.reason}" for one in self.failures[:NAMED_MAX])


def load_entry(name: str) -> "BatchEntry":
    """A batch as its file is now."""
    from anomalyze.metrics.library import load_batches

    return find_entry(name, None, load_batches(Settings().config_dir))


def find_entry(name: str, kept: str | None, loaded: "LoadResult") -> "BatchEntry":
    """A batch of those that are loaded, else as it was kept. Raises ``ConfigError`` with the files' mistakes."""
    from anomalyze.monitoring.due import build_entry

    if name in loaded.batches:
        return loaded.batches[name]
    if kept is not None:
        return build_entry(kept)
    mistakes = "; ".join(str(problem) for problem in loaded.problems[:NAMED_MAX])
    raise ConfigError(f"expected a batch with a file that has no mistake, got {name}. {mistakes}".strip())


def work_off(entry: "BatchEntry", postgres: PostgresResource, say: Callable[[str], None]) -> Done:
    """Run a batch as of now: its window, and what was missed."""
    from anomalyze.monitoring.due import load_missing
    from anomalyze.monitoring.run import run_batch

    now = datetime.now(UTC)
    with postgres.connect() as connection:
        missing = load_missing(connection, entry, now)
        window, last = missing.window, missing.last_read
        # Metadata lie in Dagster's database: a picture when something began, and otherwise one an hour.
        is_due = last is None or (last.date(), last.hour) != (now.date(), now.hour)
        days = tuple(_days(entry, window)) if window.end - window.start > entry.batch.window else ()
        ran = run_batch(connection, entry, _banks(), postgres.dsn, now, _progress(entry, say), missing)
        done = _done(connection, entry, ran, window, is_due)
    return Done(done.metadata, done.failures, (days or tuple(_days(entry, window))[-1:])[-DAYS_MAX:])


def work_off_days(
    entry: "BatchEntry",
    postgres: PostgresResource,
    since: datetime,
    until: datetime,
    say: Callable[[str], None],
) -> Done:
    """Read some days of a batch again. What is stored already stays as it is; what differs is a correction."""
    from anomalyze.monitoring.run import backfill_batch, window_between

    now = datetime.now(UTC)
    window = window_between(entry.batch, since.astimezone(UTC), until.astimezone(UTC), now)
    if window is None:
        return Done({"rows": 0, "notes": "No step of these days is complete yet."}, (), ())
    with postgres.connect() as connection:
        ran = backfill_batch(connection, entry, _banks(), window, postgres.dsn, now, _progress(entry, say))
        return _done(connection, entry, ran, window, True)


def show_check(reason: str) -> Mapping[str, Any]:
    """The fields of the check that no metric failed, from what failed of which metric."""
    return {
        "check_name": WHOLE,
        "passed": not reason,
        "description": reason or "Every metric was read and stored.",
    }


def _banks() -> Path:
    from anomalyze.monitoring.run import BANKS_FOLDER

    return Settings().data_dir / BANKS_FOLDER


def _progress(entry: "BatchEntry", say: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, of: say(f"{entry.name}: {done} of {of} parts read") if of > 1 else None


def _done(
    connection: "psycopg.Connection[Any]", entry: "BatchEntry", ran: "Ran", window: "Window", is_drawn: bool
) -> Done:
    metadata = _show(ran, window)
    if ran.scored.alerts or is_drawn:
        metadata |= _picture(connection, entry)
    return Done(metadata, (*ran.failures, *ran.scored.failures), ())


def _show(ran: "Ran", window: "Window") -> dict[str, Any]:
    failures = (*ran.failures, *ran.scored.failures)
    metadata: dict[str, Any] = {
        "from": window.start.isoformat(),
        "to": window.end.isoformat(),
        "rows": ran.rows,
        "new": ran.new,
        "corrected": ran.corrected,
        "scored": ran.scored.scored,
        "incidents": ran.scored.alerts,
        "failed_metrics": ", ".join(dict.fromkeys(one.metric for one in failures[:NAMED_MAX])) or "none",
    }
    return metadata | ({"notes": " ".join(ran.notes)} if ran.notes else {})


def _days(entry: "BatchEntry", window: "Window") -> Iterator[str]:
    """The days of the batch's zone that a window touches, from the first that can be chosen on."""
    zone = ZoneInfo(entry.batch.timezone)
    day = max(window.start.astimezone(zone).date(), date.fromisoformat(FIRST_DAY))
    last = (window.end - timedelta(microseconds=1)).astimezone(zone).date()
    while day <= last:
        yield day.isoformat()
        day += DAY


def _picture(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> dict[str, Any]:
    from anomalyze.monitoring.turn import DETECTOR, VERSION
    from anomalyze.storage.metrics_strangest import load_strangest
    from anomalyze_dagster.metrics.show import POINTS, show_series

    found = load_strangest(connection, entry.name, DETECTOR, VERSION, POINTS)
    if found is None or not found.ts:
        return {}
    return {"strangest": found.metric, "plot": show_series(found, entry.batch.settings(found.metric).unit)}
