"""What the sink says of itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["SinkMetrics"]

WINDOW_S = 10.0


class SinkMetrics:
    """Counters for Prometheus and a short memory for /system."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._read = Counter("anomalyze_sink_records", "Records read", ["topic"], registry=registry)
        self._stored = Counter("anomalyze_sink_stored", "Records that were new", ["topic"], registry=registry)
        self._seconds = Histogram(
            "anomalyze_sink_store_seconds", "Time of one transaction", ["topic"], registry=registry
        )
        self._lag = Gauge("anomalyze_sink_lag", "Records behind", ["topic"], registry=registry)
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._lags: dict[str, int] = {}
        self._total = 0

    def stored(self, topic: str, read: int, stored: int, seconds: float) -> None:
        """One transaction was committed."""
        self._read.labels(topic).inc(read)
        self._stored.labels(topic).inc(stored)
        self._seconds.labels(topic).observe(seconds)
        with self._lock:
            self._recent.append((time.monotonic(), stored))
            self._total += stored

    def lag(self, topic: str, by_partition: Mapping[int, int]) -> None:
        """Records behind, from the consumer."""
        behind = sum(by_partition.values())
        self._lag.labels(topic).set(behind)
        with self._lock:
            self._lags[topic] = behind

    def state(self) -> dict[str, Any]:
        """Rate and lag of the last ten seconds, for the heartbeat."""
        oldest = time.monotonic() - WINDOW_S
        with self._lock:
            recent = sum(stored for at, stored in self._recent if at >= oldest)
            return {
                "rate": round(recent / WINDOW_S, 1),
                "lag": sum(self._lags.values()),
                "stored": self._total,
            }
