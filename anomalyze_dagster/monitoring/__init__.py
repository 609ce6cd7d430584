"""Monitoring: failed runs, old runs."""

import dagster as dg

from anomalyze_dagster.monitoring.housekeeping import forget_old_runs, nightly
from anomalyze_dagster.monitoring.sensors import alarm_of_failed_runs

definitions = dg.Definitions(jobs=[forget_old_runs], schedules=[nightly], sensors=[alarm_of_failed_runs])
