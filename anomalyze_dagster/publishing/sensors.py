"""Promotion by rule, where the operator wants it."""

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.publishing.jobs import promote, reissue_champion

__all__ = ["promote_automatically", "reissue_proven"]


@dg.asset_sensor(
    asset_key=dg.AssetKey("published_challenger"),
    job=promote,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Promotes each new challenger that surely finds more fraud than the champion, or is it with its proof, when "
    "ANOMALYZE_PROMOTION=automatic; by default people do.",
)
def promote_automatically(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry
) -> dg.RunRequest | dg.SkipReason:
    if Settings().promotion != "automatic":
        return dg.SkipReason("promotion is by hand; ANOMALYZE_PROMOTION=automatic changes that")
    materialization = asset_event.asset_materialization
    assert materialization is not None
    proven = "proven" in materialization.metadata
    if materialization.metadata["beats_champion"].value is not True and not proven:
        return dg.SkipReason(
            "the challenger is not known to find more fraud than the champion: promote it by hand"
        )
    bundle = str(materialization.metadata["bundle"].value)
    why = "it has proven itself" if proven else "it finds more fraud"
    return dg.RunRequest(
        run_key=bundle,
        run_config={
            "ops": {"promote_bundle": {"config": {"bundle": bundle, "note": f"promoted by rule: {why}"}}}
        },
    )


@dg.asset_sensor(
    asset_key=dg.AssetKey("candidate_bundle"),
    job=reissue_champion,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="After each training: whether the champion, asked on the days that have matured, has proven itself.",
)
def reissue_proven(context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry) -> dg.RunRequest:
    return dg.RunRequest(run_key=asset_event.run_id)
