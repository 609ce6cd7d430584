"""Values of metrics are stored once, corrected with a revision, and what cannot be stored is named."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import psycopg
import pytest

from anomalyze.errors import ConfigError, EventError
from anomalyze.storage import metrics_values
from anomalyze.storage.metrics_values import Stored, store_values
from anomalyze.storage.pool import connect

Connection = psycopg.Connection[Any]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def frame(rows: list[tuple[Any, Any, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        rows,
        schema={"metric": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64},
        orient="row",
    )


def hours(metric: str, values: list[float | None]) -> list[tuple[Any, Any, Any]]:
    return [(metric, NOW + timedelta(hours=n - len(values)), value) for n, value in enumerate(values)]


def stored(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT metric, ts, value, revision, ingest FROM metric_values ORDER BY metric, ts"
    ).fetchall()


def test_the_same_rows_again_change_nothing(connection: Connection) -> None:
    rows = frame(hours("orders", [1, 2, None, 4]))
    assert store_values(connection, "shop", rows, NOW) == Stored(4, 4, 0, 0)
    before = stored(connection)
    assert store_values(connection, "shop", rows, NOW) == Stored(4, 0, 0, 4)
    assert stored(connection) == before
    assert [row[2] for row in before] == [1, 2, None, 4]


def test_a_corrected_value_raises_its_revision_and_comes_to_be_scored(connection: Connection) -> None:
    store_values(connection, "shop", frame(hours("orders", [1, 2, 3])), NOW)
    assert store_values(connection, "shop", frame(hours("orders", [1, 5, 3])), NOW) == Stored(3, 0, 1, 2)
    assert [(row[2], row[3], row[4]) for row in stored(connection)] == [(1, 0, 1), (5, 1, 2), (3, 0, 1)]


def test_of_two_rows_for_a_time_the_last_counts(connection: Connection) -> None:
    rows = frame([("a", NOW, 1.0), ("a", NOW + timedelta(microseconds=400), 2.0), ("b", NOW, 3.0)])
    assert store_values(connection, "shop", rows, NOW) == Stored(3, 2, 0, 1)
    assert [row[2] for row in stored(connection)] == [2.0, 3.0]


def test_what_cannot_be_stored_is_named_and_its_neighbours_go_on(connection: Connection) -> None:
    rows = frame(
        [
            *hours("good", [1, 2]),
            ("x" * 201, NOW, 1.0),
            ("", NOW, 1.0),
            (None, NOW, 1.0),
            ("n\0l", NOW, 1.0),
            ("old", datetime(1950, 1, 1, tzinfo=UTC), 1.0),
            ("far", NOW + timedelta(days=5000), 1.0),
            ("timeless", None, 1.0),
            ("hot", NOW, float("inf")),
            ("nan", NOW, float("nan")),
        ]
    )
    done = store_values(connection, "shop", rows, NOW)
    assert {failure.metric for failure in done.failures} == {
        "x" * 200, "", "n\ufffdl", "old", "far", "timeless", "hot",
    }  # fmt: skip
    assert {row[0]: row[2] for row in stored(connection)} == {"good": 2, "hot": None, "nan": None}
    assert "from 1970-01-01 to 2027-11-20" in next(f.reason for f in done.failures if f.metric == "far")


@pytest.mark.parametrize("name", ["o'r\"d; DROP TABLE x --", "zażółć 🦆", "a\nb\\.", "%s {x}"])
def test_names_are_text_whatever_they_contain(connection: Connection, name: str) -> None:
    store_values(connection, name, frame(hours(name, [1])), NOW)
    assert connection.execute("SELECT batch, metric FROM metric_values").fetchall() == [(name, name)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (pl.DataFrame({"metric": ["a"], "value": [1.0]}), "timestamp: expected a column"),
        (frame([("a", NOW, 1.0)]).with_columns(pl.col("timestamp").dt.replace_time_zone(None)), "time zone"),
        (frame([("a", NOW, 1.0)]).with_columns(value=pl.lit("1")), "value: expected numbers"),
    ],
)
def test_a_frame_of_another_shape_is_refused(connection: Connection, wrong: pl.DataFrame, said: str) -> None:
    with pytest.raises(EventError, match=said):
        store_values(connection, "shop", wrong, NOW)


def test_too_many_metrics_are_a_mistake_that_is_named(connection: Connection) -> None:
    rows = pl.DataFrame({"metric": pl.int_range(100_000, eager=True).cast(pl.String), "value": 1.0}).select(
        pl.concat_str(pl.lit("m"), "metric").alias("metric"), pl.lit(NOW).alias("timestamp"), "value"
    )
    with pytest.raises(ConfigError, match="at most 20,000 metrics, got 100,000"):
        store_values(connection, "shop", rows, NOW)
    assert stored(connection) == []


def test_numbers_follow_the_order_in_which_changes_are_committed(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that has seen number n never meets a change with a number below it later."""
    monkeypatch.setattr(metrics_values, "ROWS_A_STEP", 3)
    gate = threading.Barrier(4)
    is_done = threading.Event()
    late: list[Any] = []

    def write(turn: int) -> None:
        with connect(database) as own:
            gate.wait()
            for n in range(8):
                store_values(own, "shop", frame(hours(f"m{turn}", [turn, n, n, n, n])), NOW)

    def read() -> None:
        seen = 0
        counts: dict[int, int] = {}
        with connect(database) as own:
            gate.wait()
            while not is_done.is_set():
                row = own.execute("SELECT ingest FROM metric_batches WHERE batch = 'shop'").fetchone()
                upto = row[0] if row else 0
                now = dict(
                    own.execute(
                        "SELECT ingest, count(*) FROM metric_values WHERE ingest <= %s GROUP BY 1", [upto]
                    ).fetchall()
                )
                late.extend(n for n in now if n <= seen and now[n] > counts.get(n, 0))
                seen, counts = upto, now

    with ThreadPoolExecutor(4) as pool:
        reader = pool.submit(read)
        writers = [pool.submit(write, turn) for turn in range(3)]
        for future in writers:
            future.result()
        is_done.set()
        reader.result()
    assert late == []
