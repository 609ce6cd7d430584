"""Looks for uploads that wait for somebody to work them off, for files that other systems dropped, and for new rows of
polled tables."""

import dagster as dg

from anomalyze_dagster.ingestion.jobs import poll_source, work_off_upload
from anomalyze_dagster.resources import ObjectsResource, PostgresResource

__all__ = ["landing", "sources", "uploads"]

INTERVAL_S = 5
LANDING_INTERVAL_S = 15
SOURCES_INTERVAL_S = 15


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


@dg.sensor(
    name="landing",
    minimum_interval_seconds=LANDING_INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[work_off_upload],
    description="Takes files that other systems dropped under landing/<account>/ of the object store.",
)
def landing(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, objects: ObjectsResource
) -> dg.SkipReason:
    if not objects.open().list("landing"):
        # What reads files would hold 100 MB in Dagster's process from then on: it is loaded when one came.
        return dg.SkipReason("nothing has landed")
    import asyncio

    from anomalyze.ingestion.landing import take_landed
    from anomalyze.settings import Settings

    settings = Settings()
    taken = asyncio.run(
        take_landed(objects.open(), postgres.dsn, settings.config_dir, settings.upload_bytes_max)
    )
    for upload in taken:
        context.log.info(f"{upload.name} of {upload.account_id}: {upload.upload_id}, {upload.state}")
    # The sensor of uploads starts the runs.
    return dg.SkipReason(f"{len(taken)} files taken")


@dg.sensor(
    job=poll_source,
    name="sources",
    minimum_interval_seconds=SOURCES_INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A run for each polled table (metrics_config/sources) that has rows behind its position.",
)
def sources(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    from anomalyze.settings import Settings

    config_dir = Settings().config_dir
    if not any((config_dir / "sources").glob("*.yaml")):
        return dg.SkipReason("no source is configured")
    from anomalyze.ingestion.watch import find_ready

    with postgres.connect() as connection:
        ready = find_ready(connection, config_dir)
    if not ready:
        return dg.SkipReason("no source has new rows")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_config={"ops": {"publish_polled_rows": {"config": {"source": state.name}}}},
                tags={"source": state.name, "account": state.account_id},
            )
            for state in ready
        ]
    )
