"""Ingestion: files of transactions onto the log."""

import dagster as dg

from anomalyze_dagster.ingestion.jobs import work_off_upload
from anomalyze_dagster.ingestion.sensors import landing, uploads

definitions = dg.Definitions(jobs=[work_off_upload], sensors=[uploads, landing])
