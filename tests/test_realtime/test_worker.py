"""The worker as the process that it is, on both logs: what it writes is a function of the log, whatever
happens to it."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from anomalyze.bus.control import announce
from anomalyze.bus.partitioner import murmur2_partition
from anomalyze.bus.topics import DEAD_LETTERS, SCORED, TRANSACTIONS
from anomalyze.events.hashing import text_key
from anomalyze.features.snapshot import ProfileStore, Snapshot, merchant_keys
from anomalyze.features.spec import FeatureSpec
from anomalyze.storage.alarms import load_alarms
from tests.simulation.ledger import compare, read_all, replay
from tests.test_realtime.bed import CONFIG, PARTITIONS, START_MS, Bed, bundles, open_bed, record, traffic

FIRST, SECOND = bundles()
NOWHERE = "sha256:" + "0" * 64


@pytest.fixture(params=["embedded", "kafka"])
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    with open_bed(request, tmp_path, request.param) as opened:
        yield opened


def sections(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value)
    return found


def by_tx(records: list[tuple[int, bytes]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for _, value in records:
        body = sections(value)
        found.setdefault(body["data"]["tx_id"], []).append(body)
    return found


def snapshot_of(account: str, merchant: str, as_of_ms: int) -> Snapshot:
    """What labels said of one merchant."""
    names = FeatureSpec.load(CONFIG / "features.yaml").label_names
    keys = merchant_keys(np.array([text_key(account)], np.uint64), np.array([text_key(merchant)], np.uint64))
    return Snapshot(as_of_ms, names, keys, np.full((1, len(names)), 2.0))


def test_what_cannot_be_judged_is_a_dead_letter_and_the_rest_goes_on(bed: Bed) -> None:
    good = record("ann", "t-1", 10.0)
    home = murmur2_partition(b"ann", PARTITIONS)
    _, changed = record("ann", "t-1", 99.0)
    _, reversed_ = record("ann", "t-1", 10.0, status="reversed")
    _, large = record("ann", "t-large", 1.0, note="x" * 900_000)
    bad = {
        "malformed": b'{"meta":{"user_id":',
        "malformed control": b'{"control":"bundle","bundle":',
        "conflict": changed,
        "too_large": large,
    }
    bed.append([(home, *good), *((home, b"ann", value) for value in bad.values())])
    bed.append([(1 - home, *record("ann", "t-elsewhere", 5.0)), (home, *good), (home, b"ann", reversed_)])
    bed.send([record("ann", "t-2", 11.0)])
    worker, sink = bed.worker(), bed.sink()
    bed.wait_judged()

    # No bundle stood in the log: the champion was announced in each partition, and judges what stood before.
    for partition, (low, high) in bed.bus.watermarks(TRANSACTIONS).items():
        values = read_all(bed.bus, partition, low, high).values
        assert [v for v in values if v.startswith(b'{"control":"bundle","bundle":"sha')] == [
            b'{"control":"bundle","bundle":"%b"}' % FIRST.id.encode()
        ]
    told = by_tx(bed.effective())
    assert {tx: len(found) for tx, found in told.items()} == {"t-1": 2, "t-2": 1}
    assert told["t-1"][0]["analysis"]["bundle"] == FIRST.id
    assert told["t-1"][1]["verdict"] == {"status_update": "reversed"}
    assert bed.effective() == bed.undisturbed()

    with psycopg.connect(bed.dsn, autocommit=True) as connection:

        def letters() -> list[Any]:
            return connection.execute(
                "SELECT reason, src_partition, src_offset, value FROM dead_letters ORDER BY 2, 3"
            ).fetchall()

        bed.wait(lambda: len(letters()) == 5, "five dead letters stored")
        first = bed.bus.watermarks(TRANSACTIONS)[home][0]
        expected = [
            (reason.split()[0], home, first + 1 + i, value[:700_000])
            for i, (reason, value) in enumerate(bad.items())
        ] + [("wrong_partition", 1 - home, 0, record("ann", "t-elsewhere", 5.0)[1])]
        assert letters() == sorted(expected, key=lambda letter: letter[1:3])
        bed.wait(
            lambda: (
                connection.execute("SELECT tx_id, status FROM transactions ORDER BY 1").fetchall()
                == [("t-1", 4), ("t-2", 0)]
            ),
            "both stored, one reversed",
        )
    on_topic = []
    for partition, (low, high) in bed.bus.watermarks(DEAD_LETTERS).items():
        on_topic += [json.loads(v) for v in read_all(bed.bus, partition, low, high, DEAD_LETTERS).values]
    assert {(x["reason"], x["partition"], x["offset"]) for x in on_topic} == {x[:3] for x in expected}
    assert {base64.b64decode(x["value_base64"]) for x in on_topic} == {x[3] for x in expected}
    for process in (worker, sink):
        assert process.stop() == 0


def test_bundles_profiles_and_lists_change_where_the_log_says_so_also_after_a_restart(bed: Bed) -> None:
    rows = traffic()
    block = {"op": "add", "account_id": "acct", "list": "block", "field": "device_id", "value": "stolen"}
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    announce(bed.bus, "challenger", {"bundle": SECOND.id})
    bed.send(rows[:200])
    bed.send([record("ann", "before", 10.0, device_id="stolen")])
    worker = bed.worker()
    bed.wait_judged()
    announce(bed.bus, "bundle", {"bundle": SECOND.id})
    announce(bed.bus, "bundle", {"bundle": NOWHERE})
    announce(bed.bus, "bundle", {})
    announce(bed.bus, "list", block)
    profiles = snapshot_of("acct", "shop", as_of_ms=START_MS)
    ProfileStore(bed.objects).publish(profiles)
    announce(bed.bus, "profiles", {"profiles": profiles.id})
    announce(bed.bus, "profiles", {"profiles": NOWHERE})
    announce(bed.bus, "profiles", {})
    bed.send([*rows[200:400], record("ann", "after", 10.0, device_id="stolen", merchant_id="shop")])
    bed.wait_judged()
    begun = time.monotonic()
    os.kill(worker.pid or 0, signal.SIGTERM)
    assert worker.wait(12) == 0
    assert time.monotonic() - begun < 10.0
    assert {int(path.rsplit("/", 1)[1].split("-")[0]) for path in bed.objects.list("checkpoints")} >= {
        high - 1 for _, high in bed.bus.watermarks(TRANSACTIONS).values()
    }

    bed.send(
        [*rows[400:], record("ann", "later", 10.0, device_id="stolen", merchant_id="shop"), *rows[10:20]]
    )
    bed.worker()
    bed.wait_judged()
    assert bed.effective() == bed.undisturbed()
    assert len(bed.scored()) == len(bed.effective()), "a clean restart repeats nothing"
    assert [e for e in bed.events() if e["event"] == "partitions_recovered"][-1]["replayed"] == 0
    refused = [e for e in bed.events() if e["event"] == "bundle_refused"]
    assert {(e["bundle"], e["kept"]) for e in refused} == {(NOWHERE, SECOND.id)}

    told = by_tx(bed.effective())
    assert len(told) == len(rows) + 3
    for _, value in rows[:200]:
        analysis = told[sections(value)["data"]["tx_id"]][0]["analysis"]
        assert (analysis["bundle"], analysis["challenger"]["bundle"]) == (FIRST.id, SECOND.id)
    for _, value in rows[200:]:
        analysis = told[sections(value)["data"]["tx_id"]][0]["analysis"]
        assert (analysis["bundle"], "challenger" in analysis) == (SECOND.id, False)
    actions = [told[tx][0]["verdict"]["action"] for tx in ("before", "after", "later")]
    assert actions == ["ALLOW", "BLOCK", "BLOCK"]
    versions = [told[tx][0]["analysis"].get("profiles") for tx in ("before", "after", "later")]
    assert versions == [None, profiles.id, profiles.id]
    assert {e["profiles"] for e in bed.events() if e["event"] == "profiles_refused"} == {NOWHERE, "None"}
    with psycopg.connect(bed.dsn) as connection:
        (alarm,) = load_alarms(connection)
    assert (alarm.kind, alarm.key) == ("bundle", f"refused:bundle:{NOWHERE}")
    assert "the last good one stays" in alarm.summary


def test_a_worker_that_wakes_after_its_partitions_moved_changes_nothing(bed: Bed) -> None:
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    bed.send(rows[:100])
    zombie = bed.worker("0")
    sink = bed.sink()
    bed.wait_judged()
    # Stopped at work: what it has read and judged is on its way.
    bed.send(rows[100:300])
    stopped = zombie.pid
    assert stopped
    os.kill(stopped, signal.SIGSTOP)
    bed.worker("1")
    bed.send(rows[300:500])
    bed.wait_judged()
    os.kill(stopped, signal.SIGCONT)
    bed.send(rows[500:])
    bed.wait(
        lambda: [e for e in bed.events("worker-0") if e["event"] in ("partitions_lost", "worker_failed")],
        "the first worker notices",
    )
    bed.wait_judged()
    assert bed.effective() == bed.undisturbed()

    scored, statuses = replay(bed.bus, bed.settings, 3)
    accepted = {sections(value)["data"]["tx_id"] for _, value in rows}
    with psycopg.connect(bed.dsn, autocommit=True) as connection:
        bed.wait(
            lambda: connection.execute("SELECT count(*) FROM transactions").fetchone() == (len(rows),),
            "all stored",
        )
        result = compare(connection, accepted, scored, statuses)
    assert result.clean, result.examples
    assert sink.poll() is None


def test_killed_workers_leave_no_doubt_about_any_verdict(bed: Bed) -> None:
    """Killed again and again between two steps of its commit, wherever that happens to be."""
    rows = traffic()
    announce(bed.bus, "bundle", {"bundle": FIRST.id})
    for at in range(0, len(rows), 400):
        worker = bed.worker("0")
        bed.send(rows[at : at + 400])
        ends = sum(high for _, high in bed.bus.watermarks(SCORED).values())
        bed.wait(
            lambda ends=ends: sum(high for _, high in bed.bus.watermarks(SCORED).values()) > ends,
            "first verdicts",
        )
        worker.kill()
        worker.wait(10)
    bed.worker("0")
    bed.wait_judged()
    assert bed.effective() == bed.undisturbed()
    assert len(bed.effective()) == len(rows)
