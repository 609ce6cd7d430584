"""One run reads, stores and scores some batches, one after another. None stops another; the run fails when one did."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from anomalyze.errors import AnomalyzeError, ConfigError, TransientError
from anomalyze.settings import Settings
from anomalyze_dagster.metrics.assets import asset_key
from anomalyze_dagster.resources import PostgresResource

if TYPE_CHECKING:
    import psycopg

    from anomalyze.metrics.library import BatchEntry, LoadResult

__all__ = ["run_metric_batches"]

# A source that does not answer is asked again after the others, so often; then when its schedule comes.
ROUNDS = 3
PAUSE_S = 5.0
NAMED_MAX = 20


class BatchesConfig(dg.Config):
    """Which batches; of those whose files have mistakes now, what they were before."""

    batches: list[str]
    kept: dict[str, str] = Field(default={})


@dg.op(
    tags={"kind": "postgres"},
    description="Reads each batch, stores what is new or corrected, scores it, and tells of incidents.",
)
def run_batches(context: dg.OpExecutionContext, config: BatchesConfig, postgres: PostgresResource) -> None:
    from anomalyze.metrics.library import load_batches

    loaded = load_batches(Settings().config_dir)
    failed: dict[str, str] = {}
    waiting = config.batches
    for number in range(ROUNDS):
        again = []
        for name in waiting:
            failed.pop(name, None)
            try:
                reason = _run(context, postgres, _find(name, config.kept.get(name), loaded))
            except TransientError as error:
                reason = str(error)
                again.append(name)
            except AnomalyzeError as error:
                reason = str(error)
            if reason:
                failed[name] = reason
                context.log.warning(f"{name}: {reason}")
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


def _find(name: str, kept: str | None, loaded: "LoadResult") -> "BatchEntry":
    from anomalyze.monitoring.due import build_entry

    if name in loaded.batches:
        return loaded.batches[name]
    if kept is not None:
        return build_entry(kept)
    mistakes = "; ".join(str(problem) for problem in loaded.problems[:NAMED_MAX])
    raise ConfigError(f"expected a batch with a file that has no mistake, got {name}. {mistakes}".strip())


def _run(context: dg.OpExecutionContext, postgres: PostgresResource, entry: "BatchEntry") -> str:
    """Run one batch and tell of it; what failed of which metric, or nothing."""
    from anomalyze.monitoring.due import load_last_read, span_to_read
    from anomalyze.monitoring.run import BANKS_FOLDER, backfill_batch

    now = datetime.now(UTC)
    name = entry.name
    with postgres.connect() as connection:
        last = load_last_read(connection, name)
        window = entry.batch.window_at(now, span_to_read(entry.batch, last, now))
        ran = backfill_batch(
            connection,
            entry,
            Settings().data_dir / BANKS_FOLDER,
            window,
            postgres.dsn,
            now,
            lambda done, of: context.log.info(f"{name}: {done} of {of} parts read") if of > 1 else None,
        )
        metadata: dict[str, Any] = {
            "from": window.start.isoformat(),
            "to": window.end.isoformat(),
            "rows": ran.rows,
            "new": ran.new,
            "corrected": ran.corrected,
            "scored": ran.scored.scored,
            "incidents": ran.scored.alerts,
            "failed_metrics": ", ".join(failure.metric for failure in ran.failures[:NAMED_MAX]) or "none",
        }
        if ran.notes:
            metadata["notes"] = " ".join(ran.notes)
        # Metadata lie in Dagster's database: a picture when something began, and otherwise one an hour.
        if ran.scored.alerts or last is None or (last.date(), last.hour) != (now.date(), now.hour):
            metadata |= _picture(connection, entry)
    context.log_event(dg.AssetMaterialization(asset_key(name), metadata=metadata))
    return "; ".join(f"metric {one.metric}: {one.reason}" for one in ran.failures[:NAMED_MAX])


def _picture(connection: "psycopg.Connection[Any]", entry: "BatchEntry") -> dict[str, Any]:
    from anomalyze.monitoring.turn import DETECTOR, VERSION
    from anomalyze.storage.metrics_strangest import load_strangest
    from anomalyze_dagster.metrics.show import POINTS, show_series

    found = load_strangest(connection, entry.name, DETECTOR, VERSION, POINTS)
    if found is None or not found.ts:
        return {}
    return {"strangest": found.metric, "plot": show_series(found, entry.batch.settings(found.metric).unit)}


@dg.job(
    description="Some batches of metrics: read, store, score, alert. A repeat changes nothing.",
    executor_def=dg.in_process_executor,
)
def run_metric_batches() -> None:
    """One step."""
    run_batches()
