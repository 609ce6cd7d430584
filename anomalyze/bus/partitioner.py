"""Which partition a key belongs to: the same answer as Java's default partitioner and ``murmur2_random``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomalyze.events.murmur2 import murmur2_bytes, murmur2_partition_bytes, murmur2_partitions_bytes

__all__ = ["murmur2", "murmur2_partition", "murmur2_partitions"]


def murmur2(key: bytes) -> int:
    """Kafka's murmur2 as a signed 32-bit number, as Java prints it.

    >>> murmur2(b"foobar")
    -790332482
    """
    value = int(murmur2_bytes(_bytes_as_array(key), 0, len(key)))
    return value - (1 << 32) if value >= 1 << 31 else value


def murmur2_partition(key: bytes, n: int) -> int:
    """The partition of a key among ``n``.

    >>> murmur2_partition(b"user_99", 64) == (murmur2(b"user_99") & 0x7FFFFFFF) % 64
    True
    """
    return int(murmur2_partition_bytes(_bytes_as_array(key), 0, len(key), n))


def murmur2_partitions(keys: Sequence[bytes], n: int) -> list[int]:
    """``murmur2_partition`` of many keys in one call."""
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    out = np.empty(len(keys), dtype=np.int32)
    murmur2_partitions_bytes(_bytes_as_array(b"".join(keys)), ends, n, out)
    return out.tolist()


def _bytes_as_array(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    # A bytearray, because a read-only array has another numba type.
    return np.frombuffer(bytearray(data), dtype=np.uint8)
