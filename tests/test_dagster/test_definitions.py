"""The definitions load, cheaply, and say what they are."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg
import pytest

from anomalyze.learning.gates import GATES
from anomalyze_dagster.definitions import definitions
from anomalyze_dagster.publishing.sensors import promote_automatically
from anomalyze_dagster.training.checks import WHAT

# asset: what it needs | group | checks. Change it here when the graph changes on purpose.
GRAPH = """\
alert_budget: champion transactions | publishing |
candidate_bundle: labels merchant_profiles transactions | training | alert_volume calibration latency no_future_leak parity quality shuffled_labels
champion: published_challenger | publishing |
detection_quality: champion labels transactions | monitoring |
drift_report: champion transactions | monitoring | features_steady nulls_steady rules_steady scores_steady stream_alive
labels:  | stored |
merchant_profiles: labels transactions | features |
metrics/payments: transactions | metrics | no_metric_failed
metrics/postgres_statistics:  | metrics | no_metric_failed
metrics/system_load:  | metrics | no_metric_failed
profiles_of_day: labels transactions | features |
published_challenger: candidate_bundle | publishing |
transactions: uploaded_files | stored |
uploaded_files:  | stored |
"""


def test_the_asset_graph_is_as_it_was() -> None:
    graph = definitions.resolve_asset_graph()
    checks = {key: [] for key in graph.get_all_asset_keys()}  # type: ignore[var-annotated]
    for check in graph.asset_check_keys:
        checks[check.asset_key].append(check.name)
    lines = [
        f"{key.to_user_string()}: {' '.join(sorted(p.to_user_string() for p in graph.get(key).parent_keys))} | "
        f"{graph.get(key).group_name} | {' '.join(sorted(checks[key]))}".rstrip()
        for key in sorted(checks, key=lambda key: key.to_user_string())
    ]
    assert lines == GRAPH.splitlines()


def test_every_asset_says_what_it_is_and_whose() -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.group_name not in (None, "default"), spec.key


def test_schedules_and_sensors_run_without_being_switched_on() -> None:
    repository = definitions.get_repository_def()
    assert {s.name for s in repository.schedule_defs} >= {
        "profiles_every_night",
        "profiles_every_six_hours",
        "refit_budget_nightly",
        "train_weekly",
        "watch_daily",
        "forget_old_runs_nightly",
        "forget_uploads_nightly",
        "forget_metrics_nightly",
        "summary_of_metrics_daily",
    }
    assert {s.name for s in repository.sensor_defs} >= {
        "promote_automatically",
        "reissue_proven",
        "metric_batches",
        "alarm_of_failed_runs",
        "train_on_labels",
    }
    for schedule in repository.schedule_defs:
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING, schedule.name
    for sensor in repository.sensor_defs:
        if sensor.name != "default_automation_condition_sensor":
            assert sensor.default_status is dg.DefaultSensorStatus.RUNNING, sensor.name


def test_the_checks_in_dagster_are_the_gates() -> None:
    assert list(WHAT) == list(GATES)


def test_loading_the_definitions_loads_nothing_heavy() -> None:
    program = (
        "import sys, anomalyze_dagster.definitions; "
        "sys.exit(', '.join(m for m in ('numba', 'sklearn', 'polars', 'onnxruntime', 'matplotlib', 'lightgbm') "
        "if m in sys.modules) or None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def challenge(instance: dg.DagsterInstance, beats: bool) -> None:
    @dg.asset
    def published_challenger() -> dg.MaterializeResult:  # type: ignore[type-arg]
        return dg.MaterializeResult(metadata={"bundle": "sha256:abc", "beats_champion": beats})

    dg.materialize([published_challenger], instance=instance)


@pytest.mark.parametrize(
    ("promotion", "beats", "said"),
    [("hand", True, "by hand"), ("automatic", False, "not known to find more"), ("automatic", True, None)],
)
def test_challengers_are_promoted_by_rule_only_where_the_setting_and_the_evidence_say_so(
    promotion: str, beats: bool, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYZE_PROMOTION", promotion)
    with dg.DagsterInstance.ephemeral() as instance:
        challenge(instance, beats)
        context = dg.build_sensor_context(instance=instance, repository_def=definitions.get_repository_def())
        data = promote_automatically.evaluate_tick(context)
    if said is not None:
        assert not data.run_requests
        assert said in str(data.skip_message)
    else:
        (request,) = data.run_requests or []
        assert request.run_key == "sha256:abc"
        assert request.run_config["ops"]["promote_bundle"]["config"]["bundle"] == "sha256:abc"
