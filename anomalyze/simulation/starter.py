"""The starter bundle: trained in seconds on simulated history, until the account's own has come together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.state import PartitionState
from anomalyze.detection.training import build_bundle, collect_frame, train_bundle
from anomalyze.events.batch import MicroBatch
from anomalyze.events.decode import decode_records
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.simulation.record import wire_records
from anomalyze.simulation.traffic import DAY_MS, Traffic
from anomalyze.simulation.world import Simulation

__all__ = ["STARTER_SEED", "build_starter_bundle", "decode_traffic"]

STARTER_SEED = 20_260_101
# 600 users × 60 days × 2 a day: 72,000 transactions, enough for rarities of one in 5,000.
USERS, DAYS = 600, 60
START_MS = 1_735_689_600_000 - DAYS * DAY_MS  # the days before 2025-01-01
ACCOUNT = "simulated"


def build_starter_bundle(config_dir: Path) -> Bundle:
    """Simulate a history of ordinary users, run it through the detector, train on it.

    The same configuration gives the same bundle, to the byte.

    Raises
    ------
    ConfigError
        The configuration cannot be used.
    """
    bundle = build_bundle(config_dir)
    gazetteer = Gazetteer.load(config_dir)
    world = Simulation(USERS, STARTER_SEED, START_MS, DAYS)
    batches = decode_traffic(world.chunks(), "starter", ACCOUNT, gazetteer)
    frame = collect_frame(bundle, batches, {0: PartitionState()})
    return train_bundle(bundle, frame, "starter", seed=STARTER_SEED)


def decode_traffic(
    chunks: Iterator[Traffic], prefix: str, account_id: str, gazetteer: Gazetteer
) -> Iterator[MicroBatch]:
    """Simulated chunks as micro-batches of a log with one partition, each appended as it happened."""
    offsets = itertools.count()
    for chunk in chunks:
        records = wire_records(chunk, prefix, account_id)
        decoded = decode_records(
            [0] * len(records),
            [next(offsets) for _ in records],
            chunk.ts_ms.tolist(),
            records,
            partition_count=0,
            future_tolerance_ms=0,
            gazetteer=gazetteer,
        )
        assert not decoded.dead, decoded.dead[0]
        yield decoded.batch
