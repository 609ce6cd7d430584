"""Looks for uploads that wait for somebody to work them off."""

import dagster as dg

from anomalyze_dagster.ingestion.jobs import work_off_upload
from anomalyze_dagster.resources import PostgresResource

__all__ = ["uploads"]

INTERVAL_S = 5


@dg.sensor(
    job=work_off_upload,
    name="uploads",
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A run for each upload that was started, and again for one whose run fell silent.",
)
def uploads(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    from anomalyze.storage.upload import find_startable

    with postgres.connect() as connection:
        waiting = find_startable(connection)
    if not waiting:
        return dg.SkipReason("no upload waits")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                # One run an attempt, however often the sensor looks.
                run_key=f"{upload.upload_id}:{upload.attempt}",
                run_config={"ops": {"publish_rows": {"config": {"upload_id": upload.upload_id}}}},
                tags={"upload": upload.upload_id, "account": upload.account_id},
            )
            for upload in waiting
        ]
    )
