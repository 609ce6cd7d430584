"""The nightly refit of the alert budget by real Dagster runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from anomalyze.bus import open_bus
from anomalyze.detection.budget import load_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.learning import budget
from anomalyze.learning.promotion import CHALLENGER, CHAMPION, open_bundles, roll_back
from anomalyze.learning.shelf import load_candidate
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from tests.test_dagster.history import CONFIG
from tests.test_dagster.runs import checks_of, metadata_of, run_job


@pytest.fixture
def store(settings: Settings, starter: Bundle) -> BundleStore:
    """Bundles, the champion with a budget."""
    found = open_bundles(settings)
    budget = replace(starter, policy=f"{starter.policy}\nbudget: {{cases_per_day: 4}}\n")
    found.publish(budget)
    found.set_pointer(CHAMPION, budget.id)
    return found


def nights(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT account_id, day, cases_per_day, severity, threshold IS NOT NULL, expected FROM budget_days "
            "ORDER BY account_id, day"
        ).fetchall()


def test_a_night_promotes_thresholds_once_and_roll_back_passes_them_by(
    settings: Settings, history_dsn: str, store: BundleStore, starter: Bundle
) -> None:
    before = store.pointer(CHAMPION)
    assert before is not None
    found = metadata_of(run_job("refit_budget"), "alert_budget")
    assert found["promoted"]
    assert store.pointer(CHAMPION) == found["bundle"] != before
    made, old = store.load(found["bundle"]), store.load(before)
    assert set(load_thresholds(made)) == {"default"}
    assert (made.model, made.rules, made.policy) == (old.model, old.rules, old.policy)
    ((account, day, wanted, severity, fitted, expected),) = nights(history_dsn)
    assert (account, day, wanted, severity, fitted) == ("default", datetime.now(UTC).date(), 4.0, 3, True)
    assert 2 < expected <= 4  # type: ignore[operator]
    again = metadata_of(run_job("refit_budget"), "alert_budget")
    assert not again["promoted"]
    assert len(nights(history_dsn)) == 1
    bus = open_bus(settings, postgres_dsn=history_dsn)
    try:
        assert roll_back(store, bus).id == starter.id
        # The newest configuration has no budget: it is withdrawn where people look.
        assert run_job("refit_budget").success
        assert nights(history_dsn)[0][2] is None
    finally:
        bus.close()


def test_too_little_history_is_said_and_changes_nothing(history_dsn: str, store: BundleStore) -> None:
    with psycopg.connect(history_dsn) as connection:
        connection.execute("DELETE FROM hourly WHERE hour < now() - interval '5 days'")
    found = metadata_of(run_job("refit_budget"), "alert_budget")
    assert not found["promoted"]
    assert "7 are needed" in found["accounts"]
    assert [night[2:5] for night in nights(history_dsn)] == [(4.0, 3, False)]


def test_a_candidate_has_thresholds_of_its_own_and_its_check_holds_the_budget(
    settings: Settings, store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    shutil.copytree(CONFIG, config)
    with (config / "policy.yaml").open("a") as policy:
        policy.write("\nbudget: {cases_per_day: 4}\n")
    monkeypatch.setenv("ANOMALYZE_CONFIG_DIR", str(config))
    monkeypatch.setattr(budget, "DAYS_MIN", 3)  # four days are judged of the 21 that are stored
    result = run_job("train")
    assert checks_of(result)["alert_volume"]
    bundle, evaluation = load_candidate(open_objects(settings.object_store))
    assert set(load_thresholds(bundle)) == {"default"}
    assert evaluation.candidate.bundle == bundle.id == store.pointer(CHALLENGER)
    assert evaluation.budget is not None
    assert evaluation.budget.promised == 4 * evaluation.budget.days
    assert 0 < evaluation.budget.delivered < 3 * evaluation.budget.promised
