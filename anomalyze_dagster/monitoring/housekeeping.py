"""Runs are kept for 30 days (Dagster itself forgets none), what challengers said for 60."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from anomalyze_dagster.resources import PostgresResource

__all__ = ["forget_old_runs", "nightly"]

KEPT = timedelta(days=30)
# A night's work at most; the next night goes on.
RUNS_MAX = 5_000
FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dg.op(description="Delete finished runs that are older than 30 days, with their events.")
def delete_old_runs(context: dg.OpExecutionContext) -> None:
    records = context.instance.get_run_records(
        dg.RunsFilter(statuses=FINISHED, created_before=datetime.now(UTC) - KEPT),
        limit=RUNS_MAX,
        ascending=True,
    )
    for record in records:
        context.instance.delete_run(record.dagster_run.run_id)
    context.log.info(f"forgot {len(records)} runs older than {KEPT.days} days")
    context.add_output_metadata({"runs": len(records)})


@dg.op(description="Delete what challengers would have said of transactions of more than 60 days ago.")
def delete_old_challenges(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    from anomalyze.storage.challenger import forget_challenges

    with postgres.connect() as connection:
        rows = forget_challenges(connection)
    context.log.info(f"forgot {rows} rows")
    context.add_output_metadata({"rows": rows})


@dg.job(
    description="Forget runs older than 30 days, and what challengers said of transactions of more than 60 days ago. "
    "What assets and checks found last stays."
)
def forget_old_runs() -> None:
    """Two steps that do not need each other."""
    delete_old_runs()
    delete_old_challenges()


nightly = dg.ScheduleDefinition(
    name="forget_old_runs_nightly",
    job=forget_old_runs,
    cron_schedule="30 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
