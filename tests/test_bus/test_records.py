"""Records in bytes and in memory, without a server: segments, fetched records, Kafka's messages."""

from __future__ import annotations

import doctest

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.bus import segment
from anomalyze.bus.embedded_reader import Fetched, Fetcher
from anomalyze.bus.embedded_writer import SEGMENT_BYTES_MAX, cut_records
from anomalyze.bus.kafka_consumer import as_records
from anomalyze.bus.segment import decode_segment, encode_segment

RECORDS = st.lists(st.tuples(st.none() | st.binary(max_size=20), st.binary(max_size=200)), min_size=1)


@given(RECORDS, st.integers(0, 5))
def test_round_trip(records: list[tuple[bytes | None, bytes]], skip: int) -> None:
    keys, values = [r[0] for r in records], [r[1] for r in records]
    skip = min(skip, len(records))
    assert decode_segment(encode_segment(keys, values), skip) == (keys[skip:], values[skip:])


@given(st.lists(st.integers(0, SEGMENT_BYTES_MAX * 2), min_size=1, max_size=20))
def test_cuts_cover_everything_and_keep_the_limit(sizes: list[int]) -> None:
    values = [bytes(size) for size in sizes]
    cuts = cut_records([None] * len(values), values)
    assert [start for start, _ in cuts] == [0, *(end for _, end in cuts[:-1])]
    assert cuts[-1][1] == len(values)
    for start, end in cuts:
        assert end > start
        assert end - start == 1 or sum(sizes[start:end]) <= SEGMENT_BYTES_MAX


def test_a_full_partition_starves_no_other() -> None:
    fetcher = Fetcher("transactions", 1)
    for p, records in enumerate((500, 500, 3)):
        fetcher.partitions[p] = Fetched(0)
        fetcher.partitions[p].add(0, 0, encode_segment([None] * records, [b"v"] * records))
    served = [set(fetcher.take(100, [0, 1, 2]).partitions) for _ in range(3)]
    assert set().union(*served) == {0, 1, 2}


def test_kafkas_messages_are_sorted_by_partition_and_offset() -> None:
    places = [(2, 7), (0, 3), (2, 8), (1, 1), (0, 4)]
    messages = [Message("t", p, o, key=b"k", value=b"%d" % o, timestamp=(1, 5)) for p, o in places]
    records = as_records("transactions", messages)
    assert list(zip(records.partitions, records.offsets, strict=True)) == sorted(places)
    assert records.values == [b"%d" % o for o in records.offsets]
    assert records.append_ms == [5] * 5


def test_doctests() -> None:
    assert doctest.testmod(segment).failed == 0
