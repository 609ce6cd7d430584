"""Promotion by rule, where the operator wants it."""

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.publishing.jobs import promote

__all__ = ["promote_automatically"]


@dg.asset_sensor(
    asset_key=dg.AssetKey("published_challenger"),
    job=promote,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Promotes each new challenger that surely finds more fraud than the champion, when "
    "ANOMALYZE_PROMOTION=automatic; by default people do.",
)
def promote_automatically(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry
) -> dg.RunRequest | dg.SkipReason:
    if Settings().promotion != "automatic":
        return dg.SkipReason("promotion is by hand; ANOMALYZE_PROMOTION=automatic changes that")
    materialization = asset_event.asset_materialization
    assert materialization is not None
    if materialization.metadata["beats_champion"].value is not True:
        return dg.SkipReason(
            "the challenger is not known to find more fraud than the champion: promote it by hand"
        )
    bundle = str(materialization.metadata["bundle"].value)
    return dg.RunRequest(
        run_key=bundle,
        run_config={
            "ops": {
                "promote_bundle": {
                    "config": {"bundle": bundle, "note": "promoted by rule: it finds more fraud"}
                }
            }
        },
    )
