"""Values and scores are kept as long as their batch says."""

import dagster as dg

from anomalyze.settings import Settings
from anomalyze_dagster.resources import PostgresResource
from anomalyze_dagster.retry import RETRY, retried

__all__ = ["forget_metrics", "nightly"]

DAY_S = 86_400.0


@dg.op(
    retry_policy=RETRY,
    description="Delete values, scores and ended alerts that are older than their batch's retention. A batch without "
    "a sound file keeps all.",
)
def delete_old_metrics(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    from anomalyze.metrics.library import load_batches
    from anomalyze.storage import metrics_retention

    batches = load_batches(Settings().config_dir).batches
    kept_days = {name: entry.batch.retention.total_seconds() / DAY_S for name, entry in batches.items()}
    with retried(), postgres.connect() as connection:
        gone = metrics_retention.forget_metrics(connection, kept_days)
    context.add_output_metadata({"partitions": gone.partitions, "rows": gone.rows, "alerts": gone.alerts})


@dg.job(
    description="Forget values, scores and ended alerts of metrics that are older than their batch keeps them.",
    executor_def=dg.in_process_executor,
)
def forget_metrics() -> None:
    """One step."""
    delete_old_metrics()


nightly = dg.ScheduleDefinition(
    name="forget_metrics_nightly",
    job=forget_metrics,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
