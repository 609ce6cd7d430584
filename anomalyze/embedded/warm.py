"""``python -m anomalyze.embedded.warm``: compile every kernel now, so that no transaction waits for it.

Part of the installation. It goes the whole way once, from simulated records to encoded verdicts with
explanations, because that compiles exactly what serving needs; numba keeps the result beside the sources.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from anomalyze.detection.detector import Detector
from anomalyze.detection.output import encode_scored, pick_anomalies
from anomalyze.detection.state import PartitionState
from anomalyze.events import decode, encode
from anomalyze.features import daily_store
from anomalyze.features.state import Disposition
from anomalyze.metrics.warm import warm as warm_metrics
from anomalyze.models.warm import warm as warm_models
from anomalyze.simulation.starter import build_starter_bundle, decode_traffic
from anomalyze.simulation.world import Simulation

__all__ = ["exercise", "warm"]

START_MS = 1_735_689_600_000


def warm(config_dir: Path) -> None:
    """Compile what decoding, features, rules, model, explanation and encoding need; on two cores."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        judging = beside.submit(_warm_judging)
        decode.warm()
        encode.warm()
        judging.result()
    exercise(Detector(build_starter_bundle(config_dir)))


def _warm_judging() -> None:
    """Compile what needs no record: about half of it all."""
    warm_models()
    warm_metrics()
    daily_store.warm()


def exercise(detector: Detector) -> None:
    """Judge a few hundred simulated transactions, some of them strange, and forget them.

    A worker does so before its first micro-batch: loading compiled code when the first anomaly comes along would
    stop the stream for a third of a second.
    """
    daily_store.warm()
    world = Simulation(40, 1, START_MS, 20, incidents_per_10k=200.0)
    states = {0: PartitionState()}
    for batch in decode_traffic(world.chunks(), "warm", "warm", detector.gazetteer):
        verdicts = detector.process(batch, states)
        rows = np.flatnonzero(verdicts.disposition == Disposition.JUDGE)
        pick_anomalies(verdicts, rows, encode_scored(batch, verdicts, rows, rows.astype(np.int64)))
    states[0].restore(states[0].snapshot())


if __name__ == "__main__":
    begun_s = time.monotonic()
    warm(Path(__file__).resolve().parents[2] / "metrics_config")
    print(f"compiled in {time.monotonic() - begun_s:.0f} s")  # noqa: T201
