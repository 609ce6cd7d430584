"""One turn of scoring: what changed since the last one, judged in the order of time, and stored in one transaction.

A series whose new points all come behind its newest is taken on from where its bank stands. One with a late or a
corrected value, or whose bank disagrees with what is stored, is taken again from its first stored value: whatever
happened before, scores are a function of the values. So is one whose settings are others now: what is stored is what they
say of all its values, and people are told of what goes on by them, not of what was over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.metrics.bank import Scores, SeriesBank
from anomalyze.metrics.columns import keep_rows
from anomalyze.metrics.judgement import Judgement, SeriesRules, flat_runs, judge
from anomalyze.metrics.preprocess import offsets_ms
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.transform import context_of, is_transformed, transform, transform_runs
from anomalyze.monitoring.alerting import Judged, tell
from anomalyze.monitoring.fits import FitShelf
from anomalyze.monitoring.named import judge_named
from anomalyze.monitoring.settle import Settled, build_settled
from anomalyze.storage import metrics_scores as store
from anomalyze.storage.metrics_scores import BatchState, Points, ScoreRows, SeriesState
from anomalyze.storage.metrics_values import Failure

__all__ = ["DETECTOR", "VERSION", "Turn", "find_changed", "take_turn"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DETECTOR = "novelty"
# Raised when the detector would say something else of the same values: all series are then taken again.
VERSION = 2
# Stored values that are taken again at once: 100 MB.
ROWS_AT_ONCE = 400_000
# What a real of PostgreSQL holds; less is nothing.
LARGEST, SMALLEST = 1e30, 1e-30


@dataclass(slots=True)
class Turn:
    """What a turn did: values that changed, scores stored, series taken again from their first value, alerts; scores
    of detectors by name, and the metrics that one of them could not judge.
    """

    pending: int = 0
    scored: int = 0
    rebuilt: int = 0
    alerts: int = 0
    scored_by_name: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(slots=True)
class _Work:
    """What is known while a turn goes on; arrays by the series' place in ``series``.

    Attributes
    ----------
    anew
        Series whose settings are others now.
    settled
        What of these brings their alerts to the settings.
    marks
        By series (columns), what its scores are of when the turn is over.
    """

    connection: psycopg.Connection[Any]
    batch: str
    rules: list[SeriesRules]
    rule: Ints
    period_s: float
    zone: str
    bank: SeriesBank
    series: SeriesState
    turn: Turn
    anew: Flags
    settled: Settled
    marks: Ints
    parts: list[Judged] = field(default_factory=list)
    ends: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)


def take_turn(
    connection: psycopg.Connection[Any],
    batch: str,
    rules: BatchRules,
    bank: SeriesBank,
    state: BatchState,
    series: SeriesState,
    now: datetime,
    shelf: FitShelf,
    *,
    whole: bool = False,
) -> Turn:
    """Score what changed, up to `store.ROWS_A_TURN` values of it, and all series whose settings changed.

    Parameters
    ----------
    bank
        Opened with the names of ``series``.
    now
        Incidents that ended long before it are kept, and nobody is told of them.
    shelf
        Where what detectors by name learn is kept.
    whole
        Every series is taken from its first value on, as if all settings had changed.
    """
    with connection.transaction():
        points, upto = store.load_pending(connection, batch, state)
        known, rule = rules.assign(series.names)
        marks = rules.marks(series.names)
        anew = find_changed(series, marks) | (whole & (series.points > 0))
        # While values wait for another turn, what was made of the rest is not all that the settings say.
        is_last = upto >= state.ingest
        work = _Work(
            connection, batch, known, rule, rules.period_s, rules.zone, bank, series, Turn(pending=len(points)), anew,
            build_settled(connection, batch, rules, series, anew),
            marks if is_last else np.where(anew, [series.judged_by, series.shaped_by], marks),
        )  # fmt: skip
        place = np.searchsorted(series.series_id, points.series_id)
        again = _taken_again(work, points, place)
        _advance(work, keep_rows(points, ~again[place]), place[~again[place]])
        for chunk in _chunks(np.flatnonzero(again), series.points):
            _take_again(work, chunk, points, place, upto)
        reshaped = anew & (whole | (series.shaped_by != marks[1]))
        named = judge_named(
            connection, batch, rules, series, points, again, anew, reshaped, upto, (DETECTOR, VERSION), shelf
        )
        work.parts += named.parts
        work.turn.scored_by_name, work.turn.failures = named.scored, named.failures
        _forget_unasked(work, rules)
        gone = np.isnan(points.value) & (points.revision > 0)
        store.delete_scores(connection, keep_rows(points, gone))
        work.turn.alerts = tell(connection, batch, rules, series, work.parts, now, work.settled)
        store.finish_turn(
            connection, batch, DETECTOR, VERSION, upto=upto, turn=state.turn + 1, period_s=rules.period_s,
            series=[np.concatenate(column) for column in zip(*work.ends, strict=True)] if work.ends else [],
        )  # fmt: skip
    return work.turn


def find_changed(series: SeriesState, marks: Ints) -> Flags:
    """By series, whether its scores were made by other settings than these; what is not known counts as the same."""
    return (series.points > 0) & (series.judged_by != 0) & (series.judged_by != marks[0])


def _forget_unasked(work: _Work, rules: BatchRules) -> None:
    """Of series whose settings changed, forget what detectors said that are asked no more."""
    places = np.flatnonzero(work.anew).tolist()
    kept = [
        (int(work.series.series_id[place]), detector.kind, detector.version)
        for place in places
        for detector in rules.of(work.series.names[place]).detectors
    ]
    store.delete_other_detectors(work.connection, work.series.series_id[places].tolist(), kept, DETECTOR)


def _taken_again(work: _Work, points: Points, place: Ints) -> Flags:
    """By series, whether it has to be taken from its first value on."""
    series = work.series
    again = np.zeros(len(series.names), bool)
    again[place[points.ts_ms <= series.newest_ms[place]]] = True
    again |= series.is_of_other
    indices = work.bank.find(series.names)
    seen, last_ms = work.bank.seen[indices], work.bank.last_ms[indices]
    disagrees = (seen != series.points) | ((seen > 0) & (last_ms != series.newest_ms))
    changed = np.zeros(len(series.names), bool)
    changed[place] = True
    return ((again | disagrees) & changed) | work.anew


def _advance(work: _Work, points: Points, place: Ints) -> None:
    """Take new points of series that go on."""
    if not len(points):
        return
    values = points.value.copy()
    transformed = np.array([is_transformed(rule) for rule in work.rules], bool)[work.rule[place]]
    if transformed.any():
        places = np.unique(place[transformed])
        edges = np.searchsorted(place, [places, places + 1])
        before = points.ts_ms[edges[0]]
        tail = store.load_tail(
            work.connection, work.series.series_id[places].tolist(), before, *context_of(work.rules)
        )
        tail_edges = np.searchsorted(
            np.searchsorted(work.series.series_id, tail.series_id), [places, places + 1]
        )
        for one, start, end, first, last in zip(places, *edges, *tail_edges, strict=True):
            whole = np.concatenate([tail.value[first:last], points.value[start:end]])
            ts_ms = np.concatenate([tail.ts_ms[first:last], points.ts_ms[start:end]])
            own = work.rules[work.rule[one]]
            values[start:end] = transform(own, ts_ms, whole, work.zone)[last - first :]
    _score(work, place, points.ts_ms, values, np.ones(len(points), bool), is_new=True)


def _take_again(work: _Work, places: Ints, pending: Points, pending_place: Ints, upto: int) -> None:
    """Take series from their first stored value on."""
    points = store.load_points(work.connection, work.batch, work.series.series_id[places].tolist(), upto)
    work.bank.forget(work.bank.find([work.series.names[one] for one in places]))
    work.turn.rebuilt += len(places)
    place = np.searchsorted(work.series.series_id, points.series_id)
    empty = np.setdiff1d(places, place)
    if len(empty):
        # All its values went with what is kept no longer: it begins anew.
        zeros, none = np.zeros(len(empty), np.int64), np.zeros(len(empty))
        work.ends.append(
            (work.series.series_id[empty], work.series.newest_ms[empty], zeros, none + np.nan, none, zeros, zeros, zeros,
             *work.marks[:, empty])
        )  # fmt: skip
    values = transform_runs(work.rules, work.rule, place, points.ts_ms, points.value, work.zone)
    # What a late or a missing neighbour leaves nothing to judge of may have been judged before it came.
    store.delete_scores(work.connection, keep_rows(points, np.isnan(values) & ~np.isnan(points.value)))
    inside = np.isin(pending_place, places)
    keys = _keys(pending_place[inside], pending.ts_ms[inside])
    changed = np.isin(_keys(place, points.ts_ms), keys)
    # What lies before the first change is stored, and would be the same again; unless another version stored it, or
    # other settings.
    since = np.where(work.series.is_of_other | work.anew, np.iinfo(np.int64).min, np.iinfo(np.int64).max)
    np.minimum.at(since, pending_place[inside], pending.ts_ms[inside])
    _score(work, place, points.ts_ms, values, changed, is_new=False, since_ms=since)


def _score(
    work: _Work, place: Ints, ts_ms: Ints, values: Floats, changed: Flags, *, is_new: bool,
    since_ms: Ints | None = None,
) -> None:  # fmt: skip
    """Take rows into the bank, judge them, store their scores, and keep what alerts need of them.

    Parameters
    ----------
    changed
        Rows whose value is new or another one; the rest are only scored again.
    is_new
        Whether the series go on from where they stood, else they begin.
    since_ms
        By series, from when on scores are to be stored; None: all.
    """
    if not len(place):
        return
    index = work.bank.find(work.series.names)[place]
    if (np.diff(index) < 0).any():
        order = np.argsort(index, kind="stable")
        index, place, ts_ms = index[order], place[order], ts_ms[order]
        values, changed = values[order], changed[order]
    scores = work.bank.advance(index, ts_ms, values, offsets_ms(ts_ms, work.zone))
    begins = np.flatnonzero(np.diff(place, prepend=-1))
    number = np.arange(len(place)) - np.repeat(begins, np.diff(begins, append=len(place))) + 1
    number += work.series.points[place] if is_new else 0
    kept = ~np.isnan(values)
    series, count = work.series, len(work.series.names)
    newest = series.newest_value if is_new else np.full(count, np.nan)
    flat_before = series.flat_points if is_new else np.zeros(count, np.int64)
    at, value = place[kept], values[kept]
    flat = flat_runs(at, value, newest, flat_before) if len(at) else np.zeros(0, np.int64)
    previous = np.empty(len(at))
    previous[1:] = value[:-1]
    first = np.diff(at, prepend=-1) != 0
    previous[first] = newest[at[first]]
    of_kept = keep_rows(scores, kept)
    judged = judge(work.rules, work.rule[at], of_kept, value, previous, flat, work.period_s)
    rows = _score_rows(series, at, ts_ms[kept], value, of_kept, judged)
    if since_ms is not None:
        rows = keep_rows(rows, ts_ms[kept] >= since_ms[at])
    work.turn.scored += store.store_scores(work.connection, DETECTOR, VERSION, rows)
    told = Judged(
        at, number[kept], ts_ms[kept], value, of_kept.expected, of_kept.lower, of_kept.upper, flat, judged,
        changed[kept], of_kept.tail,
    )  # fmt: skip
    # Of a history that is scored again nobody hears: it is not kept until all is told.
    work.parts.append(told.keep(told.changed | work.settled.looks_at(at, told.ts_ms)))
    work.ends.append(_ends(work, place, ts_ms, at, value, of_kept, judged, flat, newest, is_new))


def _score_rows(
    series: SeriesState, at: Ints, ts_ms: Ints, value: Floats, scores: Scores, judged: Judgement
) -> ScoreRows:
    # While a series is learnt nothing is strange.
    novelty, surprise, rarity = (
        np.minimum(np.nan_to_num(column), LARGEST)
        for column in (scores.novelty, scores.surprise, scores.rarity)
    )
    expected, lower, upper = (
        np.where(np.isfinite(column), column, np.nan)
        for column in (scores.expected, scores.lower, scores.upper)
    )
    return ScoreRows(
        series.series_id[at], ts_ms, value, novelty, surprise, rarity, expected, lower, upper,
        judged.severity, judged.flags,
    )  # fmt: skip


def _ends(
    work: _Work, place: Ints, ts_ms: Ints, at: Ints, value: Floats, scores: Scores, judged: Judgement,
    flat: Ints, newest: Floats, is_new: bool,
) -> tuple[npt.NDArray[Any], ...]:  # fmt: skip
    """Where each series stands after these rows: the columns of `store.finish_turn`."""
    last = np.flatnonzero(np.diff(place, append=-1))
    places, series = place[last], work.series
    counts = np.diff(last, prepend=-1) + (series.points[places] if is_new else 0)
    # The newest row with a value; a series without one in these rows keeps what it had.
    newest_row = np.full(len(series.names), -1)
    newest_row[at] = np.arange(len(at))
    end = newest_row[places]
    has = end >= 0

    def of(column: npt.NDArray[Any], otherwise: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(has, column[end], otherwise) if len(column) else otherwise

    zeros = np.zeros(len(places), np.int64)
    longest = series.flat_points_max.copy() if is_new else np.zeros(len(series.names), np.int64)
    np.maximum.at(longest, at, flat)
    return (
        series.series_id[places], ts_ms[last], counts, of(value, newest[places]),
        of(np.nan_to_num(scores.novelty), zeros.astype(np.float64)), of(judged.severity, zeros),
        of(flat, series.flat_points[places] if is_new else zeros), longest[places], *work.marks[:, places],
    )  # fmt: skip


def _chunks(places: Ints, points: Ints) -> Iterator[Ints]:
    """Series to take again, as many at once as fit."""
    if len(places):
        part = np.cumsum(points[places] + 1) // ROWS_AT_ONCE
        yield from np.split(places, np.flatnonzero(np.diff(part)) + 1)


def _keys(place: Ints, ts_ms: Ints) -> Ints:
    """One number for a series and a time: times up to the year 2500, 500,000 series."""
    return place * 2**44 + ts_ms
