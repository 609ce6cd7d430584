"""What training leaves out, and when labels start it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import psycopg
import pytest

from anomalyze.backtest.run import Replay
from anomalyze.backtest.stored import read_stored
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector
from anomalyze.detection.learning import DAY_MS
from anomalyze.learning import admission
from anomalyze.learning.admission import Admission, read_suspects
from anomalyze.settings import Settings
from anomalyze.storage.pool import connect
from anomalyze_dagster.definitions import definitions
from anomalyze_dagster.resources import PostgresResource
from anomalyze_dagster.training.sensors import LABELS_MIN, train_on_labels

EVER = datetime(2000, 1, 1, tzinfo=UTC)


def admitted(dsn: str, bundle: Bundle) -> tuple[int, int, int]:
    """Rows read, rows admitted, and the most of a user and day among these."""
    replay = Replay(Detector(bundle))
    with connect(dsn) as connection:
        chooser = Admission(read_suspects(connection, "default", EVER))
    rows, users, days = 0, [], []
    for chunk in read_stored(dsn, "default", 0, 4_000_000_000_000):
        batch = replay.decode(chunk)
        kept = chooser.admit(batch)
        rows += batch.n
        users.append(batch.user_key[kept, 0])
        days.append(batch.ts_ms[kept] // DAY_MS)
    pairs = np.column_stack([np.concatenate(users), np.concatenate(days).astype(np.uint64)])
    return rows, len(pairs), int(np.unique(pairs, axis=0, return_counts=True)[1].max())


def test_open_cases_at_high_and_busy_users_teach_nothing(
    history_dsn: str, starter: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(history_dsn, autocommit=True) as connection:
        (suspects,) = connection.execute(
            "SELECT count(*) FROM anomalies WHERE case_id IN (SELECT case_id FROM cases WHERE severity >= 3)"
        ).fetchone()  # type: ignore[misc]
        rows, kept, _ = admitted(history_dsn, starter)
        assert rows - kept == suspects > 10
        connection.execute("UPDATE cases SET state = 'dismissed' WHERE severity >= 3")
        assert admitted(history_dsn, starter)[:2] == (rows, rows)
    monkeypatch.setattr(admission, "USER_DAY_ROWS_MAX", 2)
    monkeypatch.setattr("anomalyze.backtest.stored.CHUNK_ROWS", 1_000)  # a day lies in several chunks
    rows, kept, most = admitted(history_dsn, starter)
    assert (most, kept < rows) == (2, True)


def add_labels(dsn: str, count: int) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, user_id, tx_id, true, now(), 'chargeback', 'k' FROM transactions LIMIT %s",
            [count],
        )


def test_labels_start_a_training_once_a_day(settings: Settings, history_dsn: str) -> None:
    def tick(cursor: str | None) -> dg.SensorEvaluationContext:
        return dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=definitions.get_repository_def(),
            resources={"postgres": PostgresResource()},
        )

    with dg.DagsterInstance.ephemeral() as instance:
        add_labels(history_dsn, LABELS_MIN - 1)
        early = train_on_labels.evaluate_tick(tick(None))
        assert not early.run_requests
        assert f"{LABELS_MIN - 1} of {LABELS_MIN}" in str(early.skip_message)
        add_labels(history_dsn, 1)
        asked = train_on_labels.evaluate_tick(tick(early.cursor))
        assert len(asked.run_requests or []) == 1
        add_labels(history_dsn, 3 * LABELS_MIN)
        again = train_on_labels.evaluate_tick(tick(asked.cursor))
        assert "less than a day ago" in str(again.skip_message)
        yesterday = (datetime.now(UTC) - timedelta(days=1, seconds=1)).isoformat()
        later = json.dumps({**json.loads(asked.cursor or ""), "asked_at": yesterday})
        assert train_on_labels.evaluate_tick(tick(later)).run_requests

        @dg.asset
        def candidate_bundle() -> dg.MaterializeResult:  # type: ignore[type-arg]
            return dg.MaterializeResult(metadata={"newest_label": 10**9})

        dg.materialize([candidate_bundle], instance=instance)
        fresh = train_on_labels.evaluate_tick(tick(later))
        assert "less than a day old" in str(fresh.skip_message)
