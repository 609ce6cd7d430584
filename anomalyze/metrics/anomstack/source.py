"""Where a batch of Anomstack's asks: its ``db``, as a source of ours. Secrets are never read; their variables are named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalyze.errors import ConfigError
from anomalyze.metrics.anomstack.spec import Spec

__all__ = ["KINDS", "BuiltSource", "build_source"]

# Anomstack's names and those of its users, and ours.
KINDS = {
    "duckdb": "duckdb",
    "motherduck": "duckdb",
    "sqlite": "sqlite",
    "turso": "sqlite",
    "bigquery": "bigquery",
    "snowflake": "snowflake",
    "clickhouse": "clickhouse",
    "redshift": "postgres",
    "postgres": "postgres",
    "postgresql": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_DUCKDB_PATH, _SQLITE_PATH = "tmpdata/anomstack-duckdb.db", "tmpdata/anomstack-sqlite.db"
_URL = {
    "snowflake": "snowflake://USER:PASSWORD@ACCOUNT/DATABASE/SCHEMA?warehouse=WAREHOUSE",
    "clickhouse": "http://USER:PASSWORD@HOST:8123/DATABASE",
    "postgres": "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "redshift": "postgresql://USER:PASSWORD@HOST:5439/DATABASE",
    "mysql": "mysql://USER:PASSWORD@HOST:3306/DATABASE",
}


@dataclass(frozen=True, slots=True)
class BuiltSource:
    """The key ``source`` of a batch, and what its owner has to see to."""

    source: dict[str, Any]
    notes: tuple[str, ...] = ()


def build_source(spec: Spec, tables: Sequence[str], variables: Mapping[str, str]) -> BuiltSource:
    """A source of ours.

    Parameters
    ----------
    tables
        That its SQL reads: without any, an empty DuckDB answers it.
    variables
        ``ANOMSTACK_…`` that tell of paths and projects.

    Raises
    ------
    ConfigError
        A database that there is no source for.
    """
    told = spec.text("db").strip().lower()
    kind = KINDS.get(told)
    if kind is None:
        raise ConfigError(
            f"expected a db of {', '.join(KINDS)}, got {told or 'none'}: there is no source for it"
        )
    if kind == "duckdb":
        return _duckdb(told, tables, variables.get("ANOMSTACK_DUCKDB_PATH", ""))
    if kind == "sqlite":
        return _sqlite(variables.get("ANOMSTACK_SQLITE_PATH", ""))
    if kind == "bigquery":
        return _bigquery(spec, variables.get("ANOMSTACK_GCP_PROJECT_ID", ""))
    name = f"ANOMALYZE_SOURCE_{re.sub('[^A-Z0-9]+', '_', told.upper())}"
    needs = f"set {name} in the environment or in .env, such as {_URL.get(told) or _URL[kind]}"
    if kind == "snowflake":
        needs += "; pip install 'anomalyze[snowflake]'"
    if kind == "mysql":
        needs += "; pip install 'anomalyze[mysql]'"
    return BuiltSource({"kind": kind, "url": name}, (needs,))


def _duckdb(told: str, tables: Sequence[str], path: str) -> BuiltSource:
    if told == "motherduck" or path.startswith("md:"):
        found = path if path.startswith("md:") else "md:"
        return BuiltSource(
            {"kind": "duckdb", "path": found.partition("?")[0] or "md:"},
            ("set motherduck_token in the environment: the token of MotherDuck",),
        )
    if not tables:
        return BuiltSource({"kind": "duckdb"})
    found = path or _DUCKDB_PATH
    return BuiltSource(
        {"kind": "duckdb", "path": _absolute(found)},
        (f"reads {', '.join(tables[:3])} from the DuckDB file {found}: look whether the path is right",),
    )


def _sqlite(path: str) -> BuiltSource:
    if "turso.io" in path or path.startswith("libsql:"):
        raise ConfigError("there is no source for Turso: read it from a local replica, a SQLite file")
    found = path or _SQLITE_PATH
    return BuiltSource(
        {"kind": "sqlite", "path": _absolute(found)},
        (f"reads the SQLite file {found}: look whether the path is right",),
    )


def _absolute(path: str) -> str:
    """Anomstack's relative paths begin where it was started, ours at the configuration folder."""
    return str(Path(path).expanduser().absolute())


def _bigquery(spec: Spec, project: str) -> BuiltSource:
    parts = spec.text("table_key").split(".")
    project = project or (parts[0] if len(parts) == 3 else "")
    notes = [
        "needs Google's credentials (GOOGLE_APPLICATION_CREDENTIALS) and pip install 'anomalyze[bigquery]'"
    ]
    if not project:
        project = "your-project"
        notes.append("set source.project: neither ANOMSTACK_GCP_PROJECT_ID nor table_key tells one")
    return BuiltSource({"kind": "bigquery", "project": project}, tuple(notes))
