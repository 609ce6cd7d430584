"""What the worker says of itself: Prometheus metrics, and the summary that its heartbeat carries."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from anomalyze.events.batch import DeadLetter, Severity
from anomalyze.features.daily_store import Fetched
from realtime.detector.judge import Outputs

__all__ = ["WorkerMetrics"]

WINDOW_S = 10.0
LATENCY_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Micro-batches whose rows' latencies are kept for the quantiles of the last window.
BATCHES_KEPT = 2_000


class WorkerMetrics:
    """Counters for Prometheus and a short memory for /system. One thread writes, another reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._judged = Counter("anomalyze_transactions_judged", "Transactions judged", registry=registry)
        self._repeats = Counter(
            "anomalyze_transactions_repeated", "Repeats that kept their verdict", registry=registry
        )
        self._anomalies = Counter(
            "anomalyze_anomalies", "Anomalies by severity", ["severity"], registry=registry
        )
        self._dead = Counter(
            "anomalyze_dead_letters", "Dead letters by reason", ["reason"], registry=registry
        )
        self._batch_s = Histogram(
            "anomalyze_batch_seconds", "Time to judge one micro-batch", registry=registry
        )
        self._latency_s = Histogram(
            "anomalyze_latency_seconds",
            "From the log's append to the verdict, the oldest row of each micro-batch",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._challenged = Counter(
            "anomalyze_challenged_transactions",
            "Transactions judged by the challenger too",
            registry=registry,
        )
        self._challenger_s = Counter(
            "anomalyze_challenger_seconds", "Time that the challenger took to judge", registry=registry
        )
        self._refused = Counter(
            "anomalyze_bundles_refused",
            "Bundles that the log named and that cannot judge",
            ["pointer"],
            registry=registry,
        )
        self._lag = Gauge("anomalyze_consumer_lag", "Records behind", ["partition"], registry=registry)
        self._partitions = Gauge("anomalyze_partitions_owned", "Partitions owned", registry=registry)
        self._profile_rows = Counter(
            "anomalyze_profile_rows",
            "Rows of daily profiles by where they came from: memory, redis, file",
            ["source"],
            registry=registry,
        )
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, npt.NDArray[np.int64]]] = deque(maxlen=BATCHES_KEPT)
        self._lag_now: dict[int, int] = {}
        self._owned = 0
        self._total = 0

    def judged(self, records: int, outputs: Outputs, seconds: float) -> None:
        """One micro-batch was judged and handed to the producer."""
        self._judged.inc(records)
        self._repeats.inc(outputs.repeats)
        self._batch_s.observe(seconds)
        self._challenged.inc(outputs.challenged)
        self._challenger_s.inc(outputs.challenger_s)
        for severity in Severity:
            if severity and outputs.severities[severity]:
                self._anomalies.labels(severity.name).inc(int(outputs.severities[severity]))
        now_ms = time.time() * 1000
        with self._lock:
            self._total += records
            for append_ms in outputs.append_ms:
                latency_ms = np.maximum(0, now_ms - append_ms)
                self._recent.append((time.monotonic(), latency_ms))
                self._latency_s.observe(float(latency_ms.max()) / 1000)

    def profiles_read(self, fetched: Fetched) -> None:
        """Rows of daily profiles were fetched for a micro-batch."""
        for source in fetched.__struct_fields__:
            if count := getattr(fetched, source):
                self._profile_rows.labels(source).inc(count)

    def dead_letters(self, dead: Sequence[DeadLetter]) -> None:
        """Records that could not be judged."""
        for letter in dead:
            self._dead.labels(letter.reason).inc()

    def refused(self, pointer: str) -> None:
        """A bundle cannot judge: ``bundle`` or ``challenger``."""
        self._refused.labels(pointer).inc()

    def committed(self, lag: Mapping[int, int], partitions: int) -> None:
        """A commit went through."""
        for partition in set(self._lag_now) - set(lag):
            self._lag.remove(str(partition))
        for partition, records in lag.items():
            self._lag.labels(str(partition)).set(records)
        self._partitions.set(partitions)
        with self._lock:
            self._lag_now, self._owned = dict(lag), partitions

    def state(self) -> dict[str, Any]:
        """Rate, latency and lag of the last ten seconds, for the heartbeat."""
        oldest = time.monotonic() - WINDOW_S
        with self._lock:
            latencies = [batch for at, batch in self._recent if at >= oldest]
            lag, owned, total = sum(self._lag_now.values()), self._owned, self._total
        merged = np.concatenate(latencies) if latencies else np.empty(0)
        quantiles = np.quantile(merged, [0.5, 0.99]) if len(merged) else (None, None)
        return {
            "rate": round(len(merged) / WINDOW_S, 1),
            "p50_ms": None if quantiles[0] is None else round(float(quantiles[0]), 1),
            "p99_ms": None if quantiles[1] is None else round(float(quantiles[1]), 1),
            "lag": lag,
            "partitions": owned,
            "judged": total,
        }
