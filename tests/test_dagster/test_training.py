"""From stored transactions to a challenger, by real Dagster runs."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import psycopg
import pytest

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.canary import Canary
from anomalyze.detection.supervised import Supervised
from anomalyze.errors import ContractError
from anomalyze.learning import gates
from anomalyze.learning.budget import BudgetTrial
from anomalyze.learning.evaluation import Evaluation, Judged
from anomalyze.learning.promotion import CHALLENGER, CHAMPION, open_bundles
from anomalyze.learning.quality import FoundCase, Fraud, Quality, compare_quality
from anomalyze.learning.shelf import load_candidate, store_candidate
from anomalyze.settings import Settings
from anomalyze.storage.alarms import load_alarms
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import connect
from anomalyze_dagster.training.checks import WHAT
from tests.test_dagster.runs import checks_of, metadata_of, run_job


def test_a_candidate_is_trained_checked_and_published_as_challenger(
    settings: Settings, starter: Bundle
) -> None:
    result = run_job("train")
    assert result.success
    assert checks_of(result) == dict.fromkeys(WHAT, True)
    found = metadata_of(result, "candidate_bundle")
    assert "data:image/png;base64," in found["calibration"]
    assert starter.id.removeprefix("sha256:")[:12] in found["beside_the_champion"]
    store = open_bundles(settings)
    assert (
        store.pointer(CHALLENGER) == found["bundle"] == metadata_of(result, "published_challenger")["bundle"]
    )
    assert store.pointer(CHAMPION) == starter.id
    bundle, evaluation = load_candidate(open_objects(settings.object_store))
    assert bundle.kind == "trained"
    assert bundle.created_from["parent"] == starter.id
    assert evaluation.champion is not None
    assert evaluation.candidate.rows == evaluation.champion.rows > 2000
    assert bundle.metrics["rows"] > 2.5 * evaluation.candidate.rows
    assert evaluation.leak_rows > 1000
    assert metadata_of(run_job("train"), "candidate_bundle")["bundle"] == bundle.id  # of the same history


def test_too_little_history_is_said_and_fails_nothing(settings: Settings, history_dsn: str) -> None:
    with psycopg.connect(history_dsn) as connection:
        connection.execute("DELETE FROM hourly WHERE hour < now() - interval '3 days'")
    result = run_job("train")
    assert result.success
    assert not result.get_asset_materialization_events()
    assert open_bundles(settings).pointer(CHALLENGER) is None


def test_a_failed_check_keeps_the_candidate_unpublished_and_raises_an_alarm(
    settings: Settings, history_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "LATENCY_FACTOR", 0.0)
    monkeypatch.setattr(gates, "LATENCY_SLACK_US", 0.0)
    result = run_job("train")
    assert checks_of(result) == {**dict.fromkeys(WHAT, True), "latency": False}
    assert not result.asset_materializations_for_node("published_challenger")
    assert open_bundles(settings).pointer(CHALLENGER) is None
    with connect(history_dsn) as connection:
        (alarm,) = load_alarms(connection)
    assert alarm.kind == "bundle"
    assert "latency" in alarm.summary


JUDGED = Judged(
    bundle="sha256:1",
    rows=10_000,
    scored=10_000,
    cases={"LOW": 40, "MEDIUM": 20, "HIGH": 4, "CRITICAL": 1},
    beyond=[500, 100, 10],
    histogram=[500] * 20,
    fraud=0,
    fraud_found=0,
    row_us=6.0,
)
EVALUATION = Evaluation(
    accounts=["default"],
    windows={"train": "", "calibrate": "", "evaluate": ""},
    days=10.0,
    leak_rows=500,
    leaking=0,
    candidate=JUDGED,
    champion=JUDGED,
)


def changed(evaluation: Evaluation = EVALUATION, **of_candidate: object) -> Evaluation:
    candidate = msgspec.structs.replace(evaluation.candidate, **of_candidate)
    return msgspec.structs.replace(evaluation, candidate=candidate)


@pytest.mark.parametrize(
    ("gate", "evaluation"),
    [
        ("calibration", changed(beyond=[1_200, 100, 10])),
        ("calibration", changed(beyond=[500, 5, 10])),
        ("calibration", changed(beyond=[500, 100, 40])),
        ("no_future_leak", msgspec.structs.replace(EVALUATION, leaking=1)),
        ("no_future_leak", msgspec.structs.replace(EVALUATION, leak_rows=0)),
        ("alert_volume", changed(cases={"MEDIUM": 80})),
        ("alert_volume", msgspec.structs.replace(EVALUATION, budget=BudgetTrial(70.0, 140, 7))),
        ("latency", changed(row_us=40.0)),
        (
            "quality",
            msgspec.structs.replace(EVALUATION, quality=Quality(9, 50, 900.0, 1.0, 80.0, -99.0, -1.0)),
        ),
        (
            "quality",
            msgspec.structs.replace(EVALUATION, quality=Quality(9, 50, 900.0, 90.0, 80.0, -9.0, 29.0)),
        ),
    ],
)
def test_gates_refuse_what_they_name(starter: Bundle, gate: str, evaluation: Evaluation) -> None:
    assert gates.GATES[gate](starter, EVALUATION).passed
    assert not gates.GATES[gate](starter, evaluation).passed


def test_quality_needs_fifty_matured_cases_and_a_lead_that_is_no_chance(starter: Bundle) -> None:
    few, sure = Quality(9, 49, 9.0, 1.0, 8.0, -9.0, -1.0), Quality(9, 50, 900.0, 90.0, 80.0, 1.0, 19.0)
    for quality in (few, sure):
        assert gates.check_quality(starter, msgspec.structs.replace(EVALUATION, quality=quality)).passed
    unsure = Quality(9, 50, 900.0, 90.0, 80.0, -9.0, 29.0)
    outcome = gates.check_quality(starter, msgspec.structs.replace(EVALUATION, quality=unsure))
    assert (outcome.passed, outcome.is_alarm) == (False, False)


def learned(starter: Bundle) -> Bundle:
    """The bundle with a model in it that learned from labels."""
    assert starter.model is not None
    assert starter.calibration is not None
    supervised = Supervised(
        onnx=starter.model,
        inputs=starter.inputs,
        reference=starter.reference,
        calibration=starter.calibration,
        window=("2025-01-01T00:00:00Z", "2025-02-01T00:00:00Z"),
        metrics={},
        accounts=("default",),
    )
    return replace(starter, supervised=supervised)


def test_a_canary_that_died_keeps_the_candidate(starter: Bundle) -> None:
    bundle = learned(starter)
    for auc, passed in ((0.54, True), (0.56, False)):
        evaluation = msgspec.structs.replace(EVALUATION, canary=Canary(1_000, 60, auc, 0.55))
        assert gates.check_canary(bundle, evaluation).passed is passed
        assert gates.check_canary(starter, evaluation).passed


def test_a_silent_champion_does_not_forbid_what_the_policy_promises(starter: Bundle) -> None:
    silent = msgspec.structs.replace(EVALUATION, champion=msgspec.structs.replace(JUDGED, cases={}))
    assert not gates.check_volume(starter, silent).passed
    # Of 10,000 rows the policy gives a model that learned from labels 20, and the forest 2.
    assert gates.check_volume(learned(starter), silent).passed
    flood = msgspec.structs.replace(silent, candidate=msgspec.structs.replace(JUDGED, cases={"HIGH": 60}))
    assert not gates.check_volume(learned(starter), flood).passed


def found(users: int, caught_every: int) -> tuple[dict[str, FoundCase], list[Fraud]]:
    """One fraud of 100 a user; every n-th lies in a case of its own."""
    frauds = [Fraud(f"u{n}", 1, 100.0, f"c{n}" if n % caught_every == 0 else None) for n in range(users)]
    return {f.case: FoundCase(3, 0.9) for f in frauds if f.case is not None}, frauds


def test_quality_says_better_only_when_it_is_no_chance() -> None:
    many, few = found(120, 2), found(120, 6)
    assert compare_quality(many, few, budget=100).better
    assert compare_quality(few, many, budget=100).worse
    same = compare_quality(many, many, budget=100)
    assert (same.better, same.worse, same.candidate) == (False, False, 6_000.0)
    assert not compare_quality(found(40, 2), found(40, 20), budget=100).known
    assert not compare_quality(many, few, budget=20).better  # both fill the budget: twenty frauds each
    nothing: tuple[dict[str, FoundCase], list[Fraud]] = ({}, [])
    assert compare_quality(nothing, nothing, budget=10).fraud_cases == 0


def test_labels_of_matured_days_reach_the_comparison(settings: Settings, history_dsn: str) -> None:
    with psycopg.connect(history_dsn) as connection:
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, user_id, tx_id, true, now(), 'chargeback', 'test' FROM transactions "
            "WHERE ts > now() - interval '8 days' AND ts < now() - interval '4 days' "
            "ORDER BY severity DESC, ts DESC LIMIT 200"
        )
    result = run_job("train", {"ops": {"candidate_bundle": {"config": {"delay_days": 3.0}}}})
    _, evaluation = load_candidate(open_objects(settings.object_store))
    assert evaluation.candidate.fraud > 20
    assert evaluation.quality is not None
    assert evaluation.quality.known
    assert evaluation.quality.value > evaluation.quality.champion > 0
    assert checks_of(result)["quality"] is evaluation.quality.better


def test_parity_is_asked_of_the_file(starter: Bundle) -> None:
    assert gates.check_parity(starter, EVALUATION).passed
    worse = replace(starter, metrics={**starter.metrics, "parity_difference_max": 1e-3})
    assert not gates.check_parity(worse, EVALUATION).passed


def test_a_damaged_candidate_is_not_read(settings: Settings, starter: Bundle) -> None:
    objects = open_objects(settings.object_store)
    with pytest.raises(ContractError, match="there is none"):
        load_candidate(objects)
    store_candidate(objects, starter, EVALUATION)
    assert load_candidate(objects)[0].id == starter.id
    (path,) = (p for p in objects.list("candidates") if p.endswith(".tar"))
    objects.put(path, starter.data[:-100])
    with pytest.raises(ContractError, match="damaged"):
        load_candidate(objects)
