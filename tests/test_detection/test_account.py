"""What accounts change: read, laid over a bundle, carried to the next one, and judged by, row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalyze.config import ConfigProblems
from anomalyze.detection.account import AccountDocument, Versioned
from anomalyze.detection.account_change import describe_changes
from anomalyze.detection.account_overlay import (
    account_policies,
    core_id,
    document_of,
    rule_set_of,
    version_of,
    with_documents,
    with_newest_documents,
)
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.model import ModelJudge
from anomalyze.detection.policy import TailLevel, parse_policy
from anomalyze.detection.statistic import AmountJudge
from anomalyze.detection.training import build_bundle
from anomalyze.errors import ContractError
from anomalyze.events.batch import Severity
from anomalyze.learning.labels import own_delays
from tests.test_detection.conftest import CONFIG
from tests.test_detection.test_detector import NOW_S, Log
from tests.test_detection.test_stream_is_batch import LENGTHS, Worker, first_difference

SHOP = {"rules": {"AMOUNT_LIMIT": {"parameters": {"limit": 5}}, "ODD_HOUR": {"mode": "off"}}}


def laid(bundle: Bundle, version: int, account: str = "shop", **document: Any) -> Bundle:
    return with_documents(bundle, {account: Versioned(version, AccountDocument.model_validate(document))})


@pytest.fixture(scope="module")
def plain() -> Bundle:
    return build_bundle(CONFIG)


def test_a_document_is_the_bundles_and_survives_its_file(plain: Bundle) -> None:
    made = laid(plain, 3, time_zone="Europe/Riga", **SHOP)
    again = Bundle.from_bytes(made.data, made.id)
    assert version_of(again, "shop") == 3
    assert document_of(again, "shop").document.to_json() == {
        "rules": {"AMOUNT_LIMIT": {"parameters": {"limit": 5.0}}, "ODD_HOUR": {"mode": "off"}},
        "time_zone": "Europe/Riga",
    }
    assert core_id(made) == core_id(plain) != core_id(replace(plain, policy=plain.policy + "\n"))
    emptied = laid(made, 4)
    assert rule_set_of(emptied).overlays == {}
    assert document_of(emptied, "shop") == Versioned(4, AccountDocument())


def test_the_higher_version_wins_whichever_bundle_is_younger(plain: Bundle) -> None:
    older, newer = laid(plain, 1, time_zone="UTC"), laid(plain, 2, **SHOP)
    trained = replace(older, policy=older.policy + "\n")
    carried = with_newest_documents(trained, newer)
    assert document_of(carried, "shop") == document_of(newer, "shop")
    assert rule_set_of(carried).overlays == rule_set_of(newer).overlays
    assert carried.policy == trained.policy
    assert with_newest_documents(newer, older) is newer
    assert with_newest_documents(carried, newer) is carried


def test_what_a_bundle_no_longer_has_is_kept_and_without_effect(plain: Bundle) -> None:
    rules = rule_set_of(plain)
    fewer = replace(
        plain,
        rules={
            "rules.json": replace(rules, rules=tuple(r for r in rules if r.id != "AMOUNT_LIMIT"))
            .to_json()
            .decode()
        },
    )
    made = laid(fewer, 1, **SHOP)
    Detector(made)
    assert set(rule_set_of(made).overlays["shop"]) == {"ODD_HOUR"}
    back = with_newest_documents(plain, made)
    assert set(rule_set_of(back).overlays["shop"]) == {"AMOUNT_LIMIT", "ODD_HOUR"}


def test_rules_currency_and_rates_hold_for_the_account_alone(plain: Bundle) -> None:
    dear = {"pivot": "EUR", "tables": [{"day": "2020-01-01", "rates": {"USD": 100}}]}
    made = laid(plain, 1, base_currency="EUR", currency_rates=dear, **SHOP)
    log = Log(Detector(made))
    _, verdicts = log.judge(
        *(
            {"tx_id": f"t{i}", "account_id": account, "amount": amount, "currency": "USD", "at_s": NOW_S + i}
            for i, (account, amount) in enumerate([("shop", 600.0), ("shop", 400.0), ("other", 600.0)])
        )
    )
    limit = verdicts.fired[:, verdicts.rule_ids.index("AMOUNT_LIMIT")]
    assert limit.tolist() == [True, False, False]  # 6 EUR, 4 EUR at the account's rates; 600 USD below 10,000
    base = verdicts.features[:, Detector(made).spec.names.index("amount_base")]
    assert base[:2].tolist() == [6.0, 4.0]
    assert base[2] > 500


def test_thresholds_of_an_account_judge_its_rows_only() -> None:
    policy = parse_policy(
        "{version: 1, statistics: {robust_z: [{over: 3, severity: LOW}]}, model: {levels: [{tail: 0.001, severity: LOW}]}}"
    )
    bundle = Bundle(kind="trained", features="", policy="")
    own = {
        "robust_z": [{"over": 9, "severity": "MEDIUM"}],
        "amount_base_min": 10,
        "caps": {"statistics_alone": "LOW"},
    }
    made = with_documents(
        bundle,
        {"shop": Versioned(1, AccountDocument.model_validate({"thresholds": own, "label_delay_days": 30}))},
    )
    assert own_delays(made) == {"shop": 30.0}
    judge = AmountJudge(policy, None, account_policies(made, policy))
    columns = {
        "user_amount_rz": np.array([5.0, 5.0, 10.0, 10.0]),
        "amount_base": np.array([50.0, 50.0, 50.0, 5.0]),
    }
    account = np.array([0, 1, 1, 1], dtype=np.int32)
    judged = judge.judge(columns, 4, ["other", "shop"], account)
    assert judged.severity.tolist() == [1, 0, 1, 0]  # LOW; below 9; MEDIUM capped to LOW; too little money
    assert (
        AmountJudge(policy, None).judge(columns, 4, ["other", "shop"], account).severity.tolist() == [1] * 4
    )


def test_the_models_levels_of_an_account_judge_its_rows_only(starter_bundle: Bundle) -> None:
    levels = [TailLevel(tail=0.05, severity="MEDIUM")]
    names = tuple(one.name for one in starter_bundle.inputs)
    judge = ModelJudge(starter_bundle, names, [], 0, {"shop": (levels, int(Severity.LOW))})
    rows = np.random.default_rng(1).lognormal(3, 3, (400, len(names)))
    account = (np.arange(400) % 2).astype(np.int32)
    judged = judge.judge_inputs(rows, ["other", "shop"], account)
    assert not judged.severity[account == 0].any()
    assert np.array_equal(judged.severity[account == 1] == Severity.LOW, judged.tail[account == 1] <= 0.05)
    assert judged.severity.any()


def test_the_stream_is_the_batch_with_settings_too(starter_bundle: Bundle, detector: Detector) -> None:
    document = {
        "time_zone": "Asia/Tokyo",
        "base_currency": "EUR",
        "rules": {"AMOUNT_LIMIT": {"parameters": {"limit": 50}}},
        "thresholds": {"amount_base_min": 1, "robust_z": [{"over": 3, "severity": "MEDIUM"}], "iqr": []},
    }
    own = Detector(laid(starter_bundle, 1, "acct", **document))
    one, cut, usual = Worker(own), Worker(own), Worker(detector)
    one.judge(LENGTHS)
    usual.judge(LENGTHS)
    random = np.random.default_rng(5)
    while cut.next != LENGTHS:
        cut.judge(random.integers(0, 200, len(LENGTHS)).tolist())
        if random.random() < 0.2:
            cut.restart(0)
    assert first_difference(one.scored, cut.scored) is None
    assert first_difference(one.anomalies, cut.anomalies) is None
    flagged = [sum(map(len, worker.anomalies)) for worker in (one, usual)]
    assert flagged[0] > 2 * flagged[1] > 0


def test_files_of_accounts_are_read_and_checked(tmp_path: Path) -> None:
    import shutil

    config = tmp_path / "config"
    shutil.copytree(CONFIG, config)
    (config / "accounts").mkdir(exist_ok=True)
    (config / "accounts/shop.yaml").write_text(
        "version: 1\nrules:\n  AMOUNT_LIMIT: {parameters: {limit: 5}}\n"
    )
    made = build_bundle(config)
    assert rule_set_of(made).overlays["shop"]["AMOUNT_LIMIT"].parameters == {"limit": 5.0}
    assert document_of(made, "shop") == Versioned(
        0, AccountDocument.model_validate({"rules": {"AMOUNT_LIMIT": {"parameters": {"limit": 5}}}})
    )
    saved = laid(build_bundle(CONFIG), 1, time_zone="UTC")
    assert (
        rule_set_of(with_newest_documents(made, saved)).overlays == {}
    )  # what was saved takes the file's place
    (config / "accounts/shop.yaml").write_text("rules:\n  AMOUNT_LIMT: {mode: off}\ntime_zone: Riga\n")
    with pytest.raises(ConfigProblems) as refused:
        build_bundle(config)
    assert "shop.yaml:3:" in str(refused.value)


def test_a_malformed_overlay_is_refused(plain: Bundle) -> None:
    broken = replace(plain, overlays={"shop": {"saved": 1, "thresholds": {"model": [{"tail": 5}]}}})
    with pytest.raises(ContractError, match="shop"):
        Detector(broken)


def test_changes_read_like_a_sentence() -> None:
    before = {"rules": {"A": {"mode": "off"}}, "thresholds": {"model": []}}
    after = {"rules": {"A": {"mode": "live", "parameters": {"countries": ["DE"]}}}, "label_delay_days": 30.0}
    assert describe_changes(before, after) == [
        "label_delay_days: default → 30",
        "rules.A.mode: off → live",
        'rules.A.parameters.countries: default → ["DE"]',
        "thresholds.model: [] → default",
    ]
    assert describe_changes(after, after) == []
