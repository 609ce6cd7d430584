"""Detection that learns from labels a week late, on the Fraud Detection Handbook's simulated card payments.

The whole path of the product: the file becomes a log, the detector judges it, labels arrive after their delay (as
control records into the users' histories, and in the profiles of all merchants at each refresh), a bundle is trained at the
beginning of the test days on what was known then, and judges them. One configuration, nothing of it chosen on
these days. The Handbook's protocol: cards that are known as compromised are left out of the test, day by day.

    python -m benchmarks.fdh --data FILE_OR_DIR [--train FROM..TO] [--delay-days 7] [--test FROM..TO]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalyze.backtest.mapping import ColumnMapping, SourceChunk, load_frame, load_mapping, read_file, scan
from anomalyze.backtest.run import Replay, split
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector, Verdicts
from anomalyze.detection.learning import (
    CALIBRATION_DAYS_MIN,
    DAY_MS,
    WINDOW_DAYS,
    FrameCollector,
    LabelledBatch,
    build_candidate,
    compute_snapshots,
    label_table,
    refresh_instants,
)
from anomalyze.detection.model import build_models
from anomalyze.detection.training import build_bundle
from anomalyze.events.batch import Control
from anomalyze.events.hashing import text_keys, user_keys
from anomalyze.features.profile import ORDINARY_LOG_RATIO
from anomalyze.features.snapshot import Profiles
from anomalyze.models.boosting import PARAMETERS, ROUNDS

HISTORY_MS = 120 * DAY_MS  # before the first day of training or of the eight weeks: histories and old labels
CARDS_A_DAY = 100
# What no method can know: a fraud of the merchant (the file's scenario 2; without that column: one that the card's
# amounts do not explain) where none became known in so many days.
COMPROMISED_DAYS, MERCHANT_SCENARIO, SCENARIO_COLUMN = 30, 2, "TX_FRAUD_SCENARIO"


@dataclass
class Days:
    """What the run is about, in ms since 1970; ends are exclusive."""

    train_start: int
    train_end: int
    delay: int
    test_start: int
    test_end: int


@dataclass
class Log:
    """The file as the detector meets it, with labels that come when they come."""

    replay: Replay
    delay: int
    waiting: list[tuple[int, str, str]] = field(default_factory=list)  # known_ms, user, tx

    def cut(self, chunks: Iterator[SourceChunk]) -> Iterator[SourceChunk]:
        """The chunks cut where profiles are refreshed."""
        step = self.replay.detector.spec.profile_refresh_ms
        for chunk in chunks:
            rest = chunk
            while rest.users:
                now, rest = split(rest, (rest.append_ms[0] // step + 1) * step)
                yield now

    def judge(self, chunk: SourceChunk, profiles: Profiles | None) -> tuple[LabelledBatch, Verdicts]:
        """The next rows until a refresh; before them the labels that became known."""
        now, detector = chunk.append_ms[0], self.replay.detector
        while self.waiting and self.waiting[0][0] <= now:
            _, user, tx = self.waiting.pop(0)
            body = {"account_id": ACCOUNT, "user_id": user, "tx_id": tx, "fraud": True}
            for partition, state in self.replay.states.items():
                refused = detector.apply_control(Control(partition, 0, "label", body), state)
                assert refused is None, refused
        for user, at, value, label in zip(
            chunk.users, chunk.append_ms, chunk.values, chunk.labels, strict=True
        ):
            if label == 1:
                self.waiting.append((at + self.delay, user, str(json.loads(value)["data"]["tx_id"])))
        batch = self.replay.decode(chunk)
        labels = self.replay.labels_of(batch)
        # Nobody says of a payment that it was genuine: it counts as such when the delay is over.
        fraud = np.where(labels == 1, 1, -1).astype(np.int8)
        part = LabelledBatch(batch, fraud, batch.ts_ms + self.delay)
        return part, detector.process(batch, self.replay.states, profiles)


ACCOUNT = "default"


def main() -> None:
    """Run, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet or CSV file, or a folder with one")
    parser.add_argument("--train", default="2018-07-25..2018-07-31", help="the Handbook's days of training")
    parser.add_argument("--delay-days", type=float, default=7.0, help="days until a label is known")
    parser.add_argument("--test", default="2018-08-08..2018-08-14", help="days judged")
    parser.add_argument("--mapping", type=Path, default=Path("benchmarks/mappings/fdh.yaml"))
    parser.add_argument("--config", type=Path, default=Path("metrics_config"))
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    train, test = (parse_days(text) for text in (options.train, options.test))
    days = Days(*train, round(options.delay_days * DAY_MS), *test)
    result = run(find_file(options.data), load_mapping(options.mapping), options.config, days)
    show(result)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


def judge_file(
    path: Path, mapping: ColumnMapping, config: Path, days: Days
) -> tuple[Tested, Bundle, dict[str, float]]:
    """Replay, learn at the beginning of the test days, judge them; with the seconds each step took."""
    begin = time.perf_counter()
    bundle = build_bundle(config)
    replay = Replay(Detector(bundle))
    log, spec = Log(replay, days.delay), replay.detector.spec
    collector = FrameCollector(replay.detector)
    learned_from = days.test_start - max(days.delay, CALIBRATION_DAYS_MIN * DAY_MS) - WINDOW_DAYS * DAY_MS
    start = min(days.train_start, learned_from) - HISTORY_MS
    chunks = log.cut(read_file(path, mapping, ACCOUNT, start_ms=start, end_ms=days.test_end))
    first: SourceChunk | None = None
    for chunk in chunks:
        if chunk.append_ms[0] >= days.test_start:
            first = chunk
            break
        collector.add(*log.judge(chunk, None))
    if first is None:
        raise SystemExit(f"--test: {path} has no rows of these days")
    frame = collector.frame()
    replayed = time.perf_counter()
    instants = refresh_instants(spec, max(learned_from, int(frame.ts_ms.min())), days.test_start)
    frame = frame.with_profiles(compute_snapshots(label_table(frame, days.delay), instants))
    profiled = time.perf_counter()
    bundle = build_candidate(bundle, frame, as_of_ms=days.test_start, delay_ms=days.delay)
    trained = time.perf_counter()
    replay.detector = Detector(bundle)
    tested = Tested(replay.detector)
    profiles = Profiles()
    for chunk in (first, *chunks):
        known = label_table(collector.frame(), days.delay)
        now = refresh_instants(spec, chunk.append_ms[0], chunk.append_ms[0] + 1)
        for snapshot in compute_snapshots(known, now):
            profiles = profiles.with_snapshot(snapshot)
        part, verdicts = log.judge(chunk, profiles)
        collector.add(part, verdicts)
        tested.add(part, verdicts)
    seconds = {
        "replay": replayed - begin,
        "profiles": profiled - replayed,
        "training": trained - profiled,
        "test": time.perf_counter() - trained,
    }
    return tested, bundle, {step: round(value, 1) for step, value in seconds.items()}


def run(path: Path, mapping: ColumnMapping, config: Path, days: Days) -> dict[str, Any]:
    """All methods on the same test rows."""
    tested, bundle, seconds = judge_file(path, mapping, config, days)
    rows = tested.frame().join(handbook_scores(path, mapping, days), on=["user", "tx"], how="left")
    rows = rows.with_columns(
        pl.when(pl.col("scenario") < 0)
        .then(pl.col("ordinary"))
        .otherwise(pl.col("scenario") == MERCHANT_SCENARIO)
        .cast(pl.Float64)
        .alias("at_merchant")
    )
    known = (pl.col("at_merchant") != 1) | (pl.col("merchant_frauds") > 0)
    rows = rows.with_columns((known & (pl.col("fraud") == 1)).cast(pl.Float64).alias("knowable"))
    assert not rows["handbook"].is_null().any()
    rows = leave_out_known_cards(rows, path, mapping, days)
    methods = {name: evaluate(rows, name) for name in METHODS}
    return {
        **methods["learned"],
        "transactions": len(rows),
        "frauds": int((rows["fraud"] == 1).sum()),
        "methods": methods,
        "seconds": seconds,
        "model": dict(bundle.supervised.metrics) if bundle.supervised else {},
    }


METHODS = {
    "learned": "learned from late labels (the product)",
    "handbook": "the Handbook's 15 features, LightGBM",
    "statistics": "two-quantile maximum alone, no labels",
    "isolation_forest": "isolation forest alone, no labels",
    "rules": "rules alone, no labels",
    "verdict": "severity of the verdict (five levels)",
    "knowable": "bound: every fraud that could be known, first",
}


def evaluate(rows: pl.DataFrame, name: str) -> dict[str, float]:
    """ROC AUC, average precision, and card precision at 100 by the Handbook's definition."""
    label, score = rows["fraud"].to_numpy() == 1, rows[name].fill_nan(0.0).to_numpy()
    return {
        "roc_auc": round(float(roc_auc_score(label, score)), 4),
        "average_precision": round(float(average_precision_score(label, score)), 4),
        "card_precision_100": round(card_precision(rows, name), 4),
    }


def card_precision(rows: pl.DataFrame, name: str) -> float:
    """Share of frauds among each day's 100 highest cards, a found card left out from the next day on; the mean."""
    found: set[int] = set()
    precision = []
    for _, day in rows.group_by("day", maintain_order=True):
        cards = (
            day.filter(~pl.col("user").is_in(list(found)))
            .group_by("user", maintain_order=True)
            .agg(pl.col(name).fill_nan(0.0).max(), pl.col("fraud").max())
            .sort(name, descending=True, maintain_order=True)
            .head(CARDS_A_DAY)
        )
        caught = cards.filter(pl.col("fraud") == 1)["user"].to_list()
        found.update(caught)
        precision.append(len(caught) / CARDS_A_DAY)
    return float(np.mean(precision))


def leave_out_known_cards(rows: pl.DataFrame, path: Path, mapping: ColumnMapping, days: Days) -> pl.DataFrame:
    """Test rows of cards whose fraud was not known yet on that day, as in the Handbook."""
    frauds = (
        source(path, mapping)
        .filter((pl.col("fraud") == 1) & (pl.col("ts") >= days.train_start))
        .group_by("user")
        .agg((pl.col("ts").min() // DAY_MS).alias("first"))
    )
    delay = -(-days.delay // DAY_MS)
    return rows.join(frauds, on="user", how="left").filter(
        pl.col("first").is_null() | (pl.col("first") > pl.col("day") - delay - 1)
    )


def source(path: Path, mapping: ColumnMapping) -> pl.DataFrame:
    """The file itself: time, user, transaction, merchant, amount, label."""
    frame = load_frame(path, mapping)
    lazy, schema = scan(path)
    if SCENARIO_COLUMN in schema:
        frame = frame.with_columns(lazy.select(pl.col(SCENARIO_COLUMN).cast(pl.Int32)).collect().to_series())
    else:
        frame = frame.with_columns(pl.lit(-1).alias(SCENARIO_COLUMN))
    frame = frame.sort("timestamp", maintain_order=True)
    users = frame["user_id"].to_list()
    return pl.DataFrame(
        {
            "ts": frame["timestamp"],
            "user": user_keys([ACCOUNT] * len(users), users)[:, 0],
            "tx": text_keys(frame["tx_id"].to_list()),
            "merchant": frame["merchant_id"],
            "amount": frame["amount"],
            "fraud": frame["label"].cast(pl.Int32),
            "scenario": frame[SCENARIO_COLUMN],
        }
    )


def handbook_scores(path: Path, mapping: ColumnMapping, days: Days) -> pl.DataFrame:
    """The Handbook's 15 features and one week of training, by LightGBM with the product's parameters."""
    frame = source(path, mapping).filter(pl.col("ts") < days.test_end)
    at = pl.from_epoch(pl.col("ts"), time_unit="ms")
    frame = frame.with_columns(at.alias("at")).with_columns(
        (pl.col("at").dt.weekday() >= 6).cast(pl.Float64).alias("weekend"),
        (pl.col("at").dt.hour() <= 6).cast(pl.Float64).alias("night"),
    )
    delay = f"{days.delay}ms"

    def rolled(column: str, window: str, over: str) -> pl.Expr:
        return pl.col(column).cast(pl.Float64).rolling_sum_by("at", window_size=window).over(over)

    frame = frame.with_columns(pl.lit(1.0).alias("one"))
    inputs = ["amount", "weekend", "night"]
    for size in (1, 7, COMPROMISED_DAYS):
        count, total = rolled("one", f"{size}d", "user"), rolled("amount", f"{size}d", "user")
        late = f"{days.delay + size * DAY_MS}ms"
        seen = rolled("one", late, "merchant") - rolled("one", delay, "merchant")
        frauds = rolled("fraud", late, "merchant") - rolled("fraud", delay, "merchant")
        frame = frame.with_columns(
            count.alias(f"card_count_{size}"),
            (total / count).alias(f"card_mean_{size}"),
            seen.alias(f"merchant_count_{size}"),
            frauds.alias(f"merchant_frauds_{size}"),
            pl.when(seen > 0).then(frauds / seen).otherwise(0.0).alias(f"merchant_risk_{size}"),
        )
        inputs += [f"{n}_{size}" for n in ("card_count", "card_mean", "merchant_count", "merchant_risk")]
    train = frame.filter((pl.col("ts") >= days.train_start) & (pl.col("ts") < days.train_end))
    test = frame.filter(pl.col("ts") >= days.test_start)
    data = lightgbm.Dataset(
        train.select(inputs).to_numpy(), train["fraud"].to_numpy(), params={"max_bin": 1023, "verbosity": -1}
    )
    booster = lightgbm.train(PARAMETERS, data, num_boost_round=ROUNDS)
    score = np.asarray(booster.predict(test.select(inputs).to_numpy(), num_threads=1))
    return test.select(
        "user",
        "tx",
        "scenario",
        pl.col(f"merchant_frauds_{COMPROMISED_DAYS}").alias("merchant_frauds"),
        pl.Series("handbook", score),
    )


class Tested:
    """Scores of the test rows by every method, in the order of the file."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.forest = build_models(
            replace(detector.bundle, supervised=None), detector.spec.names, detector.policy
        )
        self.columns: dict[str, list[np.ndarray]] = {}

    def frame(self) -> pl.DataFrame:
        """All test rows."""
        return pl.DataFrame({name: np.concatenate(parts) for name, parts in self.columns.items()})

    def add(self, part: LabelledBatch, verdicts: Verdicts) -> None:
        """Take a micro-batch."""
        batch, spec = part.batch, verdicts.spec
        assert not verdicts.disposition.any(), "the file has repeats"
        fitted = self.detector.two_quantile
        assert fitted is not None
        lr, amount = (verdicts.features[:, spec.index(n)] for n in ("user_amount_lr", "amount_base"))
        forest = self.forest.judge(verdicts.features, batch.accounts, batch.account)
        weights = np.array([int(rule.severity) * 100 + rule.weight for rule in self.detector.rules.rules])
        columns = {
            "user": batch.user_key[:, 0],
            "tx": batch.tx_key,
            "day": batch.ts_ms // DAY_MS,
            "fraud": (part.fraud == 1).astype(float),
            "ordinary": (~(lr >= ORDINARY_LOG_RATIO)).astype(float),
            "learned": verdicts.ml_score,
            "isolation_forest": forest.score,
            "amount": amount,
            "statistics": fitted.score(lr, amount),
            "rules": (verdicts.fired * weights).max(axis=1) + verdicts.fired.sum(axis=1) / 1000,
            "verdict": verdicts.severity.astype(float),
        }
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)


def find_file(path: Path) -> Path:
    """The file, or the one parquet or CSV file of a folder."""
    if path.is_file():
        return path
    found = sorted([*path.glob("*.parquet"), *path.glob("*.csv")])
    if len(found) != 1:
        raise SystemExit(f"--data {path}: expected a file, or a folder with one parquet or CSV file")
    return found[0]


def parse_days(text: str) -> tuple[int, int]:
    """``2018-08-08..2018-08-14`` as start and end in ms; both days are in."""
    try:
        first, last = (date.fromisoformat(part) for part in text.split(".."))
    except ValueError as error:
        raise SystemExit(f"expected FROM..TO such as 2018-08-08..2018-08-14, got {text!r}") from error
    return midnight_ms(first), midnight_ms(last + timedelta(days=1))


def midnight_ms(day: date) -> int:
    """Its beginning in UTC."""
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def show(result: dict[str, Any], methods: Mapping[str, str] = METHODS) -> None:
    """The table for people."""
    table = Table("method", "average precision", "card precision@100", "ROC AUC")
    for name, words in methods.items():
        found = result["methods"][name]
        columns = ("average_precision", "card_precision_100", "roc_auc")
        table.add_row(words, *(f"{found[column]:.3f}" for column in columns))
    console = Console()
    console.print(table)
    console.print(
        f"{result['transactions']:,} test transactions, {result['frauds']} frauds; seconds: {result['seconds']}"
    )


if __name__ == "__main__":
    main()
