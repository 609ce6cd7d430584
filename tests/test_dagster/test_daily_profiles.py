"""A day's profiles by real Dagster runs: a version in the store, rows in PostgreSQL and Valkey, a word in the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import psycopg
import pytest
import redis

from anomalyze.events.hashing import text_key
from anomalyze.features.catalogue import DAILY_MEASURES
from anomalyze.features.daily import entity_keys
from anomalyze.features.daily_store import DailyStore
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from anomalyze.storage.profile_rows import RedisRows
from anomalyze_dagster.definitions import definitions
from tests.test_dagster.runs import metadata_of
from tests.test_dagster.test_profiles import announced, label


def run_day(day: datetime) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("profile_day").execute_in_process(
            instance=instance, partition_key=f"{day:%Y-%m-%d}", raise_on_error=False
        )


def test_a_day_without_history_is_skipped(settings: Settings, history_dsn: str) -> None:
    result = run_day(datetime(2023, 2, 1, tzinfo=UTC))
    assert result.success
    assert not result.get_asset_materialization_events()
    assert announced(settings, history_dsn) == []


def test_a_day_becomes_a_version_everywhere(
    settings: Settings, history_dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYZE_REDIS_URL", valkey_url)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    with psycopg.connect(history_dsn) as connection:
        row = connection.execute(
            "SELECT data ->> 'merchant_id', count(*) FROM transactions WHERE ts < %s - interval '30 hours' "
            "AND data ? 'merchant_id' GROUP BY 1 ORDER BY 2 DESC LIMIT 1",
            [today],
        ).fetchone()
        assert row is not None
        merchant = row[0]
    label(history_dsn, merchant, "chargeback", True, user=False)
    told = metadata_of(run_day(yesterday), "profiles_of_day")
    version = told["profiles"]
    assert set(announced(settings, history_dsn)) == {version}
    assert told["redis"] == "loaded"
    assert "image/png" in told["plot"]

    key = entity_keys(
        "merchant", np.array([text_key("default")], np.uint64), np.array([text_key(merchant)], np.uint64)
    )
    store = DailyStore(open_objects(settings.object_store), settings.data_dir / "profiles")
    snapshot = store.load(version)
    stored = snapshot.gather(key, DAILY_MEASURES)
    with redis.Redis.from_url(valkey_url) as client:
        loaded, said = RedisRows(client).read(version, key, len(DAILY_MEASURES))
    assert said.all()
    assert loaded.tobytes() == stored.tobytes()
    value = dict(zip(DAILY_MEASURES, stored[0].tolist(), strict=True))
    with psycopg.connect(history_dsn) as connection:
        held = connection.execute(
            "SELECT tx_count_30d, amount_p95_30d, fraud_count_90d, fraud_share_90d, amount_median_7d FROM entity_profiles "
            "WHERE version = %s AND account_id = 'default' AND entity = 'merchant' AND id = %s",
            [version, merchant],
        ).fetchone()
        known = connection.execute(
            "SELECT count(*) FILTER (WHERE t.ts >= %(today)s - interval '30 days'), count(*) FILTER (WHERE EXISTS "
            "(SELECT 1 FROM labels l WHERE l.tx_id = t.tx_id AND l.known_at < %(today)s)) FROM transactions t "
            "WHERE t.ts < %(today)s AND t.data ->> 'merchant_id' = %(merchant)s",
            {"today": today, "merchant": merchant},
        ).fetchone()
        of_version = connection.execute("SELECT day, transactions, entities FROM profile_versions").fetchall()
        entities = connection.execute("SELECT entity, count(*) FROM entity_profiles GROUP BY 1").fetchall()
    assert known is not None
    assert held is not None
    assert (value["tx_count_30d"], value["fraud_count_90d"]) == known
    assert known[1] > 5
    assert (
        held
        == pytest.approx(
            [
                value[name]
                for name in (
                    "tx_count_30d",
                    "amount_p95_30d",
                    "fraud_count_90d",
                    "fraud_share_90d",
                    "amount_median_7d",
                )
            ],
            nan_ok=True,
        )
        or value["amount_median_7d"] != value["amount_median_7d"]
    )
    assert of_version == [(yesterday.date(), told["transactions"], told["entities"])]
    assert sum(count for _, count in entities) == told["entities"]
    assert {"user", "merchant", "device", "country"} <= {entity for entity, _ in entities}

    again = metadata_of(run_day(yesterday), "profiles_of_day")
    assert again["profiles"] == version, "the same transactions and labels give the same bytes"
    before = metadata_of(run_day(yesterday - timedelta(days=12)), "profiles_of_day")
    assert before["transactions"] < told["transactions"]
    assert before["profiles"] not in announced(settings, history_dsn), "older than what detectors keep"


def test_without_redis_the_version_is_published_all_the_same(settings: Settings, history_dsn: str) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    told = metadata_of(run_day(yesterday), "profiles_of_day")
    assert "not loaded" in told["redis"]
    assert set(announced(settings, history_dsn)) == {told["profiles"]}
