"""Scores a batch: turn after turn, until nothing waits. Runs exclude each other; any of them may be killed anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from anomalyze.errors import AnomalyzeError
from anomalyze.metrics.rules import BatchRules
from anomalyze.monitoring.alerting import remind, tell_late
from anomalyze.monitoring.related import store_related
from anomalyze.monitoring.shelf import bank_folder, begin_note, finish_note, open_bank
from anomalyze.monitoring.turn import DETECTOR, VERSION, Turn, take_all_again, take_turn
from anomalyze.storage.metrics_runs import begin_run, finish_run
from anomalyze.storage.metrics_scores import BatchState, claim_batch, load_batch, load_series
from anomalyze.storage.metrics_values import Failure

__all__ = ["Scored", "retrain_batch", "score_batch", "tell_batch"]


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
    now = now or datetime.now(UTC)
    with claim_batch(connection, batch) as is_ours:
        if not is_ours:
            return Scored(is_busy=True)
        state = load_batch(connection, batch)
        if state is None:
            return Scored()
        run_id = begin_run(connection, batch, "score") if state.ingest > state.scored_ingest else None
        try:
            done = _take_turns(connection, batch, rules, folder, state, now)
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


def retrain_batch(
    connection: psycopg.Connection[Any],
    batch: str,
    rules: BatchRules,
    folder: Path,
    now: datetime | None = None,
) -> Scored:
    """Let a batch's detectors forget, and learn anew from all that is stored, by the settings as they are now.

    Afterwards it holds what a first run over the same values would have left; where nothing was set otherwise,
    nothing changes. What is not scored yet is scored first. Parameters as `score_batch`.
    """
    before = score_batch(connection, batch, rules, folder, now)
    with claim_batch(connection, batch) as is_ours:
        if not is_ours or before.is_busy:
            return Scored(is_busy=True)
        state = load_batch(connection, batch)
        if state is None:
            return Scored()
        run_id, own = begin_run(connection, batch, "train"), bank_folder(folder, batch)
        series = load_series(connection, batch, DETECTOR, VERSION)
        try:
            with open_bank(own, series.names, rules.period_s, state.turn) as bank:
                begin_note(own, state.turn + 1)
                turn = take_all_again(connection, batch, rules, bank, state, series)
                finish_note(own, state.turn + 1)
        except AnomalyzeError as error:
            if not connection.broken:
                finish_run(connection, run_id, error=str(error))
            raise
        finish_run(connection, run_id, scored=turn.scored, rebuilt=turn.rebuilt)
    return Scored(scored=turn.scored, rebuilt=turn.rebuilt)


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


def _take_turns(
    connection: psycopg.Connection[Any],
    batch: str,
    rules: BatchRules,
    folder: Path,
    state: BatchState,
    now: datetime,
) -> Scored:
    done, failures = Turn(), dict[str, Failure]()
    own = bank_folder(folder, batch)
    while state.ingest > state.scored_ingest:
        if rules.relations:
            before = load_series(connection, batch, DETECTOR, VERSION)
            known = {name for name, points in zip(before.names, before.points, strict=True) if points}
            store_related(connection, batch, rules.relations, known, state, now)
        series = load_series(connection, batch, DETECTOR, VERSION)
        with open_bank(own, series.names, rules.period_s, state.turn) as bank:
            begin_note(own, state.turn + 1)
            turn = take_turn(connection, batch, rules, bank, state, series, now)
            finish_note(own, state.turn + 1)
        done = Turn(
            done.pending + turn.pending, done.scored + turn.scored, done.rebuilt + turn.rebuilt,
            done.alerts + turn.alerts, done.scored_by_name + turn.scored_by_name,
        )  # fmt: skip
        failures |= {one.metric: one for one in turn.failures}
        found = load_batch(connection, batch)
        assert found is not None
        state = found
    return Scored(
        False,
        done.pending,
        done.scored,
        done.rebuilt,
        done.alerts,
        done.scored_by_name,
        tuple(failures.values()),
    )
