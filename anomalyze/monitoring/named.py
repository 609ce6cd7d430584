"""What detectors by name say of a turn's values, beside the default detector.

What they say follows from stored values alone: what they look back on is read, and what one learned is kept only so that
it need not be learned again (`fits`). A series whose new values all come behind its
newest is judged from the first of them on; one with a late or corrected value from that one on; one that such a
detector has not scored yet from its first value on. What fails for one metric is named, and its neighbours go on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psycopg

from anomalyze.metrics.alert_rule import RARITY_ALERT
from anomalyze.metrics.detectors.base import (
    ALERT,
    GOES_ON,
    STRENGTH_MAX,
    Detector,
    Found,
    Stretch,
    direction_of,
)
from anomalyze.metrics.judgement import LOW, NONE, Flag, Judgement, SeriesRules, severity_of
from anomalyze.metrics.preprocess import offsets_ms
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.transform import context_of, transform
from anomalyze.monitoring.alerting import Judged
from anomalyze.monitoring.fits import FitShelf
from anomalyze.storage import metrics_scores as store
from anomalyze.storage.metrics_context import load_context, load_said, load_unscored
from anomalyze.storage.metrics_scores import Points, ScoreRows, SeriesState
from anomalyze.storage.metrics_values import FAILURES_MAX, Failure

__all__ = ["Named", "as_judged", "judge_named", "judge_one", "learn_ahead", "strengths_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ALL_ROWS_MS = -(2**62)
# Stored values that are looked at together.
ROWS_AT_ONCE = 400_000
LARGEST = 1e30
# A turn's transaction stands still while detectors learn: hundreds of metrics at a second each, where all begin a period.
# What they learned is kept, so that a turn that is ended all the same goes on from there.
ALLOW_LEARNING = "SET LOCAL idle_in_transaction_session_timeout = '30min'"


@dataclass(slots=True)
class Named:
    """What they said: rows for alerts, scores stored, metrics that could not be judged."""

    parts: list[Judged] = field(default_factory=list)
    scored: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Series:
    """One series with the rows that its detectors need.

    Attributes
    ----------
    place
        Of the series.
    ts_ms, value
        Rows; the value as its rules transform it.
    number
        Of each row in its series, from 1.
    changed
        Rows whose value is new or another one.
    since_ms
        By detector, from when on rows are to be judged; one that has nothing to judge is not in it.
    """

    place: int
    ts_ms: Ints
    value: Floats
    number: Ints
    changed: Flags
    since_ms: dict[str, int]


def judge_named(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, points: Points,
    again: Flags, anew: Flags, reshaped: Flags, upto: int, default: tuple[str, int], shelf: FitShelf,
) -> Named:  # fmt: skip
    """Judge a turn's values by the detectors that their metrics name, and store the scores.

    Parameters
    ----------
    series
        As it was before the turn.
    points
        The turn's values.
    again
        By series, whether one of them is not behind all before.
    anew, reshaped
        By series, whether its settings are others now, and whether these make other values of what is stored: then each
        of its detectors judges it from its first value on.
    upto
        The newest change that the turn takes.
    default
        Name and version of the detector that has judged them all.
    shelf
        Where what they learn is kept.
    """
    named = Named()
    if not any(rule.detectors for rule in (rules.default, *rules.named.values())):
        return named
    asked = np.array([bool(rules.of(name).detectors) for name in series.names], bool)
    place = np.searchsorted(series.series_id, points.series_id)
    has_new = np.zeros(len(series.names), bool)
    has_new[place] = True
    places = np.flatnonzero(asked & (has_new | anew))
    if not len(places):
        return named
    unscored = _unscored(connection, rules, series, places, default)
    for one in places[reshaped[places]].tolist():
        for detector in rules.of(series.names[one]).detectors:
            unscored[detector.kind, detector.version].add(int(series.series_id[one]))
    rows: dict[str, list[tuple[_Series, Detector, Found, int]]] = {}
    connection.execute(ALLOW_LEARNING)
    for one in _load(connection, batch, rules, series, points, place, places, again, unscored, upto):
        metric = series.names[one.place]
        said = _Default({}, None)
        asked_now = [detector for detector in rules.of(metric).detectors if detector.kind in one.since_ms]
        wanting = [detector for detector in asked_now if detector.wants]
        if wanting:
            since_ms = min(one.since_ms[detector.kind] - detector.wants_ms for detector in wanting)
            said = _said(connection, int(series.series_id[one.place]), one, since_ms, default)
        offset_ms = offsets_ms(one.ts_ms, rules.zone)
        stretch = Stretch(one.ts_ms, offset_ms, one.value, said.strengths, shelf.of(metric), said.band)
        for detector in asked_now:
            first = int(np.searchsorted(one.ts_ms, one.since_ms[detector.kind]))
            found = judge_one(detector, stretch, first)
            if isinstance(found, str):
                if len(named.failures) < FAILURES_MAX:
                    named.failures.append(Failure(metric, found))
                continue
            rows.setdefault(detector.kind, []).append((one, detector, found, first))
    for kind, found_rows in rows.items():
        for version in sorted({detector.version for _, detector, _, _ in found_rows}):
            some = [entry for entry in found_rows if entry[1].version == version]
            part, scores = _joined(rules, series, kind, some)
            named.scored += store.store_scores(connection, kind, version, scores)
            named.parts.append(part)
    return named


def learn_ahead(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, shelf: FitShelf
) -> int:
    """Learn what the next value of each series is to be judged by, and keep it; of how many series something is kept.

    Of one whose next value is the first of a period, this is what the run that brings the value would have to do.
    """
    known = np.flatnonzero(series.points)
    places = np.array(
        [one for one in known.tolist() if any(rule.keeps for rule in rules.of(series.names[one]).detectors)],
        np.int64,
    )
    next_ms = series.newest_ms[places] + int(rules.period_s * 1000)
    to_come = Points(
        series.series_id[places], next_ms, np.full(len(places), np.nan), np.zeros(len(places), np.int64)
    )
    again, unscored = np.zeros(len(series.names), bool), defaultdict[tuple[str, int], set[int]](set)
    for one in _load(connection, batch, rules, series, to_come, places, places, again, unscored, 0):
        metric = series.names[one.place]
        unsaid = np.full(len(one.ts_ms), np.nan)
        said = {"novelty": unsaid, "rarity": unsaid}
        stretch = Stretch(one.ts_ms, offsets_ms(one.ts_ms, rules.zone), one.value, said, shelf.of(metric))
        for detector in rules.of(metric).detectors:
            if detector.keeps:
                judge_one(detector, stretch, len(one.ts_ms) - 1)
    return len(places)


class _Default(NamedTuple):
    """What the default detector said of rows."""

    strengths: dict[str, Floats]
    band: tuple[Floats, Floats, Floats] | None


def _said(
    connection: psycopg.Connection[Any], series_id: int, one: _Series, since_ms: int, default: tuple[str, int]
) -> _Default:
    """What the default detector stored of the rows since a time; NaN elsewhere."""
    said = load_said(connection, [series_id], [max(0, since_ms)], *default)
    place = np.searchsorted(one.ts_ms, said.ts_ms)
    kept = np.isin(said.ts_ms, one.ts_ms)

    def placed(column: Floats) -> Floats:
        found = np.full(len(one.ts_ms), np.nan)
        found[place[kept]] = column[kept]
        return found

    strengths = {name: placed(strength) for name, strength in strengths_of(said.novelty, said.rarity).items()}
    return _Default(strengths, (placed(said.expected), placed(said.lower), placed(said.upper)))


def strengths_of(novelty: Floats, rarity: Floats) -> dict[str, Floats]:
    """The default detector's outputs on the scale on which it alerts at 3."""
    with np.errstate(divide="ignore"):
        return {
            "novelty": np.minimum(novelty / (1.0 - novelty), STRENGTH_MAX),
            "rarity": np.minimum(ALERT / RARITY_ALERT * rarity, STRENGTH_MAX),
        }


def judge_one(detector: Detector, stretch: Stretch, first: int) -> Found | str:
    """What a detector finds in one series from a row on, or why it cannot judge it."""
    try:
        return detector.judge(stretch, first)
    except Exception as error:  # noqa: BLE001 - a library's own, of numbers it cannot take: the neighbours go on
        return f"{detector.kind} could not judge it: {str(error)[:200] or type(error).__name__}"


def _unscored(
    connection: psycopg.Connection[Any], rules: BatchRules, series: SeriesState, places: Ints, default: tuple[str, int]
) -> dict[tuple[str, int], set[int]]:  # fmt: skip
    """By detector, the numbers of series that it has not scored so far."""
    users: dict[tuple[str, int], list[int]] = {}
    for place in places.tolist():
        for detector in rules.of(series.names[place]).detectors:
            users.setdefault((detector.kind, detector.version), []).append(place)
    return {
        key: load_unscored(
            connection, series.series_id[some].tolist(), series.newest_ms[some].tolist(), key, default
        )
        for key, some in users.items()
    }


def _load(
    connection: psycopg.Connection[Any], batch: str, rules: BatchRules, series: SeriesState, points: Points,
    place: Ints, places: Ints, again: Flags, unscored: dict[tuple[str, int], set[int]], upto: int,
) -> Iterator[_Series]:  # fmt: skip
    """Each series with the rows that its detectors need, many at a time."""
    whole, behind = list[int](), list[int]()
    since: dict[int, dict[str, int]] = {}
    edges = np.searchsorted(place, [places, places + 1])
    first_row = dict(zip(places.tolist(), edges[0].tolist(), strict=True))
    end_row = dict(zip(places.tolist(), edges[1].tolist(), strict=True))
    for one in places.tolist():
        number, has_new = int(series.series_id[one]), first_row[one] < end_row[one]
        since[one] = {
            detector.kind: ALL_ROWS_MS if is_unscored else int(points.ts_ms[first_row[one]])
            for detector in rules.of(series.names[one]).detectors
            if (is_unscored := number in unscored[detector.kind, detector.version]) or has_new
        }
        if not since[one]:
            continue
        is_whole = bool(again[one]) or ALL_ROWS_MS in since[one].values()
        (whole if is_whole else behind).append(one)
    for some in _chunks(whole, {one: int(series.points[one]) for one in whole}):
        stored = store.load_points(connection, batch, series.series_id[some].tolist(), upto)
        starts = np.searchsorted(stored.series_id, series.series_id[some])
        ends = np.searchsorted(stored.series_id, series.series_id[some], "right")
        for one, start, end in zip(some, starts.tolist(), ends.tolist(), strict=True):
            rows = slice(start, end)
            new_ms = points.ts_ms[first_row[one] : end_row[one]]
            yield _Series(
                one, stored.ts_ms[rows], transform(rules.of(series.names[one]), stored.ts_ms[rows], stored.value[rows], rules.zone),
                np.arange(1, end - start + 1), np.isin(stored.ts_ms[rows], new_ms), since[one],
            )  # fmt: skip
    reach = _reaches(rules, series, since)
    for some in _chunks(behind, {one: reach[one].rows for one in behind}):
        before = load_context(
            connection, series.series_id[some].tolist(), [int(points.ts_ms[first_row[one]]) for one in some],
            *zip(*(reach[one].asked for one in some), strict=True),
        )  # fmt: skip
        starts = np.searchsorted(before.series_id, series.series_id[some])
        ends = np.searchsorted(before.series_id, series.series_id[some], "right")
        for one, start, end in zip(some, starts.tolist(), ends.tolist(), strict=True):
            new = slice(first_row[one], end_row[one])
            count, counted = end - start, int(series.points[one])
            ts_ms = np.concatenate([before.ts_ms[start:end], points.ts_ms[new]])
            value = np.concatenate([before.value[start:end], points.value[new]])
            yield _Series(
                one, ts_ms, transform(rules.of(series.names[one]), ts_ms, value, rules.zone),
                np.arange(counted + 1, counted + 1 + len(ts_ms)) - count, np.arange(len(ts_ms)) >= count, since[one],
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Look:
    """What one series looks back on, as `load_context` asks for it, and about how many rows that is."""

    asked: tuple[int, int, float]
    rows: int


def _reaches(rules: BatchRules, series: SeriesState, since: dict[int, dict[str, int]]) -> dict[int, _Look]:
    """By series: since when all rows are needed, how many before that, and how long before these."""
    found: dict[int, _Look] = {}
    for one, by_kind in since.items():
        rule = rules.of(series.names[one])
        if not by_kind:
            continue
        reaches = [
            detector.reach(max(by_kind[detector.kind], 0))
            for detector in rule.detectors
            if detector.kind in by_kind
        ]
        from_ms = min(reach.since_ms for reach in reaches)
        points, further_s = context_of([rule])
        count = max(reach.points for reach in reaches) + points
        lasts_s = (min(by_kind.values()) - from_ms) / 1000 + further_s
        found[one] = _Look((from_ms, count, further_s), count + int(max(0.0, lasts_s) / rules.period_s))
    return found


def _chunks(places: list[int], points: Mapping[int, int]) -> Iterator[list[int]]:
    """Series, as many at once as fit."""
    some, rows = list[int](), 0
    for one in places:
        if some and rows + points[one] > ROWS_AT_ONCE:
            yield some
            some, rows = [], 0
        some.append(one)
        rows += points[one]
    if some:
        yield some


def _joined(
    rules: BatchRules, series: SeriesState, kind: str, found: list[tuple[_Series, Detector, Found, int]]
) -> tuple[Judged, ScoreRows]:
    """One detector's rows of all series, as alerts and as the table want them."""
    parts: list[tuple[Judged, Floats]] = []
    for one, _, said, first in found:
        value = one.value[first:]
        kept = ~np.isnan(value)
        at = np.full(int(kept.sum()), one.place)
        part = as_judged(
            kind, rules.of(series.names[one.place]), at, one.number[first:][kept], one.ts_ms[first:][kept],
            said, kept, one.changed[first:][kept],
        )  # fmt: skip
        parts.append((part, value[kept]))
    names = [name for name in Judged.__dataclass_fields__ if name not in ("judgement", "kinds")]
    if parts[0][0].peak_ms is None:
        names.remove("peak_ms")
    columns = {name: np.concatenate([getattr(part, name) for part, _ in parts]) for name in names}
    judgement = Judgement(
        **{
            name: np.concatenate([getattr(part.judgement, name) for part, _ in parts])
            for name in Judgement.__dataclass_fields__
        }
    )
    joined = Judged(**columns, judgement=judgement, kinds=parts[0][0].kinds)
    strength = judgement.unusual_strength
    measure = np.concatenate(
        [np.nan_to_num(said.measure[~np.isnan(one.value[first:])]) for one, _, said, first in found]
    )
    scores = ScoreRows(
        series.series_id[joined.at], joined.ts_ms, np.concatenate([value for _, value in parts]),
        strength / (1.0 + strength), np.minimum(measure, LARGEST), np.zeros(len(strength)),
        joined.expected, joined.lower, joined.upper, judgement.severity, judgement.flags,
    )  # fmt: skip
    return joined, scores


def as_judged(
    kind: str, rule: SeriesRules, at: Ints, number: Ints, ts_ms: Ints, found: Found, kept: Flags, changed: Flags
) -> Judged:  # fmt: skip
    """What a detector found, of the rows that are kept, as alerts want it."""
    strength = np.minimum(np.nan_to_num(found.strength[kept]), STRENGTH_MAX)
    direction = direction_of(found)[kept]
    bad = {"up": 1, "down": -1, "both": 0}[rule.direction]
    is_bad_way = (bad == 0) | (direction == 0) | (direction == bad)
    begins = (strength >= ALERT) & is_bad_way
    goes_on = (strength >= GOES_ON) & is_bad_way
    severity = np.where(begins, severity_of(strength / (1.0 + strength)), NONE)
    zeros = np.zeros(len(strength), np.int64)
    return Judged(
        at=at,
        number=number,
        ts_ms=ts_ms,
        value=found.level[kept],
        expected=found.expected[kept],
        lower=found.lower[kept],
        upper=found.upper[kept],
        flat=zeros,
        judgement=Judgement(
            begins * int(Flag.DETECTOR) + goes_on * int(Flag.OUTSIDE), severity, direction,
            np.where(begins, severity, np.where(goes_on, LOW, NONE)), strength, np.full(len(strength), np.nan),
        ),
        changed=changed,
        tail=np.full(len(strength), np.nan),
        peak_ms=None if found.since_ms is None else found.since_ms[kept],
        kinds={kind: Flag.DETECTOR},
    )  # fmt: skip
