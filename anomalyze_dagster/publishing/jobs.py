"""Promote and roll back: a pointer moves, the log is told, each partition swaps where it meets the record."""

import dagster as dg

from anomalyze_dagster.resources import BusResource, ObjectsResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import CHAMPION

__all__ = ["promote", "roll_back"]


class Promotion(dg.Config):
    """What to promote."""

    bundle: str = "challenger"
    note: str = "promoted in Dagster"


class Return(dg.Config):
    """Why to go back."""

    note: str = "rolled back in Dagster"


@dg.op(retry_policy=RETRY, description="Make a published bundle the champion.")
def promote_bundle(
    context: dg.OpExecutionContext, config: Promotion, objects: ObjectsResource, bus: BusResource
) -> None:
    from anomalyze.learning import promotion

    with retried(), bus.open() as log:
        store = objects.bundles()
        bundle_id = promotion.find_bundle(store, config.bundle)
        before = store.pointer(promotion.CHAMPION)
        move = promotion.promote(store, log, bundle_id, note=config.note)
    context.log.info(f"champion: {before} to {move.id}, move {move.number}: {config.note}")
    _show(context, {"bundle": move.id, "before": before or "none", "move": move.number, "note": config.note})


@dg.op(retry_policy=RETRY, description="Make the champion before this one the champion again.")
def roll_back_bundle(
    context: dg.OpExecutionContext, config: Return, objects: ObjectsResource, bus: BusResource
) -> None:
    from anomalyze.learning import promotion

    with retried(), bus.open() as log:
        move = promotion.roll_back(objects.bundles(), log, config.note)
    context.log.info(f"champion: back to {move.id}, move {move.number}: {config.note}")
    _show(context, {"bundle": move.id, "move": move.number, "note": config.note})


def _show(context: dg.OpExecutionContext, metadata: dict[str, str | int]) -> None:
    context.add_output_metadata(metadata)
    context.log_event(dg.AssetMaterialization(CHAMPION.key, metadata=metadata))


@dg.job(description="Make the challenger, or the bundle named in the configuration, the champion.")
def promote() -> None:
    """One step."""
    promote_bundle()


@dg.job(description="Go back to the champion before this one.")
def roll_back() -> None:
    """One step."""
    roll_back_bundle()
