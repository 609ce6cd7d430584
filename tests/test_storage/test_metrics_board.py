"""What is drawn of a series: no peak and no mark is lost, however few points are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from anomalyze.storage import metrics_board
from anomalyze.storage.metrics_board import (
    Line,
    like_pattern,
    load_board,
    load_incident_lines,
    load_line,
)
from anomalyze.storage.metrics_view import list_metrics, load_metric
from anomalyze.storage.query import fetch
from tests.browser.metric_seed import HOUR, Series, Strange, last_hour, seed_batch

HOURS = 40 * 24
STRANGE = (Strange(900, 900, 30, 4), Strange(500, 498, -25, 3), Strange(7, 7, 5, 1))


@pytest.fixture
def connection(database: str) -> Any:
    """A series of forty days, and one that ended a month ago."""
    with psycopg.connect(database, autocommit=True) as connection:
        seed_batch(connection, "shop", [Series("orders", strange=STRANGE), Series("calm")], hours=HOURS)
        seed_batch(connection, "old", [Series("visits")], hours=200, newest=last_hour() - timedelta(days=30))
        yield connection


def line_of(connection: Any, days: int, parts: int, metric: str = "orders") -> Line:
    end = last_hour()
    return fetch(connection, load_line("shop", metric, end - timedelta(days=days) + HOUR, end, parts))


def test_thinned_lines_keep_peaks_and_marks(connection: Any) -> None:
    whole, thin = line_of(connection, 40, HOURS), line_of(connection, 40, 24)
    assert (whole.points, len(whole.ts), thin.points) == (HOURS, HOURS, HOURS)
    assert len(thin.ts) <= 3 * 24 + 1
    points = list(zip(whole.ts, whole.value, whole.lower, whole.upper, whole.severity, strict=True))
    kept = list(zip(thin.ts, thin.value, thin.lower, thin.upper, thin.severity, strict=True))
    assert set(kept) <= set(points), "points as they are, none made of others"
    assert kept == sorted(kept)
    assert sorted({severity for severity in thin.severity if severity}) == [1, 3, 4]
    calm, few = (line_of(connection, 40, parts, "calm").value for parts in (HOURS, 24))
    assert len(few) < len(calm)
    assert (max(few), min(few)) == (max(calm), min(calm))  # type: ignore[type-var]


def test_few_points_are_all_shown(connection: Any) -> None:
    assert len(line_of(connection, 3, 24).ts) == 72
    assert line_of(connection, 2, 24).points == 48


def test_a_series_that_ended_keeps_its_last_days(connection: Any) -> None:
    (old,) = fetch(connection, load_board(["old"], last_hour() + HOUR))
    (row,) = old.rows
    assert row.line.points == 7 * 24 + 1
    assert row.newest_ts is not None
    assert row.line.ts[-1] == row.newest_ts.timestamp()
    assert (row.anomalies, old.rate, old.now) == (0, 0.0, 0)


def test_what_a_detector_by_name_found_is_counted_once_and_marked(connection: Any) -> None:
    newest = last_hour()
    for detector, back, severity in (
        ("shift", 3, 2),
        ("seasonal_z", 3, 3),
        ("seasonal_z", 7, 2),
        ("novelty", 9, 4),
    ):
        connection.execute(
            "INSERT INTO metric_scores SELECT batch, metric, ts, %s, 77, 0, 0, 0, 0, 0, 0, 0, %s, 0 FROM metric_scores "
            "WHERE metric = 'orders' AND detector = 'novelty' AND version = 1 AND ts = %s",
            [detector, severity, newest - back * HOUR],
        )
    (shop,) = fetch(
        connection, load_board(["shop"], newest + HOUR, patterns={"shop": [like_pattern("orders")]})
    )
    (row,) = shop.rows
    assert row.anomalies == 2, "one at 7 that two found, one at 3; an older version of novelty does not count"
    assert [severity for severity in row.line.severity if severity] == [2, 3]
    assert row.line.points == 7 * 24
    listed = fetch(connection, load_metric("shop", "orders", newest + HOUR))
    assert listed is not None
    assert (listed.recent_anomalies, listed.recent_points) == (2, 7 * 24)
    line = line_of(connection, 2, 24)
    assert (line.points, [severity for severity in line.severity if severity]) == (48, [2, 3])
    assert all(line.value), "values are those that the default detector saw"


def test_a_list_counts_a_week_of_the_detector_that_judges(connection: Any) -> None:
    """Of three strange points one is of the last seven days; another version's are not counted beside."""
    connection.execute(
        "INSERT INTO metric_scores SELECT batch, metric, ts, detector, version + 1, value, novelty, surprise, rarity, "
        "expected, lower, upper, 4, flags FROM metric_scores WHERE batch = 'shop' AND ts > now() - interval '1 day'"
    )
    visits, calm, orders = fetch(connection, list_metrics(["old", "shop"])).rows
    assert (orders.metric, orders.recent_anomalies, calm.recent_anomalies) == ("orders", 1, 0)
    assert 167 <= orders.recent_points <= 168
    assert (visits.metric, visits.recent_anomalies, visits.recent_points) == ("visits", 0, 0)
    assert fetch(connection, load_metric("shop", "orders")) == orders


def test_of_many_points_some_are_read_and_all_that_is_strange(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, strange = last_hour() + HOUR, [3, 20]
    connection.execute(
        "UPDATE metric_scores SET severity = 3 WHERE metric = 'calm' AND ts = ANY(%s)",
        [[last_hour() - back * HOUR for back in strange]],
    )
    whole = line_of(connection, 8, HOURS, "calm")
    monkeypatch.setattr(metrics_board, "FINE_POINTS", 100)
    asked = load_board(["shop"], now, window=7 * 24 * HOUR, patterns={"shop": ["calm"]})
    some = fetch(connection, asked)[0].rows[0].line
    assert set(zip(some.ts, some.value, strict=True)) < set(zip(whole.ts, whole.value, strict=True))
    assert 60 < len(some.ts) <= 86
    assert some.points == 7 * 24
    marks = [ts for ts, severity in zip(some.ts, some.severity, strict=True) if severity == 3]
    assert marks == [(last_hour() - back * HOUR).timestamp() for back in sorted(strange, reverse=True)]


def test_an_incident_s_line_is_of_what_lies_around_it(connection: Any) -> None:
    ids = {
        str(opened): alert_id
        for alert_id, opened in connection.execute(
            "SELECT alert_id, opened_ts FROM metric_alerts WHERE metric = 'orders'"
        )
    }
    assert len(ids) == 3
    opened = last_hour() - 500 * HOUR
    lines = fetch(connection, load_incident_lines(["shop"], list(ids.values())))
    assert set(lines) == set(ids.values())
    one = lines[ids[str(opened)]]
    assert (opened - one.since, one.until - opened) == (60 * HOUR, 14 * HOUR)
    assert one.line.points == 75
    marks = [ts for ts, severity in zip(one.line.ts, one.line.severity, strict=True) if severity == 3]
    assert marks == [(opened + n * HOUR).timestamp() for n in range(3)]
    assert fetch(connection, load_incident_lines(["old"], list(ids.values()))) == {}
