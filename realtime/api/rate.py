"""How much one key may send."""

from __future__ import annotations

import time
from collections import OrderedDict

from realtime.api.problems import Problem

__all__ = ["RateLimit"]

# Keys whose allowance is remembered; the least recently used one starts anew, which only favours it.
KEYS_MAX = 10_000


class RateLimit:
    """A token bucket a key: as many transactions as one second's rate at once, refilled at that rate."""

    def __init__(self, per_s: int) -> None:
        self._per_s = float(per_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key_id: str, amount: int) -> None:
        """Take an allowance for that many transactions. Raises ``Problem`` 429 when there is none.

        A request larger than the bucket passes when the bucket is full, and is then owed.
        """
        now_s = time.monotonic()
        tokens, at_s = self._buckets.pop(key_id, (self._per_s, now_s))
        tokens = min(self._per_s, tokens + (now_s - at_s) * self._per_s)
        if tokens < min(amount, self._per_s):
            self._buckets[key_id] = (tokens, now_s)
            raise Problem(
                429,
                f"this key may send {self._per_s:.0f} transactions a second; the setting ANOMALYZE_RATE_LIMIT_PER_S says so",
                retry_after_s=(min(amount, self._per_s) - tokens) / self._per_s,
            )
        self._buckets[key_id] = (tokens - amount, now_s)
        while len(self._buckets) > KEYS_MAX:
            self._buckets.popitem(last=False)
