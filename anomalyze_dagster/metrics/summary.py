"""What was strange in a day, told once a day."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from anomalyze.settings import Settings
from anomalyze_dagster.resources import PostgresResource
from anomalyze_dagster.retry import RETRY, retried

__all__ = ["daily", "summary_metrics"]

TEXT_MAX = 10_000


class Upto(dg.Config):
    """Which day."""

    until: str = Field(default="", description="its end, RFC 3339; empty: now, to the hour")

    def moment(self) -> datetime:
        """The end of the day that is told of."""
        if self.until:
            told = datetime.fromisoformat(self.until)
            return told if told.tzinfo is not None else told.replace(tzinfo=UTC)
        return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@dg.op(
    retry_policy=RETRY,
    description="Writes of each account what was strange in 24 hours, batch by batch, to its table and to the log; once "
    "for each moment.",
)
def write_digests(context: dg.OpExecutionContext, config: Upto, postgres: PostgresResource) -> None:
    from anomalyze.metrics.library import load_batches
    from anomalyze.monitoring.digest import write_digests as write

    with retried(), postgres.connect() as connection:
        made = write(connection, load_batches(Settings().config_dir).batches, config.moment())
    context.add_output_metadata(
        {one.account_id: dg.MetadataValue.text(one.text[:TEXT_MAX]) for one in made} or {"accounts": 0}
    )


@dg.job(
    description="The digest of a day: what was strange in metrics, account by account.",
    executor_def=dg.in_process_executor,
)
def summary_metrics() -> None:
    """One step."""
    write_digests()


@dg.schedule(
    job=summary_metrics,
    name="summary_of_metrics_daily",
    cron_schedule="0 7 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="The 24 hours before, at 07:00 UTC.",
)
def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    until = context.scheduled_execution_time.astimezone(UTC).isoformat()
    return dg.RunRequest(run_key=until, run_config={"ops": {"write_digests": {"config": {"until": until}}}})
