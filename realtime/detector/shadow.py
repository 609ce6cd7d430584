"""The challenger at work: what it would have said stands beside the champion's verdict and does nothing else.

The log names it by a control record, so that what it says is a function of the log too. It reads the features that
the champion computed; where its own would be others it is not shadowed. Whatever goes wrong with it, the champion
goes on:

- missing, damaged, too costly, unreachable: refused where the log names it, nothing is shadowed;
- an error while it judges: the partition's shadowing ends at the first record at which it fails.

Both are logged and raise an alarm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anomalyze.detection.detector import Detector, PartitionState, Verdicts
from anomalyze.detection.verdict import Challenged
from anomalyze.errors import AnomalyzeError, TransientError
from anomalyze.events.batch import MicroBatch
from anomalyze.log import get
from realtime.detector.detector_cache import DetectorCache
from realtime.detector.partition import OwnedPartition

__all__ = ["MODEL_BYTES_MAX", "Shadow"]

# What a model costs a row grows with its trees, and these with its bytes. A limit on bytes depends on nothing but
# the bundle: one on time would make what is stored depend on the machine.
MODEL_BYTES_MAX = 16 << 20


class Shadow:
    """Judges micro-batches by the challenger that the log names.

    Parameters
    ----------
    detectors
        Where its detector comes from.
    refused
        Told of a challenger that cannot be shadowed: its id, and why.

    Attributes
    ----------
    differing
        Why a pair (champion, challenger) is not shadowed, or None where it is; for other threads to look at.
    """

    def __init__(self, detectors: DetectorCache, refused: Callable[[str, str], None]) -> None:
        self._detectors = detectors
        self._refused = refused
        self.differing: dict[tuple[str, str], str | None] = {}

    def admit(self, challenger: str, *, patiently: bool = False) -> bool:
        """Whether this bundle can be shadowed; if not, somebody is told why.

        Raises
        ------
        TransientError
            ``patiently``: the store is away. Else the champion's verdicts do not wait, and it is refused.
        """
        self.differing = {pair: why for pair, why in self.differing.items() if pair[1] != challenger}
        try:
            detector = self._detectors.get(challenger)
        except MemoryError:
            raise  # says nothing of the challenger
        except Exception as error:  # whatever it is, it is the challenger's
            if patiently and isinstance(error, TransientError):
                raise
            self._refused(challenger, str(error) or repr(error))
            return False
        supervised = detector.bundle.supervised
        size = len(detector.bundle.model or b"") + len(supervised.onnx if supervised is not None else b"")
        if size > MODEL_BYTES_MAX:
            self._refused(
                challenger, f"its models have {size:,} bytes, a challenger's at most {MODEL_BYTES_MAX:,}"
            )
            return False
        return True

    def judge(
        self,
        champion: Detector,
        batch: MicroBatch,
        verdicts: Verdicts,
        owned: Mapping[int, OwnedPartition],
    ) -> Challenged | None:
        """What the challenger of these partitions says of a micro-batch; None where none is shadowed.

        Parameters
        ----------
        owned
            The batch's partitions, which follow one champion and one challenger; a partition at whose records the
            challenger fails has none afterwards.
        """
        name = owned[batch.groups[0][0]].challenger
        if name is None or name == champion.bundle.id:
            return None
        challenger = self._detector(champion, name)
        if challenger is None:
            return None
        states = {p: owned[p].state for p, _, _ in batch.groups}
        try:
            return challenger.challenge(batch, states, verdicts)
        except MemoryError:
            raise  # says nothing of the challenger
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the challenger's
            reason = f"{type(error).__name__} while judging: {error}"
        return self._judge_up_to_failure(challenger, batch, verdicts, owned, reason)

    def _detector(self, champion: Detector, name: str) -> Detector | None:
        pair = champion.bundle.id, name
        if pair in self.differing and self.differing[pair] is not None:
            return None
        try:
            challenger = self._detectors.get(name)
        except AnomalyzeError as error:
            # It was admitted, forgotten for others, and is gone since.
            self.differing[pair] = str(error)
            self._refused(name, str(error))
            return None
        if pair not in self.differing:
            part = champion.differing_features(challenger)
            self.differing[pair] = None if part is None else f"its features differ: {part}"
            get().info(
                "challenger_shadowed" if part is None else "challenger_not_shadowed",
                champion=champion.bundle.id,
                challenger=name,
                reason=self.differing[pair],
            )
        return challenger if self.differing[pair] is None else None

    def _judge_up_to_failure(
        self,
        challenger: Detector,
        batch: MicroBatch,
        verdicts: Verdicts,
        owned: Mapping[int, OwnedPartition],
        reason: str,
    ) -> Challenged | None:
        """Each partition's rows before the first at which the challenger fails, wherever the log was cut."""
        parts: list[tuple[int, Challenged]] = []
        for partition, first, end in batch.groups:
            states = {partition: owned[partition].state}

            def judge(
                to: int,
                first: int = first,
                partition: int = partition,
                states: Mapping[int, PartitionState] = states,
            ) -> Challenged | None:
                rows = slice(first, to)
                part = dataclasses.replace(
                    verdicts, disposition=verdicts.disposition[rows], features=verdicts.features[rows]
                )
                try:
                    return challenger.challenge(part_of(batch, partition, first, to), states, part)
                except Exception:  # noqa: BLE001 - its first failure was told
                    return None

            if judge(end) is not None:
                good = end
            else:
                good, bad = first, end  # the rows up to `good` can be judged, those up to `bad` cannot
                while bad - good > 1:
                    middle = (good + bad) // 2
                    good, bad = (middle, bad) if judge(middle) is not None else (good, middle)
                place = f"partition {partition}, offset {int(batch.offset[good])}"
                owned[partition].challenger = None
                self._refused(challenger.bundle.id, f"{place}: {reason}")
            if good > first:
                said = judge(good)
                assert said is not None, "it was judged a moment ago"
                parts.append((first, said))
        return joined(batch.n, parts) if parts else None


def part_of(batch: MicroBatch, partition: int, first: int, end: int) -> MicroBatch:
    """Rows of one partition of a micro-batch as one of their own."""
    rows: dict[str, Any] = {
        field.name: value[first:end]
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), np.ndarray) and field.name != "buffer"
    }
    return dataclasses.replace(batch, n=end - first, groups=[(partition, 0, end - first)], replies={}, **rows)


def joined(n: int, parts: list[tuple[int, Challenged]]) -> Challenged:
    """What is said of runs of rows, each from its first row on, as one of ``n`` rows."""
    one = parts[0][1]
    whole = Challenged(
        one.bundle,
        one.rule_ids,
        np.zeros(n, dtype=np.bool_),
        np.zeros(n, dtype=np.int8),
        np.full(n, np.nan),
        np.zeros((n, len(one.rule_ids)), dtype=np.bool_),
    )
    for first, part in parts:
        rows = slice(first, first + len(part.said))
        whole.said[rows] = True
        whole.severity[rows] = part.severity
        whole.ml_score[rows] = part.ml_score
        whole.fired[rows] = part.fired
    return whole
