"""A stored history: simulated people, judged by the detector, written as the sink writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.output import encode_scored
from anomalyze.detection.state import PartitionState
from anomalyze.features.state import Disposition
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.traffic import DAY_MS
from anomalyze.simulation.world import Simulation
from anomalyze.storage.partition import PartitionKeeper
from anomalyze.storage.pool import connect
from anomalyze.storage.scored import decode_scored
from anomalyze.storage.store import store_scored

__all__ = ["CONFIG", "store_history"]

CONFIG = Path(__file__).parents[2] / "metrics_config"


def store_history(
    dsn: str, bundle: Bundle, *, users: int, days: int, end_ms: int, account: str = "default"
) -> int:
    """Store so many people's days before ``end_ms`` (rounded down to midnight); returns how many rows."""
    detector = Detector(bundle)
    start_ms = (end_ms // DAY_MS - days) * DAY_MS
    world = Simulation(users, 11, start_ms, days, incidents_per_10k=20.0)
    states = {0: PartitionState.empty()}
    stored = 0
    with connect(dsn) as connection:
        keeper = PartitionKeeper()
        for batch in decode_traffic(world.chunks(), account, account, detector.gazetteer):
            verdicts = detector.process(batch, states)
            rows = np.flatnonzero(verdicts.disposition == Disposition.JUDGE)
            values = encode_scored(batch, verdicts, rows, (batch.offset - 1)[rows])
            store_scored(
                connection,
                decode_scored(values),
                consumer="sink",
                log_id=account,
                topic="scored",
                next_offsets={0: int(batch.offset[-1]) + 1},
                partitions=keeper,
            )
            stored += len(values)
    return stored
