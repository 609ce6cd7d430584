"""A batch from its file to values, scores and incidents in the database; and tried before."""

from __future__ import annotations

import datetime as dt
import itertools
import sqlite3
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anomalyze.cli import app
from anomalyze.errors import ConfigError
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.library import BatchEntry, load_batches
from anomalyze.metrics.prepare import prepare
from anomalyze.metrics.window import Window, floor_to_step
from anomalyze.monitoring.preview import foresee
from anomalyze.monitoring.run import backfill_batch, pieces_of, run_batch
from tests.test_monitoring.shop import HOUR, NOW, calm, frame

POINTS = 600
SPIKE = 580


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A configuration with a batch over a SQLite file of 25 days of hours, a spike on the last."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/orders.yaml").write_text(
        "source: {kind: sqlite, path: shop.db}\nwindow: 2d\nhistory: 30d\nunit: EUR\n"
        "sql: SELECT ts AS timestamp, a, b FROM orders WHERE ts >= :start AND ts < :end\n"
    )
    (tmp_path / "metrics/load.yaml").write_text("python: now:load\nhistory: 30d\n")
    (tmp_path / "metrics/now.py").write_text("def load(window, params):\n    return {'load': 0.5}\n")
    values = calm(POINTS)
    values[SPIKE] = 400.0
    rows = [
        ((NOW + HOUR * (n - POINTS)).strftime("%Y-%m-%d %H:%M:%S"), value, 2 * value)
        for n, value in enumerate(values)
    ]
    with sqlite3.connect(tmp_path / "shop.db") as file:
        file.execute("CREATE TABLE orders (ts TEXT, a REAL, b REAL)")
        file.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
    return tmp_path


def entry(folder: Path, name: str = "orders") -> BatchEntry:
    loaded = load_batches(folder, {})
    assert loaded.problems == ()
    return loaded.batches[name]


def test_history_first_then_what_is_new_or_corrected(
    connection: psycopg.Connection[Any], shop: Path, tmp_path: Path
) -> None:
    banks = tmp_path / "banks"
    told: list[tuple[int, int]] = []
    first = run_batch(connection, entry(shop), banks, now=NOW, progress=lambda *done: told.append(done))
    assert (first.rows, first.new, first.corrected) == (2 * POINTS, 2 * POINTS, 0)
    assert first.scored.scored == 2 * POINTS
    assert first.scored.alerts >= 2
    assert told == [(n, 5) for n in (1, 2, 3, 4, 5)]

    again = run_batch(connection, entry(shop), banks, now=NOW)
    assert (again.rows, again.new, again.corrected, again.scored.scored) == (2 * 48, 0, 0, 0)
    with sqlite3.connect(shop / "shop.db") as file:
        file.execute("UPDATE orders SET a = a + 1 WHERE ts = (SELECT max(ts) FROM orders)")
        file.execute("INSERT INTO orders VALUES (?, 100, 200)", [NOW.strftime("%Y-%m-%d %H:%M:%S")])
    later = run_batch(connection, entry(shop), banks, now=NOW + HOUR)
    assert (later.new, later.corrected, later.scored.alerts) == (2, 1, 0)
    row = connection.execute("SELECT metric, sentence FROM metric_alerts WHERE kind = 'unusual' AND metric = 'a'"
                             " ORDER BY peak_strength DESC LIMIT 1").fetchone()  # fmt: skip
    assert row is not None
    assert "a = 400 EUR" in row[1]


def test_values_that_another_statement_read_are_named_until_they_are_read_again(
    connection: psycopg.Connection[Any], shop: Path, tmp_path: Path
) -> None:
    file, banks = shop / "metrics/orders.yaml", tmp_path / "banks"
    assert run_batch(connection, entry(shop), banks, now=NOW).notes == ()
    # What is only written otherwise, or asked otherwise, is the same.
    file.write_text(file.read_text().replace("a, b FROM", "a,   b FROM") + "schedule: 1 * * * *\n")
    assert run_batch(connection, entry(shop), banks, now=NOW).notes == ()
    file.write_text(file.read_text().replace("AS timestamp, a,   b", "AS timestamp, 10 * a AS a, b"))
    told = (
        "values before 2026-11-18 12:00 UTC were read in another way than the file says now: "
        "anomalyze metrics backfill orders reads them again",
    )
    for _ in range(2):
        assert run_batch(connection, entry(shop), banks, now=NOW).notes == told
    window = entry(shop).batch.window_at(NOW, dt.timedelta(days=10))
    later = backfill_batch(connection, entry(shop), banks, window, now=NOW)
    assert later.corrected == 8 * 24, "what is stored is corrected, and what is again the same is not"
    assert later.notes[0].startswith("values before 2026-11-10 12:00 UTC")
    window = entry(shop).batch.window_at(NOW, dt.timedelta(days=30))
    assert backfill_batch(connection, entry(shop), banks, window, now=NOW).notes == ()
    assert run_batch(connection, entry(shop), banks, now=NOW).notes == ()
    below = connection.execute(
        "SELECT count(*) FROM metric_values WHERE metric = 'a' AND value < 500"
    ).fetchone()
    assert below == (0,)


def test_a_source_that_fails_keeps_what_was_read_and_is_noted(
    connection: psycopg.Connection[Any], shop: Path, tmp_path: Path
) -> None:
    run_batch(connection, entry(shop), tmp_path / "banks", now=NOW)
    (shop / "shop.db").rename(shop / "gone.db")
    with pytest.raises(ConfigError, match="expected a file, got none"):
        run_batch(connection, entry(shop), tmp_path / "banks", now=NOW + HOUR)
    runs = connection.execute(
        "SELECT error, finished_at FROM metric_runs WHERE kind = 'ingest' ORDER BY run_id"
    ).fetchall()
    assert runs[0][0] is None
    assert "expected a file" in runs[1][0]
    assert all(finished is not None for _, finished in runs)
    stored = connection.execute("SELECT count(*) FROM metric_values").fetchone()
    assert stored == (2 * POINTS,)


def test_values_of_now_are_stored_once_and_never_as_the_past(
    connection: psycopg.Connection[Any], shop: Path, tmp_path: Path
) -> None:
    ran = run_batch(connection, entry(shop, "load"), tmp_path / "banks", now=NOW)
    assert (ran.rows, ran.new) == (1, 1)
    assert ran.notes == ("values without a timestamp tell of now: nothing of the past is read",)
    assert connection.execute("SELECT ts, value FROM metric_values").fetchall() == [(NOW, 0.5)]
    past = Window(NOW - 9 * HOUR, NOW - 5 * HOUR, HOUR)
    assert backfill_batch(connection, entry(shop, "load"), tmp_path / "banks", past, now=NOW).new == 0


def test_what_was_measured_is_one_value_a_step(
    connection: psycopg.Connection[Any], shop: Path, tmp_path: Path
) -> None:
    (shop / "metrics/load.yaml").write_text("python: now:load\ntimestamps: measured\nhistory: 2d\n")
    (shop / "metrics/now.py").write_text(
        "import datetime as dt\ndef load(window, params):\n"
        "    return [{'timestamp': window.end + dt.timedelta(minutes=17), 'load': 0.5}]\n"
    )
    minutes = (20, 40, 80)
    new = [
        run_batch(
            connection, entry(shop, "load"), tmp_path / "banks", now=NOW + dt.timedelta(minutes=after)
        ).new
        for after in minutes
    ]
    assert new == [1, 0, 1]
    stored = connection.execute("SELECT ts FROM metric_values ORDER BY ts").fetchall()
    assert stored == [(NOW,), (NOW + HOUR,)]


def test_the_command_stores_and_says_what(
    database: str, connection: psycopg.Connection[Any], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYZE_POSTGRES_DSN", database)
    monkeypatch.setenv("ANOMALYZE_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("ANOMALYZE_DATA_DIR", str(shop / "data"))
    runner, where = CliRunner(), ["--config-dir", str(shop)]
    ran = runner.invoke(app, ["metrics", "run", "load", *where])
    assert ran.exit_code == 0, ran.stderr
    assert "load: 1 rows, 1 new, 0 corrected; 1 scored, 0 incidents." in ran.stdout
    filled = runner.invoke(app, ["metrics", "backfill", "load", "--back", "2d", *where])
    assert "load: 1 rows, 0 new" in filled.stdout
    assert connection.execute("SELECT metric, value FROM metric_values").fetchall() == [("load", 0.5)]
    again = runner.invoke(app, ["metrics", "rescore", "load", *where])
    assert again.stdout == "load: 1 metrics scored again, 0 scores new or others, 0 incidents that go on.\n"
    wrong = runner.invoke(app, ["metrics", "backfill", "load", "--back", "2x", *where])
    assert "expected a whole number with one of the units" in wrong.stderr
    (shop / "metrics/now.py").write_text(
        "def load(window, params):\n    return {'load': 0.5, 'words': 'much'}\n"
    )
    half = runner.invoke(app, ["metrics", "run", "load", *where])
    assert half.exit_code == 1
    assert "load: 1 rows" in half.stdout
    assert "words: expected" in half.stdout
    assert runner.invoke(app, ["metrics", "run", "load", "--json", *where]).exit_code == 1


def test_a_preview_foresees_the_spike_and_stores_nothing(shop: Path) -> None:
    values = calm(POINTS)
    values[SPIKE] = 400.0
    rows = frame({"a": values, "b": calm(POINTS, 2)})
    found = foresee(rows, Batch(python="x:y"))
    spike = max(found, key=lambda one: one.incident.severity)
    assert (spike.metric, spike.incident.kind) == ("a", "unusual")
    assert spike.incident.peak_ms == int((NOW + HOUR * (SPIKE - POINTS)).timestamp() * 1000)
    assert "a = 400" in spike.sentence
    calmed = Batch.model_validate({"python": "x:y", "detectors": [], "thresholds": {"upper": 390}})
    assert [(one.metric, one.incident.kind) for one in foresee(rows, calmed)] == [("a", "upper")]
    low = Batch.model_validate({"python": "x:y", "metrics": {"a": {"direction": "down"}}})
    assert not [one for one in foresee(rows, low) if one.incident.peak_value == 400]
    assert foresee(rows.clear(), calmed) == []


def test_each_metric_is_prepared_in_its_own_way() -> None:
    rows = frame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, None, 3.0, 4.0], "c": [1.0, 2.0, 3.0, 4.0]})
    batch = Batch.model_validate(
        {
            "python": "x:y",
            "metrics": {
                "a": {"preprocessing": {"resample": "2h", "aggregate": "sum"}},
                "b": {"preprocessing": {"fill": "zero"}},
            },
        }
    )
    made = prepare(rows, batch, Window(NOW - 4 * HOUR, NOW, HOUR), Path()).frame
    assert [(metric, (NOW - at) // HOUR, value) for metric, at, value in made.iter_rows()] == [
        ("a", 4, 3.0),
        ("a", 2, 7.0),
        ("b", 4, 1.0),
        ("b", 3, 0.0),
        ("b", 2, 3.0),
        ("b", 1, 4.0),
        ("c", 4, 1.0),
        ("c", 3, 2.0),
        ("c", 2, 3.0),
        ("c", 1, 4.0),
    ]
    assert prepare(rows.clear(), batch, Window(NOW, NOW, HOUR), Path()).frame.is_empty()
    years = Window(NOW - 366 * dt.timedelta(days=1), NOW, dt.timedelta(minutes=1))
    fine = Batch.model_validate({"python": "x:y", "preprocessing": {"resample": "5s", "fill": "zero"}})
    with pytest.raises(ConfigError, match="at most 5,000,000 rows of a read, got 18,973,440"):
        prepare(rows, fine, years, Path())
    with pytest.raises(ValueError, match="at least twice"):
        Batch.model_validate({"python": "x:y", "window": "1d", "preprocessing": {"resample": "1d"}})


def test_a_function_of_one_s_own_prepares_and_a_failing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import polars as pl\n"
        "def halve(frame, params):\n"
        "    return frame.select('timestamp', pl.col('value') / params['by']).tail(2)\n"
        "def boom(frame, params):\n"
        "    raise ValueError('no such day')\n"
        "def ahead(frame, params):\n"
        "    return frame.with_columns(pl.col('timestamp').dt.offset_by('1h'))\n"
        "def words(frame, params):\n"
        "    return frame.with_columns(value=pl.lit('much'))\n"
        "def twice(frame, params):\n"
        "    return pl.concat([frame, frame])\n"
        "def gone(frame, params):\n"
        "    import os\n"
        "    os._exit(7)\n"
        "def nothing(frame, params):\n"
        "    return None\n"
    )
    ways = {
        "boom": "no such day",
        "ahead": "expected times that were given",
        "words": "expected numbers as values, got String",
        "twice": "each at most once",
        "nothing": "expected a polars frame with timestamp and value, got NoneType",
        "absent": "expected a function absent in own",
        "gone": "ended its process with code 7",
    }
    rows = frame({name: [1.0, 2.0, 3.0] for name in ("good", *ways)})
    batch = Batch.model_validate(
        {
            "python": "x:y",
            "params": {"by": 2},
            "preprocessing": {"function": "own:halve"},
            "metrics": {name: {"preprocessing": {"function": f"own:{name}"}} for name in ways},
        }
    )
    made = prepare(rows, batch, Window(NOW - 3 * HOUR, NOW, HOUR), tmp_path)
    assert [(metric, value) for metric, _, value in made.frame.iter_rows()] == [("good", 1.0), ("good", 1.5)]
    assert set(made.failures) == set(ways)
    for name, words in ways.items():
        assert words in made.failures[name]


def test_a_metric_whose_function_fails_is_named_in_the_run(
    connection: psycopg.Connection[Any], shop: Path, tmp_path: Path
) -> None:
    folder = entry(shop).path.parent
    (folder / "own.py").write_text("def boom(frame, params):\n    raise ValueError('no such day')\n")
    text = (folder / "orders.yaml").read_text()
    (folder / "orders.yaml").write_text(text + "\nmetrics: {a: {preprocessing: {function: 'own:boom'}}}\n")
    ran = run_batch(connection, entry(shop), tmp_path / "banks", now=NOW)
    assert [(one.metric, one.reason) for one in ran.failures] == [
        ("a", "preprocessing: own:boom raised ValueError: no such day (line 2 of own.py)")
    ]
    assert connection.execute("SELECT DISTINCT metric FROM metric_values").fetchall() == [("b",)]


@settings(deadline=None)
@given(
    st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2026, 1, 1), timezones=st.just(dt.UTC)),
    st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC"]),
    st.sampled_from(["5m", "1h", "6h", "1d", "1w"]),
    st.sampled_from([None, "6h", "1d"]),
    st.sampled_from(["3h", "40d", "400d"]),
)
def test_pieces_are_the_window_and_cut_no_step(
    now: dt.datetime, zone: str, step: str, resample: str | None, history: str
) -> None:
    batch = Batch.model_validate(
        {
            "python": "x:y",
            "timezone": zone,
            "step": step,
            "history": history,
            "window": "14d",
            "preprocessing": {"resample": resample},
        }
    )
    window = batch.window_at(now, batch.history)
    pieces = list(pieces_of(batch, window))
    if window.start == window.end:
        assert pieces == []
        return
    assert (pieces[0].start, pieces[-1].end) == (window.start, window.end)
    longest = max(batch.step, batch.preprocessing.resample or batch.step)
    for one, following in itertools.pairwise(pieces):
        assert one.start < one.end == following.start
        assert floor_to_step(one.end, longest, ZoneInfo(zone)) == one.end
    assert len(pieces) <= 400 / 7 + 2
