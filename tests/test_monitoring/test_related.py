"""Metrics that follow from two others, however and whenever the values of these came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest

from anomalyze.config import ConfigProblems, Document, validate
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.prepare import prepare
from anomalyze.metrics.relation import Relation, relate
from anomalyze.metrics.rules import rules_of
from anomalyze.metrics.window import Window
from anomalyze.monitoring.score import Scored, score_batch
from anomalyze.storage.metrics_values import store_values
from tests.test_monitoring.shop import HOUR, NOW, calm, frame, scores

Connection = psycopg.Connection[Any]
BATCH = Batch.model_validate(
    {
        "python": "x:y",
        "relations": {
            "conversion": {"ratio": ["orders", "visits"]},
            "lost": {"difference": ["visits", "orders"]},
            "both": {"sum": ["visits", "orders"]},
        },
        "metrics": {"conversion": {"thresholds": {"lower": 0.02}, "unit": "%", "detectors": []}},
    }
)
RULES = rules_of(BATCH, ["orders", "visits"])


def values(connection: Connection, metric: str, batch: str = "shop") -> dict[int, float | None]:
    rows = connection.execute(
        "SELECT extract(epoch FROM ts - %s)::bigint / 3600, value FROM metric_values "
        "WHERE batch = %s AND metric = %s",
        [NOW, batch, metric],
    ).fetchall()
    return dict(rows)


def test_a_ratio_is_stored_judged_and_thresholded(connection: Connection, tmp_path: Path) -> None:
    orders, visits = calm(60), [10 * value for value in calm(60, 2)]
    orders[-1], visits[-2] = 1.0, 0.0
    store_values(connection, "shop", frame({"orders": orders, "visits": visits}), NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    found = values(connection, "conversion")
    assert found[-2] is None, "by zero"
    assert found[-10] == orders[-10] / visits[-10]
    assert values(connection, "lost")[-10] == visits[-10] - orders[-10]
    assert values(connection, "both")[-10] == visits[-10] + orders[-10]
    assert len([row for row in scores(connection) if row[0] == "conversion"]) == 59
    told = connection.execute(
        "SELECT kind, sentence FROM metric_alerts WHERE metric = 'conversion'"
    ).fetchall()
    assert [row[0] for row in told] == ["lower"]
    assert "below its limit of 0.02%" in told[0][1]
    assert score_batch(connection, "shop", RULES, tmp_path, NOW) == Scored()


def test_values_that_come_one_metric_at_a_time_late_or_corrected(
    connection: Connection, tmp_path: Path
) -> None:
    random = np.random.default_rng(5)
    rows = frame({"orders": calm(80), "visits": calm(80, 2)})
    wrong = rows.with_columns(
        value=pl.when(pl.Series(random.random(160) < 0.1)).then(pl.lit(0.0)).otherwise("value")
    )
    piece = pl.Series(random.integers(0, 4, 160))
    for n in range(4):
        for metric in ("visits", "orders"):
            store_values(connection, "shop", wrong.filter((piece == n) & (pl.col("metric") == metric)), NOW)
            score_batch(connection, "shop", RULES, tmp_path / "pieces", NOW)
    last = rows.with_columns(
        value=pl.when(pl.col("timestamp") == NOW - 3 * HOUR).then(None).otherwise("value")
    )
    for batch in ("shop", "whole"):
        store_values(connection, batch, last, NOW)
        score_batch(connection, batch, RULES, tmp_path / batch.replace("shop", "pieces"), NOW)
    assert scores(connection) == scores(connection, "whole")
    assert values(connection, "conversion")[-3] is None
    assert len(values(connection, "conversion")) == 80


def test_a_relation_that_is_added_has_the_history_of_its_metrics(
    connection: Connection, tmp_path: Path
) -> None:
    rows = frame({"orders": calm(50), "visits": calm(50, 2)})
    plain = rules_of(BATCH.model_copy(update={"relations": {}}), ["orders", "visits"])
    store_values(connection, "shop", rows.filter(pl.col("timestamp") < NOW - HOUR), NOW)
    score_batch(connection, "shop", plain, tmp_path, NOW)
    assert values(connection, "conversion") == {}
    store_values(connection, "shop", rows, NOW)
    score_batch(connection, "shop", RULES, tmp_path, NOW)
    assert len(values(connection, "conversion")) == 50


def test_what_a_source_says_of_a_relation_is_left_out(tmp_path: Path) -> None:
    rows = frame({"orders": [1.0], "visits": [2.0], "conversion": [9.0]})
    done = prepare(rows, BATCH, Window(NOW - HOUR, NOW, HOUR), tmp_path)
    assert sorted(done.frame["metric"]) == ["orders", "visits"]
    assert list(done.failures) == ["conversion"]


def test_what_overflows_is_missing() -> None:
    rows = frame({"a": [1e308], "b": [1e-308]})
    assert relate(rows, {"r": Relation(ratio=("a", "b"))})["value"].to_list() == [None]


@pytest.mark.parametrize(
    ("relation", "path", "said"),
    [
        ({"ratio": ["a", "c"]}, "", "a relation in c"),
        ({"product": ["a", "b"]}, "relations.c.product", "expected one of ratio, difference, sum"),
        ({}, "relations.c", "expected one of ratio, difference and sum, got none"),
    ],
)
def test_mistakes_are_named(relation: dict[str, Any], path: str, said: str) -> None:
    document = Document("b.yaml", "", {"python": "x:y", "relations": {"c": relation}}, None)
    with pytest.raises(ConfigProblems) as caught:
        validate(document, Batch)
    assert caught.value.problems[0].path == path
    assert said in caught.value.problems[0].message
