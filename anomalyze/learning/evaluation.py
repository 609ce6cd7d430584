"""What came of judging the newest stored days by a candidate, and by the champion beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from anomalyze.backtest.run import Replay
from anomalyze.detection.canary import Canary
from anomalyze.detection.detector import Detector, Verdicts
from anomalyze.detection.state import PartitionState
from anomalyze.detection.supervised import Proof
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.features.snapshot import Profiles
from anomalyze.features.state import Disposition
from anomalyze.learning.budget import BudgetTrial, RankedRows, keep_ranked
from anomalyze.learning.quality import FoundCase, Fraud, Quality

__all__ = ["TAILS", "Evaluation", "Judged", "Tally", "judge_days", "leaking_rows"]

# Rarities at which a calibration is held against what came.
TAILS = (0.05, 0.01, 0.001)
HISTOGRAM_BINS = 20
DAY_MS = 86_400_000


class Judged(msgspec.Struct, frozen=True):
    """What one bundle made of the evaluated days.

    Attributes
    ----------
    rows
        Judged rows, and of those in ``scored`` the model gave a score.
    cases
        Cases by the name of their highest severity.
    beyond
        Rows with a tail probability of at most each of `TAILS`.
    histogram
        Rows by tail probability in `HISTOGRAM_BINS` equal bins from 0 to 1: flat where the calibration holds.
    fraud, fraud_found
        Rows labelled fraud, and of those the ones at MEDIUM or above.
    row_us
        Median microseconds a row took, over micro-batches.
    """

    bundle: str
    rows: int
    scored: int
    cases: dict[str, int]
    beyond: list[int]
    histogram: list[int]
    fraud: int
    fraud_found: int
    row_us: float

    def cases_from(self, severity: Severity) -> int:
        """Cases of at least this severity."""
        return sum(count for name, count in self.cases.items() if Severity[name] >= severity)


class Evaluation(msgspec.Struct, frozen=True):
    """Everything that the checks of a candidate read.

    Attributes
    ----------
    accounts
        Whose transactions.
    windows
        ``train``, ``calibrate``, ``evaluate`` in words.
    days
        Length of the evaluated stretch.
    leak_rows, leaking
        Rows whose features were computed again without what came later, and how many differed.
    champion
        None when no champion was there to compare with.
    quality
        Fraud found by both within the same budget of cases; None without a champion.
    matured
        Days that quality was judged on, in words: later than any of the candidate's training, and settled.
    canary
        What became of labels drawn by lot; None where no model learned from labels.
    proofs, champion_proofs
        What the models that learned from labels proved, candidate's and champion's, by account.
    budget
        What the policy's budget would have shown; None without one, or with too few days to try it.
    """

    accounts: list[str]
    windows: dict[str, str]
    days: float
    leak_rows: int
    leaking: int
    candidate: Judged
    champion: Judged | None
    quality: Quality | None = None
    matured: str = ""
    canary: Canary | None = None
    proofs: dict[str, Proof] = {}
    champion_proofs: dict[str, Proof] = {}
    budget: BudgetTrial | None = None


class Tally:
    """Counts over micro-batches of several accounts.

    Parameters
    ----------
    bundle
        Whose verdicts.
    days_ms
        By account, the event times ``[start, end)`` that count; None: all.
    """

    def __init__(self, bundle: str, days_ms: Mapping[str, tuple[int, int]] | None = None) -> None:
        self._bundle = bundle
        self._days_ms = days_ms
        self.cases: dict[str, FoundCase] = {}
        self.frauds: list[Fraud] = []
        self.ranked: dict[str, list[RankedRows]] = {}
        self._tails: list[npt.NDArray[np.float64]] = []
        self._row_us: list[float] = []
        self._rows = self._found = 0

    def judge(
        self,
        account: str,
        detector: Detector,
        replay: Replay,
        batches: Sequence[MicroBatch],
        profiles: Profiles,
    ) -> None:
        """Judge an account's micro-batches and count."""
        for batch in batches:
            begun_s = time.perf_counter()
            verdicts = detector.process(batch, replay.states, profiles)
            self._row_us.append((time.perf_counter() - begun_s) / max(batch.n, 1) * 1e6)
            judged = verdicts.disposition == Disposition.JUDGE
            if self._days_ms is not None:
                start_ms, end_ms = self._days_ms[account]
                judged &= (batch.ts_ms >= start_ms) & (batch.ts_ms < end_ms)
            fraud = judged & (replay.labels_of(batch) == 1)
            self._rows += int(judged.sum())
            self._found += int((verdicts.severity[fraud] >= Severity.MEDIUM).sum())
            self._tails.append(1.0 - verdicts.ml_score[judged])
            if verdicts.ranked is not None:
                self.ranked.setdefault(account, []).append(keep_ranked(batch, verdicts))
            self._keep_cases(account, verdicts, judged)
            self._keep_frauds(account, batch, verdicts, np.flatnonzero(fraud))

    def _keep_cases(self, account: str, verdicts: Verdicts, judged: npt.NDArray[np.bool_]) -> None:
        for row, anomaly in verdicts.anomalies.items():
            if judged[row]:
                case = f"{account} {anomaly.case_id}"
                before = self.cases.get(case, FoundCase(0, 0.0))
                score = float(np.nan_to_num(verdicts.ml_score[row]))
                self.cases[case] = FoundCase(
                    max(before.severity, int(verdicts.severity[row])), max(before.score, score)
                )

    def _keep_frauds(
        self, account: str, batch: MicroBatch, verdicts: Verdicts, rows: npt.NDArray[np.intp]
    ) -> None:
        amounts = verdicts.features[rows, verdicts.spec.index("amount_base")]
        for row, amount in zip(rows.tolist(), np.nan_to_num(np.abs(amounts)).tolist(), strict=True):
            anomaly = verdicts.anomalies.get(row)
            case = None if anomaly is None else f"{account} {anomaly.case_id}"
            user = f"{account} {batch.user_key[row].tolist()}"
            self.frauds.append(Fraud(user, int(batch.ts_ms[row]) // DAY_MS, amount, case))

    def result(self) -> Judged:
        """The counts."""
        tails = np.concatenate(self._tails) if self._tails else np.empty(0)
        tails = tails[~np.isnan(tails)]
        severities = [case.severity for case in self.cases.values()]
        return Judged(
            bundle=self._bundle,
            rows=self._rows,
            scored=len(tails),
            cases={s.name: severities.count(int(s)) for s in Severity if s > Severity.NONE},
            beyond=[int((tails <= tail).sum()) for tail in TAILS],
            histogram=np.histogram(tails, HISTOGRAM_BINS, (0.0, 1.0))[0].tolist(),
            fraud=len(self.frauds),
            fraud_found=self._found,
            row_us=float(np.median(self._row_us)) if self._row_us else 0.0,
        )


def judge_days(
    account: str,
    replay: Replay,
    batches: Sequence[MicroBatch],
    judges: Sequence[tuple[Detector, Tally]],
    profiles: Profiles,
) -> None:
    """Let each detector judge the same micro-batches from the same states, with the profiles then in force."""
    before = {partition: state.snapshot() for partition, state in replay.states.items()}
    for detector, tally in judges:
        for partition, state in replay.states.items():
            state.restore(before[partition])
        tally.judge(account, detector, replay, batches, profiles)


def leaking_rows(
    detector: Detector, states: dict[int, PartitionState], whole: MicroBatch, part: MicroBatch
) -> tuple[int, int]:
    """Rows of ``part``, and how many of them have other features or another verdict than within ``whole``.

    Parameters
    ----------
    states
        Where both begin; not changed.
    whole, part
        A stretch of the log, and its beginning alone: what came later must make no difference.
    """
    found = []
    for batch in (whole, part):
        fresh = {partition: PartitionState.empty() for partition in states}
        for partition, state in fresh.items():
            state.restore(states[partition].snapshot())
        verdicts = detector.process(batch, fresh)
        places = zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)
        found.append(
            {
                place: (features.tobytes(), severity)
                for place, features, severity in zip(
                    places, verdicts.features, verdicts.severity.tolist(), strict=True
                )
            }
        )
    return len(found[1]), sum(found[0].get(place) != value for place, value in found[1].items())
