"""Looking up rows by key, compiled: keys are hashes, so their first bits say nearly where each one stands."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["bucket_starts", "find_rows", "gather_rows"]

# 4 MB of starts for 20 million keys; the rest of the way is a binary search.
BUCKET_BITS_MAX = 20
BUCKET_KEYS_BITS = 2


def bucket_starts(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], np.uint64]:
    """Where the keys of each bucket begin (and the last ends), and by how much a key is shifted to name its bucket.

    ``keys`` are ascending. A bucket holds about four; keys that were chosen to share one cost a binary search.
    """
    bits = min(max(len(keys).bit_length() - 1 - BUCKET_KEYS_BITS, 1), BUCKET_BITS_MAX)
    shift = np.uint64(64 - bits)
    firsts = np.arange(1 << bits, dtype=np.uint64) << shift
    return np.append(np.searchsorted(keys, firsts), len(keys)).astype(np.int64), shift


@njit(cache=True, nogil=True, error_model="numpy")
def find_rows(keys, starts, shift, wanted, place):
    """Write into ``place`` where each wanted key stands in ``keys``, -1 where it does not; 0 is no key."""
    for i in range(len(wanted)):
        key = wanted[i]
        place[i] = -1
        if key == 0:
            continue
        bucket = np.int64(key >> shift)
        low, end = starts[bucket], starts[bucket + 1]
        high = end
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < end and keys[low] == key:
            place[i] = low


@njit(cache=True, nogil=True, error_model="numpy")
def gather_rows(values, place, columns, out):
    """Write ``values[place[i], columns[c]]`` into ``out[i, c]``, NaN where the place is -1."""
    for i in range(len(place)):
        row = place[i]
        for c in range(len(columns)):
            out[i, c] = values[row, columns[c]] if row >= 0 else np.float32(np.nan)
