"""Scores a batch: turn after turn, until nothing waits. Runs exclude each other; any of them may be killed anywhere."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from anomalyze.errors import AnomalyzeError
from anomalyze.log import get
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.warm import warm
from anomalyze.monitoring.alerting import remind, tell_late
from anomalyze.monitoring.fits import FitShelf, fit_names
from anomalyze.monitoring.named import learn_ahead
from anomalyze.monitoring.related import store_related
from anomalyze.monitoring.shelf import bank_folder, begin_note, finish_note, open_bank
from anomalyze.monitoring.turn import DETECTOR, VERSION, Turn, find_changed, take_turn
from anomalyze.storage.metrics_runs import begin_run, finish_run
from anomalyze.storage.metrics_scores import BatchState, SeriesState, claim_batch, load_batch, load_series
from anomalyze.storage.metrics_values import Failure

__all__ = ["Scored", "retrain_batch", "score_batch", "tell_batch"]

# Of metrics that a line in the log is about.
NAMES_LOGGED = 20
# In a batch's folder.
FITS_FOLDER = "fits"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a run did.

    Attributes
    ----------
    is_busy
        Another run was scoring this batch: nothing was done.
    pending
        Values that were new or others.
    scored, rebuilt
        Scores stored or changed; series taken again from their first value.
    alerts
        Incidents that began.
    scored_by_name
        Scores stored or changed by detectors that metrics name.
    failures
        Metrics that one of those could not judge; their neighbours went on.
    """

    is_busy: bool = False
    pending: int = 0
    scored: int = 0
    rebuilt: int = 0
    alerts: int = 0
    scored_by_name: int = 0
    failures: tuple[Failure, ...] = ()


def score_batch(
    connection: psycopg.Connection[Any],
    batch: str,
    rules: BatchRules,
    folder: Path,
    now: datetime | None = None,
) -> Scored:
    """Score what was stored of a batch since the last run, and bring its alerts to it.

    A run that finds nothing new changes no score. Each turn is stored whole or not at all.

    Parameters
    ----------
    connection
        In autocommit mode; the batch is claimed by it.
    folder
        Of all banks on this machine.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now, or another process has the bank open.
    """
    return _score(connection, batch, rules, folder, now, whole=False)


def retrain_batch(
    connection: psycopg.Connection[Any],
    batch: str,
    rules: BatchRules,
    folder: Path,
    now: datetime | None = None,
) -> Scored:
    """Let a batch's detectors forget, and learn anew from all that is stored, by the settings as they are now.

    Afterwards it holds what a first run over the same values would have left; where nothing was set otherwise,
    nothing changes. What is not scored yet is scored first. Detectors by name learn what the next values are to be judged
    by. Parameters as `score_batch`.
    """
    return _score(connection, batch, rules, folder, now, whole=True)


def _score(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, folder: Path, now: datetime | None, *, whole: bool
) -> Scored:  # fmt: skip
    now = now or datetime.now(UTC)
    with claim_batch(connection, batch) as is_ours:
        if not is_ours:
            return Scored(is_busy=True)
        state = load_batch(connection, batch)
        if state is None:
            return Scored()
        series = load_series(connection, batch, DETECTOR, VERSION)
        changed = find_changed(series, rules.marks(series.names))
        is_due = whole or changed.any() or state.ingest > state.scored_ingest
        run_id = begin_run(connection, batch, "train" if whole else "score") if is_due else None
        if is_due:
            # Where nothing was compiled yet, that takes longer than PostgreSQL lets a transaction wait.
            warm()
        if changed.any():
            _say_changed(batch, rules, [series.names[place] for place in np.flatnonzero(changed)])
        try:
            done = _take_turns(connection, batch, rules, folder, state, series, now, whole=whole)
            if whole:
                series = load_series(connection, batch, DETECTOR, VERSION)
                learn_ahead(connection, batch, rules, series, _shelf(bank_folder(folder, batch), rules))
        except AnomalyzeError as error:
            if run_id is not None and not connection.broken:
                finish_run(connection, run_id, error=str(error))
            raise
        late = _tell(connection, batch, rules, now)
        done = replace(done, alerts=done.alerts + late)
        if run_id is not None:
            finish_run(
                connection, run_id, rows_read=done.pending, scored=done.scored, rebuilt=done.rebuilt,
                alerts=done.alerts, failures=done.failures,
            )  # fmt: skip
    return done


def tell_batch(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, now: datetime | None = None
) -> Scored:
    """Of `score_batch` the end alone: data that are late now, and incidents that it is time to be reminded of."""
    with claim_batch(connection, batch) as is_ours:
        if not is_ours:
            return Scored(is_busy=True)
        if load_batch(connection, batch) is None:
            return Scored()
        return Scored(alerts=_tell(connection, batch, rules, now or datetime.now(UTC)))


def _tell(connection: psycopg.Connection[Any], batch: str, rules: BatchRules, now: datetime) -> int:
    series = load_series(connection, batch, DETECTOR, VERSION)
    with connection.transaction():
        late = tell_late(connection, batch, rules, series, now)
        remind(connection, batch, rules, now)
    return late


def _say_changed(batch: str, rules: BatchRules, names: Sequence[str]) -> None:
    get().info(
        "metric_settings_changed", batch=batch, count=len(names), metrics=list(names[:NAMES_LOGGED]),
        relations=[name for name in names if name in rules.relations][:NAMES_LOGGED],
        said="what is stored of these metrics is scored again by their settings as they are now",
    )  # fmt: skip


def _shelf(own: Path, rules: BatchRules) -> FitShelf:
    return FitShelf(own / FITS_FOLDER, fit_names(rules))


def _take_turns(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, folder: Path, state: BatchState,
    series: SeriesState, now: datetime, *, whole: bool,
) -> Scored:  # fmt: skip
    """Turn after turn until nothing waits; ``whole``: then all series once more."""
    done, failures = Turn(), dict[str, Failure]()
    own = bank_folder(folder, batch)
    while True:
        places = np.flatnonzero(find_changed(series, rules.marks(series.names))).tolist()
        # What these are made of may be another.
        related = {series.names[place] for place in places} & rules.relations.keys()
        if rules.relations and (related or state.ingest > state.scored_ingest):
            state = _relate(connection, batch, rules, series, related, state, now)
            series = load_series(connection, batch, DETECTOR, VERSION)
        is_due = bool(places) or state.ingest > state.scored_ingest
        if not is_due and not whole:
            break
        with open_bank(own, series.names, rules.period_s, state.turn) as bank:
            begin_note(own, state.turn + 1)
            shelf = _shelf(own, rules)
            turn = take_turn(connection, batch, rules, bank, state, series, now, shelf, whole=not is_due)
            finish_note(own, state.turn + 1)
        whole &= is_due
        done = Turn(
            done.pending + turn.pending, done.scored + turn.scored, done.rebuilt + turn.rebuilt,
            done.alerts + turn.alerts, done.scored_by_name + turn.scored_by_name,
        )  # fmt: skip
        failures |= {one.metric: one for one in turn.failures}
        state, series = _load(connection, batch), load_series(connection, batch, DETECTOR, VERSION)
    return Scored(
        False,
        done.pending,
        done.scored,
        done.rebuilt,
        done.alerts,
        done.scored_by_name,
        tuple(failures.values()),
    )


def _relate(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, changed: Set[str],
    state: BatchState, now: datetime,
) -> BatchState:  # fmt: skip
    """Bring relations to what waits to be scored; where the batch stands then.

    The values of one that changed are taken with the turn that settles its alerts, all of them: so relations are asked
    again until nothing is new.
    """
    known = {name for name, points in zip(series.names, series.points, strict=True) if points} - changed
    while store_related(connection, batch, rules.relations, known, state, now) and changed:
        state = _load(connection, batch)
    return state


def _load(connection: psycopg.Connection[Any], batch: str) -> BatchState:
    found = load_batch(connection, batch)
    assert found is not None
    return found
