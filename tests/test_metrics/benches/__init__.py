"""Kinds of sources for tests: what each is given and asked; the real thing, or a real server's recorded words."""

from __future__ import annotations

from tests.test_metrics.benches.bench import ODD, ROWS, START, STRANGE, WINDOW, Bench, SqlBench, hour
from tests.test_metrics.benches.bigquery import BigQuery
from tests.test_metrics.benches.databases import ClickHouse, MySQL, Postgres, Snowflake
from tests.test_metrics.benches.files import DuckDB, Parquet, Python, Sqlite
from tests.test_metrics.benches.web import Http, Prometheus

__all__ = ["KINDS", "ODD", "ROWS", "START", "STRANGE", "WINDOW", "Bench", "SqlBench", "hour"]

KINDS: tuple[type[Bench], ...] = (
    Postgres,
    MySQL,
    ClickHouse,
    Snowflake,
    BigQuery,
    Sqlite,
    DuckDB,
    Parquet,
    Python,
    Http,
    Prometheus,
)
