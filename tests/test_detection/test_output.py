"""The wire form: what the compiled encoder and the plain JSON encoder write of the same verdicts is equal."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from anomalyze.detection.detector import Detector, PartitionState, Verdicts
from anomalyze.detection.output import ACTIONS, SEVERITIES, analysis, encode_scored, verdict
from anomalyze.events.batch import MicroBatch, Severity
from anomalyze.events.encode import SCORE_DECIMALS
from anomalyze.events.number import format_number
from anomalyze.features.state import Disposition
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.world import Simulation


@pytest.fixture(scope="module")
def judged(detector: Detector) -> tuple[MicroBatch, Verdicts]:
    world = Simulation(80, 9, 1_760_054_400_000, 15, incidents_per_10k=100.0)
    states = {0: PartitionState.empty()}
    for batch in decode_traffic(world.chunks(), "s", "acct", detector.gazetteer):
        verdicts = detector.process(batch, states)
    return batch, verdicts


def plain(batch: MicroBatch, verdicts: Verdicts, row: int, previous: int) -> dict[str, Any]:
    """The record by the contract, without the compiled encoder."""
    spec = verdicts.spec
    values = dict(zip(spec.names, verdicts.features[row].tolist(), strict=True))

    def number(name: str, decimals: int) -> Any:
        return msgspec.json.decode(format_number(values[name], decimals))

    features = {name: number(name, decimals) for name, decimals in spec.published.items()}
    record = msgspec.json.decode(batch.row_bytes(row))
    record["enrichment"] = {
        "user_avg_spend": number("user_amount_mean_20", 2),
        "distance_from_last_tx": number("travel_km", 1),
        "features": {name: value for name, value in features.items() if value is not None},
    }
    record["analysis"] = analysis(verdicts, row)
    score = format_number(float(verdicts.ml_score[row]), SCORE_DECIMALS)
    record["analysis"]["ml_score"] = msgspec.json.decode(score)
    record["verdict"] = verdict(verdicts, row)
    record["src"] = {"partition": 0, "offset": int(batch.offset[row]), "previous": previous}
    return record


def test_every_row_has_the_form_of_the_contract(judged: tuple[MicroBatch, Verdicts]) -> None:
    batch, verdicts = judged
    rows = np.flatnonzero(verdicts.disposition == Disposition.JUDGE)
    previous = batch.offset[rows] - 1
    records = encode_scored(batch, verdicts, rows, previous)
    anomalies = 0
    for row, before, value in zip(rows.tolist(), previous.tolist(), records, strict=True):
        got = msgspec.json.decode(value)
        got["enrichment"].pop("country", None)
        assert got == plain(batch, verdicts, row, before)
        assert value.startswith(batch.row_bytes(row)[:-1])
        anomalies += got["verdict"]["final_severity"] != "NONE"
    assert 0 < anomalies == len(verdicts.anomalies)


def test_ordinary_rows_are_short_and_anomalies_tell_why(judged: tuple[MicroBatch, Verdicts]) -> None:
    batch, verdicts = judged
    rows = np.arange(batch.n)
    for row, value in zip(rows.tolist(), encode_scored(batch, verdicts, rows, rows), strict=True):
        record = msgspec.json.decode(value)
        assert record["verdict"]["final_severity"] == SEVERITIES[verdicts.severity[row]]
        assert record["verdict"]["action"] == ACTIONS[verdicts.action[row]]
        assert record["analysis"]["ml_prediction"] == "LEARNING"  # a starter bundle
        if verdicts.severity[row] == Severity.NONE:
            assert "explanation" not in record["verdict"]
        else:
            assert record["verdict"]["explanation"]
            assert record["verdict"]["case_id"].startswith("case_")
            assert any("Starter bundle" in note for note in record["analysis"]["notes"])
            assert record["analysis"].get("rules") or record["analysis"].get("statistics")
            if record["meta"]["source"] == "SIMULATION" and "country" in record["data"]:
                assert record["enrichment"]["country"] == record["data"]["country"]
