"""A champion that has proven itself since is published anew with its proof, and judges by it once it is promoted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import msgspec
import pytest

from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.detection.supervised import Proof
from anomalyze.learning.promotion import CHALLENGER, CHAMPION, open_bundles, promote
from anomalyze.learning.reissue import newly_proven, reissue_champion
from anomalyze.learning.report import load_report
from anomalyze.learning.shelf import store_candidate
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from anomalyze_dagster.definitions import definitions
from anomalyze_dagster.publishing.sensors import promote_automatically, reissue_proven
from tests.test_dagster.runs import run_job
from tests.test_dagster.test_training import EVALUATION, JUDGED, learned

HOLDS, TOO_FEW, BY_CHANCE = Proof(63, 0.21, 0.14), Proof(49, 0.3, 0.2), Proof(80, 0.1, -0.02)


@pytest.fixture
def champion(starter: Bundle) -> Bundle:
    made = replace(learned(starter), kind="trained")
    assert made.supervised is not None
    return replace(made, supervised=replace(made.supervised, accounts=("default", "shop")))


@pytest.fixture
def store(settings: Settings, champion: Bundle) -> BundleStore:
    found = open_bundles(settings)
    found.publish(champion)
    found.set_pointer(CHAMPION, champion.id)
    return found


@pytest.fixture
def bus(history_dsn: str) -> Iterator[EmbeddedBus]:
    log = EmbeddedBus(history_dsn)
    log.ensure_topics(2)
    yield log
    log.close()


def measured(champion: Bundle, **proofs: Proof) -> object:
    judged = msgspec.structs.replace(JUDGED, bundle=champion.id)
    return msgspec.structs.replace(EVALUATION, champion=judged, champion_proofs=proofs)


def test_only_what_holds_and_is_new_is_proven(champion: Bundle, starter: Bundle) -> None:
    proofs = {"default": HOLDS, "shop": TOO_FEW, "stranger": HOLDS}
    assert newly_proven(champion, proofs) == {"default": HOLDS}
    assert newly_proven(champion, {"default": BY_CHANCE}) == {}
    assert newly_proven(replace(starter, supervised=None), proofs) == {}


def test_published_with_its_proof_and_promoted(
    settings: Settings, store: BundleStore, bus: EmbeddedBus, champion: Bundle, starter: Bundle
) -> None:
    objects = open_objects(settings.object_store)
    store_candidate(objects, starter, measured(champion, default=HOLDS, shop=TOO_FEW))  # type: ignore[arg-type]
    result = run_job("reissue_champion")
    assert result.success
    (event,) = (e for e in result.all_events if e.is_step_materialization)
    assert event.materialization.metadata["proven"].value == "default"
    made = store.pointer(CHALLENGER)
    assert made is not None
    assert made != champion.id
    found = store.load(made)
    assert found.supervised is not None
    assert champion.supervised is not None
    assert (found.supervised.proven_for("default"), found.supervised.proven_for("shop")) == (True, False)
    assert not champion.supervised.proven
    assert found.supervised.onnx == champion.supervised.onnx
    assert found.created_from["parent"] == champion.id
    assert store.history(CHALLENGER)[-1].note == "the same, with its proof for default"
    report = load_report(objects, made)
    assert report is not None
    assert (
        "default: average precision +0.210 above rules and statistics (surely +0.140) on 63 fraud cases"
        in (report.checks[0].says)
    )
    # Again: nothing more happens. Promoted: it says so itself, and nothing is new.
    assert run_job("reissue_champion").success
    assert len(store.history(CHALLENGER)) == 1
    promote(store, bus, made)
    assert reissue_champion(store, objects, bus, starter.id, measured(found, default=HOLDS)) is None  # type: ignore[arg-type]


def test_a_candidate_that_passed_goes_before_and_another_champion_has_proven_nothing(
    settings: Settings, store: BundleStore, bus: EmbeddedBus, champion: Bundle, starter: Bundle
) -> None:
    objects, evaluation = open_objects(settings.object_store), measured(champion, default=HOLDS)
    candidate = store.publish(replace(starter, created_from={"parent": "candidate"}))
    store.set_pointer(CHALLENGER, candidate)
    assert reissue_champion(store, objects, bus, candidate, evaluation) is None  # type: ignore[arg-type]
    other = replace(champion, policy=champion.policy + "\n# another\n")
    store.publish(other)
    store.set_pointer(CHAMPION, other.id)
    assert reissue_champion(store, objects, bus, "sha256:failed", evaluation) is None  # type: ignore[arg-type]
    assert store.pointer(CHALLENGER) == candidate


def test_each_training_asks_and_the_rule_promotes_what_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYZE_PROMOTION", "automatic")
    proven = {"bundle": "sha256:abc", "beats_champion": False, "proven": "default"}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("candidate_bundle"))
        instance.report_runless_asset_event(dg.AssetMaterialization("published_challenger", metadata=proven))
        for sensor in (reissue_proven, promote_automatically):
            context = dg.build_sensor_context(
                instance=instance, repository_def=definitions.get_repository_def()
            )
            (request,) = sensor.evaluate_tick(context).run_requests or []
            if sensor is promote_automatically:
                config = request.run_config["ops"]["promote_bundle"]["config"]
                assert config == {"bundle": "sha256:abc", "note": "promoted by rule: it has proven itself"}
