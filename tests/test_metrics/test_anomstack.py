"""Batches of Anomstack's, in little files of their shape, become batches that load and run; what cannot is named."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from anomalyze.metrics.anomstack import folder as folders
from anomalyze.metrics.anomstack import plan as plans
from anomalyze.metrics.anomstack import plan_import
from anomalyze.metrics.anomstack.folder import FILE_BYTES_MAX, Folder
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.detectors.setting import DetectorSetting
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from tests.test_metrics.anomstack import DEFAULTS, ask, plan, put, said

HOUR = dt.timedelta(hours=1)
TEMPLATED = """
with
{% set towns = ['cork', 'york'] %}
{% for town in towns %}
sold_{{ town }} as (
  select get_current_timestamp() as metric_timestamp, 'sold_{{ town }}' as metric_name, 7 as metric_value
){% if not loop.last %},{% endif %}
{% endfor %}
{% for town in towns %}
select * from sold_{{ town }} {% if not loop.last %}union all{% endif %}
{% endfor %};
"""
INGEST = '''"""Rows of now."""


def ingest(top=2):
    import datetime
    import os

    import no_such_package_here
    import polars

    return no_such_package_here.rows(os.environ["SHOP_TOKEN"], os.getenv("SHOP_HOST", ""))
'''
PLAIN = """
import polars

def ingest():
    import datetime as dt
    now = dt.datetime.now(dt.timezone.utc)
    return polars.DataFrame({"metric_name": ["a"], "host": ["x"], "metric_value": [0.5], "metric_timestamp": [now]})
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs/metrics"
    (folder / "defaults").mkdir(parents=True)
    (folder / "defaults/defaults.yaml").write_text(DEFAULTS)
    return folder


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    (folder / "metrics").mkdir(parents=True)
    (folder / "metrics/_defaults.yaml").write_text("timezone: Europe/Berlin\nstep: 1d\n")
    return folder


def words_of(detectors: Sequence[DetectorSetting]) -> list[str]:
    return [one.key for one in detectors]


def test_sql_with_templates_and_python_load_run_and_are_told(theirs: Path, ours: Path) -> None:
    (theirs / "shop").mkdir()
    (theirs / "shop/towns.sql").write_text(TEMPLATED)
    (theirs / "shop/towns.yaml").write_text(
        'metric_batch: "towns"\ningest_cron_schedule: "*/10 * * * *"\n'
        'ingest_sql: >\n  {% include "./shop/towns.sql" %}\n'
    )
    (theirs / "plain.py").write_text(PLAIN)
    put(theirs, "plain.yaml", ingest_fn='{% include "./plain.py" %}', ingest_cron_schedule="0 * * * *")
    done = ask(theirs.parent, ours)
    assert done.exit_code == 0, done.output
    assert "2 of 2 batches imported; 4 files written" in done.stdout
    assert "shop/towns.yaml:3: its template is written out" in done.stdout
    assert "train_max_n" in done.stdout
    loaded = load_batches(ours, {})
    assert loaded.problems == ()
    towns, plain = loaded.batches["towns"], loaded.batches["plain"]
    assert (towns.batch.schedule, towns.batch.timezone, towns.batch.step) == (
        "*/10 * * * *",
        "UTC",
        dt.timedelta(minutes=10),
    )
    assert towns.batch.alerts.cooldown == dt.timedelta(minutes=30)
    assert towns.batch.retention == dt.timedelta(days=100)
    now = dt.datetime.now(dt.UTC)
    for entry, rows in ((towns, {("sold_cork", 7.0), ("sold_york", 7.0)}), (plain, {("a", 0.5)})):
        window = entry.batch.window_at(now)
        reading = read(entry, window)
        # A time of now counts for the step that it lies in, which is not over.
        assert {(metric, value) for metric, _, value in reading.frame.iter_rows()} == rows
        assert reading.frame["timestamp"].min() >= window.end
        assert reading.notes == ()


def test_a_second_import_changes_nothing_and_never_writes_over_another_file(theirs: Path, ours: Path) -> None:
    put(theirs, "one.yaml", ingest_sql="select 1 as a")
    put(theirs, "two.yaml", ingest_sql="select 1 as b")
    told = ask(theirs, ours, "--dry-run")
    assert told.exit_code == 0
    assert "nothing is written" in told.stdout
    assert not (ours / "metrics/imported").exists()
    assert "4 files written" in ask(theirs, ours).stdout
    assert "0 files written" in ask(theirs, ours).stdout
    own = ours / "metrics/imported/one.yaml"
    own.write_text("mine")
    (ours / "metrics/imported/two.sql").unlink()
    refused = ask(theirs, ours)
    assert refused.exit_code == 1
    assert "expected no other file" in refused.stderr
    assert "one.yaml" in refused.stderr
    assert own.read_text() == "mine"
    assert not (ours / "metrics/imported/two.sql").exists()
    assert "2 files written" in ask(theirs, ours, "--force").stdout
    assert own.read_text() != "mine"
    assert not list((ours / "metrics/imported").glob(".*"))
    outside = ask(theirs, ours, "--into", str(ours / "elsewhere"))
    assert "expected a folder below" in outside.stderr
    machine = json.loads(ask(theirs, ours, "--json").stdout)
    assert [one["imported_as"] for one in machine["batches"]] == ["one", "two"]


def test_what_holds_beside_the_question_is_carried_over(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(
        theirs,
        "shop.yaml",
        ingest_sql="select date_trunc('hour', at) as metric_timestamp, 'n' as metric_name, 1 as metric_value from sales",
        disable_tholdalert=False,
        tholdalert_thresholds={"n": {"upper": 9, "lower": 1}, "odd": {"upper": 1, "lower": 2}, "left": {"upper": 1}},
        tholdalert_exclude_metrics=["left"],
        alert_exclude_metrics=["quiet"],
        score_exclude_metrics=["unscored"],
        change_exclude_metrics=["steady"],
        metric_tags={"n": {"team": "Sales & More", "priority": "p2"}},
        preprocess_params={"freq": "6H", "freq_agg": "sum", "diff_n": 1},
        delete_after_n_days=30,
        train_sql="select 1",
        what_is_this=1,
    )  # fmt: skip
    put(
        theirs,
        "still.yaml",
        ingest_sql="select 1 as a",
        disable_batch=True,
        alert_methods="",
        change_include_metrics=["jumps"],
    )
    put(
        theirs,
        "off.yaml",
        ingest_sql="select 1 as a",
        disable_ingest="True",
        disable_score=True,
        disable_change=True,
    )
    found = plan(
        theirs, ANOMSTACK__SHOP__INGEST_CRON_SCHEDULE="0 */6 * * *", ANOMSTACK_DUCKDB_PATH="/data/x.db"
    )
    made = {
        one.name: Batch.model_validate(yaml.safe_load(one.files[f"{one.name}.yaml"])) for one in found.batches
    }
    shop = made["shop"]
    assert shop.source is not None
    assert shop.source.model_dump(include={"kind", "path"}) == {"kind": "duckdb", "path": "/data/x.db"}
    assert (shop.schedule, shop.step, shop.priority) == ("0 */6 * * *", 6 * HOUR, 3)
    assert shop.settings("n").priority == 2
    assert words_of(shop.detectors) == ["novelty", "rarity", "level_shift"]
    assert words_of(shop.settings("steady").detectors) == ["novelty", "rarity"]
    assert words_of(made["still"].detectors) == ["novelty", "rarity"]
    assert words_of(made["still"].settings("jumps").detectors) == ["novelty", "rarity", "level_shift"]
    assert shop.tags == ("anomstack", "team-sales-more")
    assert shop.timestamps == "begin"
    assert (shop.preprocessing.resample, shop.preprocessing.aggregate) == (6 * HOUR, "sum")
    assert shop.preprocessing.difference == 0
    assert (shop.settings("n").thresholds.upper, shop.settings("n").thresholds.lower) == (9, 1)
    assert shop.settings("left").thresholds.upper is None
    assert not shop.settings("quiet").alerts.enabled
    assert shop.settings("unscored").detectors == ()
    assert shop.retention == dt.timedelta(days=30)
    assert (made["still"].enabled, made["still"].alerts.enabled) == (False, False)
    assert (made["off"].enabled, made["off"].detectors) == (False, ())
    words = said(found)
    lines = (theirs / "shop.yaml").read_text().splitlines()
    for key, text in {
        "tholdalert_thresholds": "thresholds of odd are no upper above a lower",
        "train_sql": "train_sql is not carried over: what it does is built in",
        "what_is_this": "what_is_this is not known",
        "metric_tags": "tags are of the batch here",
        "ingest_sql": "reads sales from the DuckDB file /data/x.db",
        "ingest_cron_schedule": "ingest_cron_schedule comes from the environment",
    }.items():
        at = next((n for n, line in enumerate(lines, 1) if f'"{key}"' in line), 1)
        assert f"shop.yaml:{at}: {text}" in words


@pytest.mark.parametrize(
    ("db", "expected"),
    [
        ("bigquery", {"kind": "bigquery", "project": "p"}),
        ("snowflake", {"kind": "snowflake", "url": "ANOMALYZE_SOURCE_SNOWFLAKE"}),
        ("clickhouse", {"kind": "clickhouse", "url": "ANOMALYZE_SOURCE_CLICKHOUSE"}),
        ("redshift", {"kind": "postgres", "url": "ANOMALYZE_SOURCE_REDSHIFT"}),
        ("postgres", {"kind": "postgres", "url": "ANOMALYZE_SOURCE_POSTGRES"}),
        ("motherduck", {"kind": "duckdb", "path": "md:"}),
        ("sqlite", {"kind": "sqlite", "path": "/data/l.db"}),
    ],
)
def test_each_database_has_its_source(theirs: Path, ours: Path, db: str, expected: dict[str, str]) -> None:
    put(theirs, "one.yaml", db=db, table_key="p.d.t", ingest_sql="select 1 as a")
    found = plan(theirs, ANOMSTACK_SQLITE_PATH="/data/l.db")
    (one,) = found.batches
    assert one.name, said(found)
    (ours / "metrics/one.sql").write_text(one.files["one.sql"])
    (ours / "metrics/one.yaml").write_text(one.files["one.yaml"])
    loaded = load_batches(ours, {})
    assert loaded.problems == ()
    source = loaded.batches["one"].batch.source
    assert source is not None
    assert source.model_dump(include=set(expected)) == expected


def test_what_cannot_be_imported_is_named_with_its_place(theirs: Path, ours: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.sql").write_text("select 1 as secret")
    (theirs / "link.sql").symlink_to(tmp_path / "secret.sql")
    (theirs / "link.yaml").symlink_to(tmp_path / "secret.sql")
    put(theirs, "leads_out.yaml", ingest_sql='{% include "./link.sql" %}')
    put(theirs, "climbs_out.yaml", ingest_sql='{% include "../../secret.sql" %}')
    put(theirs, "macro.yaml", ingest_sql="{% macro m() %}1{% endmacro %} select {{ m() }} as a")
    put(theirs, "python_call.yaml", ingest_sql="select {{ ''.__class__ }} as a, {{ lipsum(9) }}")
    put(theirs, "writes.yaml", ingest_sql="delete from sales")
    put(theirs, "mongo.yaml", db="mongodb", ingest_sql="select 1 as a")
    put(theirs, "nothing.yaml")
    put(theirs, "no_function.yaml", ingest_fn="x = 1")
    put(theirs, "asks.yaml", ingest_fn="def ingest(url):\n    return url\n")
    put(theirs, "broken.yaml", ingest_fn="def ingest(:\n")
    (theirs / "large.yaml").write_text("metric_batch: large\n#" + "x" * FILE_BYTES_MAX)
    (theirs / "twice.yaml").write_text("metric_batch: twice\ndb: a\ndb: b\n")
    (theirs / "compose.yaml").write_text("services: {}\n")
    put(theirs, "good.yaml", ingest_sql="select 1 as a")
    done = ask(theirs, ours)
    assert done.exit_code == 1
    assert [path.name for path in sorted((ours / "metrics/imported").iterdir())] == ["good.sql", "good.yaml"]
    assert "1 of 13 batches imported" in done.stdout
    for words in (
        "leads_out.yaml:3: not imported: expected a file within",
        "climbs_out.yaml:3: not imported: expected a file within",
        "macro.yaml:3: not imported: line 1 of the template: macro is not followed",
        "python_call.yaml:3: not imported: line 1 of the template: call is not followed",
        "writes.yaml:1: not imported: what it would become has a mistake: expected a statement that reads",
        "mongo.yaml:4: not imported: expected a db of duckdb",
        "nothing.yaml:1: not imported: expected ingest_sql or ingest_fn, got neither",
        "no_function.yaml:3: not imported: expected a function ingest at the top",
        "asks.yaml:3: not imported: expected a function ingest that is called without arguments",
        "broken.yaml:3: not imported: expected Python",
        "large.yaml:1: expected at most 1,048,576 bytes",
        "twice.yaml:3: expected each key once",
        "compose.yaml:1: it has no metric_batch",
        "link.yaml:1: a link that leads out of the folder is not followed",
    ):
        assert words in done.stdout, words
    nowhere = ask(theirs / "absent", ours)
    assert nowhere.exit_code == 1
    assert "expected a folder of Anomstack's" in nowhere.stderr


def test_python_is_parsed_never_run_and_what_it_needs_is_named(theirs: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (theirs / "shop.py").write_text(INGEST + f"\nopen({str(mark)!r}, 'w')\n")
    put(theirs, "shop.yaml", ingest_fn='{% include "./shop.py" %}')
    found = plan(theirs)
    assert found.batches[0].files["ingest_shop.py"].startswith(INGEST)
    assert not mark.exists()
    words = said(found)
    assert "shop.py:8: needs the package no_such_package_here: install it where batches run" in words
    assert "shop.py:11: reads the environment variable SHOP_TOKEN" in words
    assert "shop.py:11: reads the environment variable SHOP_HOST" in words
    assert found.batches[0].packages == ("no_such_package_here",)
    assert "polars" not in words


def test_names_are_made_ours_and_stay_apart(theirs: Path) -> None:
    put(theirs, "a.yaml", ingest_sql="select 1 as a", metric_batch="My Shop-Orders!")
    put(theirs, "b.yaml", ingest_sql="select 1 as a", metric_batch="my_shop_orders")
    put(theirs, "c.yaml", ingest_sql="select 1 as a", metric_batch="Defaults")
    put(theirs, "d.yaml", ingest_sql="select 1 as a", metric_batch="x" * 80)
    found = plan_import(Folder(theirs), taken={"x" * 64})
    assert [one.name for one in found.batches] == [
        "my_shop_orders",
        "my_shop_orders_anomstack",
        "defaults_anomstack",
        "x" * 52 + "_anomstack",
    ]
    assert "the batch Defaults is called defaults_anomstack here" in said(found)


def test_models_are_kept_where_they_are_wanted(theirs: Path, ours: Path) -> None:
    put(theirs, "two.yaml", ingest_sql="select 1 as a", train_max_n=500, disable_change=True)
    put(
        theirs, "one.yaml", ingest_sql="select 1 as a", disable_change=True, preprocess_params={"diff_n": 0, "lags_n": 9},
        model_configs=[{"model_name": "IForest"}, {"model_name": "DeepSVDD"}],
    )  # fmt: skip
    done = ask(theirs, ours, "--keep-models")
    assert done.exit_code == 0
    assert "one.yaml:9: there is no model DeepSVDD here: left out" in done.stdout
    assert "Models learn from the newest train_max_n values" in done.stdout
    loaded = load_batches(ours, {})
    assert loaded.problems == ()
    (both,), (one,) = (loaded.batches[name].batch.detectors for name in ("two", "one"))
    assert both.ensemble is not None
    assert both.ensemble.combine == "mean"
    made = [pyod for entry in both.ensemble.of if (pyod := entry.pyod)]
    assert [(pyod.name, pyod.lags, pyod.differences, pyod.train) for pyod in made] == [
        ("pca", 5, True, 500),
        ("knn", 5, True, 500),
    ]
    assert one.pyod is not None
    assert (one.pyod.name, one.pyod.lags, one.pyod.differences) == ("iforest", 9, False)


def test_too_much_is_refused(theirs: Path, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        put(theirs, f"{name}.yaml", ingest_sql="select 1 as a")
    monkeypatch.setattr(plans, "BATCHES_MAX", 2)
    assert [one.name for one in plan(theirs).batches] == ["a", "b"]
    assert "c.yaml:1: expected at most 2 batches; the rest is left out" in said(plan(theirs))
    monkeypatch.setattr(folders, "ENTRIES_MAX", 3)
    assert "expected at most 3 files below" in ask(theirs, ours).stderr
