"""Clients' flat transactions: taken as valid records, or refused by field while good ones go on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from anomalyze.errors import EventError
from anomalyze.events.decode import decode_records
from anomalyze.events.gazetteer import Gazetteer
from anomalyze.events.ingest import Accepted, Rejected, parse_transaction, parse_transactions
from anomalyze.events.schema import RECORD_BYTES_MAX

FLAT = {
    "user_id": "u1",
    "tx_id": "t1",
    "amount": 4500.50,
    "currency": "USD",
    "location": "NY",
    "note": {"a": [1]},
}
NOW_MS = 1_766_232_000_123
REQUEST: dict[str, Any] = {
    "account_id": "acct_7",
    "source": "REALTIME_API",
    "now_ms": NOW_MS,
    "future_tolerance_ms": 300_000,
    "trace_id": "req",
}


def many(body: bytes, records_max: int = 100) -> tuple[list[Accepted], list[Rejected]]:
    return parse_transactions(body, records_max=records_max, **REQUEST)


def test_one_becomes_the_wire_form() -> None:
    accepted = parse_transaction(FLAT, reply_to="r:1", **REQUEST)
    assert (accepted.user_id, accepted.tx_id) == ("u1", "t1")
    assert json.loads(accepted.value) == {
        "meta": {
            "trace_id": "req",
            "timestamp": "2025-12-20T12:00:00.123Z",
            "source": "REALTIME_API",
            "user_id": "u1",
            "account_id": "acct_7",
            "reply_to": "r:1",
        },
        "data": {"tx_id": "t1", "amount": 4500.5, "currency": "USD", "location": "NY", "note": {"a": [1]}},
    }
    own = {**FLAT, "timestamp": "2025-12-20T11:00:00Z", "trace_id": "mine"}
    meta = json.loads(parse_transaction(json.dumps(own).encode(), **REQUEST).value)["meta"]
    assert (meta["timestamp"], meta["trace_id"]) == ("2025-12-20T11:00:00Z", "mine")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": 5}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"tx_id": ""}, "tx_id"),
        ({"amount": "5"}, "amount"),
        ({"amount": 1.001}, "amount"),
        ({"currency": "XXX"}, "currency"),
        ({"timestamp": "2025-12-20T12:00:00"}, "timestamp"),
        ({"timestamp": 0}, "timestamp"),
        ({"timestamp": "2025-12-20T12:06:00Z"}, "timestamp"),
        ({"latitude": 5}, "longitude"),
        ({"account_id": "someone_else"}, "account_id"),
        ({"note": "x" * RECORD_BYTES_MAX}, ""),
        ({"note": "\0"}, ""),
    ],
)
def test_refusals_name_the_clients_field(change: dict[str, Any], field: str) -> None:
    body = msgspec.json.encode({**FLAT, **change})
    with pytest.raises(EventError) as caught:
        parse_transaction(body, **REQUEST)
    assert caught.value.field == field
    accepted, rejected = many(b"[" + body + b"," + json.dumps(FLAT).encode() + b"]")
    assert [one.index for one in accepted] == [1]
    assert [(one.index, one.field, one.expected, one.got) for one in rejected] == [
        (0, field, caught.value.expected, caught.value.got)
    ]


def test_missing_fields() -> None:
    for name in ("user_id", "tx_id", "amount", "currency"):
        body = {key: value for key, value in FLAT.items() if key != name}
        with pytest.raises(EventError) as caught:
            parse_transaction(body, **REQUEST)
        assert (caught.value.field, caught.value.got) == (name, "nothing")


def test_array_ndjson_and_single_object() -> None:
    lines = [json.dumps({**FLAT, "tx_id": f"t{i}"}) for i in range(3)]
    expected = [("t0", 0), ("t1", 1), ("t2", 2)]
    bodies = (
        f"[{','.join(lines)}]",
        "\n".join(lines),
        "\r\n".join(lines) + "\n\n",
        " [" + ",\n".join(lines) + "] ",
    )
    for body in bodies:
        accepted, rejected = many(body.encode())
        assert [(one.tx_id, one.index) for one in accepted] == expected
        assert rejected == []
    for body in (lines[0], json.dumps(FLAT, indent=2)):
        accepted, rejected = many(body.encode())
        assert len(accepted) == 1
        assert rejected == []
    assert many(b"[]") == ([], [])


def test_good_ones_go_on_beside_bad_ones() -> None:
    good = json.dumps(FLAT).encode()
    body = b"[" + b",".join([good, b"5", b'{"user_id":"\xff"}', b'{"x":1e999}', good, b"{}"]) + b"]"
    accepted, rejected = many(body)
    assert [one.index for one in accepted] == [0, 4]
    assert [one.index for one in rejected] == [1, 2, 3, 5]
    assert all(one.expected for one in rejected)
    accepted, rejected = many(good + b"\nnot json\n" + good)
    assert [one.index for one in accepted] == [0, 2]
    assert [one.index for one in rejected] == [1]
    traces = [json.loads(one.value)["meta"]["trace_id"] for one in accepted]
    assert traces == ["req-0", "req-2"]


@pytest.mark.parametrize("body", [b"[", b"[1,]", b'[{"a":1}', b"[" * 100_000, b"[1] x"])
def test_a_broken_array_is_refused_whole(body: bytes) -> None:
    with pytest.raises(EventError):
        many(body)


@pytest.mark.parametrize("body", [b"", b"  ", b"null", b"5", b"\xff", b"{" * 10_000])
def test_what_is_no_transaction(body: bytes) -> None:
    accepted, rejected = many(body)
    assert accepted == []
    assert [one.index for one in rejected] == [0]
    with pytest.raises(EventError):
        parse_transaction(body, **REQUEST)


def test_records_max() -> None:
    lines = [json.dumps(FLAT)] * 3
    with pytest.raises(EventError, match="at most 2 transactions"):
        many("\n".join(lines).encode(), records_max=2)


def test_what_is_accepted_never_becomes_a_dead_letter() -> None:
    flats = [
        {**FLAT, "amount": 0.1 + 0.2},
        {**FLAT, "amount": 0.3},
        {**FLAT, "amount": 10**12},
        {**FLAT, "amount": -19.99, "status": "refunded"},
        {**FLAT, "merchant_id": "Café"},
    ]
    accepted, rejected = many(json.dumps(flats).encode())
    assert [one.index for one in rejected] == [0]
    n = len(accepted)
    decoded = decode_records(
        [0] * n,
        range(n),
        [NOW_MS] * n,
        [one.value for one in accepted],
        partition_count=1,
        future_tolerance_ms=300_000,
        gazetteer=Gazetteer.load(),
    )
    assert decoded.dead == []
    assert decoded.batch.amount_minor.tolist() == [30, 10**14, -1999, 450050]
