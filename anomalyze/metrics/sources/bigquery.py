"""BigQuery, through Google's client (``pip install 'anomalyze[bigquery]'``)."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
from typing import Any

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import BigQuerySource
from anomalyze.metrics.sources.contract import Request, Table, broken, limited, load_driver, silent

__all__ = ["fetch"]

_TYPES = ((bool, "BOOL"), (int, "INT64"), (float, "FLOAT64"), (dt.datetime, "TIMESTAMP"))


def fetch(request: Request) -> Table:
    """The answer of a query that a dry run calls a SELECT; more bytes than allowed are refused before they are billed."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, BigQuerySource)
    assert statement is not None
    bigquery = load_driver("google.cloud.bigquery", "bigquery")
    errors = load_driver("google.api_core.exceptions", "bigquery")
    text = statement.written(lambda name: f"@{name}")
    parameters = [
        bigquery.ScalarQueryParameter(name, _type(value), value) for name, value in statement.values.items()
    ]

    def settings(dry: bool) -> Any:
        return bigquery.QueryJobConfig(
            query_parameters=parameters,
            maximum_bytes_billed=source.bytes_billed_max,
            use_legacy_sql=False,
            dry_run=dry,
        )

    try:
        client = bigquery.Client(project=source.project, location=source.location)
        planned = client.query(text, job_config=settings(True), timeout=source.timeout_s)
        if planned.statement_type != "SELECT":
            raise ConfigError(f"batch {request.name}: expected one SELECT, got {planned.statement_type}")
        job = client.query(text, job_config=settings(False), timeout=source.timeout_s)
        try:
            answer = job.result(timeout=source.timeout_s, max_results=source.rows_max + 1)
        except (concurrent.futures.TimeoutError, TimeoutError):
            job.cancel()
            raise TimeoutError(f"it took longer than {source.timeout_s} s") from None
        columns = tuple(field.name for field in answer.schema)
        rows = limited((row.values() for row in answer), source.rows_max, request.name)
    except (errors.ServerError, errors.TooManyRequests, errors.RetryError, TimeoutError) as error:
        raise silent(request, error) from None
    except errors.GoogleAPIError as error:
        raise broken(request, error) from None
    return Table(columns, rows)


def _type(value: Any) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "STRING")
