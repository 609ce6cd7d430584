"""Learning from the labels that are stored: the frame by a replay, the profiles of each refresh, the model beside.

What became known after an instant does not count at it, neither in the model nor in the profiles that the frame is
joined with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import psycopg

from anomalyze.backtest.run import Replay
from anomalyze.backtest.stored import read_stored
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.learning import (
    LabelledBatch,
    LearningFrame,
    compute_snapshots,
    fit_supervised,
    label_table,
    refresh_instants,
    training_frame,
)
from anomalyze.errors import ContractError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys, user_keys
from anomalyze.features.snapshot import Profiles
from anomalyze.learning.history import History
from anomalyze.storage.label import known_labels
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch

__all__ = ["add_supervised", "label_rows", "read_frame", "read_labels_of"]

_UNKNOWN = -1
_LABELS = {"user": pl.UInt64, "tx": pl.UInt64, "fraud": pl.Int8, "known_ms": pl.Int64}


def add_supervised(
    dsn: str,
    history: History,
    bundle: Bundle,
    delay_ms: int,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Bundle, Profiles]:
    """The bundle with a model that learned from labels, where there are enough; and the profiles of the newest days.

    Parameters
    ----------
    history
        The model learns from what was known when ``evaluate`` begins; the profiles go on through it.
    bundle
        The candidate so far.
    delay_ms
        After so long a transaction without a label counts as genuine.

    Returns
    -------
    tuple
        The bundle, as it came when there are too few labels (``say`` is told so), and the profiles that its
        detector would have met in ``evaluate``.
    """
    end_ms = history.evaluate.bounds_ms[1]
    with connect(dsn, program="anomalyze-learning") as connection:
        labels = {
            account: read_labels_of(connection, account, datetime.fromtimestamp(end_ms / 1000, UTC))
            for account in history.accounts
        }
    known = sum(len(frame) for frame in labels.values())
    say(f"{known:,} labels are known")
    if not known:
        return bundle, Profiles()
    frame = read_frame(dsn, history, bundle, labels, delay_ms)
    as_of_ms = history.evaluate.bounds_ms[0]
    profiles = profiles_of(frame, bundle, as_of_ms, end_ms, delay_ms)
    try:
        learned = fit_supervised(frame.at(frame.ts_ms < as_of_ms), as_of_ms, delay_ms, seed=seed)
    except ContractError as error:
        say(f"No model learns from them: {error}")
        return bundle, profiles
    say(f"A model learned from the labels of {', '.join(learned.accounts)}")
    return replace(bundle, supervised=learned), profiles


def read_labels_of(
    connection: psycopg.Connection[object], account: str, known_before: datetime
) -> pl.DataFrame:
    """An account's labels by the hashes of user (0: a label without one) and transaction."""
    rows = fetch(connection, known_labels(account, known_before))
    if not rows:
        return pl.DataFrame(schema=_LABELS)
    users = [str(row["user_id"]) for row in rows]
    keys = user_keys([account] * len(rows), users)[:, 0]
    return pl.DataFrame(
        {
            "user": np.where(np.array([bool(user) for user in users]), keys, np.uint64(0)),
            "tx": text_keys([str(row["tx_id"]) for row in rows]),
            "fraud": [int(row["fraud"]) for row in rows],
            "known_ms": [int(row["known_at"].timestamp() * 1000) for row in rows],
        },
        schema=_LABELS,
    )


def label_rows(batch: MicroBatch, labels: pl.DataFrame) -> LabelledBatch:
    """A micro-batch with what `read_labels_of` knows of its rows; a label that names the user counts first."""
    rows = pl.DataFrame({"user": batch.user_key[:, 0], "tx": batch.tx_key})
    own = labels.filter(pl.col("user") != 0).unique(["user", "tx"], keep="first")
    anyone = labels.filter(pl.col("user") == 0).drop("user").unique(["tx"], keep="first")
    found = rows.join(own, on=["user", "tx"], how="left", maintain_order="left").join(
        anyone, on="tx", how="left", maintain_order="left", suffix="_anyone"
    )
    fraud = found.select(pl.coalesce("fraud", "fraud_anyone").fill_null(_UNKNOWN)).to_series()
    known = found.select(pl.coalesce("known_ms", "known_ms_anyone").fill_null(0)).to_series()
    return LabelledBatch(batch, fraud.to_numpy().astype(np.int8), known.to_numpy().astype(np.int64))


def read_frame(
    dsn: str, history: History, bundle: Bundle, labels: dict[str, pl.DataFrame], delay_ms: int
) -> LearningFrame:
    """All three parts through the bundle's detector, account by account."""
    replay = Replay(Detector(bundle))
    bounds = (history.train.bounds_ms[0], history.evaluate.bounds_ms[1])

    def batches(accounts: Sequence[str]) -> Iterator[LabelledBatch]:
        for account in accounts:
            for chunk in read_stored(dsn, account, *bounds):
                yield label_rows(replay.decode(chunk), labels[account])

    return training_frame(bundle, batches(history.accounts), replay.states, delay_ms=delay_ms)


def profiles_of(frame: LearningFrame, bundle: Bundle, first_ms: int, end_ms: int, delay_ms: int) -> Profiles:
    """The profiles in force from an instant to another, each of what was known when it was made."""
    instants = refresh_instants(Detector(bundle).spec, first_ms, end_ms)
    return Profiles(compute_snapshots(label_table(frame, delay_ms), instants))
