"""Two bundles on one history: each alert that appears or goes is found, and put down to what caused it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from anomalyze.backtest.difference import OTHER, compare_bundles
from anomalyze.backtest.mapping import SourceChunk
from anomalyze.backtest.run import run_backtest
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.training import build_bundle
from anomalyze.simulation.record import user_ids, wire_records
from anomalyze.simulation.world import Simulation

CONFIG = Path(__file__).parents[2] / "metrics_config"
START_MS = 1_760_054_400_000
DAYS = 40
FROM_MS = START_MS + 20 * 86_400_000


@pytest.fixture(scope="module")
def history() -> list[SourceChunk]:
    chunks = []
    for chunk in Simulation(100, 9, START_MS, DAYS, incidents_per_10k=60.0).chunks():
        labels = (chunk.label > 0).astype(int).tolist()
        values = wire_records(chunk, "t", "acct")
        chunks.append(SourceChunk(user_ids(chunk), chunk.ts_ms.tolist(), values, labels))
    return chunks


def changed(folder: Path, old: str, new: str) -> Bundle:
    """The shipped configuration with one text in ``amount.yaml`` replaced."""
    shutil.copytree(CONFIG, folder)
    rules = folder / "rules" / "amount.yaml"
    text = rules.read_text()
    assert text.count(old) == 1
    rules.write_text(text.replace(old, new))
    return build_bundle(folder)


def test_a_looser_rule_makes_alerts_appear_and_a_stricter_one_makes_them_go(
    history: list[SourceChunk], tmp_path: Path
) -> None:
    shipped = build_bundle(CONFIG)
    loose = changed(tmp_path / "loose", "{factor: 3, minimum: 100}", "{factor: 1.5, minimum: 20}")
    found = compare_bundles(history, shipped, loose, FROM_MS)
    alerts = {}
    for name, bundle in (("shipped", shipped), ("loose", loose)):
        findings, _ = run_backtest(history, bundle, start_ms=FROM_MS)
        alerts[name] = int((np.concatenate(findings.severity) > 0).sum())
        assert findings.rows == found.rows
    assert (found.first.alerts, found.second.alerts) == (alerts["shipped"], alerts["loose"])
    assert found.first.alone == 0
    assert found.second.alone == alerts["loose"] - alerts["shipped"] > 0
    assert found.second.causes == {"AMOUNT_SPIKE": found.second.alone}
    back = compare_bundles(history, loose, shipped, FROM_MS)
    assert (back.first.alone, back.second.alone) == (found.second.alone, 0)
    assert f"AMOUNT_SPIKE: 0 would appear, {back.first.alone:,} would go" in back.sentences()


def test_the_same_bundle_makes_no_difference(history: list[SourceChunk]) -> None:
    shipped = build_bundle(CONFIG)
    found = compare_bundles(history, shipped, shipped, FROM_MS)
    assert found.first.alerts > 0
    assert found.sentences()[1:] == ["No alert would appear, go, or change its severity."]
    assert OTHER not in found.first.causes
