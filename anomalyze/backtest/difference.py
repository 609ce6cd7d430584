"""What another bundle would have said of the same history: which alerts appear and which go, and by what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from anomalyze.backtest.mapping import SourceChunk
from anomalyze.backtest.run import Replay
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector, Verdicts
from anomalyze.features.state import Disposition

__all__ = ["Difference", "compare_bundles"]

# What an alert is put down to when no rule fired differently.
OTHER = "model and statistics"
EXAMPLES_MAX = 5


@dataclass(slots=True)
class Side:
    """What one bundle says: alerts, the cases that they form, alerts only it raises, and of those known fraud."""

    alerts: int = 0
    alone: int = 0
    alone_fraud: int = 0
    cases: set[str] = field(default_factory=set)
    # By rule, or `OTHER`; an alert for which two rules fire counts for both.
    causes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Difference:
    """Two bundles on the same transactions.

    Attributes
    ----------
    rows
        Transactions judged in the range looked at.
    first, second
        What each bundle says; ``alone`` of the first goes, ``alone`` of the second appears.
    raised, lowered
        Alerts of both that the second takes for more, or for less, severe.
    """

    first: Side = field(default_factory=Side)
    second: Side = field(default_factory=Side)
    rows: int = 0
    raised: int = 0
    lowered: int = 0

    def sentences(self) -> list[str]:
        """The same in words.

        >>> Difference().sentences()
        ['No transaction in this range.']
        """
        if not self.rows:
            return ["No transaction in this range."]
        said = [
            f"Of {self.rows:,} transactions the first flags {self.first.alerts:,} "
            f"({len(self.first.cases):,} cases), the second {self.second.alerts:,} ({len(self.second.cases):,} cases)."
        ]
        if not (self.first.alone or self.second.alone or self.raised or self.lowered):
            return [*said, "No alert would appear, go, or change its severity."]
        said.append(
            f"{self.second.alone:,} alerts would appear ({self.second.alone_fraud:,} of them known fraud), "
            f"{self.first.alone:,} would go ({self.first.alone_fraud:,} of them known fraud), "
            f"{self.raised:,} become more severe, {self.lowered:,} less."
        )
        for cause in sorted(
            self.first.causes.keys() | self.second.causes.keys(),
            key=lambda cause: (-self.first.causes[cause] - self.second.causes[cause], cause),
        ):
            said.append(
                f"{cause}: {self.second.causes[cause]:,} would appear, {self.first.causes[cause]:,} would go"
            )
        said += [f"appears: {text}" for text in self.second.examples]
        said += [f"goes: {text}" for text in self.first.examples]
        return said


def compare_bundles(
    chunks: Iterable[SourceChunk],
    first: Bundle,
    second: Bundle,
    start_ms: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Difference:
    """Judge a history by both bundles and hold their alerts against each other.

    Parameters
    ----------
    chunks
        The history, in the order of the log, beginning early enough for the longest window.
    start_ms
        Rows before this time only make the history.
    """
    replays = (Replay(Detector(first)), Replay(Detector(second)))
    found = Difference()
    for chunk in chunks:
        batches = [replay.decode(chunk) for replay in replays]
        one, two = (
            replay.detector.process(batch, replay.states)
            for replay, batch in zip(replays, batches, strict=True)
        )
        # The same rows are valid for both: the wire form does not depend on the bundle.
        judged = (one.disposition == Disposition.JUDGE) & (batches[0].ts_ms >= start_ms)
        labels = replays[0].labels_of(batches[0])
        before, after = (np.where(judged, verdicts.severity, 0) for verdicts in (one, two))
        found.rows += int(judged.sum())
        both = (before > 0) & (after > 0)
        found.raised += int((both & (after > before)).sum())
        found.lowered += int((both & (after < before)).sum())
        goes, appears = (before > 0) & ~(after > 0), (after > 0) & ~(before > 0)
        rules = [replay.detector.rules.ids for replay in replays]
        count(found.first, one, before > 0, goes, labels == 1, rules[0], two, rules[1])
        count(found.second, two, after > 0, appears, labels == 1, rules[1], one, rules[0])
        progress(len(chunk.users))
    return found


def count(
    side: Side,
    verdicts: Verdicts,
    alerts: np.ndarray[tuple[int], np.dtype[np.bool_]],
    alone: np.ndarray[tuple[int], np.dtype[np.bool_]],
    fraud: np.ndarray[tuple[int], np.dtype[np.bool_]],
    rules: tuple[str, ...],
    other: Verdicts,
    other_rules: tuple[str, ...],
) -> None:
    """Add a micro-batch to one side."""
    side.alerts += int(alerts.sum())
    side.alone += int(alone.sum())
    side.alone_fraud += int((alone & fraud).sum())
    side.cases |= {one.case_id for row, one in verdicts.anomalies.items() if alerts[row]}
    for row in np.flatnonzero(alone).tolist():
        here = {rules[i] for i in np.flatnonzero(verdicts.fired[row])}
        there = {other_rules[i] for i in np.flatnonzero(other.fired[row])}
        side.causes.update(here - there or {OTHER})
        if len(side.examples) < EXAMPLES_MAX:
            side.examples.append(verdicts.anomalies[row].explanation)
