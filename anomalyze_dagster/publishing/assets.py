"""The challenger: published whole under its hash, then pointed at."""

from datetime import timedelta

import dagster as dg

from anomalyze_dagster.owners import OWNERS
from anomalyze_dagster.resources import BusResource, ObjectsResource
from anomalyze_dagster.retry import RETRY, retried

__all__ = ["published_challenger"]


@dg.asset(
    deps=["candidate_bundle"],
    group_name="publishing",
    kinds={"objectstore"},
    owners=OWNERS,
    retry_policy=RETRY,
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=21), warn_window=timedelta(days=9)
    ),
    description="The candidate under its hash in the object store, the pointer `challenger` moved to it and the log "
    "told: the detector shadows it. Runs only when every check of the candidate passed. Changes no verdict: "
    "promoting does.",
)
def published_challenger(
    context: dg.AssetExecutionContext, objects: ObjectsResource, bus: BusResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    from anomalyze.learning.promotion import CHALLENGER, CHAMPION, publish_challenger
    from anomalyze.learning.report import store_report
    from anomalyze.learning.shelf import load_candidate

    with retried(), bus.open() as log:
        bundle, evaluation = load_candidate(objects.open())
        store = objects.bundles()
        # Before the pointer names it, so that whoever looks at a challenger finds what its checks said.
        store_report(objects.open(), bundle, evaluation)
        move = publish_challenger(store, log, bundle, note=f"run {context.run_id}")
        champion = store.pointer(CHAMPION)
    context.log.info(f"{CHALLENGER} is {bundle.id}; promote it with the job `promote`")
    return dg.MaterializeResult(
        metadata={
            "bundle": bundle.id,
            "beats_champion": evaluation.quality is not None and evaluation.quality.better,
            "champion": champion or "none",
            "move": move.number,
            "bytes": len(bundle.data),
            "training_window": " to ".join(bundle.training_window or ()),
        }
    )
