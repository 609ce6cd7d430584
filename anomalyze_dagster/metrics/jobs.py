"""One run reads, stores and scores some batches, one after another. None stops another; the run fails when one did."""

import time
from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from anomalyze.errors import AnomalyzeError, TransientError
from anomalyze.settings import Settings
from anomalyze_dagster.metrics.assets import asset_key
from anomalyze_dagster.metrics.work import NAMED_MAX, WHOLE, Done, find_entry, show_check, work_off
from anomalyze_dagster.resources import PostgresResource

__all__ = ["run_metric_batches"]

# A source that does not answer is asked again after the others, so often; then when its schedule comes.
ROUNDS = 3
PAUSE_S = 5.0
# A little less than a day, so that a daily batch says it each day.
SAID_AGAIN_S = 80_000.0


Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output  # type: ignore[type-arg]


class BatchesConfig(dg.Config):
    """Which batches; of those whose files have mistakes now, what they were before."""

    batches: list[str]
    kept: dict[str, str] = Field(default={})


@dg.op(
    tags={"kind": "postgres"},
    description="Reads each batch, stores what is new or corrected, scores it, and tells of incidents.",
)
def run_batches(
    context: dg.OpExecutionContext, config: BatchesConfig, postgres: PostgresResource
) -> Iterator[Event]:
    from anomalyze.metrics.library import load_batches

    loaded = load_batches(Settings().config_dir)
    failed: dict[str, str] = {}
    waiting = config.batches
    for number in range(ROUNDS):
        again = []
        for name in waiting:
            failed.pop(name, None)
            try:
                entry = find_entry(name, config.kept.get(name), loaded)
                done = work_off(entry, postgres, context.log.info)
                reason = done.reason
                yield from _made(name, done)
            except TransientError as error:
                reason = str(error)
                again.append(name)
            except AnomalyzeError as error:
                reason = str(error)
            if reason:
                failed[name] = reason
                context.log.warning(f"{name}: {reason}")
            yield from _checked(context.instance, name, reason)
        waiting = again
        if not waiting or number == ROUNDS - 1:
            break
        time.sleep(PAUSE_S)
    if failed:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:NAMED_MAX])
        raise dg.Failure(
            description=f"{len(failed)} of {len(config.batches)} batches failed, whole or in part: {told}",
            metadata={"failed": ", ".join(failed)},
            allow_retries=False,
        )
    yield dg.Output(None)


def _made(name: str, done: Done) -> Iterator[dg.AssetMaterialization]:
    """The batch was made, on the days that were read: the newest with what was found.

    Yielded one by one, because what a step leaves to its end is lost when it fails.
    """
    *earlier, newest = done.days or (None,)
    for day in earlier:
        yield dg.AssetMaterialization(asset_key(name), partition=day)
    yield dg.AssetMaterialization(asset_key(name), partition=newest, metadata=done.metadata)


def _checked(instance: dg.DagsterInstance, name: str, reason: str) -> Iterator[dg.AssetCheckEvaluation]:
    """Whether a metric failed; where that is as it was, once a day.

    Dagster keeps each of these for good, also when it forgets their run.
    """
    check = dg.AssetCheckEvaluation(asset_key=asset_key(name), **show_check(reason))
    before = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(asset_key(name), WHOLE))
    event = None if before is None else before.event
    if event is not None and event.dagster_event is not None and time.time() - event.timestamp < SAID_AGAIN_S:
        said = event.dagster_event.asset_check_evaluation_data
        if (said.passed, said.description) == (check.passed, check.description):
            return
    yield check


@dg.job(
    description="Some batches of metrics: read, store, score, alert. A repeat changes nothing.",
    executor_def=dg.in_process_executor,
)
def run_metric_batches() -> None:
    """One step."""
    run_batches()
