"""What would alert, of values that nobody stored: a batch tried before it counts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg

from anomalyze.log import get
from anomalyze.metrics.bank import SeriesBank
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.columns import keep_rows
from anomalyze.metrics.detectors.base import Stretch
from anomalyze.metrics.incident import PENDING, Incident, follow
from anomalyze.metrics.judgement import CALM_POINTS, flat_runs, judge
from anomalyze.metrics.library import BatchEntry
from anomalyze.metrics.preprocess import offsets_ms
from anomalyze.metrics.rules import BatchRules, rules_of
from anomalyze.metrics.sentence import describe
from anomalyze.metrics.transform import transform_runs
from anomalyze.monitoring.alerting import Judged, build_track
from anomalyze.monitoring.named import as_judged, judge_one, strengths_of
from anomalyze.storage.metrics_values import load_values

__all__ = ["Foreseen", "foresee", "foresee_stored"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """An incident that the values hold, and the sentence that would tell of it."""

    metric: str
    incident: Incident
    sentence: str


def foresee(frame: pl.DataFrame, batch: Batch) -> list[Foreseen]:
    """The incidents of prepared rows, judged from the first on as if they came one by one; the oldest first.

    Those that a metric's rules tell nobody of for their severity or shortness are left out; snoozes, maintenance and
    cooldown are not asked.

    Parameters
    ----------
    frame
        ``metric``, ``timestamp``, ``value``, in the order of metric and timestamp.
    """
    names = frame["metric"].unique(maintain_order=True).to_list()
    if not names:
        return []
    rules = rules_of(batch, names)
    known, rule = rules.assign(names)
    index = (frame["metric"].rle_id()).to_numpy().astype(np.int64)
    ts_ms = frame["timestamp"].dt.epoch("ms").to_numpy().astype(np.int64)
    values = frame["value"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    values = transform_runs(known, rule, index, ts_ms, values, rules.zone)
    with (
        tempfile.TemporaryDirectory(prefix="anomalyze-preview-") as folder,
        SeriesBank.open(Path(folder), names, rules.period_s) as bank,
    ):
        scores = bank.advance(bank.find(names)[index], ts_ms, values, offsets_ms(ts_ms, rules.zone))
    strengths = strengths_of(scores.novelty, scores.rarity)
    parts = _by_name(
        names, rules, index, ts_ms, values, strengths, (scores.expected, scores.lower, scores.upper)
    )
    kept = ~np.isnan(values)
    scores = keep_rows(scores, kept)
    index, ts_ms, values = index[kept], ts_ms[kept], values[kept]
    unknown = np.full(len(names), np.nan)
    flat = flat_runs(index, values, unknown, np.zeros(len(names), np.int64)) if len(index) else index
    previous = np.full(len(values), np.nan)
    previous[1:] = np.where(np.diff(index) == 0, values[:-1], np.nan)
    judged = judge(known, rule[index], scores, values, previous, flat, rules.period_s)
    number = np.arange(len(index)) - np.searchsorted(index, index) + 1
    part = Judged(
        at=index,
        number=number,
        ts_ms=ts_ms,
        value=values,
        expected=scores.expected,
        lower=scores.lower,
        upper=scores.upper,
        flat=flat,
        judgement=judged,
        changed=np.ones(len(index), bool),
        tail=scores.tail,
    )
    found = [one for some in (part, *parts) for one in _incidents(some, names, rules)]
    return sorted(found, key=lambda one: (one.incident.opened_ms, one.metric))


def foresee_stored(
    connection: psycopg.Connection[Any], entry: BatchEntry, detectors: Sequence[str], since: datetime
) -> list[Foreseen]:
    """What the values stored since a time would have alerted by the file's thresholds and these detectors alone.

    Parameters
    ----------
    detectors
        As words of the key ``detectors``; none: thresholds alone.

    Raises
    ------
    ConfigError
        There are too many values to look at together.
    """
    told = entry.batch.model_dump(mode="json", exclude_unset=True) | {"detectors": list(detectors)}
    for own in told.get("metrics", {}).values():
        own.pop("detectors", None)
    return foresee(load_values(connection, entry.name, since), Batch.model_validate(told))


def _by_name(
    names: list[str],
    rules: BatchRules,
    index: Ints,
    ts_ms: Ints,
    values: Floats,
    strengths: dict[str, Floats],
    band: tuple[Floats, Floats, Floats],
) -> list[Judged]:
    """What the detectors say that each metric names."""
    parts: list[Judged] = []
    edges = np.searchsorted(index, np.arange(len(names) + 1)).tolist()
    for place, (start, end) in enumerate(pairwise(edges)):
        rule, times, value = rules.of(names[place]), ts_ms[start:end], values[start:end]
        kept = ~np.isnan(value)
        own = {name: strength[start:end] for name, strength in strengths.items()}
        banded = tuple(column[start:end] for column in band)
        stretch = Stretch(
            times, offsets_ms(times, rules.zone), value, own, band=(banded[0], banded[1], banded[2])
        )
        at, number = np.full(int(kept.sum()), place), np.arange(1, len(value) + 1)[kept]
        for detector in rule.detectors:
            found = judge_one(detector, stretch, 0)
            if isinstance(found, str):
                get().warning("metric_not_judged", metric=names[place], reason=found)
                continue
            parts.append(
                as_judged(detector.kind, rule, at, number, times[kept], found, kept, np.ones(len(at), bool))
            )
    return parts


def _incidents(part: Judged, names: list[str], rules: BatchRules) -> list[Foreseen]:
    begun = int(sum(part.kinds.values()))
    found: list[Foreseen] = []
    for place in np.unique(part.at[(part.judgement.flags & begun) > 0]).tolist():
        metric = names[place]
        rule = rules.of(metric)
        rows = np.flatnonzero(part.at == place)
        for kind in part.kinds:
            track = build_track(kind, part, rows, rule, rules.period_s)
            if not track.begins.any():
                continue
            found += [
                Foreseen(metric, incident, describe(metric, incident, rule))
                for incident in follow(
                    kind, None, track, calm_points=CALM_POINTS, lasts_min_ms=rule.lasts_min_s * 1000
                )
                if rule.told and incident.severity >= rule.severity_min and incident.state != PENDING
            ]
    return found
