"""A partition as the worker holds it: its state, what the log has put in force for it, and how far it came."""

from __future__ import annotations

from dataclasses import dataclass

from anomalyze.detection.detector import PartitionState

__all__ = ["OwnedPartition"]


@dataclass(slots=True)
class OwnedPartition:
    """A partition that this worker judges.

    Attributes
    ----------
    state
        All that its users' history contributes.
    bundle
        Id of the bundle in force; None until the log has named one.
    profiles
        Ids of the snapshots of profiles in force, oldest first.
    challenger
        Id of the bundle that the log names to be shadowed; while it is the bundle in force, nothing is.
    offset
        Last record the state contains; -1 at the log's beginning.
    emitted
        ``src`` offset of the last record written to ``scored``; -1 when none was.
    checkpointed
        Offset of its newest checkpoint.
    """

    number: int
    state: PartitionState
    bundle: str | None = None
    profiles: tuple[str, ...] = ()
    challenger: str | None = None
    offset: int = -1
    emitted: int = -1
    checkpointed: int = -1
    changed_since_s: float | None = None
