"""Everything that Dagster runs: a folder per concern, merged here."""

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster import ingestion, monitoring, profiles, publishing, training
from anomalyze_dagster.resources import build_resources

definitions = dg.Definitions.merge(
    ingestion.definitions,
    profiles.definitions,
    training.definitions,
    publishing.definitions,
    monitoring.definitions,
    # Steps share the run's process: a process of its own for each would import everything once more.
    dg.Definitions(resources=build_resources(Settings()), executor=dg.in_process_executor),
)
