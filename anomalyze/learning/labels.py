"""Learning from the labels that are stored: the frame by a replay, the profiles of each refresh, the model beside.

What became known after an instant does not count at it, neither in the model nor in the profiles that the frame is
joined with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import psycopg

from anomalyze.backtest.run import Replay
from anomalyze.backtest.stored import read_stored
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.canary import Canary, release_canary
from anomalyze.detection.detector import Detector
from anomalyze.detection.learning import (
    DAY_MS,
    SUSPECT,
    Delay,
    LabelledBatch,
    LearningFrame,
    compute_snapshots,
    fit_supervised,
    label_table,
    refresh_instants,
    training_frame,
)
from anomalyze.detection.proof import prove
from anomalyze.detection.statistic import TwoQuantile
from anomalyze.detection.supervised import Proof, Supervised
from anomalyze.errors import ContractError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys, user_keys
from anomalyze.features.snapshot import Profiles
from anomalyze.learning.admission import is_suspect, read_suspects
from anomalyze.learning.history import History
from anomalyze.models.kernel import TreeKernel
from anomalyze.storage.label import known_labels
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch

__all__ = ["Learned", "add_supervised", "label_rows", "own_delays", "read_frame", "read_labels_of"]

_UNKNOWN = -1
_LABELS = {"user": pl.UInt64, "tx": pl.UInt64, "fraud": pl.Int8, "known_ms": pl.Int64}


@dataclass(frozen=True, slots=True)
class Learned:
    """What labels gave.

    Attributes
    ----------
    bundle
        With a model that learned from them, and what it proved, where there are enough.
    profiles
        What the detector would have met from ``profiles_ms`` on, each of what was known when it was made.
    canary
        What became of labels drawn by lot; None where no model learned.
    champion
        What the champion's model proved on the same days, by account.
    """

    bundle: Bundle
    profiles: Profiles
    canary: Canary | None = None
    champion: Mapping[str, Proof] = field(default_factory=dict)


def add_supervised(
    dsn: str,
    history: History,
    bundle: Bundle,
    champion: Bundle | None,
    delay_ms: Mapping[str, int],
    *,
    profiles_ms: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Learned:
    """Let a model learn from labels beside the forest, where there are enough.

    Parameters
    ----------
    history
        The model learns from what was known when ``evaluate`` begins; what became known until its end proves it.
    bundle
        The candidate so far; it stays as it is when there are too few labels (``say`` is told so).
    delay_ms
        By account: after so long a transaction without a label counts as genuine.
    profiles_ms
        From when on profiles are wanted.
    """
    as_of_ms, end_ms = history.evaluate.bounds_ms
    with connect(dsn, program="anomalyze-learning") as connection:
        labels = {
            account: read_labels_of(connection, account, datetime.fromtimestamp(end_ms / 1000, UTC))
            for account in history.accounts
        }
        open_cases = {
            account: read_suspects(connection, account, history.train.start) for account in history.accounts
        }
    known = sum(len(frame) for frame in labels.values())
    say(f"{known:,} labels are known")
    if not known:
        return Learned(bundle, Profiles())
    frame = read_frame(dsn, history, without_models(bundle), labels, delay_ms, open_cases)
    profiles = profiles_of(frame, bundle, profiles_ms, end_ms, delay_ms)
    of_champion = {}
    if champion is not None and champion.supervised is not None:
        of_champion = prove_model(frame, champion, champion.supervised, end_ms, delay_ms, seed)
    try:
        made = fit_supervised(frame.at(frame.ts_ms < as_of_ms), as_of_ms, delay_ms, seed=seed)
    except ContractError as error:
        say(f"No model learns from them: {error}")
        return Learned(bundle, profiles, champion=of_champion)
    say(f"A model learned from the labels of {', '.join(made.accounts)}")
    made = replace(made, proofs=prove_model(frame, bundle, made, end_ms, delay_ms, seed))
    start_ms = int(datetime.fromisoformat(made.window[0]).timestamp() * 1000)
    newest = frame.at(frame.ts_ms >= start_ms)

    def join(one: LearningFrame) -> LearningFrame:
        snapshots = compute_snapshots(
            label_table(one, delay_ms), refresh_instants(Detector(bundle).spec, start_ms, end_ms)
        )
        return one.with_profiles(snapshots)

    canary = release_canary(newest, as_of_ms, delay_ms, join, seed=seed)
    return Learned(replace(bundle, supervised=made), profiles, canary, of_champion)


def own_delays(bundle: Bundle) -> dict[str, float]:
    """Days after which an unlabelled transaction counts as genuine, of the accounts that say so themselves."""
    own = {account: overlay.get("label_delay_days") for account, overlay in bundle.overlays.items()}
    return {account: float(days) for account, days in own.items() if days is not None}


def without_models(bundle: Bundle) -> Bundle:
    """The bundle as it decides by rules and statistics alone."""
    return replace(
        bundle,
        model=None,
        inputs=(),
        reference=(),
        calibration=None,
        account_calibrations={},
        supervised=None,
    )


def prove_model(
    frame: LearningFrame,
    bundle: Bundle,
    model: Supervised,
    end_ms: int,
    delay_ms: Mapping[str, int],
    seed: int,
) -> dict[str, Proof]:
    """What a bundle's model achieved on the days after its window that are settled by now, by account.

    Parameters
    ----------
    frame
        A replay by rules and statistics alone, with profiles; their severity, and among rows of the same the
        two-quantile maximum, is what the model has to beat.
    end_ms
        Now: what became known until then counts.
    """
    columns = [frame.names.index(one.name) for one in model.inputs if one.name in frame.names]
    if len(columns) != len(model.inputs):
        return {}
    ended_ms = int(datetime.fromisoformat(model.window[1]).timestamp() * 1000)
    label = frame.labels_at(end_ms, delay_ms)
    settled = (frame.ts_ms >= ended_ms) & (frame.ts_ms + frame.delays(delay_ms) < end_ms) & (label >= 0)
    two_quantile = TwoQuantile.from_statistics(bundle.statistics)
    proofs = {}
    for code, account in enumerate(frame.accounts):
        rows = np.flatnonzero(settled & (frame.account == code))
        if account not in model.accounts or not (label[rows] == 1).any():
            continue
        learned = TreeKernel.from_onnx(model.onnx).score(frame.features[rows][:, columns].astype(np.float32))
        other = frame.severity[rows].astype(np.float64)
        if two_quantile is not None:
            amount = two_quantile.score(
                frame.column("user_amount_lr")[rows], frame.column("amount_base")[rows]
            )
            strange = np.maximum(np.nan_to_num(amount), 0.0)
            other += strange / (1.0 + strange)
        proofs[account] = prove(
            learned.astype(np.float64),
            other,
            label[rows] == 1,
            frame.user[rows],
            frame.ts_ms[rows] // DAY_MS,
            seed=seed,
        )
    return proofs


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


def label_rows(
    batch: MicroBatch, labels: pl.DataFrame, open_cases: pl.DataFrame | None = None
) -> LabelledBatch:
    """A micro-batch with what `read_labels_of` and `read_suspects` know of its rows.

    A label that names the user counts first.
    """
    rows = pl.DataFrame({"user": batch.user_key[:, 0], "tx": batch.tx_key})
    own = labels.filter(pl.col("user") != 0).unique(["user", "tx"], keep="first")
    anyone = labels.filter(pl.col("user") == 0).drop("user").unique(["tx"], keep="first")
    found = rows.join(own, on=["user", "tx"], how="left", maintain_order="left").join(
        anyone, on="tx", how="left", maintain_order="left", suffix="_anyone"
    )
    fraud = found.select(pl.coalesce("fraud", "fraud_anyone").fill_null(_UNKNOWN)).to_series()
    known = found.select(pl.coalesce("known_ms", "known_ms_anyone").fill_null(0)).to_series()
    said = fraud.to_numpy().astype(np.int8)
    if open_cases is not None:
        said = np.where((said == _UNKNOWN) & is_suspect(batch, open_cases), SUSPECT, said).astype(np.int8)
    return LabelledBatch(batch, said, known.to_numpy().astype(np.int64))


def read_frame(
    dsn: str,
    history: History,
    bundle: Bundle,
    labels: Mapping[str, pl.DataFrame],
    delay_ms: Delay,
    open_cases: Mapping[str, pl.DataFrame] | None = None,
) -> LearningFrame:
    """All three parts through the bundle's detector, account by account."""
    replay = Replay(Detector(bundle))
    bounds = (history.train.bounds_ms[0], history.evaluate.bounds_ms[1])

    def batches(accounts: Sequence[str]) -> Iterator[LabelledBatch]:
        for account in accounts:
            for chunk in read_stored(dsn, account, *bounds):
                yield label_rows(replay.decode(chunk), labels[account], (open_cases or {}).get(account))

    return training_frame(bundle, batches(history.accounts), replay.states, delay_ms=delay_ms)


def profiles_of(
    frame: LearningFrame, bundle: Bundle, first_ms: int, end_ms: int, delay_ms: Delay
) -> Profiles:
    """The profiles in force from an instant to another, each of what was known when it was made."""
    instants = refresh_instants(Detector(bundle).spec, first_ms, end_ms)
    return Profiles(compute_snapshots(label_table(frame, delay_ms), instants))
