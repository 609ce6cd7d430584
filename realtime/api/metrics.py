"""What the API says of itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["ApiMetrics"]

WINDOW_S = 10.0


class ApiMetrics:
    """Counters for Prometheus and a short memory for /system."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._accepted = Counter("anomalyze_api_accepted", "Transactions accepted", registry=registry)
        self._rejected = Counter(
            "anomalyze_api_rejected", "Transactions refused, by field", ["field"], registry=registry
        )
        self._durable_s = Histogram(
            "anomalyze_api_durable_seconds",
            "Until the bus acknowledged a request's transactions",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
            registry=registry,
        )
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=20_000)
        self._total = 0

    def accepted(self, transactions: int, seconds: float) -> None:
        """A request's transactions are durable."""
        self._accepted.inc(transactions)
        self._durable_s.observe(seconds)
        with self._lock:
            self._recent.append((time.monotonic(), transactions, seconds))
            self._total += transactions

    def rejected(self, field: str) -> None:
        """One transaction was refused."""
        self._rejected.labels(field).inc()

    def state(self) -> dict[str, Any]:
        """Rate and p99 of the last ten seconds, for the heartbeat."""
        oldest = time.monotonic() - WINDOW_S
        with self._lock:
            recent = [(n, s) for at, n, s in self._recent if at >= oldest]
            total = self._total
        times = sorted(s for _, s in recent)
        p99 = times[min(len(times) - 1, int(len(times) * 0.99))] * 1000 if times else None
        return {
            "rate": round(sum(n for n, _ in recent) / WINDOW_S, 1),
            "p99_ms": None if p99 is None else round(p99, 1),
            "accepted": total,
        }
