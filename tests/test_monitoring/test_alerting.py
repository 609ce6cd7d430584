"""One alert an incident; who is told of it, when not, and what people's answers change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from anomalyze.errors import EventError
from anomalyze.metrics.judgement import Maintenance, SeriesRules
from anomalyze.metrics.rules import BatchRules
from anomalyze.monitoring.keep import is_in_maintenance
from anomalyze.monitoring.score import score_batch
from anomalyze.storage.metrics_alerts import add_feedback, set_snooze
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.metrics_view import page_alerts
from anomalyze.storage.query import fetch
from tests.test_monitoring.shop import HOUR, NOW, alerts, calm, frame, notices, told

Connection = psycopg.Connection[Any]
OPEN, OVER = 1, 2


def only(**rules: Any) -> BatchRules:
    """Only thresholds judge: what is flagged is plain to see."""
    return BatchRules(3600.0, SeriesRules(novelty=False, rarity=False, **rules))


class Shop:
    """One metric whose values come hour by hour."""

    def __init__(self, connection: Connection, folder: Path, rules: BatchRules) -> None:
        self.connection, self.folder, self.rules, self.now = connection, folder, rules, NOW

    def next(self, *values: float | None, later: timedelta = timedelta(0)) -> int:
        """Store and score; how many incidents began."""
        self.now += HOUR * len(values) + later
        return self.now_is(frame({"a": list(values)}, self.now))

    def now_is(self, rows: Any) -> int:
        store_values(self.connection, "shop", rows, self.now)
        return score_batch(self.connection, "shop", self.rules, self.folder, self.now).alerts

    def told(self) -> list[str]:
        return [kind for _, kind in notices(self.connection)]


def shop(connection: Connection, folder: Path, **rules: Any) -> Shop:
    return Shop(connection, folder, only(**rules))


def test_one_alert_for_many_points_and_it_resolves_itself(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10)
    a.next(1, 2, 20, 30)
    assert alerts(connection) == [("a", "upper", OPEN, 3, 3, 4, 2, None)]
    a.next(25)
    a.next(1)
    a.next(1)
    assert a.told() == ["opened"]
    a.next(1)
    assert alerts(connection) == [("a", "upper", OVER, 3, 3, 5, 3, None)]
    assert a.told() == ["opened", "resolved"]
    said = [one.sentence for one in told(connection)]
    assert said[0] == "a = 30, above its limit of 10, since 2026-11-20 14:00 UTC (2 points)"
    assert said[1] == "a is within its limits again; it lasted 2 hours"
    a.next(20)
    assert a.told() == ["opened", "resolved", "opened"]


@pytest.mark.parametrize(
    ("rules", "values", "kind", "sentence"),
    [
        ({"lower": 5}, [9, 9, 1], "lower", "a = 1, below its limit of 5, at"),
        (
            {"change_percent": 50},
            [100, 110, 200],
            "change",
            "a = 200, up by 82% from the value before; 50% are allowed, at",
        ),
        ({"flat_for_s": 7200}, [1, 2, 2, 2], "flat", "a = 2 has not changed for 2 hours, at"),
    ],
)
def test_each_kind_says_what_it_is(
    connection: Connection,
    tmp_path: Path,
    rules: dict[str, Any],
    values: Sequence[float],
    kind: str,
    sentence: str,
) -> None:
    shop(connection, tmp_path, **rules).next(*values)
    (found,) = fetch(connection, page_alerts(["shop"])).rows
    assert found.kind == kind
    assert found.sentence.startswith(sentence)


@pytest.mark.parametrize(("direction", "expected"), [("up", 1), ("down", 0), ("both", 1)])
def test_the_good_direction_is_no_incident(
    connection: Connection, tmp_path: Path, direction: Any, expected: int
) -> None:
    values = [*calm(200), 400.0]
    store_values(connection, "shop", frame({"a": values}), NOW)
    score_batch(connection, "shop", BatchRules(3600.0, SeriesRules(direction=direction)), tmp_path, NOW)
    assert len(notices(connection)) == expected


def test_what_a_short_series_has_never_shown_is_told_only_when_critical(
    connection: Connection, tmp_path: Path
) -> None:
    store_values(connection, "shop", frame({"a": [*calm(60), 125.0], "b": [*calm(60), 9e9]}), NOW)
    score_batch(connection, "shop", BatchRules(3600.0), tmp_path, NOW)
    assert [metric for metric, _ in notices(connection)] == ["b"]
    assert ("a", "learning") in {(row[0], row[7]) for row in alerts(connection)}


def test_nobody_is_told_of_history(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10)
    assert a.next(*([1.0] * 10 + [20.0] + [1.0] * 30)) == 1
    assert alerts(connection)[0][7] == "history"
    assert a.told() == []


def test_a_minimum_duration(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10, lasts_min_s=7200.0)
    a.next(1, 20, 20)
    assert a.told() == []
    assert fetch(connection, page_alerts(["shop"])).rows == []
    a.next(1, 1, 1)
    assert alerts(connection) == []
    a.next(20)
    a.next(20)
    a.next(20)
    assert a.told() == ["opened"]


def test_a_cooldown(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10, cooldown_s=6 * 3600.0)
    a.next(20, 1, 1, 1)
    a.next(20, 1, 1, 1)
    assert [row[7] for row in alerts(connection)] == [None, "cooldown"]
    assert a.told() == ["opened", "resolved"]
    a.next(1, 1, 1, 20)
    assert a.told() == ["opened", "resolved", "opened"]


def test_a_snooze_ends(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10)
    a.next(1)
    assert set_snooze(connection, "shop", "a", a.now + 2 * HOUR)
    assert not set_snooze(connection, "shop", "other", a.now)
    a.next(20)
    assert (alerts(connection)[0][7], a.told()) == ("snoozed", [])
    a.next(20, later=HOUR)
    assert (alerts(connection)[0][7], a.told()) == (None, ["opened"])
    assert set_snooze(connection, "shop", None, a.now + 5 * HOUR)
    a.next(1, 1, 1, 20)
    assert a.told() == ["opened", "resolved"]


def test_maintenance(connection: Connection, tmp_path: Path) -> None:
    # NOW is Friday noon: the hour after it is one in which nobody is told.
    window = Maintenance("0 13 * * FRI", 3600.0)
    a = shop(connection, tmp_path, upper=10, maintenance=(window,))
    a.next(20)
    assert (alerts(connection)[0][7], a.told()) == ("maintenance", [])
    a.next(20, later=timedelta(minutes=1))
    assert a.told() == ["opened"]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2025-03-29T01:30+00:00", True),  # 02:30
        ("2025-03-30T00:59+00:00", False),
        ("2025-03-30T01:30+00:00", True),  # the night without 02:00: from 03:00 on
        ("2025-10-26T00:30+00:00", True),  # 02:30 for the first time
        ("2025-10-26T03:30+00:00", False),
    ],
)
def test_maintenance_begins_by_the_local_clock(moment: str, expected: bool) -> None:
    rule = SeriesRules(maintenance=(Maintenance("0 2 * * *", 3600.0, "Europe/Berlin"),))
    assert is_in_maintenance(rule, datetime.fromisoformat(moment)) is expected


def test_reminders_come_once_each(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10, remind_every_s=4 * 3600.0)
    a.next(20)
    for _ in range(9):
        a.next(20)
        score_batch(connection, "shop", a.rules, a.folder, a.now)
    assert a.told() == ["opened", "reminder", "reminder"]


def test_severity_below_the_least_is_kept_and_not_told(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10, severity_min=4)
    a.next(20)
    assert (alerts(connection)[0][7], a.told()) == ("severity", [])


def test_data_that_do_not_come(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, late_after_s=3 * 3600.0)
    a.next(1, 2)
    for _ in range(3):
        a.now += 2 * HOUR
        score_batch(connection, "shop", a.rules, a.folder, a.now)
    assert a.told() == ["opened"]
    assert [one.sentence for one in fetch(connection, page_alerts(["shop"])).rows] == [
        "a: no value since 2026-11-20 13:00 UTC; one is expected every 3 hours"
    ]
    a.next(3)
    assert a.told() == ["opened", "resolved"]


def test_a_corrected_peak_ends_its_incident(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10)
    a.next(1, 1, 20)
    a.now_is(frame({"a": [1, 1, 2]}, a.now))
    assert alerts(connection)[0][2] == OVER
    assert a.told() == ["opened", "resolved"]


def test_a_late_value_that_is_strange_is_told(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10)
    a.next(1, None, 1, 1, 1)
    a.now_is(frame({"a": [20]}, a.now - 3 * HOUR))
    assert a.told() == ["opened", "resolved"]
    a.now_is(frame({"a": [21]}, a.now - 3 * HOUR))
    assert len(alerts(connection)) == 1


def test_a_dismissed_kind_is_lowered_until_it_is_confirmed(connection: Connection, tmp_path: Path) -> None:
    a = shop(connection, tmp_path, upper=10)
    a.next(20, 1, 1, 1)
    (first,) = fetch(connection, page_alerts(["shop"])).rows
    assert add_feedback(connection, first.alert_id, "dismiss", "ann", "a sale")
    assert fetch(connection, page_alerts(["shop"])).rows[0].feedback == "dismiss"
    a.next(20, 1, 1, 1)
    assert alerts(connection)[1][3::4] == (2, "dismissed")
    # More than twice as far is something else.
    a.next(90, 1, 1, 1)
    assert alerts(connection)[2][3::4] == (3, None)
    assert add_feedback(connection, first.alert_id, "confirm", "ann")
    a.next(20, 1, 1, 1)
    assert alerts(connection)[3][3::4] == (3, None)
    assert not add_feedback(connection, 10**9, "confirm", "ann")
    with pytest.raises(EventError, match="confirm or dismiss"):
        add_feedback(connection, first.alert_id, "perhaps", "ann")
