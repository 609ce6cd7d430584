"""The default detectors of metrics on any folder of labelled series: novelty and rarity together, as shipped.

Each parquet or CSV file has the columns series, timestamp, value, label (label 1: anomalous); series may lie in one
file or in many. An event is a run of labelled points, found by an alert in it or within 2 points of it; an alert
near no event is false. Event F1 is 2·found / (found + false alerts + events): more alerts of one event earn nothing.
An alert is what people get: an incident that opens by the shipped rules, so one that goes on tells nothing new. Beside
it stand the points that novelty and rarity mark. AUC-PR is over points, with the score that the product ranks by.

    python -m benchmarks.series --data DIR
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from anomalyze.metrics.bank import Scores, SeriesBank
from anomalyze.metrics.columns import keep_rows
from anomalyze.metrics.incident import follow
from anomalyze.metrics.judgement import CALM_POINTS, SeriesRules, judge, strangeness
from anomalyze.monitoring.alerting import Judged as Rows
from anomalyze.monitoring.alerting import build_track
from benchmarks.harness import arguments, report

COLUMNS = ("series", "timestamp", "value", "label")
NEAR_POINTS = 2
WEEK_S = 7 * 86_400.0
Flags = npt.NDArray[np.bool_]


@dataclass
class Judged:
    """One series with what the detectors said."""

    name: str
    period_s: float
    label: Flags
    score: npt.NDArray[np.float64]
    alerts: Flags
    novelty: Flags
    rarity: Flags
    weeks: float


@dataclass
class Counts:
    """Events and alerts of one kind, over all series."""

    events: int = 0
    found: int = 0
    alerts: int = 0
    false: int = 0

    @property
    def precision(self) -> float:
        """Found events among these and false alerts."""
        return self.found / max(1, self.found + self.false)

    @property
    def recall(self) -> float:
        """Share of events with an alert near."""
        return self.found / max(1, self.events)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.found / max(1, self.found + self.false + self.events)

    def add(self, label: Flags, alerts: Flags) -> None:
        """Count one series."""
        edges = np.diff(np.concatenate([[0], label.astype(np.int8), [0]]))
        starts = np.maximum(np.flatnonzero(edges == 1) - NEAR_POINTS, 0)
        ends = np.minimum(np.flatnonzero(edges == -1) + NEAR_POINTS, len(label))
        before = np.concatenate([[0], np.cumsum(alerts)])
        near = np.zeros(len(label) + 1, np.int64)
        np.add.at(near, starts, 1)
        np.add.at(near, ends, -1)
        self.events += len(starts)
        self.found += int((before[ends] > before[starts]).sum())
        self.alerts += int(alerts.sum())
        self.false += int((alerts & (np.cumsum(near)[:-1] == 0)).sum())


def main() -> None:
    """Score all series, print a table, then JSON."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument(
        "--data", type=Path, required=True, help="a file or a folder of parquet and CSV files"
    )
    options = parser.parse_args()
    judged = judge_all(load(options.data))
    kinds = {"both": Counts(), "novelty": Counts(), "rarity": Counts()}
    for one in judged:
        kinds["both"].add(one.label, one.alerts)
        kinds["novelty"].add(one.label, one.novelty)
        kinds["rarity"].add(one.label, one.rarity)
    weeks = sum(one.weeks for one in judged)
    show(kinds, weeks)
    label = np.concatenate([one.label for one in judged])
    both = kinds["both"]
    result: dict[str, Any] = {
        "auc_pr": round(
            float(average_precision_score(label, np.concatenate([one.score for one in judged]))), 4
        ),
        "auc_pr_mean": round(float(np.mean([precision_of(one) for one in judged if one.label.any()])), 4),
        "event_f1": round(both.f1, 4),
        "event_precision": round(both.precision, 4),
        "event_recall": round(both.recall, 4),
        "event_f1_novelty": round(kinds["novelty"].f1, 4),
        "event_f1_rarity": round(kinds["rarity"].f1, 4),
        "alerts_week": round(both.alerts / weeks, 3) if weeks else None,
        "series": len(judged),
        "points": len(label),
        "events": both.events,
    }
    report(result, options.json)


def load(data: Path) -> pl.DataFrame:
    """All rows, sorted by series and time; ``at_ms`` is int64."""
    paths = (
        [data] if data.is_file() else sorted(p for p in data.rglob("*") if p.suffix in (".parquet", ".csv"))
    )
    frames = []
    for path in paths:
        frame = (
            pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, try_parse_dates=True)
        )
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise SystemExit(
                f"{path}: the columns {', '.join(COLUMNS)} were expected, {', '.join(missing)} missing"
            )
        stamp = frame.schema["timestamp"]
        at = pl.col("timestamp")
        if stamp.is_temporal():
            at = at.cast(pl.Datetime("ms", getattr(stamp, "time_zone", None))).dt.epoch("ms")
        elif stamp.is_numeric():
            # Seconds or milliseconds since 1970, by their size.
            at = pl.when(at.cast(pl.Float64).abs() < 1e11).then(at * 1000).otherwise(at)
        else:
            at = at.str.to_datetime(time_zone="UTC").dt.epoch("ms")
        frames.append(
            frame.select(
                pl.col("series").cast(pl.String),
                at.cast(pl.Int64).alias("at_ms"),
                pl.col("value").cast(pl.Float64),
                (pl.col("label").cast(pl.Float64).fill_null(0.0) > 0).alias("label"),
            )
        )
    if not frames:
        raise SystemExit(f"{data}: parquet or CSV files were expected, none found")
    rows = pl.concat(frames).drop_nulls("at_ms")
    return rows.unique(["series", "at_ms"], keep="first", maintain_order=True).sort("series", "at_ms")


def judge_all(rows: pl.DataFrame) -> list[Judged]:
    """Advance a bank for each period that occurs, all its series in one call."""
    groups = [(str(key[0]), part) for key, part in rows.group_by("series", maintain_order=True)]
    periods: dict[float, list[tuple[str, pl.DataFrame]]] = {}
    for name, part in groups:
        steps = np.diff(part["at_ms"].to_numpy())
        period_s = max(1.0, float(np.median(steps)) / 1000.0) if len(steps) else 60.0
        periods.setdefault(period_s, []).append((name, part))
    judged = []
    for period_s, members in periods.items():
        joined = pl.concat([part for _, part in members])
        index = np.repeat(np.arange(len(members)), [part.height for _, part in members])
        with (
            tempfile.TemporaryDirectory() as folder,
            SeriesBank.open(Path(folder), [name for name, _ in members], period_s) as bank,
        ):
            values = joined["value"].fill_null(np.nan).to_numpy()
            scores = bank.advance(index, joined["at_ms"].to_numpy(), values)
        score = np.nan_to_num(strangeness(scores.novelty, scores.rarity))
        first = 0
        for name, part in members:
            mine = slice(first, first + part.height)
            first += part.height
            own = Scores(**{field: getattr(scores, field)[mine] for field in Scores.__slots__})
            judged.append(
                Judged(
                    name,
                    period_s,
                    part["label"].to_numpy(),
                    score[mine],
                    find_alerts(own, part["at_ms"].to_numpy(), values[mine], period_s),
                    own.novelty_alert,
                    own.rarity_alert,
                    part.height * period_s / WEEK_S,
                )
            )
    return judged


def find_alerts(
    scores: Scores, at_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64], period_s: float
) -> Flags:
    """Where an incident of one series opens, by the default rules and as a run of a batch would have it."""
    alerts = np.zeros(len(values), np.bool_)
    rows = np.flatnonzero(~np.isnan(values))
    if not len(rows):
        return alerts
    scores, at_ms, values = keep_rows(scores, ~np.isnan(values)), at_ms[rows], values[rows]
    rule, zeros = SeriesRules(), np.zeros(len(rows), np.int64)
    judgement = judge([rule], zeros, scores, values, np.append(np.nan, values[:-1]), zeros, period_s)
    part = Rows(
        at=zeros,
        number=np.arange(1, len(rows) + 1),
        ts_ms=at_ms,
        value=values,
        expected=scores.expected,
        lower=scores.lower,
        upper=scores.upper,
        flat=zeros,
        judgement=judgement,
        changed=np.ones(len(rows), np.bool_),
        tail=scores.tail,
    )
    track = build_track("unusual", part, np.arange(len(rows)), rule, period_s)
    opened_ms = [one.opened_ms for one in follow("unusual", None, track, calm_points=CALM_POINTS)]
    alerts[rows[np.isin(at_ms, opened_ms)]] = True
    return alerts


def precision_of(one: Judged) -> float:
    """AUC-PR of one series."""
    return float(average_precision_score(one.label, one.score))


def show(kinds: dict[str, Counts], weeks: float) -> None:
    """A table for people."""
    table = Table("alerts", "a week", "precision", "recall", "event F1", title="labelled series, as shipped")
    for name, found in kinds.items():
        table.add_row(
            name,
            f"{found.alerts / weeks:.2f}" if weeks else "–",
            f"{found.precision:.3f}",
            f"{found.recall:.3f}",
            f"{found.f1:.3f}",
        )
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
