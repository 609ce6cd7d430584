"""The partitioner against Kafka's own vectors and against a slow, obvious murmur2."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.bus import partitioner
from anomalyze.bus.partitioner import murmur2, murmur2_partition, murmur2_partitions

# From Kafka's UtilsTest.testMurmur2.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def slow_murmur2(data: bytes) -> int:
    """MurmurHash2 as its author describes it, in Python's unbounded integers."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    while len(data) >= 4:
        k = int.from_bytes(data[:4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
        data = data[4:]
    if data:
        h = (h ^ int.from_bytes(data, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


@pytest.mark.parametrize(("key", "expected"), VECTORS.items())
def test_known_vectors(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected
    assert slow_murmur2(key) == expected


@given(st.binary(max_size=140))
def test_equals_the_slow_one(key: bytes) -> None:
    assert murmur2(key) == slow_murmur2(key)


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 1024))
def test_partitions_of_many(keys: list[bytes], n: int) -> None:
    expected = [(slow_murmur2(key) & 0x7FFFFFFF) % n for key in keys]
    assert murmur2_partitions(keys, n) == expected
    assert [murmur2_partition(key, n) for key in keys] == expected


def test_doctests() -> None:
    assert doctest.testmod(partitioner).failed == 0
