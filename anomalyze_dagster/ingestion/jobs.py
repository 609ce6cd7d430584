"""One run works one upload off, or reads what one polled table has. A run that is killed leaves the rest to the sensors,
which start the next."""

import dagster as dg

from anomalyze.errors import AnomalyzeError
from anomalyze.settings import Settings
from anomalyze_dagster.resources import BusResource, ObjectsResource, PostgresResource
from anomalyze_dagster.sources import UPLOADED_FILES

__all__ = ["poll_source", "work_off_upload"]


class UploadConfig(dg.Config):
    """Which upload."""

    upload_id: str


@dg.op(
    tags={"kind": "csv"}, description="Reads the file, orders its rows by time, publishes and counts them."
)
def publish_rows(
    context: dg.OpExecutionContext,
    config: UploadConfig,
    postgres: PostgresResource,
    objects: ObjectsResource,
    bus: BusResource,
) -> None:
    from anomalyze.ingestion.work import Progress, work_off

    said: list[int] = [0]

    def report(progress: Progress) -> None:
        # The table has it twice a second; the log of a run is for people.
        seen = progress.read + progress.scored
        if seen >= 2 * said[0] + 10_000:
            said[0] = seen
            context.log.info(f"{progress}")

    settings = Settings()
    with bus.open() as log:
        try:
            done = work_off(
                config.upload_id,
                dsn=postgres.dsn,
                objects=objects.open(),
                bus=log,
                future_tolerance_s=settings.future_tolerance_s,
                run_id=context.run_id,
                report=report,
            )
        except AnomalyzeError as error:
            # Tried again or not: the upload itself says so, and the sensor sees to it.
            raise dg.Failure(description=str(error), allow_retries=False) from error
    if done is None:
        context.log.info("nothing to do: it was worked off, or another run is at it")
        return
    metadata: dict[str, str | int] = {
        "upload": config.upload_id,
        "rows_read": done.read,
        "rows_accepted": done.accepted,
        "rows_refused": done.refused,
        "rows_published": done.published,
        "rows_judged": done.scored,
    }
    context.add_output_metadata(metadata)
    context.log_event(dg.AssetMaterialization(UPLOADED_FILES.key, metadata=metadata))


@dg.job(
    description="An uploaded file becomes judged transactions.",
    executor_def=dg.in_process_executor,
)
def work_off_upload() -> None:
    publish_rows()


class SourceConfig(dg.Config):
    """Which source: the name of its file."""

    source: str


@dg.op(
    tags={"kind": "sql"},
    description="Reads the rows behind the stored position and publishes them; the position follows the log.",
)
def publish_polled_rows(
    context: dg.OpExecutionContext, config: SourceConfig, postgres: PostgresResource, bus: BusResource
) -> None:
    from anomalyze.ingestion import drain

    settings = Settings()
    with bus.open() as log:
        try:
            done = drain.poll_source(
                config.source,
                dsn=postgres.dsn,
                config_dir=settings.config_dir,
                bus=log,
                future_tolerance_s=settings.future_tolerance_s,
                run_id=context.run_id,
                report=lambda so_far: context.log.info(f"{so_far}"),
            )
        except AnomalyzeError as error:
            # The sensor asks again, later each time.
            raise dg.Failure(description=str(error), allow_retries=False) from error
    if done is None:
        context.log.info("nothing to do: no source of this name, or another run is at it")
        return
    context.add_output_metadata(
        {
            "source": config.source,
            "rows_read": done.read,
            "rows_published": done.published,
            "rows_refused": done.refused,
        }
    )


@dg.job(
    description="New and changed rows of a polled table become judged transactions.",
    executor_def=dg.in_process_executor,
)
def poll_source() -> None:
    publish_polled_rows()
