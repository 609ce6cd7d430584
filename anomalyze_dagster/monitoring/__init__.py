"""Monitoring: drift, failed runs, old runs."""

import dagster as dg

from anomalyze_dagster.monitoring.drift import daily, drift_report, watch
from anomalyze_dagster.monitoring.housekeeping import forget_old_runs, nightly
from anomalyze_dagster.monitoring.quality import detection_quality
from anomalyze_dagster.monitoring.sensors import alarm_of_failed_runs

definitions = dg.Definitions(
    assets=[drift_report, detection_quality],
    jobs=[watch, forget_old_runs],
    schedules=[daily, nightly],
    sensors=[alarm_of_failed_runs],
)
