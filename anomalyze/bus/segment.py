"""The bytes of one segment: the records that one append brought to one partition.

Little-endian: the number of records (uint32), the length of each key (int32, -1 for no key), the length of each
value (uint32), then all keys, then all values. A segment is made and taken apart by whole lists, so that a record
costs a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

__all__ = ["decode_segment", "encode_segment"]


def encode_segment(keys: Sequence[bytes | None], values: Sequence[bytes]) -> bytes:
    """Join records to a segment.

    >>> decode_segment(encode_segment([b"k", None], [b"one", b""]))
    ([b'k', None], [b'one', b''])
    """
    key_lengths = np.array([-1 if key is None else len(key) for key in keys], dtype="<i4")
    value_lengths = np.array([len(value) for value in values], dtype="<u4")
    header = np.array([len(values)], dtype="<u4")
    return b"".join(
        (
            header.tobytes(),
            key_lengths.tobytes(),
            value_lengths.tobytes(),
            *(key for key in keys if key is not None),
            *values,
        )
    )


def decode_segment(payload: bytes, skip: int = 0) -> tuple[list[bytes | None], list[bytes]]:
    """Keys and values of a segment, without the first ``skip`` records."""
    records = int.from_bytes(payload[:4], "little")
    key_lengths = np.frombuffer(payload, "<i4", records, 4)
    value_lengths = np.frombuffer(payload, "<u4", records, 4 + 4 * records)
    start = 4 + 8 * records
    ends = list(accumulate(np.maximum(key_lengths, 0).tolist(), initial=start))
    keys: list[bytes | None] = [payload[a:b] for a, b in pairwise(ends[skip:])]
    for row in np.flatnonzero(key_lengths[skip:] < 0).tolist():
        keys[row] = None
    ends = list(accumulate(value_lengths.tolist(), initial=ends[-1]))
    return keys, [payload[a:b] for a, b in pairwise(ends[skip:])]
