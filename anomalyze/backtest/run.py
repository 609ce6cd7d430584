"""A history through the same decoder and detector as the stream, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anomalyze.backtest.mapping import SourceChunk
from anomalyze.bus.partitioner import murmur2_partitions
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector, PartitionState, Verdicts
from anomalyze.detection.training import collect_frame, train_bundle
from anomalyze.events.batch import Action, DeadLetter, MicroBatch, Severity
from anomalyze.events.decode import decode_records
from anomalyze.features.snapshot import Profiles
from anomalyze.features.state import Disposition

__all__ = ["BACKTEST_PARTITIONS", "Findings", "Replay", "run_backtest"]

# Verdicts do not depend on the number; this many keeps each micro-batch's partitions long.
BACKTEST_PARTITIONS = 4
DAY_MS = 86_400_000
DEAD_KEPT = 20  # dead letters shown of how ever many


@dataclass(slots=True)
class Findings:
    """Judged rows of the evaluated range as columns ``[n]``, and counts beside them.

    ``label`` is 1 for fraud, 0 for genuine, -1 unknown; ``day`` days since 1970; ``statistic`` the two-quantile
    maximum (NaN: no history); ``fired`` ``[n, R]`` live and shadow rules together.
    """

    rule_ids: tuple[str, ...] = ()
    live: tuple[bool, ...] = ()
    day: list[npt.NDArray[np.int64]] = field(default_factory=list)
    label: list[npt.NDArray[np.int8]] = field(default_factory=list)
    severity: list[npt.NDArray[np.int8]] = field(default_factory=list)
    score: list[npt.NDArray[np.float64]] = field(default_factory=list)
    statistic: list[npt.NDArray[np.float64]] = field(default_factory=list)
    fired: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    cases: dict[str, int] = field(default_factory=dict)  # case to its first day
    examples: list[tuple[int, int, str]] = field(default_factory=list)  # severity, label, sentence
    rows: int = 0
    repeats: int = 0
    blocked: int = 0
    dead: list[DeadLetter] = field(default_factory=list)
    dead_total: int = 0


@dataclass(slots=True)
class Replay:
    """Partitions of a pretended log: chunks become micro-batches, labels stay beside them."""

    detector: Detector
    states: dict[int, PartitionState] = field(
        default_factory=lambda: {p: PartitionState.empty() for p in range(BACKTEST_PARTITIONS)}
    )
    labels: list[list[int]] = field(default_factory=lambda: [[] for _ in range(BACKTEST_PARTITIONS)])
    dead: list[DeadLetter] = field(default_factory=list)
    dead_total: int = 0

    def decode(self, chunk: SourceChunk) -> MicroBatch:
        """A chunk as the next micro-batch of the log."""
        partitions = murmur2_partitions([user.encode() for user in chunk.users], BACKTEST_PARTITIONS)
        offsets = []
        for partition, label in zip(partitions, chunk.labels, strict=True):
            offsets.append(len(self.labels[partition]))
            self.labels[partition].append(label)
        decoded = decode_records(
            partitions,
            offsets,
            chunk.append_ms,
            chunk.values,
            partition_count=BACKTEST_PARTITIONS,
            future_tolerance_ms=0,
            gazetteer=self.detector.gazetteer,
        )
        self.dead_total += len(decoded.dead)
        self.dead += decoded.dead[: DEAD_KEPT - len(self.dead)]
        return decoded.batch

    def labels_of(self, batch: MicroBatch) -> npt.NDArray[np.int8]:
        """Label of each row of a batch."""
        found = np.empty(batch.n, dtype=np.int8)
        for partition, first, end in batch.groups:
            of = np.array(self.labels[partition], dtype=np.int8)
            found[first:end] = of[batch.offset[first:end]]
        return found


def run_backtest(
    chunks: Iterable[SourceChunk],
    bundle: Bundle,
    *,
    train_until_ms: int | None = None,
    start_ms: int | None = None,
    profiles: Profiles | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[Findings, Bundle]:
    """Judge a history in the order of its time.

    Parameters
    ----------
    chunks
        The history; ``read_file`` and ``read_stored`` give it.
    bundle
        What judges.
    train_until_ms
        Train model, statistics and calibration on the rows before this time (they are judged by rules alone
        and not evaluated), then judge the rest by the bundle so made. None: judge all by ``bundle``.
    start_ms
        Rows before this time only make the history; they are not evaluated.
    profiles
        What was in force as the stored rows were judged; None: such features are NULL.
    progress
        Called with the number of rows that were read, now and then.

    Returns
    -------
    tuple
        What was found, and the bundle that judged.
    """
    replay = Replay(Detector(bundle))
    source = iter(chunks)
    rest: list[SourceChunk] = []
    if train_until_ms is not None:

        def history() -> Iterator[MicroBatch]:
            for chunk in source:
                before, after = split(chunk, train_until_ms)
                progress(len(before.users))
                if before.users:
                    yield replay.decode(before)
                if after.users:
                    rest.append(after)
                    return

        frame = collect_frame(bundle, history(), replay.states)
        bundle = train_bundle(bundle, frame, "trained")
        replay.detector = Detector(bundle)
    findings = Findings(
        rule_ids=replay.detector.rules.ids,
        live=tuple(rule.mode.name == "LIVE" for rule in replay.detector.rules.rules),
    )
    for chunk in (*rest, *source) if rest else source:
        batch = replay.decode(chunk)
        verdicts = replay.detector.process(batch, replay.states, profiles)
        note(findings, replay, batch, verdicts, start_ms)
        progress(len(chunk.users))
    findings.dead, findings.dead_total = replay.dead, replay.dead_total
    return findings, bundle


def split(chunk: SourceChunk, at_ms: int) -> tuple[SourceChunk, SourceChunk]:
    """The rows of a chunk before a time, and the others; a chunk is in order of time."""
    place = int(np.searchsorted(np.array(chunk.append_ms, dtype=np.int64), at_ms))
    return tuple(  # type: ignore[return-value]
        SourceChunk(chunk.users[part], chunk.append_ms[part], chunk.values[part], chunk.labels[part])
        for part in (slice(None, place), slice(place, None))
    )


def note(
    findings: Findings, replay: Replay, batch: MicroBatch, verdicts: Verdicts, start_ms: int | None
) -> None:
    """Add a micro-batch's judged rows of the evaluated range."""
    judged = verdicts.disposition == Disposition.JUDGE
    if start_ms is not None:
        judged &= batch.ts_ms >= start_ms
    rows = np.flatnonzero(judged)
    labels = replay.labels_of(batch)
    spec = verdicts.spec
    fitted = replay.detector.two_quantile
    statistic = np.full(len(rows), np.nan)
    if fitted is not None:
        statistic = fitted.score(
            verdicts.features[rows, spec.index("user_amount_lr")],
            verdicts.features[rows, spec.index("amount_base")],
        )
    findings.rows += len(rows)
    findings.repeats += int((verdicts.disposition == Disposition.REPEAT).sum())
    findings.blocked += int((verdicts.action[rows] == Action.BLOCK).sum())
    findings.day.append(batch.ts_ms[rows] // DAY_MS)
    findings.label.append(labels[rows])
    findings.severity.append(verdicts.severity[rows])
    findings.score.append(verdicts.ml_score[rows])
    findings.statistic.append(statistic)
    findings.fired.append(verdicts.fired[rows] | verdicts.shadow[rows])
    for row, anomaly in verdicts.anomalies.items():
        if judged[row]:
            findings.cases.setdefault(anomaly.case_id, int(batch.ts_ms[row] // DAY_MS))
            if verdicts.severity[row] >= Severity.MEDIUM and len(findings.examples) < 200:
                findings.examples.append((int(verdicts.severity[row]), int(labels[row]), anomaly.explanation))
