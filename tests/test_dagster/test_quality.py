"""Payments drawn below the line, and what labels say of what was flagged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from anomalyze.detection.bundle import Bundle
from anomalyze.learning.recall import estimate_recall, share_interval
from anomalyze.learning.sample import DRAWN_A_DAY, Dresser, draw_day
from anomalyze.settings import Settings
from anomalyze.storage.pool import connect
from anomalyze.storage.quality import Reviewed, load_outcomes, load_samples
from anomalyze.storage.query import fetch
from tests.test_dagster.runs import metadata_of, run_job

EVER = datetime(2000, 1, 1, tzinfo=UTC)
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date()


@pytest.fixture(scope="module")
def dresser(starter: Bundle) -> Dresser:
    return Dresser(starter)


def rows(dsn: str, query: str, *values: Any) -> list[dict[str, Any]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:  # type: ignore[arg-type]
        return connection.execute(query, values).fetchall()  # type: ignore[return-value]


def test_two_payments_a_day_enter_the_queue_and_nothing_tells(history_dsn: str, dresser: Dresser) -> None:
    (before,) = rows(history_dsn, "SELECT count(*) AS n FROM cases")
    with connect(history_dsn) as connection:
        (drawn,) = draw_day(connection, YESTERDAY, dresser)
        assert draw_day(connection, YESTERDAY, dresser) == []
    assert (drawn.account_id, drawn.drawn) == ("default", DRAWN_A_DAY)
    (below,) = rows(
        history_dsn,
        "SELECT count(*) AS n FROM transactions WHERE severity = 0 AND ts >= %s AND ts < %s",
        datetime.combine(YESTERDAY, datetime.min.time(), UTC),
        datetime.combine(YESTERDAY + timedelta(days=1), datetime.min.time(), UTC),
    )
    assert drawn.population == below["n"] > 100
    samples = rows(
        history_dsn,
        "SELECT s.*, c.state, c.severity, c.score, c.headline, c.rule_flags, c.anomalies, c.last_at, c.stored_at, "
        "a.analysis, a.verdict, a.action, t.severity AS true_severity, t.ts, t.stored_at AS at "
        "FROM review_samples s JOIN cases c USING (account_id, case_id) JOIN anomalies a USING (account_id, case_id) "
        "JOIN transactions t ON t.account_id = s.account_id AND t.user_id = s.user_id AND t.tx_id = s.tx_id",
    )
    assert len(samples) == DRAWN_A_DAY
    (real,) = rows(
        history_dsn,
        "SELECT a.analysis, a.verdict FROM anomalies a JOIN transactions t USING (account_id, user_id, ts, tx_id) "
        "WHERE t.severity = 1 AND a.rule_flags = '{}' AND a.analysis::jsonb ? 'model' LIMIT 1",
    )
    for sample in samples:
        assert sample["probability"] == DRAWN_A_DAY / below["n"]
        assert (sample["state"], sample["severity"], sample["anomalies"]) == ("open", 1, 1)
        assert (sample["true_severity"], sample["rule_flags"]) == (0, [])
        assert (sample["last_at"], sample["stored_at"]) == (sample["ts"], sample["at"])
        assert sample["verdict"]["final_severity"] == "LOW"
        assert sample["headline"] == sample["verdict"]["explanation"] != ""
        assert "as strange as one in" in sample["headline"]
        # The same fields as of a case that is one.
        assert set(real["verdict"]) == set(sample["verdict"])
        assert set(real["analysis"]) - {"would_change", "statistics"} <= set(sample["analysis"])
        assert set(real["analysis"]["model"]) == set(sample["analysis"]["model"])
    (after,) = rows(history_dsn, "SELECT count(*) AS n FROM cases")
    assert after["n"] == before["n"] + DRAWN_A_DAY


def test_the_draw_is_a_fair_lot(history_dsn: str, dresser: Dresser) -> None:
    """Of many days the drawn payments' places in their day spread evenly."""
    with connect(history_dsn) as connection:
        for back in range(2, 20):
            draw_day(connection, YESTERDAY - timedelta(days=back), dresser)
    places = [
        row["share"]
        for row in rows(
            history_dsn,
            "SELECT (SELECT count(*) FROM transactions o WHERE o.severity = 0 AND o.ts::date = t.ts::date "
            "AND o.ts < t.ts)::float8 * s.probability / 2 AS share FROM review_samples s "
            "JOIN transactions t USING (account_id, user_id, tx_id)",
        )
    ]
    assert len(places) > 30
    assert 0.3 < sum(places) / len(places) < 0.7
    assert len({round(place, 1) for place in places}) > 6


def test_labels_give_precision_by_rule_severity_and_day(history_dsn: str, dresser: Dresser) -> None:
    with connect(history_dsn) as connection:
        draw_day(connection, YESTERDAY, dresser)
        nothing = fetch(connection, load_outcomes("default", EVER))
        assert (nothing.cases, nothing.labels, dict(nothing.rules)) == (Reviewed(0, 0), Reviewed(0, 0), {})
        # Fraud in every third case, verified as genuine in every third; by users and without.
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT a.account_id, CASE WHEN c.n % 2 = 0 THEN a.user_id ELSE '' END, a.tx_id, c.n % 3 = 0, now(), "
            "'chargeback', 'k' FROM (SELECT case_id, row_number() OVER (ORDER BY case_id) AS n FROM cases) c "
            "JOIN anomalies a USING (case_id) WHERE c.n % 3 < 2"
        )
        # Taken back: it says nothing any more. A fraud that nothing flagged.
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, '', (array_agg(tx_id))[1], NULL, now(), 'chargeback', 'k' FROM anomalies "
            "WHERE case_id = (SELECT case_id FROM cases ORDER BY case_id OFFSET 2 LIMIT 1) GROUP BY account_id "
            "HAVING count(*) = 1 UNION ALL (SELECT account_id, user_id, tx_id, true, now(), 'chargeback', 'k' "
            "FROM transactions t WHERE severity = 0 AND NOT EXISTS (SELECT FROM review_samples s "
            "WHERE s.tx_id = t.tx_id) LIMIT 1)"
        )
        found = fetch(connection, load_outcomes("default", EVER))
        few = fetch(connection, load_outcomes("default", EVER, labels_max=5))
        assert (found.truncated, few.truncated, few.labels.reviewed <= 5) == (False, True, True)
    expected = rows(
        history_dsn,
        "WITH l AS (SELECT DISTINCT ON (tx_id) * FROM labels ORDER BY tx_id, label_id DESC), "
        "c AS (SELECT a.case_id, bool_or(l.fraud) AS fraud, max(a.severity) AS severity, array_agg(r) AS rules "
        "FROM anomalies a JOIN l USING (tx_id) LEFT JOIN unnest(a.rule_flags) r ON true WHERE l.fraud IS NOT NULL "
        "AND case_id NOT IN (SELECT case_id FROM review_samples) GROUP BY case_id) SELECT * FROM c",
    )
    assert found.cases == Reviewed(sum(row["fraud"] for row in expected), len(expected))
    assert found.unseen == 1
    for severity in (1, 2, 3, 4):
        mine = [row["fraud"] for row in expected if row["severity"] == severity]
        assert found.severities.get(severity, Reviewed(0, 0)) == Reviewed(sum(mine), len(mine))
    for rule in {rule for row in expected for rule in row["rules"] if rule}:
        mine = [row["fraud"] for row in expected if rule in row["rules"]]
        assert found.rules[rule] == Reviewed(sum(mine), len(mine))
    assert found.rules[""].reviewed == sum(not any(row["rules"]) for row in expected)
    assert sum(one.reviewed for one in found.days.values()) == len(expected)


def test_reviews_of_the_draw_give_recall(history_dsn: str, dresser: Dresser) -> None:
    with connect(history_dsn) as connection:
        draw_day(connection, YESTERDAY, dresser)
        assert [fraud for _, fraud in fetch(connection, load_samples("default", EVER))] == [None, None]
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, user_id, tx_id, place = 1, now(), 'analyst', 'k' FROM review_samples"
        )
        samples = fetch(connection, load_samples("default", EVER))
    assert [fraud for _, fraud in samples] == [True, False]
    recall = estimate_recall(0, samples)
    assert recall.missed == pytest.approx(1 / samples[0][0])
    assert recall.share == 0.0


@given(
    found=st.integers(0, 1000),
    samples=st.lists(st.tuples(st.floats(1e-4, 1.0), st.sampled_from([None, False, True])), max_size=60),
)
def test_recall_lies_within_its_interval(found: int, samples: list[tuple[float, bool | None]]) -> None:
    recall = estimate_recall(found, samples)
    if recall.share is not None:
        assert recall.low is not None
        assert recall.low <= recall.share <= (1.0 if recall.high is None else recall.high) <= 1.0
    assert (recall.share is None) == (recall.reviewed == 0 or found + recall.missed == 0)


def test_payments_that_nobody_reviewed_yet_are_like_the_others() -> None:
    reviewed = [(0.5, True), *[(0.5, False)] * 9]
    assert estimate_recall(10, reviewed).missed == 2
    assert estimate_recall(10, [*reviewed, *[(0.5, None)] * 10]).missed == 4


def test_intervals_are_those_of_the_books() -> None:
    # Nothing in 300 reviewed: at most 3.69 of 300 (Poisson, two-sided 95 %).
    nothing = estimate_recall(10, [(0.5, False)] * 300)
    assert nothing.low == pytest.approx(10 / (10 + 2 * 3.689), rel=0.01)
    assert (nothing.share, nothing.high) == (1.0, 1.0)
    low, high = share_interval(0, 20)
    assert (low, high) == (0.0, pytest.approx(0.161, abs=0.001))


def test_the_nightly_look_draws_and_shows(settings: Settings, history_dsn: str) -> None:
    result = run_job("watch")
    assert result.success
    shown = metadata_of(result, "detection_quality")
    assert shown["drawn"] == DRAWN_A_DAY
    assert "default" in shown["accounts_shown"]
    assert len(rows(history_dsn, "SELECT FROM review_samples")) == DRAWN_A_DAY
