"""Ingestion: files and polled tables of transactions onto the log."""

import dagster as dg

from anomalyze_dagster.ingestion.housekeeping import forget_uploads, nightly
from anomalyze_dagster.ingestion.jobs import poll_source, work_off_upload
from anomalyze_dagster.ingestion.sensors import landing, sources, uploads

definitions = dg.Definitions(
    jobs=[work_off_upload, poll_source, forget_uploads],
    schedules=[nightly],
    sensors=[uploads, landing, sources],
)
