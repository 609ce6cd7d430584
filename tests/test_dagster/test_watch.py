"""Drift: found when it is there, raised once, not seen where there is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import false_discovery_control

from anomalyze.learning.drift import adjust_p_values, compare_features, compare_rules, compute_psi
from anomalyze.learning.watch import load_stream_health
from anomalyze.settings import Settings
from anomalyze.storage.alarms import load_alarms
from anomalyze.storage.pool import connect
from tests.test_dagster.runs import checks_of, metadata_of, run_job

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date()
STEADY = ("features_steady", "scores_steady", "nulls_steady", "rules_steady")


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_adjusted_p_values_are_those_of_benjamini_and_hochberg(p: np.ndarray) -> None:
    np.testing.assert_allclose(adjust_p_values(p), false_discovery_control(p), rtol=1e-12)


def test_a_shift_counts_only_when_it_is_large_and_no_chance() -> None:
    random = np.random.default_rng(1)
    before = random.normal(size=(5000, 4))
    now = random.normal(size=(2000, 4))
    now[:, 1] += 1.0  # large
    now[:, 2] += 0.12  # significant and small
    now[: len(now) // 3, 3] = np.nan
    same, shifted, small, lost = compare_features(["a", "b", "c", "d"], before, now)
    assert (same.shifted, shifted.shifted, small.shifted) == (False, True, False)
    assert small.p < 0.01
    assert lost.lost
    assert not same.lost
    few = compare_features(["a"], before[:30], before[30:40] + 0.5)[0]
    assert not few.shifted


def test_constant_and_missing_columns_are_no_trouble() -> None:
    constant, nothing = np.full(100, 3.0), np.full(100, np.nan)
    assert compute_psi(constant, constant) == 0.0
    assert compute_psi(constant, nothing) > 1.0
    assert not compare_features(["x"], nothing[:, None], nothing[:, None])[0].shifted


def test_rules_that_fire_otherwise_are_named() -> None:
    found = compare_rules({"A": 70, "B": 70, "C": 1}, 70_000, {"A": 10, "B": 60}, 10_000)
    assert [(rule.rule_id, rule.shifted) for rule in found] == [("A", False), ("B", True), ("C", False)]


def test_an_ordinary_day_raises_nothing(settings: Settings, history_dsn: str) -> None:
    result = run_job("watch")
    assert result.success
    assert {name: checks_of(result)[name] for name in STEADY} == dict.fromkeys(STEADY, True)
    found = metadata_of(result, "drift_report")
    assert found["day"] == YESTERDAY.isoformat()
    assert found["rows"] > 500
    assert "data:image/png" in found["default: drift"]
    with connect(history_dsn) as connection:
        assert not load_alarms(connection)


def test_a_day_of_another_kind_raises_each_alarm_once(settings: Settings, history_dsn: str) -> None:
    with psycopg.connect(history_dsn) as connection:
        connection.execute(
            "UPDATE transactions SET score = 0.99, enrichment = (enrichment::jsonb || jsonb_build_object('features', "
            "(enrichment->'features')::jsonb - 'user_tx_count_24h' || '{\"amount_base\": 900, \"user_tx_count_24h\": null}'))::json "
            "WHERE ts::date = %s",
            [YESTERDAY],
        )
        connection.execute(
            "INSERT INTO rule_hourly SELECT 'default', %s, 'NEW_RULE', 90",
            [datetime.combine(YESTERDAY, datetime.min.time(), UTC)],
        )
    checks = checks_of(run_job("watch"))
    assert {name: checks[name] for name in STEADY} == dict.fromkeys(STEADY, False)
    with connect(history_dsn) as connection:
        raised = load_alarms(connection)
    assert {"scores_steady", "features_steady", "nulls_steady", "rules_steady"} == {
        a.key.split(":")[1] for a in raised
    }
    assert any("amount_base" in alarm.summary for alarm in raised)
    run_job("watch")
    with connect(history_dsn) as connection:
        assert len(load_alarms(connection)) == len(raised)


def test_an_account_that_stops_and_a_program_that_lags_are_seen(history_dsn: str) -> None:
    now = datetime.now(UTC)
    with connect(history_dsn) as connection:
        health = load_stream_health(connection, now)
        assert (health.stopped, health.behind, health.silent) == ([], [], [])
        connection.execute("DELETE FROM hourly WHERE hour > now() - interval '26 hours'")
        connection.execute(  # who sends now and then has not stopped
            "INSERT INTO hourly (account_id, hour, severity, transactions) "
            "VALUES ('seldom', date_trunc('hour', now()) - interval '3 days', 0, 1)"
        )
        connection.execute(
            "INSERT INTO program_states (program, instance, pid, started_at, seen_at, state) VALUES "
            "('detector', 'h-0', 1, now(), now(), '{\"lag\": 20000}'), "
            "('sink', 'h-0', 1, now(), now() - interval '5 minutes', '{\"lag\": 1}')"
        )
        health = load_stream_health(connection, datetime.now(UTC))
    assert health.stopped == ["default"]
    assert health.behind == ["detector h-0"]
    assert health.silent == ["sink h-0"]
