"""Everything that Dagster runs: a folder per concern, merged here."""

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster import budget, ingestion, metrics, monitoring, profiles, publishing, sources, training
from anomalyze_dagster.resources import build_resources

__all__ = ["build_definitions", "definitions"]


def build_definitions() -> dg.Definitions:
    """All of it, with the batches of metrics as their files are now."""
    return dg.Definitions.merge(
        sources.definitions,
        ingestion.definitions,
        profiles.definitions,
        training.definitions,
        publishing.definitions,
        budget.definitions,
        monitoring.definitions,
        metrics.build_definitions(),
        # Steps share the run's process: a process of its own for each would import everything once more.
        dg.Definitions(resources=build_resources(Settings()), executor=dg.in_process_executor),
    )


definitions = build_definitions()
