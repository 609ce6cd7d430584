"""What stands in Anomstack's files: templates, SQL, schedules, and whatever else somebody wrote there."""

from __future__ import annotations

import datetime as dt
import sqlite3
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anomalyze.errors import ConfigError
from anomalyze.metrics.anomstack import plan_import
from anomalyze.metrics.anomstack.folder import Folder
from anomalyze.metrics.anomstack.schedule import convert_schedule, step_of
from anomalyze.metrics.anomstack.sql import adapt_sql
from anomalyze.metrics.anomstack.template import TURNS_MAX, render_once
from anomalyze.metrics.batch import Batch
from tests.test_metrics.anomstack import DEFAULTS

KEYS = [
    "metric_batch", "db", "table_key", "ingest_sql", "ingest_fn", "ingest_cron_schedule", "alert_snooze_n",
    "alert_methods", "alert_exclude_metrics", "change_include_metrics", "tholdalert_thresholds", "disable_tholdalert",
    "disable_alert", "disable_score", "disable_delete", "model_configs", "model_combination_method", "train_max_n", "delete_after_n_days", "metric_tags", "preprocess_params",
]  # fmt: skip
words = st.text(max_size=12) | st.sampled_from(["duckdb", "* * * * *", "select 1 as a", "p1", "true", "1h"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words | st.sampled_from(["upper", "lower", "freq", "priority"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example({"alert_snooze_n": 0.5})
@example({"delete_after_n_days": 10**8})
@example({"preprocess_params": {"freq": "99999W"}})
@example({"preprocess_params": {"freq": "0H"}})
@example({"preprocess_params": {"freq": "36H"}})
@given(st.dictionaries(st.sampled_from(KEYS), anything))
def test_whatever_stands_in_a_file_it_is_imported_or_named(tmp_path: Path, keys: dict[str, Any]) -> None:
    (tmp_path / "defaults").mkdir(exist_ok=True)
    (tmp_path / "defaults/defaults.yaml").write_text(DEFAULTS)
    whole = {"metric_batch": "one", "ingest_sql": "select 1 as a"} | keys
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    found = plan_import(Folder(tmp_path), keep_models=True)
    for one in found.batches:
        if one.name:
            Batch.model_validate(yaml.safe_load(one.files[f"{one.name}.yaml"]))
        else:
            assert one.notes


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% set x = 'ab' %}{{ x * 100000000 }}",
        "{{ 'a' | center(100000000) }}",
        "{% for a in r recursive %}{{ loop(r) }}{% endfor %}",
        "{% for a in r %}{{ long }}{% endfor %}",
        "{{ 9 ** 9 ** 9 }}",
        "{% if %}",
        "{% for a in range(999999999) %}{% endfor %}",
        "{% set x = long ~ long %}" * 30 + "{% set x = x ~ x %}" * 60,
        "{% set x = long + long %}" + "{% set x = x + x %}" * 60,
        "{% set x = 9 %}" + "{% set x = x * x %}" * 60,
        "{% set x = [long] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
        "{% set x = [r, r] %}" + "{% set x = x + x %}" * 60,
        "{{ long | replace('x', long) | replace('x', long) }}",
        "{{ r | join(long) }}",
        "{{ 'a' % 1 }}",
        "{{ long.upper() }}",
        "{{ missing.deeper }}",
    ],
)
def test_a_template_has_bounds(text: str) -> None:
    many = list(range(TURNS_MAX // 10))
    with pytest.raises(ConfigError):
        render_once(text, {"r": many, "long": "x" * 1_000}, str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% for n in range(1, 4) %}{{ 'm' ~ n ~ '_' ~ kind | upper }} {% endfor %}", "m1_X m2_X m3_X "),
        ("{{ names | join(', ') }} {{ 2 * 3 + 7 // 2 }} {{ 'a-b' | replace('-', '_') }}", "p, q 9 a_b"),
        ("{% if kind == 'x' and not gone %}{{ names[0] }}{{ gone }}{% endif %}", "p"),
        ("{% for n in [1, 2] %}{{ n }}{{ loop.index }}{% endfor %}", "1122"),
        ("{% set n = kind ~ kind %}{{ n }}{# nothing #}", "xx"),
        ("{% include 'a.sql' %}|{% for o in names %}{% include 'b.sql' %}{% endfor %}", "a.sql:x|b.sql:xb.sql:x"),
    ],
)  # fmt: skip
def test_a_template_gives_what_it_gave_there(text: str, expected: str) -> None:
    found = render_once(text, {"kind": "x", "names": ["p", "q"]}, lambda name: name + ":{{ kind }}")
    assert found == expected
    plain = jinja2.Environment(
        loader=jinja2.DictLoader({name: name + ":{{ kind }}" for name in ("a.sql", "b.sql")})
    )
    assert plain.from_string(text).render(kind="x", names=["p", "q"]) == expected


@pytest.mark.parametrize(
    ("text", "dialect", "is_of_now", "tables"),
    [
        ("select now() as metric_timestamp, 'a' as metric_name, 1 as metric_value", "postgres", True, ()),
        ("select cast(now() as timestamp) as metric_timestamp, 1 as a from shop.t", "postgres", True, ("shop.t",)),
        ("with t as (select 1 as a) select max(at) as metric_timestamp, a from t, u", "duckdb", False, ("u",)),
        ("select * from 'data/*.parquet'", "duckdb", None, ()),
        ("select * from read_csv('a.csv')", "duckdb", None, ()),
        ("select timestamp(d) as metric_timestamp, 1 as a from `p.d.t`", "bigquery", False, ("p.d.t",)),
    ],
)  # fmt: skip
def test_sql_tells_whether_it_is_of_now_and_what_it_reads(
    text: str, dialect: str, is_of_now: bool | None, tables: tuple[str, ...]
) -> None:
    found = adapt_sql(text, dialect)
    assert (found.text, found.is_of_now, found.tables) == (text, is_of_now, tables)


def test_another_database_s_words_for_now_are_put_right(tmp_path: Path) -> None:
    text = "select get_current_timestamp() as metric_timestamp, 'a' as metric_name, 1 as metric_value, 2 as extra"
    found = adapt_sql(text, "sqlite")
    assert len(found.notes) == 2
    with sqlite3.connect(tmp_path / "x.db") as connection:
        row = connection.execute(found.text).fetchone()
    assert row[1:] == ("a", 1)
    assert row[0].startswith(dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"))


@pytest.mark.parametrize(
    ("told", "cron", "step"),
    [
        ("*/10 * * * *", "*/10 * * * *", "10m"),
        ("*/70 * * * *", "*/70 * * * *", "1h"),
        ("@weekly", "0 0 * * 0", "1w"),
        ("0 9 * * MON-FRI", "0 9 * * MON-FRI", "1d"),
        ("*/5 * * * * 30", "*/5 * * * *", "5m"),
        ("now and then", "0 * * * *", "1h"),
    ],
)
def test_schedules(told: str, cron: str, step: str) -> None:
    assert convert_schedule(told)[0] == cron
    assert step_of(cron) == step
