"""Runs of a batch that are killed again and again: ``python -m tests.test_monitoring.killed DSN FOLDER SEED``.

Children are forked from a process that has imported and compiled everything, and has used no library with threads;
each stores and scores all pieces of the same history, and is killed behind one step or at a random moment. The last
one may finish.
"""

from __future__ import annotations

import os
import pkgutil
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from anomalyze.metrics.detectors.build import build_detectors
from anomalyze.metrics.detectors.setting import DetectorSetting, from_words
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.rules import BatchRules
from anomalyze.metrics.warm import warm
from anomalyze.monitoring.score import score_batch
from anomalyze.storage import metrics_scores
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.pool import connect
from tests.test_monitoring.shop import NOW, calm, frame

BY_NAME = from_words(DetectorSetting, ["seasonal_z", {"level_shift": {"points": 6, "spans": 4}}])
# What is corrected lies low: it is strange the good way, so that it makes no difference who sees it before.
RULES = BatchRules(
    3600.0,
    SeriesRules(
        direction="up",
        upper=130.0,
        detectors=build_detectors([DetectorSetting.model_validate(one) for one in BY_NAME], 3600.0),
    ),
)
PIECES, METRICS, POINTS = 12, 8, 180
RANDOM_KILLS = 2
# Behind so many calls of each of these a run dies: first when series have learnt something, then in the order of a
# turn, then where a series is taken again.
STEPS = [
    ("anomalyze.monitoring.score:take_turn", 5),
    ("anomalyze.storage.metrics_values:_find_series", 1),
    ("anomalyze.monitoring.score:begin_note", 1),
    ("anomalyze.metrics.bank:SeriesBank.advance", 1),
    ("anomalyze.storage.metrics_scores:store_scores", 1),
    ("anomalyze.monitoring.turn:judge_named", 1),
    ("anomalyze.monitoring.turn:tell", 1),
    ("anomalyze.storage.metrics_scores:finish_turn", 1),
    ("anomalyze.monitoring.score:take_turn", 1),
    ("anomalyze.metrics.bank:SeriesBank.forget", 1),
    ("anomalyze.metrics.bank:SeriesBank.advance", 1),
    ("anomalyze.storage.metrics_scores:store_scores", 1),
]


def work(dsn: str, batch: str, folder: Path) -> None:
    """Store and score piece after piece; every third one corrects a value of the one before."""
    metrics_scores.ROWS_A_TURN = 100
    series: dict[str, list[float | None]] = {f"m{n}": [*calm(POINTS, n)] for n in range(METRICS)}
    for n in range(METRICS):
        series[f"m{n}"][150 + n] = 300.0
    rows = frame(series)
    number = np.tile(np.arange(POINTS), METRICS)
    with connect(dsn) as connection:
        score_batch(connection, batch, RULES, folder, NOW)
        row = connection.execute("SELECT count(*) FROM metric_values WHERE batch = %s", [batch]).fetchone()
        assert row is not None
        for piece in range(PIECES):
            here = number < (piece + 1) * POINTS // PIECES
            if here.sum() <= row[0]:
                continue  # stored by one that was killed
            if piece % 3 == 0 and piece:
                wrong = rows.filter(here & (number == piece * POINTS // PIECES - 3)).head(2)
                store_values(connection, batch, wrong.with_columns(value=55.5), NOW)
            store_values(connection, batch, rows.filter(here), NOW)
            score_batch(connection, batch, RULES, folder, NOW)


def die_after(step: str, calls: int) -> Any:
    """Let a step end this process after so many calls, when it has done its work."""

    real, left = pkgutil.resolve_name(step), [calls]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return patch(step.replace(":", "."), wrapped)


def child(dsn: str, batch: str, folder: Path, step: str = "", calls: int = 0) -> int:
    """Fork one that works; its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if step:
                die_after(step, calls).start()
            work(dsn, batch, folder)
            status = 0
        finally:
            os._exit(status)
    return pid


def main(dsn: str, folder: Path, seed: int) -> None:
    """Work undisturbed as batch ``whole``, and killed as batch ``shop``; print behind which steps it was killed."""
    warm()
    began = time.monotonic()
    assert os.waitpid(child(dsn, "whole", folder), 0)[1] == 0
    lasts_s = time.monotonic() - began
    moments, hits = random.Random(seed), list[str]()
    for step, calls in STEPS:
        _, status = os.waitpid(child(dsn, "shop", folder, step, calls), 0)
        if os.WIFSIGNALED(status):
            hits.append(step)
    for _ in range(RANDOM_KILLS):
        pid = child(dsn, "shop", folder)
        time.sleep(moments.uniform(0.1, 0.5) * lasts_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert os.waitpid(child(dsn, "shop", folder), 0)[1] == 0
    print(len(hits))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
