"""Batches: layers, limits, every mistake with its place, and folders that change under a running program."""

from __future__ import annotations

import datetime as dt
import doctest
import importlib
import os
import re
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.config import Problem
from anomalyze.errors import ConfigError
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.duration import format_duration, parse_duration
from anomalyze.metrics.library import Library, load_batches
from anomalyze.metrics.setting import Alerting, Preprocessing, Thresholds
from anomalyze.metrics.source_file import SqliteSource
from anomalyze.metrics.statement import build_statement
from anomalyze.metrics.template import TemplateMistake, render
from anomalyze.metrics.window import Window, floor_to_step

SHIPPED = Path(__file__).parents[2] / "metrics_config"
NOON = dt.datetime(2025, 11, 3, 12, tzinfo=dt.UTC)
WINDOW = Window(NOON - dt.timedelta(days=1), NOON, dt.timedelta(hours=1))
ORDERS = """\
source: {kind: sqlite, path: shop.db}
sql: |
  SELECT t AS timestamp, count(*) AS orders, sum(amount) AS revenue
  FROM {{ params.table | ident }}
  WHERE t >= :start AND t < :end AND country = :country GROUP BY 1;
params: {table: orders, country: DE, floor: 5}
unit: pieces
thresholds: {upper: 100, lower: 1}
metrics:
  "rev*": {unit: USD, direction: up}
  revenue: {unit: EUR, thresholds: {lower: 2}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics" / "shop").mkdir(parents=True)
    write(tmp_path, "shop/orders", ORDERS)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / "metrics" / f"{name}.yaml"
    path.write_text(text)
    return path


def told(folder: Path, variables: dict[str, str] | None = None) -> list[tuple[str, int, str, str]]:
    problems = load_batches(folder, variables or {}).problems
    return [(Path(p.file).name, p.line, p.path, p.suggestion) for p in problems]


def test_what_is_shipped_has_no_mistake() -> None:
    loaded = load_batches(SHIPPED, {})
    assert [str(problem) for problem in loaded.problems] == []
    assert "payments" in loaded.batches


def test_defaults_batch_environment_and_metric_override_one_another(folder: Path) -> None:
    write(
        folder,
        "_defaults",
        "owner: data\ntimezone: Europe/Berlin\nalerts: {cooldown: 1h, severity_min: HIGH}\n",
    )
    variables = {
        "ANOMALYZE__METRICS__ORDERS__SOURCE__TIMEOUT_S": "5",
        "ANOMALYZE__METRICS__ORDERS__METRICS__REVENUE__THRESHOLDS__UPPER": "7.5",
        "ANOMALYZE__METRICS__ORDERS__PARAMS__FLOOR": "6",
        "ANOMALYZE__METRICS__ORDERS__TAGS": "shop,money",
        "ANOMALYZE__METRICS__DEFAULTS__OWNER": "night",
        "ANOMALYZE__METRICS__DEFAULTS__ENABLED": "false",
    }
    loaded = load_batches(folder, variables)
    assert loaded.problems == ()
    batch = loaded.batches["orders"].batch
    assert batch.source == SqliteSource(kind="sqlite", path="shop.db", timeout_s=5)
    assert (batch.owner, batch.enabled, batch.timezone) == ("night", False, "Europe/Berlin")
    assert (batch.tags, batch.params["floor"]) == (("shop", "money"), 6)
    revenue, other, orders = (batch.settings(name) for name in ("revenue", "revisions", "orders"))
    assert (revenue.unit, revenue.direction) == ("EUR", "up")
    assert (revenue.thresholds.lower, revenue.thresholds.upper) == (2, 7.5)
    assert (other.unit, other.thresholds.upper, orders.unit) == ("USD", 100, "pieces")
    assert revenue.alerts.cooldown == dt.timedelta(hours=1)
    assert revenue.alerts.severity_min == "HIGH"


def test_a_source_of_another_kind_replaces_the_default(folder: Path) -> None:
    write(folder, "_defaults", "source: {kind: postgres, url: ANOMALYZE_SOURCE_SHOP, rows_max: 5}\n")
    write(folder, "short", "sql: SELECT now() AS timestamp, 1 AS one\n")
    batches = load_batches(folder, {}).batches
    assert batches["short"].batch.source is not None
    assert batches["short"].batch.source.rows_max == 5
    assert batches["orders"].batch.source == SqliteSource(kind="sqlite", path="shop.db")


def test_a_batch_that_is_sent_its_values_asks_nothing(folder: Path) -> None:
    write(folder, "sent", "source: {kind: push}\n")
    write(folder, "asked", "source: {kind: push}\nsql: SELECT 1\n")
    write(folder, "called", "source: {kind: push}\npython: shop:read\n")
    assert {name for name, *_ in told(folder)} == {"asked.yaml", "called.yaml"}
    assert "sent" in load_batches(folder, {}).batches


def test_every_mistake_of_every_layer_has_its_place(folder: Path) -> None:
    write(folder, "_defaults", "timezon: UTC\npriority: 9\n")
    write(
        folder,
        "broken",
        "source: {kind: sqlite, pth: x}\nsql: SELECT 1\nschedul: x\nwindow: 5x\ntimezone: Europe/Berln\n"
        "metrics:\n  a: {direction: dwn, thresholds: {lower: 1, upper: 0}}\n",
    )
    write(folder, "kind", "source: {kind: sqlit}\nsql: SELECT 1\n")
    write(folder, "cron", "source: {kind: anomalyze}\nsql: SELECT 1\nschedule: 61 * * * *\n")
    write(folder, "typo", "source: {kind: anomalyze}\nsql: |\n  SELECT 1\n  WHERE :strt\n")
    write(folder, "yaml", "source: [\n")
    write(folder, "Two__words", "")
    found = told(
        folder, {"ANOMALYZE__METRICS__ORDRS__OWNER": "x", "ANOMALYZE__METRICS__ORDERS__PRIORITY": "no"}
    )
    assert set(found) == {
        ("_defaults.yaml", 1, "timezon", "timezone"),
        ("_defaults.yaml", 2, "priority", ""),
        ("broken.yaml", 1, "source.path", ""),
        ("broken.yaml", 1, "source.pth", "path"),
        ("broken.yaml", 3, "schedul", "schedule"),
        ("broken.yaml", 4, "window", ""),
        ("broken.yaml", 5, "timezone", ""),
        ("broken.yaml", 7, "metrics.a.direction", "down"),
        ("broken.yaml", 7, "metrics.a.thresholds", ""),
        ("kind.yaml", 1, "source.kind", "sqlite"),
        ("cron.yaml", 3, "schedule", ""),
        ("typo.yaml", 4, "sql", "start"),
        ("yaml.yaml", 1, "", ""),
        ("Two__words.yaml", 1, "", ""),
        ("environment", 1, "ANOMALYZE__METRICS__ORDRS__OWNER", "ORDERS"),
        ("environment", 1, "ANOMALYZE__METRICS__ORDERS__PRIORITY", ""),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source: {kind: anomalyze}\n", "expected sql, sql_file or python for the source anomalyze"),
        ("sql: SELECT 1\n", "got none"),
        ("source: {kind: anomalyze}\nsql: SELECT 1\npython: a:b\n", "got sql and python"),
        ("source: {kind: anomalyze}\nsql: SELECT 1; DROP TABLE x\n", "got another behind a semicolon"),
        ("python: a:b\nalerts: {routes: [ops]}\n", "expected 'log', got 'ops'"),
        ("python: nowhere:f\n", "expected the module nowhere as a file beside this one or installed"),
        (
            "source: {kind: http, url: 'http://h', query: {a: '{{ strt | iso }}'}}\n",
            "batch, params, got strt",
        ),
        ("source: {kind: mysql, url: ANOMALYZE_SOURCE_X}\nsql: SELECT 1 INTO OUTFILE 'x'\n", "got INTO"),
        ("source: {kind: anomalyze}\nsql: DELETE FROM x\n", "expected a statement that reads"),
        ("source: {kind: anomalyze}\nsql: SELECT 1\nparams: {start: 1}\n", "start are set by the run"),
        ("source: {kind: anomalyze}\nsql_file: ../../x.sql\n", "expected a file in"),
        ("source: {kind: anomalyze}\nsql_file: x.sql\n", "expected a readable UTF-8 file"),
        ("source: {kind: postgres, url: 'postgresql://u:p@h/d'}\nsql: SELECT 1\n", "ANOMALYZE_SOURCE_"),
        ("source: {kind: prometheus, url: 'http://u:p@h', queries: {a: up}}\n", "without a password, or"),
        ("source: {kind: anomalyze}\nsql: SELECT {{ params.x }}\nparams: {x: 1}\n", "bound as :name"),
        (
            "source: {kind: anomalyze}\nsql: SELECT {{ params.x | ident }}\nparams: {x: 'a; b'}\n",
            "expected a name of",
        ),
        ("source: {kind: anomalyze}\nsql: 'SELECT {% for a in params %}{% endfor %}'\n", "got for"),
        ("source: {kind: anomalyze}\nsql: SELECT {{ params.y | ident }}\n", "no attribute 'y'"),
        (
            f"source: {{kind: anomalyze}}\nsql: SELECT {{{{ {'not ' * 5_000}start | iso }}}}\n",
            "nested too deep",
        ),
        ("python: os:a\nschedule: 0 5 * * * *\n", "such as 5 * * * *: got six fields"),
        ("python: os:a\nthresholds: {upper: true}\n", "expected a number, got True"),
        ("python: os.path\n", "expected module:function"),
        (
            "python: os:a\nparams: {days: [1]}\n",
            "boolean or a valid integer or a valid number or a valid string",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, text: str, words: str) -> None:
    write(folder, "one", text)
    (problem,) = load_batches(folder, {}).problems
    assert words in problem.message
    assert Path(problem.file).name == "one.yaml"


@pytest.mark.parametrize(
    "text",
    [
        "{{ params.__class__ | ident }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ start.__reduce__() | date }}",
        "{{ params.items() | date }}",
        "{% include 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{{ self }}",
        "{{ start }}",
        "{{ start | date('%n') }}",
        "{{ 'x' * 9999999999 }}",
        "{{ batch | upper }}",
    ],
)
def test_the_sandbox_has_no_way_out(text: str) -> None:
    with pytest.raises(TemplateMistake):
        render(text, WINDOW, "b", {"a": "b"}, ZoneInfo("UTC"))


def test_a_statement_binds_values_and_leaves_the_rest_alone(folder: Path) -> None:
    entry = load_batches(folder, {}).batches["orders"]
    assert entry.statement is not None
    statement = build_statement(entry.statement, entry.batch, "orders", WINDOW)
    assert 'FROM "orders"\nWHERE t >= :start AND' in statement.text
    assert statement.values == {"start": WINDOW.start, "end": WINDOW.end, "country": "DE"}
    assert statement.written(lambda name: "?").endswith("country = ? GROUP BY 1")

    tricky = "SELECT ':start', \":end\", a::int, b[1:2], c[d:e], doc:end, /* :start */ :start -- :end"
    statement = build_statement(tricky, entry.batch, "orders", WINDOW)
    assert [name for name, _, _ in statement.places] == ["start"]
    with pytest.raises(ConfigError, match="batch orders: expected a parameter"):
        build_statement("SELECT :nothing", entry.batch, "orders", WINDOW)


def test_dates_in_templates_are_the_batch_s_own() -> None:
    text = (
        "t_{{ start | date('%Y%m%d') }} {{ start | iso }} {{ step | unix }}{% if batch == 'b' %}!{% endif %}"
    )
    window = Window(dt.datetime(2025, 3, 29, 23, tzinfo=dt.UTC), NOON, dt.timedelta(hours=1))
    assert render(text, window, "b", {}, ZoneInfo("Europe/Berlin")) == "t_20250330 2025-03-29T23:00:00Z 3600!"


def test_a_broken_file_leaves_the_last_good_one_and_says_so(folder: Path) -> None:
    library = Library(folder)
    assert library.refresh()
    assert not library.refresh()
    assert (list(library.batches), library.problems, library.stale) == (["orders"], (), ())

    path = write(folder, "shop/orders", ORDERS.replace("unit: pieces", "unit: 7pieces\nunti: x"))
    assert library.refresh()
    assert library.batches["orders"].batch.unit == "pieces"
    assert library.stale == ("orders",)
    assert [problem.line for problem in library.problems] == [8]

    write(folder, "more", "source: {kind: sqlite, path: x}\nsql_file: more.sql\n")
    (folder / "metrics" / "more.sql").write_text("SELECT 1 AS timestamp, 2 AS a")
    write(folder, "shop/orders", ORDERS.replace("unit: pieces", "unit: parts"))
    assert library.refresh()
    assert (library.batches["orders"].batch.unit, library.stale, library.problems) == ("parts", (), ())
    (folder / "metrics" / "more.sql").write_text("SELECT 1 AS timestamp, 22 AS a")
    assert library.refresh()
    assert library.batches["more"].statement == "SELECT 1 AS timestamp, 22 AS a"

    path.unlink()
    assert library.refresh()
    assert list(library.batches) == ["more"]


@given(st.integers(1, 5_000), st.sampled_from("smhdw"))
def test_durations_are_written_as_they_are_read(count: int, unit: str) -> None:
    span = parse_duration(f"{count}{unit}")
    assert parse_duration(format_duration(span)) == span


ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
)


@given(
    st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2032, 12, 31), timezones=st.just(dt.UTC)),
    st.sampled_from(ZONES),
    st.sampled_from(["1m", "15m", "1h", "6h", "1d", "2d", "1w"]),
)
def test_steps_begin_where_the_batch_s_clock_says(at: dt.datetime, name: str, text: str) -> None:
    zone, step = ZoneInfo(name), parse_duration(text)
    begin = floor_to_step(at, step, zone)
    assert begin <= at < begin + step + dt.timedelta(hours=1)
    assert floor_to_step(begin, step, zone) == begin
    local = begin.astimezone(zone)
    if step >= dt.timedelta(days=1):
        # Midnight, or what comes first where daylight saving takes midnight away.
        assert local.replace(tzinfo=None) - dt.datetime.combine(local.date(), dt.time()) <= dt.timedelta(
            hours=1
        )


def test_a_window_ends_at_the_newest_complete_step(folder: Path) -> None:
    write(
        folder,
        "daily",
        "source: {kind: sqlite, path: x}\nsql: SELECT 1\ntimezone: Europe/Berlin\nstep: 1d\nwindow: 2d\ndelay: 6h\n",
    )
    batch = load_batches(folder, {}).batches["daily"].batch
    early = batch.window_at(dt.datetime(2025, 3, 31, 3, tzinfo=dt.UTC))
    late = batch.window_at(dt.datetime(2025, 3, 31, 5, tzinfo=dt.UTC))
    assert early.end == dt.datetime(2025, 3, 29, 23, tzinfo=dt.UTC)
    assert late.end == dt.datetime(2025, 3, 30, 22, tzinfo=dt.UTC)
    assert late.start == dt.datetime(2025, 3, 28, 23, tzinfo=dt.UTC)


def test_problems_are_told_once(folder: Path) -> None:
    write(folder, "_defaults", "priority: 9\n")
    for name in "abc":
        write(folder, name, "source: {kind: sqlite, path: x}\nsql: SELECT 1\n")
    problems: tuple[Problem, ...] = load_batches(folder, {}).problems
    assert [Path(problem.file).name for problem in problems] == ["_defaults.yaml"]


@pytest.mark.parametrize(
    "name", ["metrics.batch", "metrics.duration", "metrics.template", "metrics.window", "cli.plot"]
)
def test_what_docstrings_show_is_so(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(f"anomalyze.{name}"))
    assert (tried.failed, tried.attempted > 0) == (0, True)


def test_the_documentation_names_every_key_and_its_examples_have_no_mistake(folder: Path) -> None:
    text = (SHIPPED.parent / "docs/metrics.md").read_text()
    named = set(re.findall(r"`([a-z_0-9]+)`", text))
    for model in (Batch, Thresholds, Preprocessing, Alerting):
        assert set(model.model_fields) <= named
    batch, detectors, source = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    write(folder, "shown", batch)
    write(folder, "judged", "source: {kind: push}\n" + detectors)
    write(folder, "web", source)
    assert told(folder) == []


def test_a_mistake_tells_no_password(folder: Path) -> None:
    write(folder, "one", "source: {kind: postgres, url: 'postgresql://me:hunter2@h/d'}\nsql: SELECT 1\n")
    write(folder, "two", "source: {kind: http, url: 'https://me:hunter2@h/d'}\n")
    found = load_batches(folder, {}).problems
    assert [Path(one.file).stem for one in found] == ["one", "two"]
    assert "hunter2" not in str(found)


def test_files_that_look_like_batches_and_are_none_are_told(folder: Path) -> None:
    (folder / "metrics" / "visits.yml").write_text("python: os:a\n")
    os.mkfifo(folder / "metrics" / "pipe.yaml")  # nobody writes: reading it would never end
    (folder / "metrics" / "endless.yaml").symlink_to("/dev/zero")
    loaded = load_batches(folder, {})
    assert [(Path(one.file).name, one.message.partition(":")[0]) for one in loaded.problems] == [
        ("endless.yaml", "expected a file, got a pipe or a device"),
        ("pipe.yaml", "expected a file, got a pipe or a device"),
        ("visits.yml", "expected the suffix .yaml, got visits.yml"),
    ]
    assert list(loaded.batches) == ["orders"]


def test_mistakes_of_the_environment_name_the_variable(folder: Path) -> None:
    def found(key: str, text: str) -> Problem:
        (problem,) = load_batches(folder, {f"ANOMALYZE__METRICS__ORDERS__{key}": text}).problems
        return problem

    # A key that the file has too, and one that is no end of brackets.
    assert found("UNIT", "x" * 99).path == "ANOMALYZE__METRICS__ORDERS__UNIT"
    assert found("SQL", "DROP TABLE x").path == "ANOMALYZE__METRICS__ORDERS__SQL"
    assert "expected JSON" in found("METRICS", "[" * 100_000).message


def test_thousands_of_keys_and_mistakes_are_read_in_a_moment(folder: Path) -> None:
    names = "".join(f"  name_{index}: {{unit: a}}\n" for index in range(1_000))
    write(folder, "names", f"python: os:a\nmetrics:\n{names}")
    write(folder, "wrong", "python: os:a\n" + "".join(f"key_{index}: 1\n" for index in range(4_000)))
    before = time.thread_time()
    loaded = load_batches(folder, {})
    assert time.thread_time() - before < 3
    assert loaded.batches["names"].batch.settings("name_7").unit == "a"
    assert len(loaded.problems) == 101
    assert "got 4,000: the first 100 are told" in loaded.problems[0].message
