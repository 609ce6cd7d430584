"""Kafka's murmur2 over bytes: which partition a key belongs to.

The hash of ``org.apache.kafka.common.utils.Utils.murmur2`` (MurmurHash2, 32 bits, seed 0x9747b28c), as every
Java producer and librdkafka's ``murmur2_random`` use it. Compiled, because a reader checks each record's key
against the partition that it lies in.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

__all__ = ["murmur2_bytes", "murmur2_partition_bytes", "murmur2_partitions_bytes"]

SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
SHIFT = 24
MASK = 0xFFFFFFFF


# Arithmetic runs in 64 bits and is cut back to 32 after each product: a product of two 32-bit numbers fits.
@nb.njit("uint32(uint8[::1], int64, int64)", cache=True, nogil=True)
def murmur2_bytes(buffer: npt.NDArray[np.uint8], start: int, end: int) -> int:
    """Murmur2 of ``buffer[start:end]`` as an unsigned 32-bit number (Java shows the same bits signed).

    Parameters
    ----------
    buffer
        uint8, C-contiguous.
    start, end
        Half-open range of the key's bytes; the caller checks that it lies within the buffer.
    """
    multiplier = np.uint64(MULTIPLIER)
    mask = np.uint64(MASK)
    length = end - start
    h = np.uint64(SEED) ^ (np.uint64(length) & mask)
    position = start
    for _ in range(length >> 2):
        k = (
            np.uint64(buffer[position])
            | (np.uint64(buffer[position + 1]) << np.uint64(8))
            | (np.uint64(buffer[position + 2]) << np.uint64(16))
            | (np.uint64(buffer[position + 3]) << np.uint64(24))
        )
        k = (k * multiplier) & mask
        k ^= k >> np.uint64(SHIFT)
        k = (k * multiplier) & mask
        h = (h * multiplier) & mask
        h ^= k
        position += 4
    rest = end - position
    if rest == 3:
        h ^= np.uint64(buffer[position + 2]) << np.uint64(16)
    if rest >= 2:
        h ^= np.uint64(buffer[position + 1]) << np.uint64(8)
    if rest >= 1:
        h ^= np.uint64(buffer[position])
        h = (h * multiplier) & mask
    h ^= h >> np.uint64(13)
    h = (h * multiplier) & mask
    h ^= h >> np.uint64(15)
    return int(h)


@nb.njit("int64(uint8[::1], int64, int64, int64)", cache=True, nogil=True)
def murmur2_partition_bytes(buffer: npt.NDArray[np.uint8], start: int, end: int, partition_count: int) -> int:
    """The partition that Kafka's default partitioner gives the key ``buffer[start:end]``.

    ``(murmur2(key) & 0x7fffffff) % partition_count``: the sign bit is dropped, not negated.
    """
    return int(murmur2_bytes(buffer, start, end) & 0x7FFFFFFF) % partition_count


@nb.njit("void(uint8[::1], int64[::1], int64, int32[::1])", cache=True, nogil=True)
def murmur2_partitions_bytes(
    buffer: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    partition_count: int,
    out: npt.NDArray[np.int32],
) -> None:
    """The partitions of many keys that lie one after another in ``buffer``, key i up to ``ends[i]``, into ``out``."""
    start = np.int64(0)
    for i in range(ends.shape[0]):
        end = ends[i]
        out[i] = murmur2_partition_bytes(buffer, start, end, partition_count)
        start = end
