"""A bundle whose model is another of PyOD's detectors than the forest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.policy import parse_policy, policy_schema
from anomalyze.detection.state import PartitionState
from anomalyze.detection.training import Frame, collect_frame, train_bundle
from anomalyze.errors import ConfigError, ContractError
from anomalyze.models.detector import DETECTORS, FOREST
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.world import Simulation

START_MS = 1_767_225_600_000
POLICY = Path(__file__).parents[2] / "metrics_config" / "policy.yaml"


@pytest.fixture(scope="module")
def world() -> Simulation:
    return Simulation(100, 5, START_MS, 25)


@pytest.fixture(scope="module")
def frame(starter_bundle: Bundle, world: Simulation) -> Frame:
    batches = decode_traffic(world.chunks(), "t", "acct", Detector(starter_bundle).gazetteer)
    return collect_frame(starter_bundle, batches, {0: PartitionState.empty()})


@pytest.fixture(scope="module", params=[name for name in DETECTORS if name != FOREST])
def bundle(request: pytest.FixtureRequest, starter_bundle: Bundle, frame: Frame) -> Bundle:
    policy = POLICY.read_text().replace("detector: iforest", f"detector: {request.param}")
    return train_bundle(replace(starter_bundle, policy=policy), frame, "trained", seed=1)


def test_it_travels_and_judges_as_the_policy_asked(bundle: Bundle, world: Simulation) -> None:
    read = Bundle.from_bytes(bundle.to_bytes(), bundle.id)
    assert read.detector == parse_policy(bundle.policy).model.detector != FOREST
    detectors = Detector(bundle), Detector(read)
    states = [{0: PartitionState.empty()} for _ in detectors]
    scores = []
    for batch in decode_traffic(world.chunks(), "t", "acct", detectors[0].gazetteer):
        first, again = (one.process(batch, state) for one, state in zip(detectors, states, strict=True))
        np.testing.assert_array_equal(first.ml_score, again.ml_score)
        scores.append(first.ml_score)
    # Rarities of the same history: one in a hundred is as strange as one in a hundred. HBOS ties by the dozen.
    assert (np.concatenate(scores) >= 0.99).mean() == pytest.approx(0.01, rel=0.5)


def test_a_flagged_row_is_explained_by_groups(bundle: Bundle, frame: Frame) -> None:
    from anomalyze.detection.model import build_models

    detector = Detector(bundle)
    models = build_models(bundle, frame.names, detector.policy)
    code = np.zeros(len(frame.features), dtype=np.int32)
    judged = models.judge(frame.features, ["acct"], code)
    strangest = frame.features[np.argsort(judged.tail)[:3]]
    for shares in models.explain(strangest):
        assert sum(shares.values()) == pytest.approx(1.0)
        assert set(shares) <= {i.group for i in bundle.inputs}


def test_the_forest_leaves_no_word_in_the_bundle(starter_bundle: Bundle) -> None:
    assert starter_bundle.detector == FOREST
    assert b'"detector"' not in starter_bundle.to_bytes()


def test_a_model_of_a_newer_program_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ContractError, match="upgrade"):
        replace(bundle, detector="something_new")


def test_what_cannot_be_exported_is_refused_with_its_line_and_the_choice() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy("version: 1\nmodel:\n  detector: knn\n", "p.yaml")
    told = str(caught.value)
    assert "p.yaml:3:" in told
    assert "keeps its training rows" in told
    assert all(name in told for name in DETECTORS)
    assert policy_schema()["$defs"]["Model"]["properties"]["detector"]["enum"] == list(DETECTORS)
