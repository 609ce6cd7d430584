"""A candidate that learns from stored labels: merchants that labels speak ill of are found again, others are not."""

from __future__ import annotations

import numpy as np
import psycopg

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.proof import average_precision
from anomalyze.learning.history import History, choose_history
from anomalyze.learning.labels import read_frame, read_labels_of
from anomalyze.learning.promotion import CHALLENGER, open_bundles
from anomalyze.learning.shelf import load_candidate
from anomalyze.models.kernel import TreeKernel
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import connect
from tests.test_dagster.runs import checks_of, metadata_of, run_job

CONFIG = {"ops": {"candidate_bundle": {"config": {"delay_days": 3.0}}}}


def compromise(dsn: str, merchants: int, user: bool) -> int:
    """Label every payment at some merchants as fraud, known a day later; returns how many."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, CASE WHEN %s THEN user_id ELSE '' END, tx_id, true, ts + interval '1 day', "
            "'chargeback', 'k' FROM transactions WHERE data ->> 'merchant_id' IN ("
            "  SELECT data ->> 'merchant_id' FROM transactions WHERE data ? 'merchant_id' "
            "  GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT %s)",
            [user, merchants],
        ).rowcount


def ranking(dsn: str, bundle: Bundle, newest: int) -> float:
    """Average precision of the supervised model on the newest rows, which it was not trained on."""
    assert bundle.supervised is not None
    with connect(dsn) as connection:
        history = choose_history(connection)
        assert isinstance(history, History)
        labels = {"default": read_labels_of(connection, "default", history.evaluate.end)}
    frame = read_frame(dsn, history, bundle, labels, 3 * 86_400_000)
    later = frame.at(frame.ts_ms >= history.evaluate.bounds_ms[0])
    assert len(later.ts_ms) == newest
    inputs = [later.names.index(one.name) for one in bundle.supervised.inputs]
    score = TreeKernel.from_onnx(bundle.supervised.onnx).score(later.features[:, inputs].astype(np.float32))
    return average_precision(score.astype(np.float64), later.fraud == 1)


def test_a_candidate_learns_which_merchants_are_compromised(settings: Settings, history_dsn: str) -> None:
    assert compromise(history_dsn, merchants=25, user=False) > 150
    result = run_job("train", CONFIG)
    assert metadata_of(result, "candidate_bundle")["learned_from_labels"] == "default"
    bundle, evaluation = load_candidate(open_objects(settings.object_store))
    # It may find no more than the champion where people look at every case of both.
    assert evaluation.quality is not None
    checks = checks_of(result)
    assert checks["quality"] is evaluation.quality.better
    assert all(checks[name] for name in ("parity", "no_future_leak", "shuffled_labels"))
    assert bundle.supervised is not None
    assert bundle.supervised.accounts == ("default",)
    assert evaluation.proofs == dict(bundle.supervised.proofs)
    assert bundle.supervised.proven_for("default"), evaluation.proofs
    assert evaluation.canary is not None
    assert evaluation.canary.sings
    assert evaluation.champion is not None
    assert evaluation.candidate.fraud == evaluation.champion.fraud > 100
    assert ranking(history_dsn, bundle, evaluation.candidate.rows) > 0.7
    store = open_bundles(settings)
    pointed = store.pointer(CHALLENGER)
    if pointed is not None:
        assert store.load(pointed).supervised is not None


def test_with_few_labels_the_candidate_says_so_and_stays_without(
    settings: Settings, history_dsn: str
) -> None:
    with psycopg.connect(history_dsn) as connection:
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, user_id, tx_id, true, ts, 'analyst', 'k' FROM transactions LIMIT 3"
        )
    result = run_job("train", CONFIG)
    assert metadata_of(result, "candidate_bundle")["learned_from_labels"] == "no: too few"
    assert load_candidate(open_objects(settings.object_store))[0].supervised is None
