"""Settings that change hold for what is stored: its scores are those of the new ones, and nobody hears of what was over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from anomalyze.log import configure
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.judgement import SeriesRules
from anomalyze.metrics.rules import BatchRules, rules_of
from anomalyze.monitoring.score import Scored, retrain_batch, score_batch
from anomalyze.storage import metrics_scores, metrics_values
from anomalyze.storage.metrics_values import store_values
from tests.test_monitoring.shop import HOUR, NOW, alerts, calm, frame, notices, scores

Connection = psycopg.Connection[Any]
PLAIN = SeriesRules(novelty=False, rarity=False)
SEASONAL = "seasonal_z"


@pytest.fixture(autouse=True)
def logs_again() -> Iterator[None]:
    """What a test configured ends with it."""
    yield
    structlog.reset_defaults()


def rules(**own: Any) -> BatchRules:
    return BatchRules(3600.0, replace(PLAIN, **own))


def by_words(*detectors: Any, **keys: Any) -> BatchRules:
    batch = Batch.model_validate({"python": "x:y", "detectors": list(detectors), **keys})
    return rules_of(batch, ["a"])


def fresh(connection: Connection, values: Any, folder: Path, judged: BatchRules) -> list[tuple[Any, ...]]:
    """The scores of a batch that had these settings from the start."""
    store_values(connection, "fresh", frame(values), NOW)
    score_batch(connection, "fresh", judged, folder / "fresh", NOW)
    return scores(connection, "fresh")


def test_a_threshold_that_changes_holds_for_what_is_stored(connection: Connection, tmp_path: Path) -> None:
    """Two old spikes, one incident that goes on: the first are marked, the last is told of, once."""
    values = {"a": calm(200), "b": calm(200, 2)}
    values["a"][50], values["a"][120] = 300.0, 320.0
    values["a"][-3:] = [310.0, 305.0, 300.0]
    store_values(connection, "shop", frame(values), NOW)
    score_batch(connection, "shop", rules(), tmp_path, NOW)
    assert alerts(connection) == []
    configure("test", to=tmp_path / "log")
    done = score_batch(connection, "shop", rules(upper=290.0), tmp_path, NOW)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (line,) = [one for one in lines if one["event"] == "metric_settings_changed"]
    assert (line["count"], line["metrics"]) == (2, ["a", "b"])
    assert (done.rebuilt, done.scored, done.alerts) == (2, 5, 1)
    assert alerts(connection) == [("a", "upper", 1, 3, -2, 0, 3, None)]
    assert notices(connection) == [("a", "opened")]
    # A repeat finds nothing to do, with what only decides who is told as well.
    assert score_batch(connection, "shop", rules(upper=290.0), tmp_path, NOW) == Scored()
    assert score_batch(connection, "shop", rules(upper=290.0, unit="EUR"), tmp_path, NOW) == Scored()
    assert retrain_batch(connection, "shop", rules(upper=290.0), tmp_path, NOW).alerts == 0
    assert len(notices(connection)) == 1
    assert scores(connection) == fresh(connection, values, tmp_path, rules(upper=290.0))


def test_an_incident_goes_on_or_ends_as_the_new_settings_say(connection: Connection, tmp_path: Path) -> None:
    values = {"a": [*calm(200), 310.0, 305.0]}
    store_values(connection, "shop", frame(values), NOW)
    score_batch(connection, "shop", rules(upper=290.0), tmp_path, NOW)
    score_batch(connection, "shop", rules(upper=200.0), tmp_path, NOW)
    assert alerts(connection) == [("a", "upper", 1, 3, -1, 0, 2, None)]
    # Neither a limit nor a preprocessing under which it is nothing leaves it open.
    score_batch(connection, "shop", rules(upper=400.0), tmp_path, NOW)
    assert alerts(connection) == [("a", "upper", 2, 3, -1, 0, 2, None)]
    assert notices(connection) == [("a", "opened"), ("a", "resolved")]
    row = connection.execute("SELECT resolution FROM metric_alerts").fetchone()
    assert row == ("settings changed",)
    # It would have begun earlier: it is known all the same.
    score_batch(connection, "shop", rules(upper=-90.0), tmp_path, NOW)
    assert len(alerts(connection)) == 1
    score_batch(connection, "shop", rules(upper=400.0), tmp_path, NOW)
    # Back again: it is known, and nobody is told a second time.
    score_batch(connection, "shop", rules(upper=290.0), tmp_path, NOW)
    assert len(alerts(connection)) == 1
    assert len(notices(connection)) == 2


@pytest.mark.parametrize("change", [{"difference": 1}, {"lag_s": 86_400.0}, {"direction": "down"}])
def test_values_that_come_with_a_change_are_judged_by_it_alone(
    connection: Connection, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level of 100 and then differences about 0, taken for one series, would be the greatest fall there ever was."""
    monkeypatch.setattr(metrics_scores, "ROWS_A_TURN", 3)
    values = {"a": calm(200), "b": calm(200, 2)}
    store_values(
        connection, "shop", frame({name: one[:-4] for name, one in values.items()}, NOW - 4 * HOUR), NOW
    )
    score_batch(connection, "shop", BatchRules(3600.0), tmp_path, NOW)
    before = len(notices(connection))
    for n in (3, 2, 1, 0):
        part = {name: one[: 200 - n] for name, one in values.items()}
        store_values(connection, "shop", frame(part, NOW - n * HOUR), NOW)
    changed = BatchRules(3600.0, SeriesRules(**change))
    score_batch(connection, "shop", changed, tmp_path, NOW)
    assert len(notices(connection)) == before
    monkeypatch.undo()
    assert scores(connection) == fresh(connection, values, tmp_path, changed)


def test_detectors_by_name_are_of_the_settings_too(connection: Connection, tmp_path: Path) -> None:
    values = {"a": [*calm(400), 160.0]}
    store_values(connection, "shop", frame(values), NOW)
    score_batch(connection, "shop", by_words({SEASONAL: {"threshold": 50}}), tmp_path, NOW)
    assert alerts(connection) == []
    strict = by_words({SEASONAL: {"threshold": 5}})
    score_batch(connection, "shop", strict, tmp_path, NOW)
    assert scores(connection) == fresh(connection, values, tmp_path, strict)
    assert [row[:2] for row in alerts(connection)] == [("a", SEASONAL)]
    down = by_words({SEASONAL: {"threshold": 5}}, direction="down")
    score_batch(connection, "shop", down, tmp_path, NOW)
    connection.execute("DELETE FROM metric_scores WHERE batch = 'fresh'")
    connection.execute("DELETE FROM metric_values WHERE batch = 'fresh'")
    connection.execute("DELETE FROM metric_series WHERE batch = 'fresh'")
    assert scores(connection) == fresh(connection, values, tmp_path / "down", down)
    assert [row[2] for row in alerts(connection)] == [2]
    score_batch(connection, "shop", by_words(), tmp_path, NOW)
    detectors = connection.execute(
        "SELECT DISTINCT detector FROM metric_scores WHERE batch = 'shop'"
    ).fetchall()
    assert detectors == [("novelty",)]


def test_what_was_scored_before_settings_were_known_is_left(connection: Connection, tmp_path: Path) -> None:
    store_values(connection, "shop", frame({"a": calm(50)}), NOW)
    score_batch(connection, "shop", rules(), tmp_path, NOW)
    connection.execute("UPDATE metric_series SET judged_by = 0, shaped_by = 0")
    assert score_batch(connection, "shop", rules(upper=100.0), tmp_path, NOW) == Scored()


def test_a_series_whose_values_all_went_begins_anew(connection: Connection, tmp_path: Path) -> None:
    store_values(connection, "shop", frame({"a": calm(50)}), NOW)
    score_batch(connection, "shop", rules(), tmp_path, NOW)
    connection.execute("DELETE FROM metric_values")
    assert score_batch(connection, "shop", rules(upper=100.0), tmp_path, NOW).scored == 0
    assert score_batch(connection, "shop", rules(upper=100.0), tmp_path, NOW) == Scored()


def test_a_relation_that_changes_in_many_turns_is_told_of_once(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def related(relation: dict[str, Any]) -> BatchRules:
        batch = Batch.model_validate(
            {"python": "x:y", "detectors": [], "thresholds": {"upper": 150}, "relations": {"r": relation}}
        )
        return rules_of(batch, ["a", "b"])

    store_values(connection, "shop", frame({"a": calm(150), "b": calm(150, 2)}), NOW)
    score_batch(connection, "shop", related({"ratio": ["a", "b"]}), tmp_path, NOW)
    monkeypatch.setattr(metrics_scores, "ROWS_A_TURN", 40)
    monkeypatch.setattr(metrics_values, "ROWS_A_STEP", 40)
    score_batch(connection, "shop", related({"sum": ["a", "b"]}), tmp_path, NOW)
    assert [row[:4] for row in alerts(connection)] == [("r", "upper", 1, 3)]
    assert notices(connection) == [("r", "opened")]


def test_a_relation_whose_definition_changes_is_made_again(connection: Connection, tmp_path: Path) -> None:
    orders, visits = calm(150), calm(150, 2)
    orders[20] = 0.0

    def related(relation: dict[str, Any]) -> BatchRules:
        batch = Batch.model_validate(
            {"python": "x:y", "detectors": [], "relations": {"r": relation},
             "metrics": {"r": {"thresholds": {"upper": 150}}}}
        )  # fmt: skip
        return rules_of(batch, ["orders", "visits"])

    def stored(batch: str = "shop") -> list[tuple[Any, ...]]:
        return connection.execute(
            "SELECT ts, value FROM metric_values WHERE batch = %s AND metric = 'r' ORDER BY ts", [batch]
        ).fetchall()

    values = {"orders": orders, "visits": visits}
    store_values(connection, "shop", frame(values), NOW)
    # At this time there is no order, so that nothing is the ratio's.
    connection.execute("DELETE FROM metric_values WHERE metric = 'orders' AND ts = %s", [NOW - 150 * HOUR])
    score_batch(connection, "shop", related({"sum": ["visits", "visits"]}), tmp_path, NOW)
    told = len(notices(connection))
    assert len(stored()) == 150
    done = score_batch(connection, "shop", related({"ratio": ["visits", "orders"]}), tmp_path, NOW)
    found = stored()
    assert found[0][1] is None
    assert found[20][1] is None
    assert found[-1][1] == visits[-1] / orders[-1]
    assert done.alerts == 0
    assert [row[2] for row in alerts(connection) if row[0] == "r"] == [2] * len(alerts(connection))
    assert len(notices(connection)) <= told + 1
    of_r = [row for row in scores(connection) if row[0] == "r"]
    assert len(of_r) == 148
    assert all(row[2] < 5 for row in of_r)
    assert (
        score_batch(connection, "shop", related({"ratio": ["visits", "orders"]}), tmp_path, NOW) == Scored()
    )
