"""features.yaml: what it promises, and how its mistakes are named."""

from __future__ import annotations

import datetime as dt
import doctest
from pathlib import Path

import numpy as np
import pytest

from anomalyze.errors import ConfigError
from anomalyze.features import FeatureSpec, geography, layout, local_time, measure
from anomalyze.features import spec as spec_module
from anomalyze.features.catalogue import DAILY_PROFILE, ENTITIES
from anomalyze.features.local_time import local_offset_ms


def test_columns_follow_the_file(spec: FeatureSpec) -> None:
    assert spec.names[:3] == ("user_tx_count_5m", "user_tx_count_10m", "user_tx_count_1h")
    assert len(spec.names) == len(set(spec.names)) == len(spec.kinds)
    assert spec.names == (*spec.names[: len(spec.source)], *spec.profile_names)
    assert spec.profile_names == (*spec.label_names, *spec.daily_names)
    assert all(name.startswith("merchant_") for name in spec.label_names)
    assert {DAILY_PROFILE[name][0] for name in spec.daily_names} == set(ENTITIES)
    assert set(spec.published) <= set(spec.names)
    assert spec.kinds["user_tx_count_10m"].label == "Transactions in 10m"
    assert spec.kinds["is_new_device"].kind == "flag"
    assert {kind.group for kind in spec.kinds.values()} == {
        "amount",
        "speed",
        "place",
        "device",
        "merchant",
        "time",
    }


def test_the_text_is_enough_to_have_the_specification_again(spec: FeatureSpec) -> None:
    again = FeatureSpec.from_yaml(spec.text)
    assert (again.names, again.content_hash) == (spec.names, spec.content_hash)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  user_amount_rz:", "  user_amount_zr:", r"did you mean user_amount_rz\?"),
        (
            "purchases: 60 ",
            "purchases: 6 ",
            "baseline.purchases: input should be greater than or equal to 10, got 6",
        ),
        ("purchases_min: 10", "purchases_min: 70", "expected purchases_min of at most purchases"),
        (
            "windows: [5m, ",
            "windows: [5 minutes, ",
            "windows.0: expected a duration such as 10m.*got '5 minutes'",
        ),
        ("windows: [5m, 10m", "windows: [10m, 5m", "expected each once, shortest first"),
        ("forget_after: 180d", "forget_after: 7d", "at least the longest window"),
        ("time_zone: UTC", "time_zone: Mars/Olympus", "expected a time zone such as Europe/Berlin"),
        ("base_currency: USD", "base_currency: DOL", "expected an ISO 4217 code"),
        ("version: 1", "version: 1\nwindow: [5m]", "window: extra inputs are not permitted"),
        ("unit: days, group: time", "unit: days, group: clock", "features.user_age_days.group"),
        ("  user_tx_count_5m: 0", "  user_tx_count_6m: 0", "published: expected a feature that exists"),
        ("  hour_rarity: 3", "  hour_rarity: 3\n  hour_rarity: 2", "hour_rarity: expected once"),
        ("    merchant_tx_count_30d:", "    merchant_txcount_30d:", r"did you mean merchant_tx_count_30d\?"),
        (
            "    user_amount_p95_90d:",
            "    user_tx_count_30d:",
            "user_tx_count_30d: expected once, it is declared",
        ),
        (
            "    device_fraud_count_90d:",
            "    merchant_fraud_share_30d:",
            "profiles.daily: expected a feature",
        ),
        ("version: 1", "version: [1", "expected YAML"),
    ],
)
def test_mistakes_are_named_with_their_line(spec: FeatureSpec, before: str, after: str, message: str) -> None:
    text = spec.text.replace(before, after, 1)
    assert text != spec.text
    wrong = next(
        i for i, (a, b) in enumerate(zip(text.split("\n"), spec.text.split("\n"), strict=False), 1) if a != b
    )
    with pytest.raises(ConfigError, match=message) as caught:
        FeatureSpec.from_yaml(text, "features.yaml")
    line = int(str(caught.value).split(":")[1])
    assert wrong - 5 <= line <= wrong + 5


def test_every_mistake_is_reported(spec: FeatureSpec) -> None:
    text = spec.text.replace("user_amount_rz", "user_amount_zr").replace(
        "forget_after: 180d", "forget_after: 7d"
    )
    with pytest.raises(ConfigError) as caught:
        FeatureSpec.from_yaml(text)
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable UTF-8 file"):
        FeatureSpec.load(tmp_path / "features.yaml")


@pytest.mark.parametrize(
    "zone", ["UTC", "America/New_York", "Asia/Kolkata", "Africa/Casablanca", "Australia/Lord_Howe"]
)
def test_offsets_equal_the_zone_itself(zone: str) -> None:
    rng = np.random.default_rng(4)
    instants = rng.integers(946_684_800, 2_524_608_000, 3000)
    info = local_time.load_zone(zone)
    expected = [dt.datetime.fromtimestamp(int(s), info).utcoffset() for s in instants]
    found = local_offset_ms(zone, instants * 1000)
    assert found.tolist() == [int(offset.total_seconds() * 1000) for offset in expected if offset is not None]


@pytest.mark.parametrize("module", [geography, layout, local_time, measure, spec_module])
def test_examples_in_the_documentation_hold(module: object) -> None:
    runner = doctest.DocTestRunner()
    for value in vars(module).values():
        function = getattr(value, "py_func", value)
        if getattr(function, "__module__", "") == module.__name__:  # type: ignore[attr-defined]
            for test in doctest.DocTestFinder().find(function, globs=vars(module).copy()):
                runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0
