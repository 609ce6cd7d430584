"""One contract over every kind of source that runs here; each is the real thing, or a real server's recorded words."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from anomalyze.errors import AnomalyzeError, ConfigError, TransientError
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from tests.test_metrics.benches import (
    ODD,
    ROWS,
    WINDOW,
    Bench,
    DuckDB,
    Http,
    MySQL,
    Postgres,
    Prometheus,
    Python,
    Sqlite,
    hour,
)

KINDS: tuple[type[Bench], ...] = (Postgres, Sqlite, DuckDB, Http, Prometheus, Python)
HAS_MYSQL = shutil.which("mariadbd") is not None and importlib.util.find_spec("pymysql") is not None
if HAS_MYSQL:
    KINDS = (*KINDS, MySQL)
SQL = [kind for kind in KINDS if kind in (Postgres, MySQL, Sqlite, DuckDB)]


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    kind: type[Bench] = request.param
    with ExitStack() as stack:
        made = kind(tmp_path, monkeypatch, stack)
        if isinstance(made, Postgres):
            made.connect_to(request.getfixturevalue("empty_database"))
        made.store(ROWS)
        yield made


every = pytest.mark.parametrize("bench", KINDS, indirect=True, ids=lambda kind: kind.kind)
of_sql = pytest.mark.parametrize("bench", SQL, indirect=True, ids=lambda kind: kind.kind)


@every
def test_rows_of_the_window_in_long_form_sorted_and_in_utc(bench: Bench) -> None:
    frame = bench.read(bench.batch()).frame
    expected = sorted((metric, ts, value) for ts, metric, value in ROWS if ts < WINDOW.end)
    assert frame.rows() == expected
    assert str(frame.schema["timestamp"]) == "Datetime(time_unit='us', time_zone='UTC')"


@every
def test_more_rows_than_allowed_are_refused_not_cut(bench: Bench) -> None:
    assert len(bench.read(bench.batch(rows_max=4)).frame) == 4
    with pytest.raises(ConfigError, match="expected at most 3 rows, got more"):
        bench.read(bench.batch(rows_max=3))


@every
def test_what_a_source_refuses_names_the_batch(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="batch one: "):
        bench.read(bench.wrong())


@every
def test_a_slow_source_is_ended(bench: Bench) -> None:
    before = time.monotonic()
    with pytest.raises(TransientError, match="does not answer"):
        bench.read(bench.slow())
    assert time.monotonic() - before < 5


@every
def test_a_source_that_vanishes_says_so_without_secrets(bench: Bench) -> None:
    entry = bench.entry(bench.batch())
    bench.vanish()
    with pytest.raises(AnomalyzeError, match="batch one: ") as told:
        read(entry, WINDOW)
    assert "hush-hush" not in str(told.value)


@of_sql
def test_nothing_is_written(bench: Bench, tmp_path: Path) -> None:
    """Also by what looks like a read."""
    attempts = {
        "postgres": "WITH gone AS (DELETE FROM points RETURNING *) SELECT now() AS timestamp, count(*) AS a FROM gone",
        "sqlite": "SELECT load_extension('x') AS a",
        "mysql": "SELECT 1 AS a FROM (SELECT points_gone()) x",
        "duckdb": f"FROM (COPY points TO '{tmp_path / 'new.csv'}')",
    }
    if isinstance(bench, MySQL):
        with bench.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION points_gone() RETURNS INT MODIFIES SQL DATA BEGIN DELETE FROM points; RETURN 1; END"
            )
    with pytest.raises(ConfigError):
        bench.read(bench.batch() | {"sql": attempts[bench.kind]})
    if isinstance(bench, Postgres):
        # A function writes inside a plain SELECT: the transaction is read-only, not only the text.
        write = "SELECT now() AS timestamp, nextval('counter') AS a"
        with psycopg.connect(bench.dsn) as connection:
            connection.execute("CREATE SEQUENCE counter")
        with pytest.raises(ConfigError, match="read-only transaction"):
            bench.read(bench.batch() | {"sql": write})
    assert not (tmp_path / "new.csv").exists()
    assert len(bench.read(bench.batch()).frame) == 4


@of_sql
def test_wide_rows_values_that_are_none_and_bound_parameters(bench: Bench) -> None:
    table = "'points.parquet'" if bench.kind == "duckdb" else "{{ params.table | ident }}"
    document = bench.batch() | {
        "sql": f"SELECT ts AS timestamp, value AS a, value * :factor AS b FROM {table} WHERE metric = :metric "
        "AND ts < :end AND 'x%' LIKE '_%' AND ':end' <> '' -- :start\n;",
        "params": {"factor": 2, "metric": ODD, "table": "points"},
    }
    assert bench.read(document).frame.rows() == [
        ("a", hour(0), 7.0),
        ("a", hour(1), None),
        ("b", hour(0), 14.0),
        ("b", hour(1), None),
    ]


@pytest.mark.parametrize(
    ("kind", "more", "module"),
    [
        ("mysql", {"url": "ANOMALYZE_SOURCE_X"}, "pymysql"),
        ("bigquery", {"project": "p"}, "google.cloud.bigquery"),
        ("snowflake", {"url": "ANOMALYZE_SOURCE_X"}, "snowflake.connector"),
    ],
)
def test_a_missing_driver_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, more: dict[str, str], module: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "one.yaml").write_text(
        json.dumps({"source": {"kind": kind} | more, "sql": "SELECT 1 AS a"})
    )
    with pytest.raises(ConfigError) as told:
        read(load_batches(tmp_path, {}).batches["one"], WINDOW)
    assert f"pip install 'anomalyze[{kind}]'" in str(told.value)
    assert module in str(told.value)


def test_an_address_that_is_not_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "one.yaml").write_text(
        "source: {kind: postgres, url: ANOMALYZE_SOURCE_NOT_SET}\nsql: SELECT 1 AS a\n"
    )
    with pytest.raises(ConfigError, match="ANOMALYZE_SOURCE_NOT_SET, got nothing"):
        read(load_batches(tmp_path, {}).batches["one"], WINDOW)
