"""Scored records: what came stays, byte for byte, and what is added is plain JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomalyze.events.batch import MicroBatch
from anomalyze.events.decode import decode_records
from anomalyze.events.encode import ScoredEncoder
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.number import DECIMALS_MAX, format_number

NAN = math.nan


def batch_of(values: list[bytes], partition: int = 3) -> MicroBatch:
    n = len(values)
    decoded = decode_records(
        [partition] * n,
        [1000 + i for i in range(n)],
        [1 << 42] * n,
        values,
        partition_count=0,
        future_tolerance_ms=0,
        gazetteer=Gazetteer.load(),
    )
    assert decoded.dead == []
    return decoded.batch


def record(tx_id: str, end: str = "}}") -> bytes:
    meta = '{"timestamp":"2025-12-20T12:00:00Z","user_id":"u","account_id":"a"}'
    return f'{{"meta":{meta}, "data":{{"tx_id":"{tx_id}","amount":1.50,"currency":"USD"{end}'.encode()


def encode(
    encoder: ScoredEncoder, batch: MicroBatch, features: np.ndarray, special: dict[int, bytes] | None = None
) -> list[bytes]:
    n = batch.n
    return encoder.encode(
        batch,
        np.arange(n),
        features,
        np.full(n, 120.0),
        np.where(np.arange(n) % 2 == 0, 5000.04, NAN),
        np.full(n, 0.5),
        np.arange(n) % 2 == 1,
        np.arange(n) + 998,
        special or {},
    )


def test_the_wire_form() -> None:
    batch = batch_of([record("t0"), record("t1", ',"note":"x"} } \n')])
    encoder = ScoredEncoder(["user_tx_count_10m", "amount_base"], [0, 2], "sha256:b", "sha256:p")
    first, second = encode(encoder, batch, np.array([[5.0, 12.346], [NAN, 3.0]]))
    assert first == record("t0")[:-1] + (
        b',"enrichment":{"user_avg_spend":120,"distance_from_last_tx":5000,'
        b'"features":{"user_tx_count_10m":5,"amount_base":12.35}},'
        b'"analysis":{"rule_flags":[],"ml_score":0.5,"ml_prediction":"NORMAL",'
        b'"bundle":"sha256:b","profiles":"sha256:p"},'
        b'"verdict":{"final_severity":"NONE","action":"ALLOW"},'
        b'"src":{"partition":3,"offset":1000,"previous":998}}'
    )
    document = json.loads(second)
    assert second.startswith(batch.row_bytes(1).rstrip()[:-1])
    assert document["data"]["note"] == "x"
    assert document["enrichment"] == {
        "user_avg_spend": 120,
        "distance_from_last_tx": None,
        "features": {"amount_base": 3},
    }
    assert document["analysis"]["ml_prediction"] == "LEARNING"
    assert document["src"] == {"partition": 3, "offset": 1001, "previous": 999}


def test_no_features_and_no_profiles() -> None:
    batch = batch_of([record("t0")])
    (only,) = encode(ScoredEncoder([], [], 'odd "name"'), batch, np.empty((1, 0)))
    document = json.loads(only)
    assert document["enrichment"]["features"] == {}
    assert document["analysis"]["bundle"] == 'odd "name"'
    assert "profiles" not in document["analysis"]


def test_special_rows_bring_their_sections() -> None:
    batch = batch_of([record(f"t{i}") for i in range(5)])
    encoder = ScoredEncoder(["f"], [1], "b")
    sections = b'"enrichment":{},"analysis":{},"verdict":{"final_severity":"HIGH"}'
    special = {4: sections, 1: sections.replace(b"HIGH", b"LOW"), 77: b"of another call"}
    encoded = encode(encoder, batch, np.ones((5, 1)), special)
    assert encoded[1] == record("t1")[:-1] + b"," + special[1] + (
        b',"src":{"partition":3,"offset":1001,"previous":999}}'
    )
    severities = [json.loads(value)["verdict"]["final_severity"] for value in encoded]
    assert severities == ["NONE", "LOW", "NONE", "NONE", "HIGH"]


def test_some_rows_of_a_batch() -> None:
    batch = batch_of([record(f"t{i}") for i in range(6)])
    encoder = ScoredEncoder(["f"], [1], "b")
    rows = np.array([4, 0, 2])
    floats = np.array([1.0, 2.0, 3.0])
    encoded = encoder.encode(
        batch,
        rows,
        floats.reshape(3, 1),
        floats,
        floats,
        floats,
        np.zeros(3, dtype=bool),
        np.array([-1, 7, 8]),
        {0: b'"verdict":{}'},
    )
    documents = [json.loads(value) for value in encoded]
    assert [d["data"]["tx_id"] for d in documents] == ["t4", "t0", "t2"]
    assert [d["src"]["previous"] for d in documents] == [-1, 7, 8]
    assert documents[2]["enrichment"]["features"] == {"f": 3}
    assert documents[1]["verdict"] == {}


def test_earlier_outputs_stay_when_the_buffer_is_used_again() -> None:
    encoder = ScoredEncoder(["f"], [1], "b")
    batch = batch_of([record("first")])
    kept = encode(encoder, batch, np.ones((1, 1)))
    copy = bytes(bytearray(kept[0]))
    big = batch_of([record(f"second{i}") for i in range(2000)])
    for _ in range(3):
        assert len(encode(encoder, big, np.ones((2000, 1)))) == 2000
    assert kept[0] == copy
    assert json.loads(encode(encoder, batch, np.ones((1, 1)))[0]) == json.loads(copy)


def test_enrichment_of_one_row_is_that_of_the_batch() -> None:
    batch = batch_of([record("t0")])
    encoder = ScoredEncoder(["a", "b", "c"], [0, 2, 6], "b")
    features = np.array([1.0, NAN, 0.1234567])
    section = encoder.enrichment(features, 120.0, 5000.04)
    (encoded,) = encode(encoder, batch, features.reshape(1, 3))
    assert b"," + section + b',"analysis"' in encoded


@given(st.floats(), st.integers(0, DECIMALS_MAX))
@settings(max_examples=400, deadline=None)
@example(0.005, 2)
@example(9.007199254740993e15, 0)
@example(-0.0, 3)
@example(9.999999999, 2)
@example(1e22, 2)
def test_numbers(value: float, decimals: int) -> None:
    text = format_number(value, decimals)
    if math.isnan(value) or abs(value) >= 2**62:
        assert text == "null"
        return
    read = json.loads(text)
    assert abs(read - value) <= 0.5000001 * 10.0**-decimals + abs(value) * 2.0**-50
    assert text == "0" or not text.startswith("-0") or "." in text
    assert not ("." in text and text.endswith("0"))
    assert len(text.partition(".")[2]) <= decimals


def test_wrong_decimals_are_refused() -> None:
    with pytest.raises(ValueError, match="decimals"):
        ScoredEncoder(["a"], [], "b")
    with pytest.raises(ValueError, match="decimals"):
        ScoredEncoder(["a"], [DECIMALS_MAX + 1], "b")
