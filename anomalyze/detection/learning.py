"""Learning from labels that arrive late: the frame, the profiles at each refresh, and the bundle made of them.

Labels say of a transaction that it was fraud or genuine, and when that became known. A transaction without one
counts as genuine once the account's delay has passed, and as nothing before. The frame is a replay through
``Detector.process`` itself; its profile columns are joined by ``Profiles.join``, as the detector joins them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector, PartitionState, Verdicts
from anomalyze.detection.search import search_fit
from anomalyze.detection.supervised import Supervised
from anomalyze.detection.training import TRAINED_ON, Frame, instant, train_bundle
from anomalyze.errors import ConfigError, ContractError
from anomalyze.events.batch import MicroBatch
from anomalyze.events.hashing import text_keys
from anomalyze.features.catalogue import MERCHANT_PROFILE
from anomalyze.features.profile import LABEL_COLUMNS, compute_profiles
from anomalyze.features.snapshot import Profiles, Snapshot, merchant_keys
from anomalyze.features.spec import FeatureSpec
from anomalyze.features.state import Disposition
from anomalyze.models.boosting import SUPERVISED_INPUTS, train_supervised
from anomalyze.models.forest import ModelInput

__all__ = [
    "SUSPECT",
    "USER_DAY_ROWS_MAX",
    "Delay",
    "FrameCollector",
    "LabelledBatch",
    "LearningFrame",
    "build_candidate",
    "compute_snapshots",
    "label_table",
    "refresh_instants",
    "training_frame",
    "within_daily_limit",
]

DAY_MS = 86_400_000
WINDOW_DAYS = 56
# A model is too sure of itself on its own training rows: rarity is read from at least so many later days.
CALIBRATION_DAYS_MIN = 7
# One busy user, or one attack, is not to decide what everybody's fraud looks like.
USER_DAY_ROWS_MAX = 50
SUSPECT, UNKNOWN, GENUINE, FRAUD = -2, -1, 0, 1

# Ms until a transaction without a label counts as genuine: of all accounts, or of each.
Delay = int | Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """A micro-batch and what became known of its rows.

    Attributes
    ----------
    batch
        In the order of the log.
    fraud
        int8 ``[n]``: 1 fraud, 0 genuine, -1 no label, -2 none and part of a case that nobody has decided yet: however
        long that lasts, it teaches nothing.
    known_ms
        int64 ``[n]``: when the label became known, ms since 1970; of no meaning without one.
    """

    batch: MicroBatch
    fraud: npt.NDArray[np.int8]
    known_ms: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LearningFrame:
    """Judged rows of a history with their labels, in the order of their log; arrays ``[n]``.

    Attributes
    ----------
    names, features
        float64 ``[n, len(names)]``, NaN = NULL.
    accounts, account
        Ids, and int32 into them.
    user
        uint64: first half of the user's key.
    merchant
        uint64: ``merchant_keys``; 0 = none.
    ts_ms
        int64: event time.
    fraud, known_ms
        As in ``LabelledBatch``.
    severity
        int8: of the verdict by the bundle that was replayed.
    """

    names: tuple[str, ...]
    features: npt.NDArray[np.float64]
    accounts: tuple[str, ...]
    account: npt.NDArray[np.int32]
    user: npt.NDArray[np.uint64]
    merchant: npt.NDArray[np.uint64]
    ts_ms: npt.NDArray[np.int64]
    fraud: npt.NDArray[np.int8]
    known_ms: npt.NDArray[np.int64]
    severity: npt.NDArray[np.int8]

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One feature."""
        return self.features[:, self.names.index(name)]

    def at(self, rows: npt.NDArray[np.bool_]) -> LearningFrame:
        """Some of the rows."""
        taken = {
            name: getattr(self, name)[rows]
            for name in (
                "features",
                "account",
                "user",
                "merchant",
                "ts_ms",
                "fraud",
                "known_ms",
                "severity",
            )
        }
        return replace(self, **taken)

    def delays(self, delay_ms: Delay) -> npt.NDArray[np.int64]:
        """Each row's delay."""
        if isinstance(delay_ms, int):
            return np.full(len(self.ts_ms), delay_ms, dtype=np.int64)
        return np.array([delay_ms[name] for name in self.accounts], dtype=np.int64)[self.account]

    def labels_at(self, as_of_ms: int, delay_ms: Delay) -> npt.NDArray[np.int8]:
        """What each row counts as by then: its label if it was known, genuine after the delay, else -1."""
        known = (self.fraud > UNKNOWN) & (self.known_ms < as_of_ms)
        settled = (self.ts_ms + self.delays(delay_ms) < as_of_ms) & (self.fraud != SUSPECT)
        return np.where(known, self.fraud, np.where(settled, GENUINE, UNKNOWN)).astype(np.int8)

    def with_profiles(self, snapshots: Iterable[Snapshot]) -> LearningFrame:
        """The frame with its profile columns as the detector would have had them."""
        names = [name for name in MERCHANT_PROFILE if name in self.names]
        joined = np.empty((len(self.ts_ms), len(names)))
        Profiles(snapshots).join(names, self.ts_ms, self.merchant, joined)
        features = self.features.copy()
        features[:, [self.names.index(name) for name in names]] = joined
        return replace(self, features=features)


class FrameCollector:
    """Keeps of judged micro-batches what learning reads; ``frame`` gives it as one table."""

    def __init__(self, detector: Detector, inputs: Sequence[ModelInput] = SUPERVISED_INPUTS) -> None:
        wanted = dict.fromkeys([*TRAINED_ON, *(i.name for i in inputs)])
        missing = [name for name in wanted if name not in detector.spec.names]
        if missing:
            raise ConfigError(f"features.yaml: learning from labels needs {', '.join(missing)}; declare them")
        self.names = tuple(wanted)
        self._source = np.array([detector.spec.index(name) for name in self.names], dtype=np.intp)
        self._accounts: dict[str, int] = {}
        self._parts: list[tuple[npt.NDArray[np.generic], ...]] = []

    def add(self, part: LabelledBatch, verdicts: Verdicts) -> None:
        """Take the judged rows of a micro-batch."""
        batch = part.batch
        rows = np.flatnonzero(verdicts.disposition == Disposition.JUDGE)
        codes = np.array(
            [self._accounts.setdefault(name, len(self._accounts)) for name in batch.accounts], dtype=np.int32
        )
        account = batch.account[rows]
        self._parts.append(
            (
                verdicts.features[rows][:, self._source],
                codes[account],
                batch.user_key[rows, 0],
                merchant_keys(text_keys(batch.accounts)[account], batch.merchant[rows]),
                batch.ts_ms[rows],
                part.fraud[rows],
                part.known_ms[rows],
                verdicts.severity[rows],
            )
        )

    def frame(self) -> LearningFrame:
        """All rows so far."""
        if not self._parts:
            raise ConfigError("training: expected a history, got no transaction")
        features, account, *others = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        return LearningFrame(self.names, features, tuple(self._accounts), account, *others)


def training_frame(
    bundle: Bundle,
    history: Iterable[LabelledBatch],
    states: Mapping[int, PartitionState],
    *,
    delay_ms: Delay,
    snapshots: Iterable[Snapshot] | None = None,
    days: Profiles | None = None,
    inputs: Sequence[ModelInput] = SUPERVISED_INPUTS,
) -> LearningFrame:
    """Run a history through the bundle's detector and join what the profiles then in force said.

    Parameters
    ----------
    history
        Micro-batches in the order of the log, with the labels that came to be known.
    states
        By partition; moved on.
    delay_ms
        Time after which a transaction without a label counts as genuine.
    snapshots
        What labels said, as it was in force; None: computed as of each refresh.
    days
        The profiles of whole days that were in force.
    inputs
        What the model is to read.
    """
    detector = Detector(bundle)
    collector = FrameCollector(detector, inputs)
    for part in history:
        collector.add(part, detector.process(part.batch, states, days))
    frame = collector.frame()
    if snapshots is None:
        first_ms, end_ms = int(frame.ts_ms.min()), int(frame.ts_ms.max()) + 1
        instants = refresh_instants(detector.spec, first_ms, end_ms)
        snapshots = compute_snapshots(label_table(frame, delay_ms), instants)
    return frame.with_profiles(snapshots)


def label_table(frame: LearningFrame, delay_ms: Delay) -> pl.DataFrame:
    """What was known of each row and when, for ``compute_profiles``: labels, and genuine ones by default."""
    settled = frame.ts_ms + frame.delays(delay_ms)
    labelled = frame.fraud > UNKNOWN
    presumed = ~labelled | (frame.known_ms > settled)
    log_ratio = frame.column("user_amount_lr")
    parts = []
    for rows, fraud, known, until in (
        (labelled, frame.fraud == FRAUD, frame.known_ms, None),
        (presumed, np.zeros(len(labelled), bool), settled, np.where(labelled, frame.known_ms, NEVER_MS)),
    ):
        columns = {
            "key": frame.merchant[rows],
            "ts_ms": frame.ts_ms[rows],
            "log_ratio": log_ratio[rows],
            "fraud": fraud[rows],
            "known_ms": known[rows],
            "until_ms": np.full(int(rows.sum()), NEVER_MS) if until is None else until[rows],
        }
        parts.append(pl.DataFrame(columns, schema=LABEL_COLUMNS))
    return pl.concat(parts)


NEVER_MS = np.iinfo(np.int64).max


def refresh_instants(spec: FeatureSpec, first_ms: int, end_ms: int) -> range:
    """Instants of the profiles that events in ``[first_ms, end_ms)`` are judged by."""
    step = spec.profile_refresh_ms
    return range(first_ms // step * step, end_ms, step)


def compute_snapshots(labels: pl.DataFrame, instants: Iterable[int]) -> Iterator[Snapshot]:
    """Profiles as of each instant."""
    return (compute_profiles(labels, instant) for instant in instants)


def build_candidate(
    bundle: Bundle,
    frame: LearningFrame,
    *,
    as_of_ms: int,
    delay_ms: Delay,
    window_days: int = WINDOW_DAYS,
    seed: int = 0,
) -> Bundle:
    """A bundle with an isolation forest of all rows and a supervised model of the newest settled weeks.

    Parameters
    ----------
    bundle
        Configuration to train by.
    frame
        History with profiles, as ``training_frame`` gives it.
    as_of_ms
        Now: what became known later does not count, nor do rows that came later.
    delay_ms
        As in ``training_frame``; the window ends so long before ``as_of_ms``, at least a week.

    Raises
    ------
    ContractError
        Too few labels, or the exported model differs from the trained one.
    """
    frame = frame.at(frame.ts_ms < as_of_ms)
    if not len(frame.ts_ms):
        raise ContractError("training: expected rows before the instant of training, got none")
    window = (instant(int(frame.ts_ms.min())), instant(int(frame.ts_ms.max())))
    columns = [frame.names.index(name) for name in TRAINED_ON]
    made = train_bundle(
        bundle,
        Frame(TRAINED_ON, frame.features[:, columns], frame.accounts, frame.account, window),
        "trained",
        seed=seed,
    )
    return replace(
        made, supervised=fit_supervised(frame, as_of_ms, delay_ms, window_days=window_days, seed=seed)
    )


def fit_supervised(
    frame: LearningFrame, as_of_ms: int, delay_ms: Delay, *, window_days: int = WINDOW_DAYS, seed: int = 0
) -> Supervised:
    """The supervised model of the weeks that end where labels end, calibrated on the rows since then.

    How it is fitted is chosen among a few ways on the newest quarter of these weeks (``detection.search``).
    """
    learned, label = learned_rows(frame, as_of_ms, delay_ms, window_days)
    end_ms = window_end(frame, as_of_ms, delay_ms)
    later = (frame.ts_ms >= end_ms) & (frame.ts_ms < as_of_ms)
    fraud = label[learned] == FRAUD
    fit, figures = search_fit(
        frame.features[learned], frame.names, fraud, frame.user[learned], frame.ts_ms[learned], seed=seed
    )
    trained = train_supervised(
        frame.features[learned],
        frame.names,
        fraud,
        frame.features[later],
        window=(instant(int(end_ms.min()) - window_days * DAY_MS), instant(int(end_ms.max()))),
        seed=seed,
        fit=fit,
    )
    accounts = sorted({frame.accounts[i] for i in np.unique(frame.account[learned & (label == FRAUD)])})
    return Supervised.of(replace(trained, metrics={**trained.metrics, **figures}), accounts)


def window_end(frame: LearningFrame, as_of_ms: int, delay_ms: Delay) -> npt.NDArray[np.int64]:
    """Of each row's account: where its settled labels end."""
    return as_of_ms - np.maximum(frame.delays(delay_ms), CALIBRATION_DAYS_MIN * DAY_MS)


def learned_rows(
    frame: LearningFrame, as_of_ms: int, delay_ms: Delay, window_days: int = WINDOW_DAYS
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int8]]:
    """Which rows a supervised model learns from at an instant, and what each row counts as then."""
    end_ms = window_end(frame, as_of_ms, delay_ms)
    label = frame.labels_at(as_of_ms, delay_ms)
    within = (frame.ts_ms >= end_ms - window_days * DAY_MS) & (frame.ts_ms < end_ms)
    return within & (label != UNKNOWN) & within_daily_limit(frame.user, frame.ts_ms), label


def within_daily_limit(user: npt.NDArray[np.uint64], ts_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The first ``USER_DAY_ROWS_MAX`` rows of each user and day."""
    rows = pl.DataFrame({"user": user, "day": ts_ms // DAY_MS})
    number = rows.select(pl.int_range(pl.len()).over("user", "day")).to_series().to_numpy()
    within: npt.NDArray[np.bool_] = number < USER_DAY_ROWS_MAX
    return within
