"""BigQuery, through Google's client (``pip install 'anomalyze[bigquery]'``)."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from anomalyze.errors import ConfigError
from anomalyze.metrics.source_file import BigQuerySource
from anomalyze.metrics.sources.contract import (
    CONNECT_TIMEOUT_S,
    Request,
    Table,
    broken,
    limited,
    load_driver,
    silent,
)

__all__ = ["fetch"]

# What is left of the time for a request that begins when it is over.
_LEFT_S_MIN = 0.1
_TYPES = ((bool, "BOOL"), (int, "INT64"), (float, "FLOAT64"), (dt.datetime, "TIMESTAMP"))


def fetch(request: Request) -> Table:
    """The answer of a query that a dry run calls a SELECT; more bytes than allowed are refused before they are billed."""
    source, statement = request.batch.source, request.statement
    assert isinstance(source, BigQuerySource)
    assert statement is not None
    bigquery = load_driver("google.cloud.bigquery", "bigquery")
    errors = load_driver("google.api_core.exceptions", "bigquery")
    login = load_driver("google.auth.exceptions", "bigquery")
    deadline = time.monotonic() + source.timeout_s
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

    def limits() -> dict[str, Any]:
        left = max(deadline - time.monotonic(), _LEFT_S_MIN)
        # Its own way of trying again goes on for ten minutes.
        return {"timeout": left, "retry": bigquery.DEFAULT_RETRY.with_timeout(left), "job_retry": None}

    try:
        client = bigquery.Client(project=source.project, location=source.location)
        planned = client.query(text, job_config=settings(True), **limits())
        if planned.statement_type != "SELECT":
            raise ConfigError(f"batch {request.name}: expected one SELECT, got {planned.statement_type}")
        job = client.query(text, job_config=settings(False), **limits())
        try:
            answer = job.result(max_results=source.rows_max + 1, **limits())
        except (TimeoutError, errors.RetryError):
            job.cancel(retry=None, timeout=CONNECT_TIMEOUT_S)
            raise TimeoutError(f"it took longer than {source.timeout_s} s") from None
        columns = tuple(field.name for field in answer.schema)
        rows = limited((row.values() for row in answer), source.rows_max, request.name)
    except login.GoogleAuthError as error:
        passing = error.retryable or isinstance(error, login.TransportError)
        raise (silent if passing else broken)(request, error) from None
    except (errors.ServerError, errors.TooManyRequests, errors.RetryError, OSError) as error:
        raise silent(request, error) from None
    except errors.GoogleAPIError as error:
        raise broken(request, error) from None
    return Table(columns, rows)


def _type(value: Any) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "STRING")
