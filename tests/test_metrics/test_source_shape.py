"""What becomes of a source's rows: odd ones are put right and told, what is no table of metrics is refused."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from anomalyze.errors import ConfigError
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import Reading, read
from anomalyze.metrics.sources.contract import Request, broken, silent
from anomalyze.metrics.window import Window
from tests.test_metrics.benches import WINDOW


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


def test_names_that_are_none_are_left_out_and_told(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        "[{'timestamp': 0, 'metric': m, 'value': 1} for m in ('a\\nb', 'x' * 201, '', 'O\\'Brien \"ü\" <b>', 'n' * 200)]",
    )
    assert found.frame["metric"].to_list() == ['O\'Brien "ü" <b>', "n" * 200]
    assert list(found.failures) == ["'a\\nb'", repr("x" * 80 + "…"), "''"]
    assert "expected a name of 1 to 200 characters on one line" in found.failures["''"]


def test_a_time_that_stands_for_never_is_left_out_wherever_the_batch_is(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        "[{'timestamp': t, 'a': 1} for t in (datetime(2025, 11, 1), datetime(9999, 12, 31, 23), date(9999, 12, 31))]",
        timezone="America/New_York",
    )
    assert len(found.frame) == 1
    assert found.notes == (
        "2 × row from the end of the window or after it is left out until its step is over",
    )


def test_times_at_the_ends_of_the_calendar_stop_no_others(tmp_path: Path) -> None:
    for more in ({}, {"timestamps": "measured"}, {"timestamps": "measured", "step": "1d"}):
        found = reading(
            tmp_path,
            "[{'timestamp': t, 'a': 1, 'b': 2} for t in (datetime(1, 1, 1), datetime(9999, 12, 31, 23), datetime(2025, 11, 1))]",
            timezone="Europe/Berlin",
            **more,
        )
        assert found.frame["metric"].to_list() == ["a", "b"]
        assert set(found.failures) == {"a", "b"}
        assert "expected times from 1970 on" in found.failures["a"]


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
        ("[{'placed_at': datetime(2025, 11, 3, h), 'a': h} for h in (1, 2)]", "write placed_at AS timestamp"),
        ("{'day': '2025-11-03', 'a': 1}", "expected a column timestamp, got 1 row of day, a: is it day?"),
        ("[{'a': 1}, {'a': 2}]", "expected a column timestamp, got 2 rows of a"),
        ("[{'metric': m, 'value': 1} for m in 'aab']", "expected a column timestamp, got 3 rows"),
        ("{'a': '\\ud800'}", "expected text, got what no file could hold"),
        ("[{'timestamp': 0, 'metric': str(i), 'value': 1} for i in range(11)]", "at most 10 metrics, got 11"),
        ("7", "expected given:f to give a frame"),
        ("1 / 0", "given:f raised ZeroDivisionError: division by zero (line 6 of given.py)"),
        ("int('x' * 9_000)", "(line 6 of given.py)"),
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


def test_a_time_of_measuring_counts_for_its_step(tmp_path: Path) -> None:
    text = (
        "[{'timestamp': t, 'a': n} for n, t in enumerate(('2025-11-03T01:10:00Z', '2025-11-03T01:50:00Z', "
        "'2025-11-03T04:20:00Z', '2025-11-03T05:00:00Z', None))]"
    )
    found = reading(tmp_path, text, timestamps="measured")
    # The last of a step counts; the step that is not over has its value; what lies behind it is left out.
    assert [(at.hour, value) for _, at, value in found.frame.rows()] == [(1, 1.0), (4, 2.0)]
    assert found.notes[0] == "1 × row without a name or a time is left out"
    assert reading(tmp_path, text).frame["timestamp"].dt.hour().to_list() == [1, 1]
    days = reading(
        tmp_path, "[{'timestamp': '2025-11-02T23:30:00Z', 'a': 1}]", timestamps="measured",
        timezone="Europe/Berlin", step="1d", window=Window(WINDOW.start - dt.timedelta(days=2), WINDOW.start, dt.timedelta(days=1)),
    )  # fmt: skip
    assert days.frame["timestamp"].to_list() == [dt.datetime(2025, 11, 2, 23, tzinfo=dt.UTC)]


def test_duckdb_begins_nothing_but_a_select(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "one.yaml").write_text(
        "source: {kind: duckdb}\nsql: WITH a AS (SELECT 1) DELETE FROM duckdb_tables\n"
    )
    with pytest.raises(ConfigError, match="batch one: expected one SELECT, got DELETE"):
        read(load_batches(tmp_path, {}).batches["one"], WINDOW)


def test_what_a_driver_says_of_an_address_is_told_without_its_secrets(tmp_path: Path) -> None:
    batch = Batch.model_validate({"python": "a:b"})
    request = Request("one", batch, WINDOW, tmp_path, tmp_path, None)
    said = RuntimeError("no host for https://me:hunter2@h/d?key=az_1")
    for told in (
        broken(request, said, ["hunter2", "az_1", ""]),
        silent(request, said, ["hunter2", "az_1", ""]),
    ):
        assert str(told).endswith("no host for https://me:…@h/d?key=…")
