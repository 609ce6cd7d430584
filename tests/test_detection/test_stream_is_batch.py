"""A verdict is a function of the log: however it is cut into micro-batches, wherever a worker restarts.

One simulated history, with repeats, status updates, conflicts, late events and list changes in it, is judged
in one piece; then cut at random, partitions together or apart, states dropped and restored at random. Verdicts,
encoded bytes and the state at the end have to be equal to the bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anomalyze.bus.partitioner import murmur2_partition
from anomalyze.detection.budget import with_thresholds
from anomalyze.detection.bundle import Bundle
from anomalyze.detection.detector import Detector, PartitionState
from anomalyze.detection.output import encode_scored, pick_anomalies
from anomalyze.events.batch import Control
from anomalyze.events.decode import decode_records
from anomalyze.features.state import Disposition
from anomalyze.simulation.record import user_ids, wire_records
from anomalyze.simulation.world import Simulation

PARTITIONS = 3
START_MS = 1_760_054_400_000


@dataclass
class Log:
    """Records by partition; a record is (append_ms, value)."""

    records: list[list[tuple[int, bytes]]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])

    def append(self, user: str, append_ms: int, value: bytes) -> None:
        self.records[murmur2_partition(user.encode(), PARTITIONS)].append((append_ms, value))

    def append_everywhere(self, append_ms: int, value: bytes) -> None:
        for partition in self.records:
            partition.append((append_ms, value))


def build_log() -> Log:
    random = np.random.default_rng(11)
    log = Log()
    world = Simulation(25, 3, START_MS, 24, per_day_mean=3.0, incidents_per_10k=150.0)
    late: list[tuple[str, bytes]] = []
    for chunk in world.chunks():
        rows = zip(user_ids(chunk), chunk.ts_ms.tolist(), wire_records(chunk, "x", "acct"), strict=True)
        for user, ts_ms, value in rows:
            lot = random.random()
            if lot < 0.03:
                late.append((user, value))
                continue
            if 0.1 <= lot < 0.15:
                body = msgspec.json.decode(value)
                body["data"]["time_resolution"] = "day"
                value = msgspec.json.encode(body)
            log.append(user, ts_ms + 40, value)
            if lot < 0.06:
                log.append(user, ts_ms + 90, value)  # the same again
            elif lot < 0.08:
                body = msgspec.json.decode(value)
                body["data"]["status"] = "declined"
                log.append(user, ts_ms + 95, msgspec.json.encode(body))
            elif lot < 0.09:
                body = msgspec.json.decode(value)
                body["data"]["amount"] = 1
                log.append(user, ts_ms + 99, msgspec.json.encode(body))
            if late and lot > 0.95:
                log.append(late[0][0], ts_ms + 100, late.pop(0)[1])
        entry = {"control": "list", "op": "add", "account_id": "acct", "list": "block", "field": "user_id"}
        entry |= {"value": f"user_{chunk.day:05d}", "expires_ms": int(chunk.ts_ms[-1]) + 86_400_000}
        log.append_everywhere(int(chunk.ts_ms[-1]) + 200, msgspec.json.encode(entry))
    return log


LOG = build_log()
LENGTHS = [len(partition) for partition in LOG.records]


@dataclass
class Worker:
    """Judges pieces of the log and keeps what comes out, by partition."""

    detector: Detector
    states: dict[int, PartitionState] = field(
        default_factory=lambda: {p: PartitionState.empty() for p in range(PARTITIONS)}
    )
    next: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    emitted: list[int] = field(default_factory=lambda: [-1] * PARTITIONS)
    scored: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    anomalies: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    features: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    conflicts: list[tuple[int, int]] = field(default_factory=list)

    def judge(self, counts: list[int]) -> None:
        """The next so many records of each partition as one micro-batch, cut at control records."""
        taken: list[tuple[int, int, int, bytes]] = []
        for partition, count in enumerate(counts):
            for offset in range(self.next[partition], min(self.next[partition] + count, LENGTHS[partition])):
                append_ms, value = LOG.records[partition][offset]
                if value.startswith(b'{"control":'):
                    self._process(taken)
                    taken = []
                    control = Control(partition, offset, "list", msgspec.json.decode(value))
                    assert self.detector.apply_control(control, self.states[partition]) is None
                else:
                    taken.append((partition, offset, append_ms, value))
                self.next[partition] = offset + 1
        self._process(taken)

    def _process(self, taken: list[tuple[int, int, int, bytes]]) -> None:
        if not taken:
            return
        partitions, offsets, append_ms, values = (list(column) for column in zip(*taken, strict=True))
        decoded = decode_records(
            partitions,
            offsets,
            append_ms,
            values,
            partition_count=PARTITIONS,
            future_tolerance_ms=0,
            gazetteer=self.detector.gazetteer,
        )
        assert not decoded.dead
        batch = decoded.batch
        verdicts = self.detector.process(batch, self.states)
        said = np.isin(verdicts.disposition, [Disposition.JUDGE, Disposition.STATUS_UPDATE])
        rows = np.flatnonzero(said)
        previous = np.empty(len(rows), dtype=np.int64)
        for i, row in enumerate(rows.tolist()):
            partition = int(batch.partition[row])
            previous[i] = self.emitted[partition]
            self.emitted[partition] = int(batch.offset[row])
        values_out = encode_scored(batch, verdicts, rows, previous)
        for row, value in zip(rows.tolist(), values_out, strict=True):
            self.scored[batch.partition[row]].append(value)
            self.features[batch.partition[row]].append(verdicts.features[row].tobytes())
        for row, value in pick_anomalies(verdicts, rows, values_out):
            self.anomalies[batch.partition[row]].append(value)
        self.conflicts += [(letter.partition, letter.offset) for letter in verdicts.dead]

    def restart(self, partition: int) -> None:
        """Lose a partition's state and take up its checkpoint."""
        arrays = self.states[partition].snapshot()
        self.states[partition] = PartitionState.empty()
        self.states[partition].restore(arrays)


@pytest.fixture(scope="session")
def whole(detector: Detector) -> Worker:
    worker = Worker(detector)
    worker.judge(LENGTHS)
    return worker


def test_the_log_has_everything_in_it(whole: Worker) -> None:
    """Else the property would hold of nothing."""
    records = [msgspec.json.decode(value) for partition in whole.scored for value in partition]
    assert sum("status_update" in r["verdict"] for r in records) > 5
    days = [r for r in records if r["data"].get("time_resolution") and "enrichment" in r]
    assert len(days) > 20
    assert all("user_tx_count_10m" not in r["enrichment"]["features"] for r in days)
    assert len(whole.conflicts) > 5
    assert sum(LENGTHS) - len(records) > 20  # repeats and conflicts say nothing
    severities = {r["verdict"].get("final_severity") for r in records}
    assert {"NONE", "LOW", "MEDIUM"} <= severities
    assert sum(r["verdict"].get("case_anomalies", 0) > 1 for r in records) > 5
    assert [len(p) for p in whole.anomalies] == [
        sum(b'"anomaly_id"' in value for value in partition) for partition in whole.scored
    ]


def first_difference(
    one: list[list[bytes]], other: list[list[bytes]]
) -> tuple[int, int, bytes | None, bytes | None] | None:
    """(partition, place, one's value, the other's): megabytes are not for pytest to compare."""
    for partition, pair in enumerate(zip(one, other, strict=True)):
        for place, (a, b) in enumerate(itertools.zip_longest(*pair)):
            if a != b:
                return partition, place, a, b
    return None


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([15, 60, 600]),
    restarts=st.sampled_from([0.0, 0.02, 0.3]),
)
@example(seed=1, size=60, restarts=0.5)  # restarts are always among the cuts
def test_stream_equals_batch(
    whole: Worker, starter_bundle: Bundle, seed: int, size: int, restarts: float
) -> None:
    random = np.random.default_rng(seed)
    worker = Worker(whole.detector)
    while worker.next != LENGTHS:
        worker.judge(random.integers(0, size, PARTITIONS).tolist())
        if random.random() < restarts:
            worker.restart(int(random.integers(0, PARTITIONS)))
    assert first_difference(worker.scored, whole.scored) is None
    assert first_difference(worker.anomalies, whole.anomalies) is None
    assert first_difference(worker.features, whole.features) is None
    assert sorted(worker.conflicts) == sorted(whole.conflicts)


def test_with_an_alert_budget_too(starter_bundle: Bundle) -> None:
    bundle = replace(starter_bundle, policy=f"{starter_bundle.policy}\nbudget: {{cases_per_day: 2}}\n")
    detector = Detector(with_thresholds(bundle, {"acct": 0.75}))
    whole, cut = Worker(detector), Worker(detector)
    whole.judge(LENGTHS)
    random = np.random.default_rng(5)
    while cut.next != LENGTHS:
        cut.judge(random.integers(0, 30, PARTITIONS).tolist())
    assert first_difference(cut.scored, whole.scored) is None
    assert any(b'"effect":"raised"' in value for partition in whole.scored for value in partition)


def test_a_bundle_read_again_judges_the_same(whole: Worker, starter_bundle: Bundle) -> None:
    worker = Worker(Detector(Bundle.from_bytes(starter_bundle.data)))
    worker.judge(LENGTHS)
    assert first_difference(worker.scored, whole.scored) is None
