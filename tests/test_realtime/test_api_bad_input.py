"""Whatever comes in, the answer is a problem document that names field, expectation and what came; never 500."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from realtime.api.limits import BODY_BYTES_MAX
from tests.test_realtime.conftest import Api
from tests.test_realtime.test_api import assert_problem

Make = Callable[..., dict[str, Any]]
GOOD = '{"user_id":"u","tx_id":"t","amount":1,"currency":"USD"}'


def with_value(field: str, value: str) -> str:
    """The good transaction with raw JSON text for one field."""
    fields = {"user_id": '"u"', "tx_id": '"t"', "amount": "1", "currency": '"USD"', field: value}
    return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"


# Body, and the field that the answer names.
BODIES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "body"),
    "space": (" \n ", "body"),
    "cut off": ('{"user_id":"u"', "body"),
    "no JSON": ("hello", "body"),
    "a number": ("5", "body"),
    "null": ("null", "body"),
    "a text": ('"x"', "body"),
    "trailing comma": (GOOD[:-1] + ",}", "body"),
    "two in one line": (GOOD + GOOD, "body"),
    "comment": ("/* x */" + GOOD, "body"),
    "not UTF-8": (b'{"user_id":"\xff\xfe","tx_id":"t","amount":1,"currency":"USD"}', "body"),
    "UTF-16": (GOOD.encode("utf-16"), "body"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "body"),
    "NUL byte": (b'{"user_id":"\x00"}', "body"),
    "array of arrays": ("[[[]]]", "body"),
    "array cut off": ("[" + GOOD, "body"),
    "nothing required": ("{}", "user_id"),
    "NaN": (with_value("amount", "NaN"), "body"),
    "Infinity": (with_value("amount", "-Infinity"), "body"),
    "1e400": (with_value("amount", "1e400"), "body"),
    "1e300": (with_value("amount", "1e300"), "amount"),
    "a thousand digits": (with_value("amount", "9" * 1000), "amount"),
    "many decimals": (with_value("amount", "0.001"), "amount"),
    "decimals of the yen": (with_value("currency", '"JPY"').replace('"amount":1', '"amount":1.5'), "amount"),
    "amount as text": (with_value("amount", '"12.50"'), "amount"),
    "amount as bool": (with_value("amount", "true"), "amount"),
    "amount null": (with_value("amount", "null"), "amount"),
    "unknown currency": (with_value("currency", '"XXX"'), "currency"),
    "small currency": (with_value("currency", '"usd"'), "currency"),
    "currency as number": (with_value("currency", "840"), "currency"),
    "user_id as number": (with_value("user_id", "7"), "user_id"),
    "user_id empty": (with_value("user_id", '""'), "user_id"),
    "user_id too long": (with_value("user_id", '"' + "x" * 129 + '"'), "user_id"),
    "user_id with a control character": (with_value("user_id", r'"a\u0007b"'), "user_id"),
    "user_id with an escaped NUL": (with_value("user_id", r'"a\u0000b"'), "body"),
    "raw control character": (with_value("tx_id", '"a\tb"'), "body"),
    "lone surrogate": (with_value("user_id", r'"\ud800"'), "body"),
    "lone surrogate in a note": (with_value("note", r'"\udfff"'), "body"),
    "NUL in a note": (with_value("note", r'"\u0000"'), "body"),
    "naive time": (with_value("timestamp", '"2025-12-20T12:00:00"'), "timestamp"),
    "a date alone": (with_value("timestamp", '"2025-12-20"'), "timestamp"),
    "time as a number": (with_value("timestamp", "1766232000"), "timestamp"),
    "30 February": (with_value("timestamp", '"2025-02-30T12:00:00Z"'), "timestamp"),
    "hour 25": (with_value("timestamp", '"2025-12-20T25:00:00Z"'), "timestamp"),
    "year 9999": (with_value("timestamp", '"9999-12-31T23:59:59Z"'), "timestamp"),
    "year 0001": (with_value("timestamp", '"0001-01-01T00:00:00Z"'), "timestamp"),
    "offset of 99 hours": (with_value("timestamp", '"2025-12-20T12:00:00+99:00"'), "timestamp"),
    "latitude alone": (with_value("latitude", "5"), "longitude"),
    "latitude 91": (with_value("latitude", '91,"longitude":0'), "latitude"),
    "unknown status": (with_value("status", '"lost"'), "status"),
    "another account": (with_value("account_id", '"acct_b"'), "account_id"),
    "over 64 KiB": (with_value("note", '"' + "x" * 70_000 + '"'), "body"),
    "deep nesting": (with_value("note", "[" * 5000 + "]" * 5000), "body"),
    "very deep nesting": (with_value("note", '{"a":' * 100_000 + "1" + "}" * 100_000), "body"),
    "deep array": ("[" * 100_000 + "]" * 100_000, "body"),
    "too many": ("[" + ",".join([GOOD] * 10_001) + "]", "body"),
}


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client("ingest", "read", account="acct_bad") as made:
        yield made


@pytest.mark.parametrize("route", ["/v1/transactions", "/v1/score"])
def test_every_bad_body_is_refused_by_field(client: httpx.Client, route: str) -> None:
    named = {}
    for name, (body, _) in BODIES.items():
        answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, (name, answer.text[:300])
        assert_problem(answer)
        said = answer.json()
        assert said["expected"], name
        assert "got" in said, name
        assert len(answer.content) < 2_000 or name == "too many", name
        named[name] = said["field"]
    expected = {name: field for name, (_, field) in BODIES.items()}
    if route == "/v1/score":  # it takes one
        expected |= {"array of arrays": "body", "too many": "body"}
    assert named == expected


def test_the_good_beside_every_bad_one_are_taken(client: httpx.Client, transaction: Make) -> None:
    """As lines, because one line that is no JSON leaves the others what they are."""
    singles = {
        name: body
        for name, (body, _) in BODIES.items()
        if isinstance(body, str) and body.strip() and "\n" not in body and name not in ("too many",)
    }
    good = [transaction() for _ in singles]
    lines = [line for one, bad in zip(good, singles.values(), strict=True) for line in (json.dumps(one), bad)]
    answer = client.post("/v1/transactions", content="\n".join(lines))
    body = answer.json()
    assert (answer.status_code, body["accepted"]) == (202, len(good)), body["rejected"][:3]
    assert [r["index"] for r in body["rejected"]] == list(range(1, len(lines), 2))
    named = {name: said["field"] or "body" for name, said in zip(singles, body["rejected"], strict=True)}
    assert named == {name: BODIES[name][1] for name in singles}


def test_strange_but_right_is_taken(client: httpx.Client, transaction: Make) -> None:
    odd = transaction(note={"ключ": ["\U0001f600", None, 1e-7, {"x": []}]}, amount=-0.01)
    assert client.post("/transaction", json=odd).status_code == 202
    twice = json.dumps(transaction())[:-1] + ',"amount":7}'  # of a name that comes twice the last one counts
    assert client.post("/transaction", content=twice).status_code == 202
    spread = json.dumps(transaction(), indent=2)
    assert client.post("/transaction", content=spread).json()["accepted"] == 1
    windows = json.dumps(transaction()) + "\r\n" + json.dumps(transaction()) + "\r\n\r\n"
    assert client.post("/transaction", content=windows).json()["accepted"] == 2
    assert client.post("/transaction", json=[]).json() == {"accepted": 0, "repeated": 0, "rejected": []}
    assert (
        client.post(
            "/transaction", content=json.dumps(transaction()), headers={"Content-Type": ""}
        ).status_code
        == 202
    )


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-Type": "application/xml"}, "Content-Type"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, "Content-Type"),
        ({"Content-Type": "\xff"}, "Content-Type"),
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
    ],
)
def test_other_media_types_are_refused(client: httpx.Client, headers: dict[str, str], field: str) -> None:
    for route in ("/v1/transactions", "/v1/score"):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = client.post(route, content=GOOD, headers=raw)
        assert (answer.status_code, answer.json()["field"]) == (415, field)
        assert_problem(answer)


def test_a_body_that_is_too_large_is_refused_by_header_and_by_growth(client: httpx.Client) -> None:
    answer = client.post("/v1/transactions", content=b"x" * 10_000_000)
    assert answer.status_code == 413
    assert_problem(answer)
    assert str(BODY_BYTES_MAX) in answer.json()["expected"]

    def chunks() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 65_536

    for route in ("/v1/transactions", "/v1/score"):
        answer = client.post(route, content=chunks())
        assert (answer.status_code, answer.json()["field"]) == (413, "body")


def test_raw_requests_that_no_client_library_would_send(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    key = api.platform.key("ingest")
    begin = f"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
    requests = [
        begin + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        begin + b"Content-Length: -5\r\n\r\n",
        begin + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        begin + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /users?cursor=%00 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    ]
    for request in requests:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(request)
            connection.settimeout(2)
            try:
                answer = connection.recv(4096)
            except (TimeoutError, ConnectionError):
                answer = b""
            status = answer[9:12]
            assert status in (b"400", b"401", b"413", b"422", b""), (request[:80], answer[:200])
    assert api.stranger().get("/health").status_code == 200


QUERIES = [
    ("/transactions", {"limit": "0"}, "limit"),
    ("/transactions", {"limit": "100000000000000000000000"}, "limit"),
    ("/transactions", {"limit": "ten"}, "limit"),
    ("/transactions", {"user_id": "a\0b"}, "user_id"),
    ("/transactions", {"user_id": "x" * 129}, "user_id"),
    ("/transactions", {"user_id": ""}, "user_id"),
    ("/transactions", {"from_date": "yesterday"}, "from_date"),
    ("/transactions", {"from_date": "2025-12-20T12:00:00"}, "from_date"),
    ("/transactions", {"to_date": "2025-13-45"}, "to_date"),
    ("/transactions", {"to_date": "9" * 400}, "to_date"),
    ("/transactions", {"min_amount": "NaN"}, "min_amount"),
    ("/transactions", {"min_amount": "Infinity"}, "min_amount"),
    ("/transactions", {"max_amount": "1e999999"}, "max_amount"),
    ("/transactions", {"max_amount": "1e-999999"}, "max_amount"),
    ("/transactions", {"max_amount": "ten"}, "max_amount"),
    ("/transactions", {"cursor": "x"}, "cursor"),
    ("/transactions", {"cursor": ""}, "cursor"),
    ("/transactions", {"cursor": "é\0"}, "cursor"),
    ("/transactions", {"cursor": "A" * 3000}, "cursor"),
    ("/users", {"cursor": "W10"}, "cursor"),
    ("/v1/anomalies", {"severity": "NONE"}, "severity"),
    ("/v1/anomalies", {"severity": "a\0"}, "severity"),
    ("/v1/anomalies", {"min_score": "nan"}, "min_score"),
    ("/v1/anomalies", {"min_score": "2"}, "min_score"),
    ("/v1/anomalies", {"rule": "a\0"}, "rule"),
    ("/v1/anomalies", {"reviewed": "maybe"}, "reviewed"),
    ("/v1/anomalies", {"from": "2025-12-20T12:00:00"}, "from"),
    ("/v1/anomalies", {"to": "x"}, "to"),
    ("/v1/anomalies/a%00b", {}, "anomaly_id"),
    ("/v1/cases/a%00b", {}, "case_id"),
    ("/v1/cases", {"state": "shut"}, "state"),
]


def test_every_bad_query_is_refused_by_field(client: httpx.Client) -> None:
    for path, query, field in QUERIES:
        answer = client.get(path, params=query)
        assert answer.status_code == 422, (path, query, answer.text[:300])
        assert_problem(answer)
        said = answer.json()
        assert said["field"] == field, (path, query, said)
        assert said["expected"], (path, query)
        assert "got" in said, (path, query)
    for timeout in ("0", "-1", "10001", "soon", "1e3"):
        answer = client.post("/v1/score", params={"timeout_ms": timeout}, content=GOOD)
        assert (answer.status_code, answer.json()["field"]) == (422, "timeout_ms")


def test_the_ends_of_time_and_money_are_allowed(client: httpx.Client) -> None:
    for query in (
        {"from_date": "0001-01-01T00:00:00+14:00"},
        {"from_date": "9999-12-31T23:59:59-14:00"},
        {"from_date": "0001-01-01", "to_date": "9999-12-31"},
        {"min_amount": "-1000000000000000000", "max_amount": "1e18"},
        {"min_amount": "0.000000000001"},
    ):
        answer = client.get("/transactions", params=query)
        assert answer.status_code == 200, (query, answer.text)


def test_unknown_routes_and_methods_say_so(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("DELETE", "/users", 405),
        ("GET", "/v1/score", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert_problem(answer)


def test_too_many_at_once_wait_their_turn(judged: Any, transaction: Make) -> None:
    from tests.test_realtime.conftest import running_api

    with running_api(judged, rate_limit_per_s=5) as slow:
        client = slow.client("ingest")
        assert client.post("/v1/transactions", json=[transaction() for _ in range(5)]).status_code == 202
        answer = client.post("/v1/transactions", json=[transaction() for _ in range(5)])
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert_problem(answer)
        assert slow.client("ingest").post("/transaction", json=transaction()).status_code == 202
