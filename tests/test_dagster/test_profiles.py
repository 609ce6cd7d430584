"""Profiles by real Dagster runs: labels in PostgreSQL become a file, and the log is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

from anomalyze.bus import open_bus
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.detection.account import AccountDocument, Versioned
from anomalyze.detection.account_overlay import with_documents
from anomalyze.detection.bundle import Bundle
from anomalyze.events.hashing import text_key
from anomalyze.features.snapshot import ProfileStore, merchant_keys
from anomalyze.learning.profiles import refresh_instant
from anomalyze.learning.promotion import CHAMPION, open_bundles
from anomalyze.settings import Settings
from anomalyze.storage.objects import open_objects
from tests.simulation.ledger import read_all
from tests.test_dagster.runs import metadata_of, run_job

SIX_HOURS_MS = 6 * 3_600_000


def announced(settings: Settings, dsn: str) -> list[str]:
    """Snapshots that the log names, of every partition."""
    bus = open_bus(settings, postgres_dsn=dsn)
    try:
        values = [
            value
            for partition, (low, high) in bus.watermarks(TRANSACTIONS).items()
            for value in read_all(bus, partition, low, high).values
        ]
    finally:
        bus.close()
    return [json.loads(value)["profiles"] for value in values if b'"control":"profiles"' in value]


def label(
    dsn: str, merchant: str, source: str, fraud: bool | None, user: bool = True, age: str = "1 day"
) -> None:
    """Label all stored payments to a merchant, known since a day."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, CASE WHEN %s THEN user_id ELSE '' END, tx_id, %s, now() - %s::interval, %s, 'k' "
            "FROM transactions WHERE data ->> 'merchant_id' = %s",
            [user, fraud, age, source, merchant],
        )


def test_nothing_settled_is_said_and_publishes_nothing(settings: Settings, history_dsn: str) -> None:
    result = run_job("refresh_profiles")
    assert result.success
    assert not result.get_asset_materialization_events()
    assert announced(settings, history_dsn) == []


def test_labels_become_profiles_that_the_log_names(settings: Settings, history_dsn: str) -> None:
    as_of = refresh_instant(datetime.now(UTC), SIX_HOURS_MS)
    with psycopg.connect(history_dsn) as connection:
        found = connection.execute(
            "SELECT data ->> 'merchant_id', count(*) FROM transactions WHERE ts < %s - interval '30 hours' "
            "AND ts > %s - interval '20 days' AND data ? 'merchant_id' GROUP BY 1 "
            "HAVING count(*) = count(*) FILTER (WHERE ts < %s - interval '30 hours') ORDER BY 2 DESC LIMIT 4",
            [as_of, as_of, as_of],
        ).fetchall()
    (bad, _), (good, _), (withdrawn, _), (late, _) = found
    label(history_dsn, bad, "chargeback", True, user=False)  # a chargeback names the payment only
    label(history_dsn, good, "analyst", False)
    label(history_dsn, withdrawn, "analyst", True)
    label(history_dsn, withdrawn, "analyst", None)
    label(history_dsn, late, "chargeback", True)
    label(history_dsn, late, "chargeback", False, age="0 s")  # known after the instant of the profiles only
    result = run_job("refresh_profiles")
    assert result.success
    told = metadata_of(result, "merchant_profiles")
    assert set(announced(settings, history_dsn)) == {told["profiles"]}
    assert told["merchants"] == 3
    snapshot = ProfileStore(open_objects(settings.object_store)).load(told["profiles"])
    assert snapshot.as_of_ms == int(as_of.timestamp() * 1000)

    def share(merchant: str) -> float | None:
        key = merchant_keys(
            np.array([text_key("default")], np.uint64), np.array([text_key(merchant)], np.uint64)
        )
        at = np.flatnonzero(snapshot.keys == key[0])
        shares = [i for i, name in enumerate(snapshot.names) if "fraud" in name and "30d" in name]
        return float(snapshot.values[at[0], shares[0]]) if len(at) else None

    shares = {name: share(name) for name in (bad, good, withdrawn, late)}
    assert shares[bad] is not None
    assert shares[good] is not None
    assert shares[bad] > 0.5 > 0.1 > shares[good]
    assert shares[withdrawn] is None
    assert shares[late] is not None
    assert shares[late] > 0.5
    again = metadata_of(run_job("refresh_profiles"), "merchant_profiles")
    if refresh_instant(datetime.now(UTC), SIX_HOURS_MS) == as_of:
        assert again["profiles"] == told["profiles"]


@pytest.mark.parametrize("own", [False, True], ids=["of the platform", "of the account"])
def test_unlabelled_payments_count_as_genuine_after_the_delay(
    settings: Settings, history_dsn: str, starter: Bundle, own: bool
) -> None:
    days = 45.0 if own else 7.0
    if own:
        document = AccountDocument(label_delay_days=7)
        laid = with_documents(starter, {"default": Versioned(1, document)})
        store = open_bundles(settings)
        store.publish(laid)
        store.set_pointer(CHAMPION, laid.id)
    result = run_job("refresh_profiles", {"ops": {"merchant_profiles": {"config": {"delay_days": days}}}})
    told = metadata_of(result, "merchant_profiles")
    as_of = refresh_instant(datetime.now(UTC), SIX_HOURS_MS)
    with psycopg.connect(history_dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM transactions WHERE ts < %s AND data ? 'merchant_id'",
            [as_of - timedelta(days=7)],
        ).fetchone()
    assert row is not None
    assert told["settled_payments"] == row[0] > 1_000
    assert told["frauds"] == 0
