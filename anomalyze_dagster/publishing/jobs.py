"""Promote and roll back: a pointer moves, the log is told, each partition swaps where it meets the record."""

import dagster as dg

from anomalyze_dagster.resources import BusResource, ObjectsResource
from anomalyze_dagster.retry import RETRY, retried
from anomalyze_dagster.sources import CHAMPION

__all__ = ["promote", "reissue_champion", "roll_back"]


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


@dg.op(
    retry_policy=RETRY,
    description="Publish the champion with what it has proven since, where the newest training found that.",
)
def publish_proven_champion(
    context: dg.OpExecutionContext, objects: ObjectsResource, bus: BusResource
) -> None:
    from anomalyze.learning.reissue import reissue_champion as reissue
    from anomalyze.learning.shelf import load_candidate

    with retried(), bus.open() as log:
        candidate, evaluation = load_candidate(objects.open())
        made = reissue(objects.bundles(), objects.open(), log, candidate.id, evaluation)
    if made is None:
        context.log.info("the champion has proven nothing that its bundle does not say already")
        return
    context.log.info(
        f"challenger is {made.bundle}: the champion, with its proof for {', '.join(made.proofs)}"
    )
    metadata: dict[str, str | bool] = {
        "bundle": made.bundle,
        "beats_champion": False,
        "proven": ", ".join(made.proofs),
        "champion": made.champion,
    }
    context.add_output_metadata(metadata)
    context.log_event(dg.AssetMaterialization("published_challenger", metadata=metadata))


@dg.job(description="Publish the champion as challenger where it has proven itself since it was published.")
def reissue_champion() -> None:
    """One step."""
    publish_proven_champion()


@dg.job(description="Make the challenger, or the bundle named in the configuration, the champion.")
def promote() -> None:
    """One step."""
    promote_bundle()


@dg.job(description="Go back to the champion before this one.")
def roll_back() -> None:
    """One step."""
    roll_back_bundle()
