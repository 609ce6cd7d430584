"""One contract over every kind of source that runs here; each is the real thing, or a real server's recorded words."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import json
import math
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from anomalyze.errors import AnomalyzeError, ConfigError, TransientError
from anomalyze.metrics.library import BatchEntry, load_batches
from anomalyze.metrics.sources import Reading, read
from anomalyze.metrics.window import Window
from tests.test_metrics.servers import mariadb_server, prometheus_server
from tests.test_metrics.web import web_server

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
WINDOW = Window(START, START + dt.timedelta(hours=4), dt.timedelta(hours=1))
ODD = 'o\'clock "é" 数%s {}:end'
Row = tuple[dt.datetime, str, float | None]


def hour(count: int) -> dt.datetime:
    return START + dt.timedelta(hours=count)


ROWS: list[Row] = [
    (hour(1), "orders", 3.0),
    (hour(0), "orders", 2.5),
    (hour(0), ODD, 7.0),
    (hour(1), ODD, None),
    (hour(9), "orders", 99.0),
]


class Bench:
    """What a kind of source is given and asked.

    ``store`` puts rows where the source reads them; ``batch`` is the batch's text for them, with more keys of
    ``source``; ``slow`` and ``wrong`` are batches that never end and that ask for what there is not.
    """

    kind = ""
    sql = "SELECT ts AS timestamp, metric, value FROM points WHERE ts >= :start AND ts < :end"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.folder, self.monkeypatch, self.stack = folder, monkeypatch, stack
        (folder / "metrics").mkdir(exist_ok=True)

    def store(self, rows: Sequence[Row]) -> None:
        raise AssertionError

    def source(self) -> dict[str, Any]:
        raise AssertionError

    def batch(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source() | {"kind": self.kind} | more, "sql": self.sql}

    def slow(self) -> dict[str, Any]:
        raise AssertionError

    def wrong(self) -> dict[str, Any]:
        return self.batch() | {"sql": "SELECT nothing FROM nowhere"}

    def vanish(self) -> None:
        raise AssertionError

    def entry(self, document: dict[str, Any]) -> BatchEntry:
        (self.folder / "metrics" / "one.yaml").write_text(json.dumps(document))
        loaded = load_batches(self.folder, {})
        assert loaded.problems == ()
        return loaded.batches["one"]

    def read(self, document: dict[str, Any]) -> Reading:
        return read(self.entry(document), WINDOW)


class Postgres(Bench):
    kind = "postgres"
    variable = "ANOMALYZE_SOURCE_TEST"

    def connect_to(self, dsn: str) -> None:
        self.dsn = dsn
        self.monkeypatch.setenv(self.variable, dsn)

    def store(self, rows: Sequence[Row]) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute("CREATE TABLE points (ts timestamptz, metric text, value numeric)")
            connection.cursor().executemany("INSERT INTO points VALUES (%s, %s, %s)", rows)

    def source(self) -> dict[str, Any]:
        return {"url": self.variable}

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT now() AS timestamp, 1 AS a FROM pg_sleep(30)"}

    def vanish(self) -> None:
        self.monkeypatch.setenv(self.variable, "postgresql://reader:hush-hush@127.0.0.1:1/none")


class MySQL(Bench):
    """MariaDB, where it and PyMySQL are installed."""

    kind = "mysql"
    variable = "ANOMALYZE_SOURCE_TEST"

    def connect(self) -> Any:
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database="shop", autocommit=True
        )

    def store(self, rows: Sequence[Row]) -> None:
        self.port = self.stack.enter_context(mariadb_server(self.folder))
        self.monkeypatch.setenv(self.variable, f"mysql://root@127.0.0.1:{self.port}/shop")
        import pymysql

        with (
            pymysql.connect(host="127.0.0.1", port=self.port, user="root") as opened,
            opened.cursor() as cursor,
        ):
            cursor.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE points (ts DATETIME, metric VARCHAR(200), value DECIMAL(9, 3))")
            cursor.executemany(
                "INSERT INTO points VALUES (%s, %s, %s)",
                [(ts.replace(tzinfo=None), metric, value) for ts, metric, value in rows],
            )

    def source(self) -> dict[str, Any]:
        return {"url": self.variable}

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"sql": "SELECT SLEEP(30) AS a"}

    def vanish(self) -> None:
        self.monkeypatch.setenv(self.variable, "mysql://reader:hush-hush@127.0.0.1:1/none")


class Sqlite(Bench):
    kind = "sqlite"

    def store(self, rows: Sequence[Row]) -> None:
        self.path = self.folder / "it's.db"
        with sqlite3.connect(self.path) as connection:
            connection.execute("CREATE TABLE points (ts TEXT, metric TEXT, value REAL)")
            told = [(ts.strftime("%Y-%m-%d %H:%M:%S"), metric, value) for ts, metric, value in rows]
            connection.executemany("INSERT INTO points VALUES (?, ?, ?)", told)

    def source(self) -> dict[str, Any]:
        return {"path": self.path.name}

    def slow(self) -> dict[str, Any]:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS a FROM n"
        return self.batch(timeout_s=1) | {"sql": endless}

    def vanish(self) -> None:
        self.path.unlink()


class DuckDB(Bench):
    kind = "duckdb"
    sql = "SELECT ts AS timestamp, metric, value FROM 'points.parquet' WHERE ts >= :start AND ts < :end"

    def store(self, rows: Sequence[Row]) -> None:
        with duckdb.connect() as connection:
            connection.execute("CREATE TABLE points (ts TIMESTAMPTZ, metric VARCHAR, value DOUBLE)")
            connection.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)
            connection.execute(f"COPY points TO '{self.folder / 'points.parquet'}'")

    def source(self) -> dict[str, Any]:
        return {}

    def slow(self) -> dict[str, Any]:
        endless = "SELECT sum(a.range * b.range) AS a FROM range(1000000) a, range(1000000) b"
        return self.batch(timeout_s=1) | {"sql": endless}

    def vanish(self) -> None:
        (self.folder / "points.parquet").unlink()


class Http(Bench):
    kind = "http"
    rows: Sequence[Row] = ()
    pause_s = 0.0

    def store(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        if not hasattr(self, "address"):
            self.server = ExitStack()
            self.address = self.server.enter_context(web_server(self.answer))
            self.stack.push(self.server)

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        time.sleep(self.pause_s)
        if path != "/data":
            return 404, "nothing here"
        assert query == {"from": "2025-11-03T00:00:00Z", "until": "1762142400"}
        rows = [
            {"at": ts.isoformat(), "n": {"name": metric}, "v": value}
            for ts, metric, value in self.rows
            if ts < WINDOW.end
        ]
        return 200, json.dumps({"data": {"points": rows}})

    def source(self) -> dict[str, Any]:
        return {
            "url": f"{self.address}/data",
            "query": {"from": "{{ start | iso }}", "until": "{{ end | unix }}"},
            "items": "data.points",
            "columns": {"timestamp": "at", "metric": "n.name", "value": "v"},
        }

    def batch(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source() | {"kind": self.kind} | more}

    def slow(self) -> dict[str, Any]:
        self.pause_s = 3
        return self.batch(timeout_s=1)

    def wrong(self) -> dict[str, Any]:
        return self.batch(url=f"{self.address}/nowhere")

    def vanish(self) -> None:
        self.server.close()


class Prometheus(Http):
    kind = "prometheus"

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        time.sleep(self.pause_s)
        if path != "/api/v1/query_range" or query["query"] == "nothing(":
            # As Prometheus 3 words it.
            return (
                400,
                '{"status":"error","errorType":"bad_data","error":"1:9: parse error: unclosed left parenthesis"}',
            )
        assert float(query["start"]) == WINDOW.start.timestamp()
        assert float(query["end"]) == hour(3).timestamp()
        assert query["step"] == "3600"
        values = [
            [ts.timestamp(), "NaN" if value is None else str(value)]
            for ts, metric, value in sorted(self.rows, key=lambda row: row[0])
            if metric == query["query"] and ts < WINDOW.end
        ]
        matrix = [{"metric": {"__name__": "x"}, "values": values}] if values else []
        return 200, json.dumps({"status": "success", "data": {"resultType": "matrix", "result": matrix}})

    def source(self) -> dict[str, Any]:
        return {"url": self.address, "queries": {"orders": "orders", ODD: ODD}}

    def wrong(self) -> dict[str, Any]:
        return self.batch(queries={"a": "nothing("})


class Python(Bench):
    kind = "python"

    def store(self, rows: Sequence[Row]) -> None:
        text = (
            "import datetime\n\n\ndef values(window, params):\n"
            f"    rows = {[(ts.isoformat(), metric, value) for ts, metric, value in rows]!r}\n"
            "    return [dict(zip(('timestamp', 'metric', 'value'), row)) for row in rows\n"
            "            if window.start <= datetime.datetime.fromisoformat(row[0]) < window.end]\n\n\n"
            "def wrong(window, params):\n    return params['no']\n\n\n"
            "def slow(window, params):\n    import time\n    time.sleep(30)\n"
        )
        (self.folder / "metrics" / "shop.py").write_text(text)

    def batch(self, **more: Any) -> dict[str, Any]:
        limits = {"source": {"kind": "python"} | more} if more else {}
        return {"python": "shop:values"} | limits

    def slow(self) -> dict[str, Any]:
        return self.batch(timeout_s=1) | {"python": "shop:slow"}

    def wrong(self) -> dict[str, Any]:
        return {"python": "shop:wrong"}

    def vanish(self) -> None:
        (self.folder / "metrics" / "shop.py").unlink()


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


def reading(tmp_path: Path, text: str, window: Window = WINDOW, **more: Any) -> Reading:
    """What a Python batch reads whose function returns ``text``."""
    (tmp_path / "metrics").mkdir(exist_ok=True)
    (tmp_path / "metrics" / "given.py").write_text(
        f"import polars\nfrom datetime import *\nfrom decimal import Decimal\n\ndef f(window, params):\n    return {text}\n"
    )
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps({"python": "given:f"} | more))
    loaded = load_batches(tmp_path, {})
    assert loaded.problems == ()
    return read(loaded.batches["one"], window)


def test_odd_rows_are_put_right_and_told(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        "[dict(timestamp='2025-11-03T01:00:00Z', metric=m, value=v) for m, v in "
        "[('a', float('nan')), ('a', 2), ('b', float('inf')), (None, 1), ('c', Decimal('1.5')), ('d', '7')]]"
        " + [dict(timestamp=None, metric='a', value=1), dict(timestamp='2025-11-03T04:00:00Z', metric='a', value=1)]",
    )
    assert [(metric, value) for metric, _, value in found.frame.rows()] == [
        ("a", 2.0),
        ("b", None),
        ("c", 1.5),
        ("d", 7.0),
    ]
    assert found.notes == (
        "2 × row without a name or a time is left out",
        "1 × row from the end of the window or after it is left out until its step is over",
        "2 × value is not finite and counts as missing",
        "1 × row repeats a metric and time: the last of them counts",
    )


@pytest.mark.parametrize(
    "text",
    [
        "[{'timestamp': 0, 'a': 'many', 'b': '2'}, {'timestamp': 60, 'a': 3, 'b': 4}]",
        "[{'timestamp': t, 'metric': m, 'value': v} for t, m, v in "
        "((0, 'a', 'many'), (0, 'b', '2'), (60, 'a', 3), (60, 'b', 4))]",
    ],
)
def test_what_is_no_number_is_left_out_and_its_metric_named(tmp_path: Path, text: str) -> None:
    found = reading(tmp_path, text)
    assert [(metric, value) for metric, _, value in found.frame.rows()] == [("a", 3), ("b", 2), ("b", 4)]
    assert found.failures == {"a": "expected numbers: 1 rows, such as 'many', left out"}


def test_values_of_now_are_of_the_window_s_end(tmp_path: Path) -> None:
    found = reading(tmp_path, "{'load': 0.5, 'free': 3}")
    assert found.frame.rows() == [("free", WINDOW.end, 3.0), ("load", WINDOW.end, 0.5)]
    assert reading(tmp_path, "[]").frame.rows() == []
    assert reading(tmp_path, "polars.DataFrame({'load': [1.5]})").frame.rows() == [("load", WINDOW.end, 1.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{'timestamp': 'soon', 'a': 1}]", "expected times in the timestamp's column"),
        ("[{'timestamp': 0, 'metric': 'a', 'value': 1, 'x': 2}]", "got also x"),
        ("[{'timestamp': 0}]", "expected a timestamp and a column of numbers"),
        ("[{'timestamp': 0, 'metric': 'a\\nb', 'value': 1}]", "expected names of 1 to 200 characters"),
        ("[{'timestamp': 0, 'metric': 'a' * 201, 'value': 1}]", "expected names of 1 to 200 characters"),
        ("[{'timestamp': 0, 'metric': str(i), 'value': 1} for i in range(11)]", "at most 10 metrics, got 11"),
        ("7", "expected given:f to give a frame"),
        ("1 / 0", "given:f raised ZeroDivisionError"),
    ],
)
def test_what_is_no_table_of_metrics_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        reading(tmp_path, text, metrics_max=10)
    assert words in str(told.value)


def test_times_without_a_zone_are_the_batch_s_own(tmp_path: Path) -> None:
    day = Window(
        dt.datetime(2025, 3, 29, 23, tzinfo=dt.UTC), dt.datetime(2025, 11, 1, tzinfo=dt.UTC), WINDOW.step
    )
    found = reading(
        tmp_path,
        "[{'timestamp': t, 'a': 1} for t in (date(2025, 3, 30), datetime(2025, 3, 30, 3), '2025-10-26 02:30:00', "
        "1748736000, 1751328000000.0)]",
        day,
        timezone="Europe/Berlin",
    )
    assert [at.isoformat() for _, at, _ in found.frame.rows()] == [
        "2025-03-29T23:00:00+00:00",
        "2025-03-30T01:00:00+00:00",
        "2025-06-01T00:00:00+00:00",
        "2025-07-01T00:00:00+00:00",
        "2025-10-26T00:30:00+00:00",
    ]


def test_a_function_s_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    assert reading(tmp_path, "{'a': 1}").frame["value"][0] == 1
    assert reading(tmp_path, "{'a': 2}").frame["value"][0] == 2


def test_clickhouse_keeps_the_limits_and_gets_values_as_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against words recorded of ClickHouse's HTTP interface."""
    asked: list[tuple[str, dict[str, str], dict[str, str], str]] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        asked.append((path, query, headers, body))
        if "nowhere" in body:
            return (
                404,
                "Code: 60. hush-hush DB::Exception: Table shop.nowhere does not exist. (UNKNOWN_TABLE)",
            )
        return 200, json.dumps(
            {
                "meta": [{"name": "timestamp", "type": "DateTime"}, {"name": "orders", "type": "UInt64"}],
                "data": [["2025-11-03T01:00:00Z", 12]],
                "rows": 1,
            }
        )

    (tmp_path / "metrics").mkdir()
    file = tmp_path / "metrics" / "one.yaml"
    document = {
        "source": {"kind": "clickhouse", "url": "ANOMALYZE_SOURCE_CH", "timeout_s": 7, "rows_max": 10},
        "sql": "SELECT t AS timestamp, count() AS orders FROM x WHERE t >= :start AND shop = :shop GROUP BY t;",
        "params": {"shop": "a\tb"},
    }
    with web_server(answer) as address:
        monkeypatch.setenv("ANOMALYZE_SOURCE_CH", address.replace("://", "://reader:hush-hush@") + "/shop")
        file.write_text(json.dumps(document))
        assert read(load_batches(tmp_path, {}).batches["one"], WINDOW).frame.rows() == [
            ("orders", hour(1), 12.0)
        ]
        file.write_text(json.dumps(document | {"sql": "SELECT 1 FROM nowhere"}))
        with pytest.raises(ConfigError, match=r"60\. … DB::Exception.*UNKNOWN_TABLE"):
            read(load_batches(tmp_path, {}).batches["one"], WINDOW)
    path, query, headers, body = asked[0]
    assert path == "/"
    assert headers["Authorization"] == "Basic cmVhZGVyOmh1c2gtaHVzaA=="
    assert query["readonly"] == "2"
    assert (query["max_execution_time"], query["max_result_rows"], query["database"]) == ("7", "11", "shop")
    assert (query["param_shop"], query["param_start"]) == ("a\\tb", "2025-11-03 00:00:00.000")
    assert "t >= {start:DateTime64(3,'UTC')} AND shop = {shop:String} GROUP BY t\nFORMAT JSONCompact" in body


def test_an_answer_that_drips_is_ended(tmp_path: Path) -> None:
    """Each byte comes in time; all of them do not."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(100):
                connection.sendall(b"1")
                time.sleep(0.1)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    (tmp_path / "metrics").mkdir()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    document = {"source": {"kind": "http", "url": address, "timeout_s": 1}}
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
    with listener, pytest.raises(TransientError, match="longer than 1 s"):
        read(load_batches(tmp_path, {}).batches["one"], WINDOW)


def test_labels_of_prometheus_become_part_of_the_name(tmp_path: Path) -> None:
    recorded = (
        '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"prometheus",'
        '"instance":"localhost:9090"},"values":[[1762128000,"1"],[1762131600,"+Inf"]]},{"metric":{"instance":'
        '"localhost:9091","job":"node"},"values":[[1762128000,"0"]]}]}}'
    )
    (tmp_path / "metrics").mkdir()
    with web_server(lambda *_: (200, recorded)) as address:
        document = {"source": {"kind": "prometheus", "url": address, "queries": {"up": "up"}}}
        (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
        found = read(load_batches(tmp_path, {}).batches["one"], WINDOW)
    assert found.frame.rows() == [
        ('up{instance="localhost:9090",job="prometheus"}', hour(0), 1.0),
        ('up{instance="localhost:9090",job="prometheus"}', hour(1), None),
        ('up{instance="localhost:9091",job="node"}', hour(0), 0.0),
    ]
    assert math.isfinite(found.frame["value"].drop_nulls().sum())


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_a_real_prometheus_is_asked_in_parts_it_accepts(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    with prometheus_server(tmp_path) as address:
        queries = {"const": 'label_replace(vector(3), "shop", "a", "", "")', "clock": "time()"}
        document = {"source": {"kind": "prometheus", "url": address, "queries": queries}, "step": "1m"}
        (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
        entry = load_batches(tmp_path, {}).batches["one"]
        # More points than Prometheus gives in one answer.
        window = Window(START, START + dt.timedelta(minutes=12_000), dt.timedelta(minutes=1))
        frame = read(entry, window).frame
        document["source"]["queries"] = {"a": "nothing("}  # type: ignore[index]
        (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
        with pytest.raises(ConfigError, match="parse error"):
            read(load_batches(tmp_path, {}).batches["one"], window)
    assert len(frame) == 24_000
    assert set(frame["metric"]) == {'const{shop="a"}', "clock"}
    clock = frame.filter(frame["metric"] == "clock")
    assert clock["value"].to_list() == (clock["timestamp"].dt.epoch("s")).to_list()


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
