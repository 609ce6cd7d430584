"""What of a batch begins, goes on and ends together is told in one line; sentences name what else is strange."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from anomalyze.log import configure
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.rules import BatchRules
from anomalyze.monitoring.score import score_batch
from anomalyze.storage.metrics_alerts import add_feedback, set_snooze
from anomalyze.storage.metrics_also import what_else
from anomalyze.storage.metrics_values import store_values
from anomalyze.storage.metrics_view import page_alerts
from anomalyze.storage.query import fetch
from tests.test_monitoring.shop import HOUR, NOW, alerts, calm, frame, told

Connection = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def logs_again() -> Iterator[None]:
    """What a test configured ends with it."""
    yield
    structlog.reset_defaults()


class Batch:
    """Metrics whose values come together; above 10 is too much."""

    def __init__(self, connection: Connection, folder: Path, **rules: Any) -> None:
        self.connection, self.folder, self.now = connection, folder, NOW
        self.rules = BatchRules(3600.0, SeriesRules(novelty=False, rarity=False, upper=10, **rules))

    def next(self, **values: Sequence[float | None]) -> list[dict[str, Any]]:
        """Store and score; the lines that the log tells of it."""
        self.now += HOUR * max(len(column) for column in values.values())
        log = self.folder / f"log{self.now.timestamp()}"
        configure("test", to=log)
        store_values(self.connection, "shop", frame(values, self.now), self.now)
        score_batch(self.connection, "shop", self.rules, self.folder, self.now)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["event"] == "metric_alert"]

    def sentences(self) -> dict[str, str]:
        return {one.metric: one.sentence for one in fetch(self.connection, page_alerts(["shop"])).rows}


def test_many_are_told_in_one_line_and_each_is_an_incident(connection: Connection, tmp_path: Path) -> None:
    shop = Batch(connection, tmp_path, priority=1)
    (line,) = shop.next(a=[20], b=[99], c=[30], d=[25], e=[12], calm=[1])
    assert (line["kind"], line["metric"], line["count"], line["priority"]) == ("opened", "b", 5, 1)
    assert line["metrics"] == ["b", "c", "d", "a", "e"]
    assert line["said"] == (
        "5 incidents of shop, the strongest: b = 99, above its limit of 10, at 2026-11-20 12:00 UTC. "
        "Also c, d, a and 1 other"
    )
    lines = told(connection)
    assert [(one.metric, one.told_with is None) for one in lines if one.told_with is None] == [("b", True)]
    leader = next(one for one in lines if one.metric == "b")
    assert line["alert"] == leader.alert_id
    assert line["image"] == f"/v1/alerts/{leader.alert_id}/image"
    assert leader.sentence == line["said"]
    assert {one.told_with for one in lines if one.metric != "b"} == {leader.alert_id}
    assert len(alerts(connection)) == 5
    assert shop.sentences()["a"].endswith("; in the same hours also b, c, d and 1 other")

    # Two end, and the line says what goes on; then the rest does.
    shop.next(a=[1, 1], b=[99, 99], c=[1, 1], d=[30, 30], e=[11, 11])
    (over,) = shop.next(a=[1], b=[99], c=[1], d=[30], e=[11])
    assert (over["kind"], over["said"]) == ("resolved", "2 incidents of shop are over: c and a; 3 go on")
    last = shop.next(b=[1, 1, 1], d=[1, 1, 1], e=[1, 1, 1])[-1]
    assert last["said"] == "3 incidents of shop are over: b, d and e; none goes on"


def test_one_alone_and_one_that_wants_to_be_alone(connection: Connection, tmp_path: Path) -> None:
    shop = Batch(connection, tmp_path)
    shop.rules = replace(shop.rules, named={"c": replace(shop.rules.default, grouped=False)})
    lines = shop.next(a=[20], b=[30], c=[90])
    assert [(line["metric"], line["count"]) for line in lines] == [("b", 2), ("c", 1)]
    assert "metrics" not in lines[1]
    assert lines[1]["said"].startswith("c = 90, above its limit")
    (line,) = shop.next(a=[20], b=[30], c=[90], d=[11])
    assert (line["metric"], line["count"]) == ("d", 1)
    shop.rules = replace(shop.rules, default=replace(shop.rules.default, grouped=False), named={})
    assert len(shop.next(e=[20], f=[20])) == 2


def test_snoozed_members_are_in_no_line(connection: Connection, tmp_path: Path) -> None:
    shop = Batch(connection, tmp_path, remind_every_s=4 * 3600.0)
    shop.next(a=[1], b=[1], c=[1], d=[1])
    assert set_snooze(connection, "shop", "d", shop.now + 9 * HOUR, "a sale", "key_ann")
    (line,) = shop.next(a=[20], b=[30], c=[40], d=[90])
    assert line["metrics"] == ["c", "b", "a"]
    # What is snoozed is strange all the same.
    assert "also d, c and b" in shop.sentences()["a"]
    # One that was told and is snoozed then is not in the reminder, and says that it is over.
    assert set_snooze(connection, "shop", "a", shop.now + 9 * HOUR)
    (line,) = shop.next(**{metric: [50] * 4 for metric in "abcd"})
    assert (line["kind"], line["metrics"]) == ("reminder", ["b", "c"])
    assert line["said"].startswith("2 incidents of shop go on, the strongest: ")
    (over,) = shop.next(**{metric: [1] * 3 for metric in "abcd"})
    assert over["said"] == "3 incidents of shop are over: a, b and c; none goes on"
    assert {row[7] for row in alerts(connection) if row[0] == "d"} == {"snoozed"}
    # Nothing is said twice.
    assert score_batch(connection, "shop", shop.rules, tmp_path, shop.now).alerts == 0
    assert len(told(connection)) == 3 + 2 + 3


def test_those_that_have_no_values_are_told_together(connection: Connection, tmp_path: Path) -> None:
    shop = Batch(connection, tmp_path, late_after_s=2 * 3600.0)
    shop.next(a=[1], b=[1], c=[1])
    shop.now += 5 * HOUR
    (line,) = shop.next(c=[1])
    assert line["said"].startswith("2 incidents of shop, the strongest: a: no value since")
    (line,) = shop.next(a=[1], b=[1], c=[1])
    assert line["said"] == "2 incidents of shop are over: a and b; none goes on"


def test_what_else_is_of_the_same_hours_and_batch(connection: Connection, tmp_path: Path) -> None:
    shop = Batch(connection, tmp_path)
    shop.next(a=[20, 1, 1, 1, 1, 1, 1, 1], b=[1, 20, 1, 1, 1, 1, 1, 1], c=[1, 1, 1, 1, 1, 20, 1, 1])
    assert shop.sentences()["a"].endswith("also b")
    assert "also" not in shop.sentences()["c"]
    store_values(connection, "other", frame({"x": [20]}, shop.now), shop.now)
    score_batch(connection, "other", shop.rules, tmp_path, shop.now)
    first = NOW
    also = fetch(connection, what_else("shop", "a", first, first))
    assert (also.count, also.names) == (1, ["b"])
    everything = fetch(connection, what_else("shop", None, first, shop.now))
    assert (everything.count, sorted(everything.names)) == (3, ["a", "b", "c"])
    assert fetch(connection, what_else("shop", None, first, shop.now, names=1)).count == 3
    # What people dismissed is not worth naming; it is when they confirm one of its kind.
    found = {one.metric: one.alert_id for one in fetch(connection, page_alerts(["shop"])).rows}
    assert add_feedback(connection, found["b"], "dismiss", "ann")
    shop.next(a=[20], b=[20])
    assert fetch(connection, what_else("shop", "a", shop.now - HOUR, shop.now)).count == 0


@pytest.mark.parametrize(("points", "said"), [(500, "is at most one value in 500,"), (60, None)])
def test_how_strange_it_is_is_said_of_many_values_only(
    connection: Connection, tmp_path: Path, points: int, said: str | None
) -> None:
    values = calm(points - 1)
    store_values(connection, "shop", frame({"a": [*values, 9e9], "b": [*values, -9e9]}), NOW)
    score_batch(connection, "shop", BatchRules(3600.0), tmp_path, NOW)
    of = [one.sentence for one in fetch(connection, page_alerts(["shop"], metric="a", state="open")).rows]
    assert len(of) == 1
    if said is None:
        assert "value in" not in of[0]
    else:
        assert f"so high {said}" in of[0]
        (low,) = fetch(connection, page_alerts(["shop"], metric="b", state="open")).rows
        assert f"so low {said}" in low.sentence
