"""One contract over every kind of source; each is the real thing, or a real engine behind its server's protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from anomalyze.errors import ConfigError, TransientError
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from tests.test_metrics.benches import KINDS, ODD, ROWS, START, STRANGE, WINDOW, Bench, SqlBench, hour
from tests.test_metrics.benches.bench import SECRET
from tests.test_metrics.benches.databases import Postgres
from tests.test_metrics.servers import Missing, Servers

# What a loaded machine may take to give a statement up after its second.
GIVEN_UP_S = 8
EXPECTED = sorted((metric, ts, value) for ts, metric, value in ROWS if ts < WINDOW.end)


@pytest.fixture
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Servers
) -> Iterator[Bench]:
    kind: type[Bench] = request.param
    with ExitStack() as stack:
        made = kind(tmp_path, monkeypatch, stack, servers)
        if isinstance(made, Postgres):
            made.connect_to(request.getfixturevalue("postgres_server").dsn)
        rows = STRANGE if request.node.get_closest_marker("strange") else ROWS
        try:
            made.store(
                [row for row in rows if made.has_strange_values or row[2] is None or row[2] - row[2] == 0]
            )
        except Missing as missing:
            pytest.skip(str(missing))
        yield made


def of(*kinds: type[Bench]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bench", kinds, indirect=True, ids=lambda kind: kind.__name__)


every = of(*KINDS)
of_sql = of(*(kind for kind in KINDS if issubclass(kind, SqlBench)))


@every
def test_rows_of_the_window_in_long_form_sorted_and_in_utc(bench: Bench) -> None:
    frame = bench.read(bench.batch()).frame
    assert frame.rows() == EXPECTED
    assert str(frame.schema["timestamp"]) == "Datetime(time_unit='us', time_zone='UTC')"


@of(*(kind for kind in KINDS if kind.has_instants))
def test_instants_stay_what_they_are_in_a_batch_of_another_zone(bench: Bench) -> None:
    assert bench.read(bench.batch() | {"timezone": "America/New_York"}).frame.rows() == EXPECTED


@of(*(kind for kind in KINDS if issubclass(kind, SqlBench) and kind.day is not None))
def test_days_are_cut_at_midnight_of_the_batch(bench: SqlBench) -> None:
    document = bench.batch() | {"sql": bench.day, "timezone": "Europe/Berlin"}
    assert bench.read(document).frame.rows() == [("n", bench.midnight, 4.0)]


@every
@pytest.mark.strange
def test_what_is_no_number_counts_as_missing(bench: Bench) -> None:
    rows = bench.read(bench.batch()).frame.rows()
    told = [row for row in STRANGE if bench.has_strange_values or row[2] is None]
    assert rows == [(metric, ts, None) for ts, metric, _ in told]


@every
def test_more_rows_than_allowed_are_refused_not_cut(bench: Bench) -> None:
    assert len(bench.read(bench.batch(rows_max=4)).frame) == 4
    with pytest.raises(ConfigError, match="expected at most 3 rows, got more"):
        bench.read(bench.batch(rows_max=3))


@every
def test_what_a_source_refuses_names_the_batch_and_what_is_not_there(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="batch one: ") as told:
        bench.read(bench.wrong())
    assert bench.wrong_named in str(told.value).lower()


@every
def test_a_slow_source_is_ended(bench: Bench) -> None:
    before = time.monotonic()
    with pytest.raises(TransientError, match="batch one: "):
        bench.read(bench.slow())
    assert time.monotonic() - before < GIVEN_UP_S


@every
def test_a_source_that_vanishes_says_so_without_secrets(bench: Bench) -> None:
    entry = bench.entry(bench.batch(timeout_s=1))
    bench.vanish()
    before = time.monotonic()
    with pytest.raises(bench.gone, match="batch one: ") as told:
        read(entry, WINDOW)
    assert SECRET not in str(told.value)
    assert time.monotonic() - before < GIVEN_UP_S


@of(*(kind for kind in KINDS if kind.has_sessions))
def test_a_session_that_its_server_ends_is_begun_again_later(bench: Bench) -> None:
    document = bench.slow()
    document["source"]["timeout_s"] = 60
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(bench.read, document)
        while bench.end_sessions() == 0:
            assert not asking.done(), asking.result()
            time.sleep(0.05)
        with pytest.raises(TransientError, match="batch one: the source does not answer"):
            asking.result(GIVEN_UP_S)


@of(*(kind for kind in KINDS if kind.has_password))
def test_a_wrong_password_waits_for_its_owner_and_is_not_told(bench: Bench) -> None:
    entry = bench.entry(bench.batch())
    bench.lock()
    with pytest.raises(ConfigError, match="batch one: the source refuses: ") as told:
        read(entry, WINDOW)
    assert SECRET not in str(told.value)


@of(*(kind for kind in KINDS if kind.writes))
def test_nothing_is_written(bench: Bench, tmp_path: Path) -> None:
    """Also by what looks like a read."""
    for statement in bench.writes:
        with pytest.raises(ConfigError):
            bench.read(bench.batch() | {"sql": statement})
    assert not (tmp_path / "new.csv").exists()
    assert len(bench.read(bench.batch()).frame) == 4


@of_sql
def test_wide_rows_names_with_quotes_and_bound_parameters(bench: SqlBench) -> None:
    names = {name: bench.quoted(name) for name in ("timestamp", ODD, "b")}
    document = bench.batch() | {
        "sql": f"SELECT ts AS {names['timestamp']}, value AS {names[ODD]}, value * :factor AS {names['b']} "
        f"FROM {bench.named} WHERE metric = :metric AND ts < :end AND 'x%' LIKE '_%' AND ':end' <> '' -- :start\n;",
        "params": {"factor": 2, "metric": ODD, "table": bench.table},
    }
    assert bench.read(document).frame.rows() == [
        ("b", START, 14.0),
        ("b", hour(1), None),
        (ODD, START, 7.0),
        (ODD, hour(1), None),
    ]


@of_sql
def test_bound_values_arrive_as_they_are(bench: SqlBench) -> None:
    """What a driver writes into the text itself, it escapes."""
    text = "a\\' OR 1=1 -- \\\t\n\"%s %(x)s {y} ?`"
    names = [bench.quoted(name) for name in "abc"]
    document = bench.batch() | {
        "sql": f"SELECT LENGTH(:text) AS {names[0]}, :rate * 2 AS {names[1]}, "
        f"CASE WHEN :yes THEN 1 ELSE 0 END AS {names[2]}",
        "params": {"text": text, "rate": -1e-9, "yes": False},
    }
    found = {metric: value for metric, _, value in bench.read(document).frame.rows()}
    assert found == {"a": len(text), "b": -2e-9, "c": 0.0}


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
