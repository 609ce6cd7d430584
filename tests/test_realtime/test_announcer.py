"""Labels reach the log: each once in order, none passed over, and a confirmed fraud leaves its user's baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from anomalyze.bus.control import announce
from anomalyze.bus.partitioner import murmur2_partition
from anomalyze.bus.topics import TRANSACTIONS
from anomalyze.errors import TransientError
from anomalyze.storage.pool import connect
from realtime.sink.announcer import announce_labels
from tests.simulation.ledger import read_all
from tests.test_realtime.bed import PARTITIONS, Bed, bundles, open_bed, record

FIRST, _ = bundles()


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    with open_bed(request, tmp_path, "embedded") as opened:
        yield opened


def label(connection: psycopg.Connection[Any], user: str, tx_id: str, fraud: bool | None = True) -> None:
    connection.execute(
        "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
        "VALUES ('acct', %s, %s, %s, now(), 'analyst', 'k')",
        [user, tx_id, fraud],
    )


def told(bed: Bed) -> list[tuple[int, str, bool]]:
    """(partition, transaction, fraud) of every label in the log."""
    found = []
    for partition, (low, high) in bed.bus.watermarks(TRANSACTIONS).items():
        for value in read_all(bed.bus, partition, low, high).values:
            if value.startswith(b'{"control":"label"'):
                body = json.loads(value)
                found.append((partition, body["tx_id"], body["fraud"]))
    return found


def test_labels_are_told_once_in_order_and_those_committed_late_too(bed: Bed) -> None:
    home = murmur2_partition(b"ann", PARTITIONS)
    producer = bed.bus.producer()
    with connect(bed.dsn) as announcer, connect(bed.dsn) as early, connect(bed.dsn) as late:
        with early.transaction():
            for fraud in (True, False, None):
                label(early, "ann", "t-1", fraud)
            label(early, "", "t-nobody")
        assert announce_labels(announcer, producer, PARTITIONS, "log") == 4
        assert announce_labels(announcer, producer, PARTITIONS, "log") == 0
        assert told(bed) == [(home, "t-1", True), (home, "t-1", False), (home, "t-1", False)]

        with late.transaction():
            label(late, "ann", "t-2")  # draws its id first, commits last
            with early.transaction():
                label(early, "ann", "t-3")
            with pytest.raises(TransientError):
                announce_labels(announcer, producer, PARTITIONS, "log")
        assert announce_labels(announcer, producer, PARTITIONS, "log") == 2
    assert [tx for _, tx, _ in told(bed)][3:] == ["t-2", "t-3"]
    producer.close()


def test_a_confirmed_fraud_leaves_the_baseline_of_its_user(bed: Bed) -> None:
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    history = [record("ann", f"t-{i}", 10.0 + i, day=1 + i) for i in range(12)]
    bed.send([*history, record("ann", "stolen", 5_000.0, day=14), record("ann", "before", 20.0, day=17)])
    bed.worker(), bed.sink()
    bed.wait_judged()
    with connect(bed.dsn) as connection, connection.transaction():
        label(connection, "ann", "stolen")
    bed.wait(lambda: told(bed) != [], "the sink tells the log")
    bed.send([record("ann", "after", 20.0, day=17.1)])
    bed.wait_judged()
    features = {}
    for _, value in bed.effective():
        body = json.loads(value)
        features[body["data"]["tx_id"]] = body["enrichment"]["features"]
    assert features["before"]["user_amount_p95"] > 1_000
    assert features["after"]["user_amount_p95"] < 30
    assert bed.effective() == bed.undisturbed()
