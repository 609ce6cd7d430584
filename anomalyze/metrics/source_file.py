"""Where a batch's numbers come from: the key ``source`` of its file, one shape a kind.

Addresses with passwords stand in no file: a file names the environment variable that holds one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from anomalyze.config import StrictModel

__all__ = [
    "ROWS_MAX",
    "SQL_KINDS",
    "AnomalyzeSource",
    "BigQuerySource",
    "ClickHouseSource",
    "DuckDBSource",
    "HttpSource",
    "MySQLSource",
    "PostgresSource",
    "PrometheusSource",
    "PushSource",
    "PythonSource",
    "S3Access",
    "SnowflakeSource",
    "Source",
    "SqliteSource",
]

ROWS_MAX = 5_000_000
_VARIABLE = r"ANOMALYZE_SOURCE_[A-Z0-9_]{1,64}"
Variable = Annotated[
    str,
    StringConstraints(pattern=f"^{_VARIABLE}$"),
    Field(description="name of the environment variable that holds it, such as ANOMALYZE_SOURCE_SHOP"),
]
WebAddress = Annotated[
    str,
    StringConstraints(pattern=rf"^({_VARIABLE}|https?://[^\s@]{{1,500}})$"),
    Field(description="http(s) address without a password, or the environment variable that holds it"),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Limits(StrictModel):
    timeout_s: int = Field(
        default=60, ge=1, le=3_600, description="the longest that one statement or request may take"
    )
    rows_max: int = Field(
        default=100_000, ge=1, le=ROWS_MAX, description="an answer with more rows is refused, not cut"
    )


class AnomalyzeSource(_Limits):
    """Our own database."""

    kind: Literal["anomalyze"]


class PostgresSource(_Limits):
    """PostgreSQL, and what speaks its wire: Redshift, Timescale, Cockroach."""

    kind: Literal["postgres"]
    url: Variable


class MySQLSource(_Limits):
    """MySQL and MariaDB."""

    kind: Literal["mysql"]
    url: Variable


class SqliteSource(_Limits):
    """A SQLite file, opened for reading only."""

    kind: Literal["sqlite"]
    path: Name = Field(description="the file; a relative one lies in the configuration folder")


class S3Access(StrictModel):
    """How DuckDB reaches objects."""

    key_id: Variable
    secret: Variable
    region: Name | None = None
    endpoint: Name | None = Field(
        default=None,
        pattern=r"^(https?://)?[\w.-]+(:\d{1,5})?$",
        description="host of S3-compatible storage, with a port or not; http://… where it speaks no TLS",
    )


class DuckDBSource(_Limits):
    """DuckDB: parquet, CSV and JSON files as tables, objects in S3, a DuckDB file, MotherDuck."""

    kind: Literal["duckdb"]
    path: Name | None = Field(
        default=None, description="a DuckDB file, or md:… for MotherDuck; none: files are named in the SQL"
    )
    s3: S3Access | None = None
    memory_mb: int = Field(default=512, ge=64, le=65_536, description="the most memory that it may take")


class ClickHouseSource(_Limits):
    """ClickHouse, over its HTTP interface."""

    kind: Literal["clickhouse"]
    url: Variable


class BigQuerySource(_Limits):
    """BigQuery; credentials as Google's client finds them."""

    kind: Literal["bigquery"]
    project: Name
    location: Name | None = None
    bytes_billed_max: int = Field(
        default=10 * 2**30, ge=1, description="a query that would read more is refused by BigQuery"
    )


class SnowflakeSource(_Limits):
    """Snowflake."""

    kind: Literal["snowflake"]
    url: Variable = Field(
        description="variable with snowflake://user:password@account/database/schema?warehouse=…&role=…"
    )


class PrometheusSource(_Limits):
    """Prometheus, and what speaks its HTTP API: Mimir, Thanos, VictoriaMetrics."""

    kind: Literal["prometheus"]
    url: WebAddress
    token: Variable | None = None
    queries: dict[Name, Text] = Field(
        min_length=1, max_length=1_000, description="PromQL by the metric's name; labels are added to it"
    )


class HttpSource(_Limits):
    """A JSON document over HTTP."""

    kind: Literal["http"]
    url: WebAddress
    token: Variable | None = None
    query: dict[Name, Text] = Field(
        default={}, max_length=50, description="parameters of the address; values may be templates"
    )
    items: str = Field(
        default="", max_length=200, description="keys that lead to the list of rows, joined by dots"
    )
    columns: dict[Name, Name] = Field(
        default={}, max_length=1_000, description="where in a row each column lies, keys joined by dots"
    )

    @field_validator("columns")
    @classmethod
    def _has_values(cls, value: dict[str, str]) -> dict[str, str]:
        if value and not set(value) - {"timestamp", "metric"}:
            raise ValueError("expected a column beside timestamp and metric")
        return value


class PythonSource(_Limits):
    """The limits of a batch's Python function."""

    kind: Literal["python"]


class PushSource(_Limits):
    """Values that are sent over REST; nothing is read."""

    kind: Literal["push"]


Source = Annotated[
    AnomalyzeSource
    | PostgresSource
    | MySQLSource
    | SqliteSource
    | DuckDBSource
    | ClickHouseSource
    | BigQuerySource
    | SnowflakeSource
    | PrometheusSource
    | HttpSource
    | PythonSource
    | PushSource,
    Field(discriminator="kind"),
]

# Kinds that are asked in SQL, and what its dialect is called by sqlglot.
SQL_KINDS = {
    "anomalyze": "postgres",
    "postgres": "postgres",
    "mysql": "mysql",
    "sqlite": "sqlite",
    "duckdb": "duckdb",
    "clickhouse": "clickhouse",
    "bigquery": "bigquery",
    "snowflake": "snowflake",
}
