"""Everything that Dagster runs: a folder per concern, merged here."""

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster import budget, ingestion, metrics, monitoring, profiles, publishing, sources, training
from anomalyze_dagster.resources import build_resources

definitions = dg.Definitions.merge(
    sources.definitions,
    ingestion.definitions,
    profiles.definitions,
    training.definitions,
    publishing.definitions,
    budget.definitions,
    monitoring.definitions,
    metrics.definitions,
    # Steps share the run's process: a process of its own for each would import everything once more.
    dg.Definitions(resources=build_resources(Settings()), executor=dg.in_process_executor),
)
