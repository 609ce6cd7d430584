"""The shipped rules: each fires on a row made for it, and not on that row's neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalyze.features.spec import FeatureSpec
from anomalyze.rules import ColumnTypes, ListTable, Overlay, RuleMode, RuleSet, compile_rules, list_value_key
from anomalyze.rules.compiled import CompiledRules
from anomalyze.rules.file import load_rule_set
from tests.test_rules.columns import column_arrays

CONFIG = Path(__file__).parents[2] / "metrics_config"
SPEC = FeatureSpec.load(CONFIG / "features.yaml")
TYPES = ColumnTypes.of_features(SPEC.kinds)
SHIPPED = load_rule_set(CONFIG / "rules", TYPES)
# The fence as an account with home countries has it.
FENCED = RuleSet(SHIPPED.rules, {"acct": {"GEO_FENCE": Overlay(RuleMode.LIVE, {"countries": ("DE", "AT")})}})

ORDINARY: dict[str, Any] = {
    "amount": 40.0,
    "amount_base": 40.0,
    "currency": "EUR",
    "country": "DE",
    "status": "approved",
    "channel": "pos",
    "merchant_id": "m",
    "device_id": "d",
    "ip": "10.0.0.1",
    "user_id": "u",
    "user_tx_count_5m": 1.0,
    "user_tx_count_10m": 1.0,
    "user_tx_count_1h": 1.0,
    "user_tx_count_24h": 2.0,
    "user_tx_count_7d": 14.0,
    "user_merchant_count_10m": 1.0,
    "user_amount_max_10m": 40.0,
    "user_amount_sum_24h": 80.0,
    "user_declined_streak": 0.0,
    "user_amount_median": 35.0,
    "user_amount_p95": 90.0,
    "user_spend_per_day": 70.0,
    "user_spend_24h_ratio": 1.1,
    "user_age_days": 200.0,
    "is_new_device": False,
    "merchant_tx_count_30d": 400.0,
    "merchant_amount_p95_30d": 60.0,
    "device_fraud_count_90d": 0.0,
    "device_fraud_share_90d": 0.005,
    "travel_km": 5.0,
    "travel_kmh": 20.0,
    "hour_rarity": 0.6,
    "local_hour": 15.0,
}
HIGH = {"amount_base": 275.0, "amount": 275.0}
TESTING = {
    "user_tx_count_10m": 5.0,
    "user_merchant_count_10m": 3.0,
    "amount_base": 1.0,
    "user_amount_max_10m": 2.0,
}
AWAY = {"travel_km": 5570.0, "travel_kmh": 5570.0}
TAKEN = HIGH | {"is_new_device": True}
MARKED = {"device_fraud_count_90d": 2.0, "device_fraud_share_90d": 0.2}
SPENT = {"user_spend_24h_ratio": 15.5, "user_amount_sum_24h": 1085.0, "user_tx_count_24h": 6.0}
BUSY_HOUR = {"user_tx_count_1h": 12.0, "user_tx_count_7d": 24.0}

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("VELOCITY_5M", {"user_tx_count_5m": 5.0}, {"user_tx_count_5m": 4.0}),
    ("VELOCITY_1H", BUSY_HOUR, BUSY_HOUR | {"user_tx_count_1h": 11.0}),
    ("VELOCITY_1H", BUSY_HOUR, BUSY_HOUR | {"user_tx_count_7d": 54.0}),
    ("DECLINES_IN_A_ROW", {"user_declined_streak": 4.0}, {"user_declined_streak": 3.0}),
    ("CARD_TESTING", TESTING, TESTING | {"user_merchant_count_10m": 2.0}),
    ("CARD_TESTING", TESTING | {"user_amount_max_10m": None}, TESTING | {"amount_base": 6.0}),
    ("AMOUNT_SPIKE", HIGH, {"amount_base": 270.0}),
    ("AMOUNT_SPIKE", HIGH, HIGH | {"user_amount_p95": None}),
    ("AMOUNT_SPIKE", HIGH | {"user_amount_p95": 1.0}, {"amount_base": 99.0, "user_amount_p95": 1.0}),
    ("MERCHANT_AMOUNT", {"amount_base": 181.0}, {"amount_base": 180.0}),
    ("MERCHANT_AMOUNT", {"amount_base": 181.0}, {"amount_base": 181.0, "merchant_tx_count_30d": 99.0}),
    ("MERCHANT_AMOUNT", {"amount_base": 181.0}, {"amount_base": 181.0, "merchant_amount_p95_30d": None}),
    ("DEVICE_FRAUD", MARKED, MARKED | {"device_fraud_count_90d": 1.0}),
    ("DEVICE_FRAUD", MARKED, MARKED | {"device_fraud_share_90d": 0.04}),
    ("SPEND_RATE", SPENT, SPENT | {"user_tx_count_24h": 2.0}),
    ("SPEND_RATE", SPENT, SPENT | {"user_spend_24h_ratio": 15.0}),
    ("AMOUNT_LIMIT", {"amount_base": 10_000.0}, {"amount_base": 9_999.99}),
    ("TAKEOVER", TAKEN, TAKEN | {"is_new_device": False}),
    ("TAKEOVER", TAKEN, TAKEN | {"user_age_days": 29.0}),
    ("TAKEOVER", TAKEN, TAKEN | {"is_new_device": None}),
    ("ODD_HOUR", {"hour_rarity": 0.98, "amount_base": 140.0}, {"hour_rarity": 0.98, "amount_base": 130.0}),
    ("ODD_HOUR", {"hour_rarity": 0.98, "amount_base": 140.0}, {"hour_rarity": 0.96, "amount_base": 140.0}),
    ("GEO_IMPOSSIBLE", AWAY, AWAY | {"channel": "online"}),
    ("GEO_IMPOSSIBLE", AWAY, AWAY | {"travel_kmh": 900.0}),
    ("GEO_IMPOSSIBLE", AWAY, {"travel_km": 200.0, "travel_kmh": 5000.0}),
    ("GEO_IMPOSSIBLE_REMOTE", AWAY | {"channel": "online"}, AWAY),
    ("GEO_IMPOSSIBLE_REMOTE", AWAY | {"channel": None}, {"channel": None}),
    ("GEO_FENCE", {"country": "FR"}, {"country": "AT"}),
    ("GEO_FENCE", {"country": "FR"}, {"country": None}),
    ("BLOCK_LIST", {"device_id": "stolen"}, {"device_id": "lost"}),
    ("BLOCK_LIST", {"user_id": "stolen"}, {"merchant_id": "lost"}),
    ("ALLOW_LIST", {"ip": "10.9.9.9"}, {"ip": "10.9.9.8"}),
]


def firing(compiled: CompiledRules, row: dict[str, Any]) -> set[str]:
    """Ids of the rules that fire on one row of the account "acct"."""
    table = ListTable()
    for name, field, value in (
        ("block", "device_id", "stolen"),
        ("block", "user_id", "stolen"),
        ("allow", "ip", "10.9.9.9"),
    ):
        table.apply({"op": "add", "account_id": "acct", "list": name, "field": field, "value": value})
    columns = column_arrays(TYPES, [row])
    columns["user_id"] = np.array([list_value_key("acct", "user_id", row["user_id"])], dtype=np.uint64)
    zero = np.zeros(1, dtype=np.int64)
    fired = compiled.evaluate(columns, 1, table, accounts=["acct"], account=zero.astype(np.int32), ts_ms=zero)
    return {rule_id for rule_id, there in zip(compiled.ids, fired[0], strict=True) if there}


@pytest.mark.parametrize(("rule_id", "row", "neighbour"), CASES)
def test_fires_on_its_row_and_not_on_the_neighbour(
    rule_id: str, row: dict[str, Any], neighbour: dict[str, Any]
) -> None:
    compiled = compile_rules(FENCED, TYPES)
    assert rule_id in firing(compiled, ORDINARY | row)
    assert rule_id not in firing(compiled, ORDINARY | neighbour)


def test_every_shipped_rule_has_such_a_row() -> None:
    assert {rule_id for rule_id, _, _ in CASES} == {rule.id for rule in SHIPPED}


def test_ordinary_and_unknown_rows_fire_nothing() -> None:
    compiled = compile_rules(FENCED, TYPES)
    assert firing(compiled, ORDINARY) == set()
    assert firing(compiled, {"user_id": "u"}) == set()


def test_modes_are_as_promised() -> None:
    modes = {rule.id: rule.mode for rule in SHIPPED}
    shadowed = ("GEO_IMPOSSIBLE_REMOTE", "MERCHANT_AMOUNT", "DEVICE_FRAUD")
    assert {modes.pop(rule_id) for rule_id in shadowed} == {RuleMode.SHADOW}
    assert modes.pop("GEO_FENCE") == RuleMode.OFF
    assert set(modes.values()) == {RuleMode.LIVE}


def test_every_sentence_reads_well() -> None:
    compiled = compile_rules(FENCED, TYPES)
    values = ORDINARY | TAKEN | SPENT | AWAY | MARKED | {"user_tx_count_5m": 5.0, "base_currency": "EUR"}
    sentences = {rule_id: compiled.explain(rule_id, values, "acct") for rule_id in compiled.ids}
    assert all("–" not in sentence for sentence in sentences.values())
    assert sentences["VELOCITY_5M"] == "5th transaction in 5 minutes"
    assert sentences["AMOUNT_SPIKE"] == "275.00 EUR is 7.86 times this user's usual 35.00 EUR"
    assert sentences["MERCHANT_AMOUNT"] == "275.00 EUR where 95 % of purchases stay below 60.00 EUR"
    assert sentences["DEVICE_FRAUD"] == "2 confirmed frauds came from this device in 90 days"
    assert sentences["AMOUNT_LIMIT"] == "275.00 EUR reaches the limit of 10,000.00 EUR"
    assert sentences["GEO_IMPOSSIBLE"] == "5,570 km from the transaction before, at 5,570 km/h"
    assert sentences["GEO_FENCE"] == "In DE, outside DE, AT"
    assert sentences["ODD_HOUR"].startswith("275.00 EUR at 15:00")
