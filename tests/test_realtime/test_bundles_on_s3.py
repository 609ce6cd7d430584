"""Bundles on S3 under a worker at work: swapped while it runs, rolled back, refused when they are not what they should
be, and a store that is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from anomalyze.bus.control import announce
from anomalyze.detection.archive import read_archive, write_archive
from anomalyze.detection.bundle import Bundle, compute_bundle_id
from anomalyze.learning import promotion
from tests.s3 import Bucket, new_bucket
from tests.test_realtime.bed import Bed, bundles, open_bed, record
from tests.test_realtime.test_shadow import with_rules

FIRST, SECOND = bundles()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = new_bucket(monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket) -> Iterator[Bed]:
    environment = {
        "ANOMALYZE_OBJECT_STORE_URL": f"s3://{bucket.name}/one",
        "ANOMALYZE_S3_ENDPOINT_URL": bucket.url,
    }
    with open_bed(request, tmp_path, "embedded", **environment) as opened:
        yield opened


class Sender:
    """Sends one transaction after the other and sees by what they are judged."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.sent = 0

    def judged_by(self) -> tuple[str, str | None]:
        """Champion and challenger of the next transaction."""
        self.sent += 1
        tx_id = f"s3-{self.sent}"
        self.bed.send([record("ann", tx_id, 10.0 + self.sent)])
        found: list[bytes] = []

        def is_there() -> bool:
            found[:] = [v for _, v in self.bed.scored() if json.loads(v)["data"]["tx_id"] == tx_id]
            return bool(found)

        self.bed.wait(is_there, f"{tx_id} is judged")
        analysis = json.loads(found[0])["analysis"]
        return analysis["bundle"], analysis.get("challenger", {}).get("bundle")


def newer_format(bundle: Bundle) -> bytes:
    """A bundle as a later version may write it, whole and under its own hash."""
    parts = read_archive(bundle.data)
    manifest = json.loads(parts["manifest.json"])
    manifest["format"] += 1
    return write_archive({**parts, "manifest.json": json.dumps(manifest, sort_keys=True, indent=1).encode()})


def test_swapped_rolled_back_refused_and_away(bed: Bed, bucket: Bucket) -> None:
    store, log, sender = bed.store, bed.bus, Sender(bed)
    challenger = with_rules(FIRST, AMOUNT_SPIKE="CRITICAL")
    promotion.announce_champion(store, log)
    worker = bed.worker()
    assert sender.judged_by() == (FIRST.id, None)
    # A hot swap, and back: no worker starts anew.
    promotion.promote(store, log, SECOND.id)
    assert sender.judged_by() == (SECOND.id, None)
    promotion.publish_challenger(store, log, challenger)
    assert sender.judged_by() == (SECOND.id, challenger.id)
    promotion.roll_back(store, log)
    assert sender.judged_by() == (FIRST.id, challenger.id)

    # What is not what its name says, or comes from the future: the last good one stays.
    damaged = with_rules(FIRST, AMOUNT_LIMIT="LOW")
    flipped = bytearray(damaged.data)
    flipped[len(flipped) // 2] ^= 1
    cut = with_rules(FIRST, AMOUNT_LIMIT="HIGH")
    tampered = with_rules(FIRST, AMOUNT_LIMIT="CRITICAL")
    newer = newer_format(FIRST)
    bad = {
        damaged.id: (bytes(flipped), "was damaged or changed"),
        cut.id: (cut.data[:-2000], "was damaged or changed"),
        tampered.id: (SECOND.data, "was damaged or changed"),
        compute_bundle_id(newer): (newer, "a newer program wrote it"),
        "sha256:" + "0" * 64: (b"", "not published"),
    }
    for name, (data, _) in bad.items():
        if data:
            key = f"one/bundles/{name.removeprefix('sha256:')}.tar"
            bucket.client.put_object(Bucket=bucket.name, Key=key, Body=data)
        announce(log, "bundle", {"bundle": name})
        assert sender.judged_by() == (FIRST.id, challenger.id)
    announce(log, "challenger", {"bundle": damaged.id})
    assert sender.judged_by() == (FIRST.id, None)

    # The store is away: verdicts go on, and the challenger is asked for again when it is published again.
    other = with_rules(FIRST, AMOUNT_SPIKE="LOW")
    store.publish(other)
    bucket.stop()
    announce(log, "challenger", {"bundle": other.id})
    assert sender.judged_by() == (FIRST.id, None)
    bucket.start()
    promotion.publish_challenger(store, log, other)
    assert sender.judged_by() == (FIRST.id, other.id)

    assert worker.poll() is None
    assert [e["event"] for e in bed.events()].count("started") == 1
    expected = {f"refused:bundle:{name}": reason for name, (_, reason) in bad.items()}
    expected |= {
        f"refused:challenger:{damaged.id}": "was damaged or changed",
        f"refused:challenger:{other.id}": "object store",
    }
    with psycopg.connect(bed.dsn, autocommit=True) as connection:

        def raised() -> dict[str, str]:
            return dict(
                connection.execute("SELECT key, summary FROM alarms WHERE kind = 'bundle'").fetchall()
            )

        bed.wait(lambda: len(raised()) == len(expected), "every alarm is raised")
        for key, reason in expected.items():
            assert reason in raised()[key], raised()[key]
