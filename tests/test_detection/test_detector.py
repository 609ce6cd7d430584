"""The detector on small logs written by hand: cases, lists, LEARNING, late events, missing fields, words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector, PartitionState, Verdicts
from anomalyze.detection.training import collect_frame, train_bundle
from anomalyze.detection.verdict import Prediction
from anomalyze.errors import ContractError
from anomalyze.events.batch import Action, Control, MicroBatch, Severity
from anomalyze.events.decode import decode_records
from anomalyze.features.state import Disposition
from anomalyze.simulation.starter import decode_traffic
from anomalyze.simulation.world import Simulation

DAY_S = 86_400
NOW_S = 1_766_232_000  # 2025-12-20T12:00:00Z
HOME = {"latitude": 40.71, "longitude": -74.01, "country": "US"}
LAGOS = {"latitude": 6.45, "longitude": 3.39, "country": "NG"}


class Log:
    """One partition: records go in, verdicts come out."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.state = PartitionState.empty()
        self.offset = 0

    def judge(self, *events: dict[str, Any], append_s: float | None = None) -> tuple[MicroBatch, Verdicts]:
        values, append_ms = [], []
        for event in events:
            at_s = event.pop("at_s")
            stamp = np.datetime_as_string(np.datetime64(int(at_s * 1000), "ms"), timezone="UTC")
            user, account = event.pop("user_id", "u"), event.pop("account_id", "acct")
            meta = {"timestamp": str(stamp), "user_id": user, "account_id": account}
            values.append(msgspec.json.encode({"meta": meta, "data": event}))
            append_ms.append(int((at_s if append_s is None else append_s) * 1000))
        offsets = list(range(self.offset, self.offset + len(values)))
        self.offset += len(values)
        decoded = decode_records(
            [0] * len(values),
            offsets,
            append_ms,
            values,
            partition_count=1,
            future_tolerance_ms=0,
            gazetteer=self.detector.gazetteer,
        )
        assert not decoded.dead, decoded.dead
        return decoded.batch, self.detector.process(decoded.batch, {0: self.state})


def purchase(tx: str, at_s: float, amount: float = 120.0, **more: Any) -> dict[str, Any]:
    fields = {"tx_id": tx, "amount": amount, "currency": "USD", "merchant_id": "m1", "device_id": "d1"}
    return {**fields, "channel": "card_present", **HOME, "at_s": at_s, **more}


@pytest.fixture
def log(detector: Detector) -> Log:
    """A user with forty days of purchases of about 120 dollars behind him, one a day at noon."""
    log = Log(detector)
    log.judge(*(purchase(f"h{i}", NOW_S - (41 - i) * DAY_S, 100.0 + i) for i in range(40)))
    return log


def test_an_ordinary_purchase_is_allowed_without_words(log: Log) -> None:
    _, verdicts = log.judge(purchase("a", NOW_S))
    assert verdicts.severity.tolist() == [Severity.NONE]
    assert verdicts.action.tolist() == [Action.ALLOW]
    assert not verdicts.anomalies


def test_the_sentence_has_numbers_that_can_be_checked(log: Log) -> None:
    log.judge(purchase("a", NOW_S))
    _, verdicts = log.judge(purchase("b", NOW_S + 72, 4500.50, **LAGOS))
    anomaly = verdicts.anomalies[0]
    assert verdicts.severity[0] == Severity.CRITICAL  # place HIGH, amount MEDIUM: two groups agree
    assert verdicts.action[0] == Action.BLOCK
    median = verdicts.features[0, verdicts.spec.index("user_amount_median")]
    assert "4,500.50 USD" in anomaly.explanation
    assert f"{4500.50 / median:.1f} times" in anomaly.explanation
    km = verdicts.features[0, verdicts.spec.index("travel_km")]
    assert f"{km:,.0f} km" in anomaly.explanation
    assert {r["id"] for r in anomaly.details["rules"]} >= {"GEO_IMPOSSIBLE", "AMOUNT_SPIKE"}
    spike = next(r for r in anomaly.details["rules"] if r["id"] == "AMOUNT_SPIKE")
    assert spike["values"][0]["here"] == "4,500.50 USD"
    assert spike["values"][0]["limit"].endswith("USD")


def test_what_would_have_changed_the_verdict(log: Log) -> None:
    log.judge(purchase("a", NOW_S))
    _, verdicts = log.judge(purchase("b", NOW_S + 72, 4500.50, **LAGOS))
    changes = {c["change"].split()[0]: c["severity"] for c in verdicts.anomalies[0].details["would_change"]}
    assert changes == {"Amount": "HIGH", "Placed": "MEDIUM", "Both": "NONE"}


def test_shares_of_the_models_groups_sum_to_one(log: Log) -> None:
    _, verdicts = log.judge(purchase("b", NOW_S, 4500.50, device_id="new"))
    model = verdicts.anomalies[0].details["model"]
    assert sum(g["share"] for g in model["groups"]) <= 1.001
    assert model["groups"][0]["group"] == "amount"
    assert model["words"].startswith("one in ")
    amount = next(f for f in model["groups"][0]["features"] if f["name"] == "amount_base")
    assert amount["low"] < amount["median"] < amount["high"] < amount["here"] == 4500.50


def test_a_starter_bundle_says_so_and_its_model_flags_nothing_alone(log: Log) -> None:
    _, verdicts = log.judge(purchase("b", NOW_S, 4500.50))
    assert verdicts.prediction.tolist() == [Prediction.LEARNING]
    assert any("Starter" in note for note in verdicts.anomalies[0].details["notes"])
    assert verdicts.anomalies[0].details["model"]["severity"] == "NONE"


def test_anomalies_of_a_day_are_one_case(log: Log) -> None:
    cases = []
    for i, at_s in enumerate((NOW_S, NOW_S + 3600, NOW_S + 23 * 3600, NOW_S + 25 * 3600)):
        _, verdicts = log.judge(purchase(f"b{i}", at_s, 4500.50 + i))
        cases.append(verdicts.anomalies[0].case_id)
    assert cases[0] == cases[1] == cases[2] != cases[3]
    assert len({*cases}) == 2


def test_a_late_anomaly_is_marked_and_finds_its_case(log: Log) -> None:
    _, first = log.judge(purchase("b", NOW_S, 4500.50))
    _, late = log.judge(purchase("c", NOW_S - 600, 5000.0), append_s=NOW_S + 3 * 3600)
    assert not first.anomalies[0].late
    assert late.anomalies[0].late
    assert late.anomalies[0].case_id == first.anomalies[0].case_id
    assert "Arrived after newer transactions of this user" in late.anomalies[0].details["notes"]


def control(offset: int, **body: Any) -> Control:
    entry = {"control": "list", "op": "add", "account_id": "acct", "list": "block", "field": "device_id"}
    return Control(0, offset, "list", {**entry, **body})


def test_block_beats_allow_beats_rules(log: Log) -> None:
    detector = log.detector
    assert detector.apply_control(control(1, list="allow", field="user_id", value="u"), log.state) is None
    _, allowed = log.judge(purchase("b", NOW_S, 4500.50))
    assert allowed.severity.tolist() == [Severity.NONE]
    assert "AMOUNT_SPIKE" in [detector.rules.ids[r] for r in np.flatnonzero(allowed.fired[0])]
    assert detector.apply_control(control(2, value="d1"), log.state) is None
    _, blocked = log.judge(purchase("c", NOW_S + 60))
    assert blocked.severity.tolist() == [Severity.CRITICAL]
    assert blocked.action.tolist() == [Action.BLOCK]
    assert "block list" in blocked.anomalies[0].explanation
    _, other = log.judge(purchase("d", NOW_S + 90, account_id="other"))
    assert other.severity.tolist() == [Severity.NONE]


def test_a_control_record_that_cannot_be_followed_says_why(log: Log) -> None:
    before = log.state.snapshot()
    assert "field" in str(log.detector.apply_control(control(1, field="colour", value="x"), log.state))
    assert "kind" in str(log.detector.apply_control(Control(0, 1, "kind", {}), log.state))
    assert {n: a.tobytes() for n, a in log.state.snapshot().items()} == {
        n: a.tobytes() for n, a in before.items()
    }


def test_repeats_conflicts_and_status_updates_have_no_verdict(log: Log) -> None:
    log.judge(purchase("a", NOW_S, 4500.50))
    _, verdicts = log.judge(
        purchase("a", NOW_S, 4500.50),
        purchase("a", NOW_S, 9999.0),
        purchase("a", NOW_S, 4500.50, status="declined"),
    )
    assert verdicts.disposition.tolist() == [
        Disposition.REPEAT,
        Disposition.CONFLICT,
        Disposition.STATUS_UPDATE,
    ]
    assert verdicts.severity.tolist() == [0, 0, 0]
    assert not verdicts.anomalies
    assert [(d.reason, d.offset, d.field) for d in verdicts.dead] == [("conflict", 42, "data")]


def test_little_history_and_missing_fields_are_told(detector: Detector) -> None:
    log = Log(detector)
    events = [purchase(f"a{i}", NOW_S - 90 * DAY_S + i * DAY_S) for i in range(3)]
    log.judge(*events)
    bare = purchase("b", NOW_S, 20_000.0)
    for name in ("device_id", "latitude", "longitude", "country"):
        del bare[name]
    _, verdicts = log.judge(bare)
    anomaly = verdicts.anomalies[0]
    assert "3 transactions of this user; usual ranges start at 10" in anomaly.details["notes"]
    assert "is_new_device" in anomaly.details["rules_off"]["TAKEOVER"]
    assert "GEO_IMPOSSIBLE" in anomaly.details["rules_off"]


@pytest.fixture(scope="module")
def trained(starter_bundle: Bundle) -> Detector:
    """A bundle trained on an account's own history."""
    world = Simulation(150, 2, (NOW_S - 60 * DAY_S) * 1000, 30)
    detector = Detector(starter_bundle)
    batches = decode_traffic(world.chunks(), "t", "acct", detector.gazetteer)
    frame = collect_frame(starter_bundle, batches, {0: PartitionState.empty()})
    return Detector(train_bundle(starter_bundle, frame, "trained", seed=1))


def test_an_account_with_its_own_history_is_no_longer_learning(trained: Detector) -> None:
    log = Log(trained)
    _, verdicts = log.judge(purchase("a", NOW_S), purchase("b", NOW_S + 1, account_id="new"))
    assert verdicts.prediction.tolist() == [Prediction.NORMAL, Prediction.LEARNING]


def test_scores_are_rarities_of_the_accounts_own_history(trained: Detector) -> None:
    world = Simulation(150, 2, (NOW_S - 60 * DAY_S) * 1000, 30)
    states = {0: PartitionState.empty()}
    scores = [
        trained.process(batch, states).ml_score
        for batch in decode_traffic(world.chunks(), "t", "acct", trained.gazetteer)
    ]
    share = (np.concatenate(scores) >= 0.99).mean()
    assert share == pytest.approx(0.01, rel=0.2)


def test_a_trained_model_alone_reaches_medium_at_most(trained: Detector) -> None:
    quiet = Detector(
        replace(
            trained.bundle,
            rules={},
            policy="{version: 1, model: {levels: [{tail: 0.05, severity: CRITICAL}]}}",
        )
    )
    log = Log(quiet)
    log.judge(*(purchase(f"h{i}", NOW_S - (41 - i) * DAY_S, 100.0 + i) for i in range(40)))
    _, verdicts = log.judge(purchase("b", NOW_S, 9_000.0, device_id="new", **LAGOS))
    assert verdicts.severity.tolist() == [Severity.MEDIUM]
    assert not verdicts.anomalies[0].details.get("rules")
    assert "9,000.00 USD" in verdicts.anomalies[0].explanation


def test_a_bundle_without_its_parts_is_refused(starter_bundle: Bundle) -> None:
    with pytest.raises(ContractError, match=r"currency_rates\.json"):
        Detector(replace(starter_bundle, tables={}))


def test_a_state_of_another_format_is_refused(log: Log) -> None:
    arrays = log.state.snapshot()
    arrays["format"] = arrays["format"] + 1
    with pytest.raises(ContractError, match="format"):
        PartitionState.empty().restore(arrays)
