"""Metrics: batches run by their schedules, and what is old is forgotten."""

import dagster as dg

from anomalyze_dagster.metrics.assets import build_assets
from anomalyze_dagster.metrics.housekeeping import forget_metrics, nightly
from anomalyze_dagster.metrics.jobs import run_metric_batches
from anomalyze_dagster.metrics.sensors import metric_batches
from anomalyze_dagster.metrics.steps import JOBS
from anomalyze_dagster.metrics.summary import daily, summary_metrics

__all__ = ["build_definitions"]


def build_definitions() -> dg.Definitions:
    """With an asset for each batch, as their files are now."""
    return dg.Definitions(
        assets=build_assets(),
        jobs=[run_metric_batches, *JOBS, summary_metrics, forget_metrics],
        schedules=[nightly, daily],
        sensors=[metric_batches],
    )
