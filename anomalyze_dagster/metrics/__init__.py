"""Metrics: batches run by their schedules, and what is old is forgotten."""

import dagster as dg

from anomalyze_dagster.metrics.assets import build_specs
from anomalyze_dagster.metrics.housekeeping import forget_metrics, nightly
from anomalyze_dagster.metrics.jobs import run_metric_batches
from anomalyze_dagster.metrics.sensors import metric_batches

definitions = dg.Definitions(
    assets=build_specs(),
    jobs=[run_metric_batches, forget_metrics],
    schedules=[nightly],
    sensors=[metric_batches],
)
