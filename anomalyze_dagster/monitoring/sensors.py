"""A failed run tells people."""

import dagster as dg

from anomalyze_dagster.resources import PostgresResource

__all__ = ["alarm_of_failed_runs"]


@dg.run_failure_sensor(
    name="alarm_of_failed_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    monitor_all_code_locations=False,
    description="Writes an alarm for each failed run: on the dashboard's System page, and in the log.",
)
def alarm_of_failed_runs(context: dg.RunFailureSensorContext, postgres: PostgresResource) -> None:
    from anomalyze.storage.alarms import Alarm, raise_alarm

    run = context.dagster_run
    reasons = [
        event.event_specific_data.error.message.strip()  # type: ignore[union-attr]
        for event in context.get_step_failure_events()
        if event.event_specific_data is not None and event.event_specific_data.error is not None  # type: ignore[union-attr]
    ]
    reason = reasons[0] if reasons else context.failure_event.message or "no reason was given"
    with postgres.connect() as connection:
        raise_alarm(
            connection,
            Alarm(
                "run", f"run:{run.run_id}", f"The run of {run.job_name} failed: {reason}", run_id=run.run_id
            ),
        )
