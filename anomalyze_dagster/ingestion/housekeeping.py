"""Files are kept for so long, and then forgotten."""

import dagster as dg

from anomalyze_dagster.resources import ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried

__all__ = ["forget_uploads", "nightly"]


@dg.op(
    retry_policy=RETRY,
    description="Remove the bytes of files that were done long ago, and uploads that nobody started.",
)
def delete_old_uploads(
    context: dg.OpExecutionContext, postgres: PostgresResource, objects: ObjectsResource
) -> None:
    from anomalyze.ingestion import retention
    from anomalyze.settings import Settings

    with retried(), postgres.connect() as connection:
        done = retention.forget_uploads(connection, objects.open(), Settings().upload_kept_days)
    context.add_output_metadata(
        {"finished": done.finished, "abandoned": done.abandoned, "strays": done.strays}
    )


@dg.job(
    description="Forget the bytes of old uploads. What became of their rows stays.",
    executor_def=dg.in_process_executor,
)
def forget_uploads() -> None:
    """One step."""
    delete_old_uploads()


nightly = dg.ScheduleDefinition(
    name="forget_uploads_nightly",
    job=forget_uploads,
    cron_schedule="45 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
