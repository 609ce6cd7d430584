"""Labels over REST: late, repeated, corrected, refused one by one, and a history in PostgreSQL."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import EventError
from anomalyze.storage.label import Label, decode_label, encode_label, known_labels, store_labels
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch
from realtime.api.label_routes import parse_labels
from tests.test_realtime.conftest import Api, wait_until

KNOWN = "2025-12-28T09:00:00Z"


def label(**changes: Any) -> dict[str, Any]:
    return {
        "tx_id": f"tx_{uuid.uuid4().hex}",
        "fraud": True,
        "known_at": KNOWN,
        "source": "chargeback",
        **changes,
    }


def history(api: Api, tx_id: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(api.platform.dsn) as connection:
        return connection.execute(
            "SELECT user_id, fraud, source, reason FROM labels WHERE account_id = 'acct_a' AND tx_id = %s "
            "ORDER BY recorded_at, label_id",
            [tx_id],
        ).fetchall()


def stored(api: Api, tx_id: str, rows: int) -> list[tuple[Any, ...]]:
    wait_until(lambda: len(history(api, tx_id)) >= rows, "the sink stores labels")
    return history(api, tx_id)


def test_a_label_is_kept_with_its_corrections(api: Api) -> None:
    client, first = api.client("ingest"), label(user_id="u1", reason="card stolen")
    for fraud in (True, True, False, None):
        answer = client.post("/v1/labels", json={**first, "fraud": fraud})
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "repeated": 0, "rejected": []})
    assert stored(api, first["tx_id"], 3) == [
        ("u1", True, "chargeback", "card stolen"),
        ("u1", False, "chargeback", "card stolen"),
        ("u1", None, "chargeback", "card stolen"),
    ]


def test_many_at_once_good_beside_bad(api: Api) -> None:
    good = [label(), label(source="analyst", fraud=False)]
    bad = [
        label(fraud="yes"),
        {"tx_id": "x"},
        label(known_at="yesterday"),
        label(hello=1),
        label(tx_id=""),
        7,
    ]
    answer = api.client("ingest").post("/v1/labels", json=[good[0], *bad, good[1]])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [(one["index"], one["field"]) for one in answer.json()["rejected"]] == [
        (1, "fraud"), (2, "fraud"), (3, "known_at"), (4, "hello"), (5, "tx_id"), (6, ""),
    ]  # fmt: skip
    assert stored(api, good[1]["tx_id"], 1) == [("", False, "analyst", None)]


def test_labels_as_csv(api: Api) -> None:
    names = [uuid.uuid4().hex for _ in range(3)]
    text = f"tx_id;fraud;known_at\n{names[0]};1;{KNOWN}\n{names[1]};no;{KNOWN}\n{names[2]};maybe;{KNOWN}\n"
    answer = api.client("ingest").post(
        "/v1/labels", content=text, params={"source": "bank"}, headers={"Content-Type": "text/csv"}
    )
    assert answer.status_code == 202, answer.text
    assert [one["index"] for one in answer.json()["rejected"]] == [2]
    assert stored(api, names[0], 1) == [("", True, "bank", None)]
    assert stored(api, names[1], 1) == [("", False, "bank", None)]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"[", "application/json", 422),
        (b"{}", "application/json", 422),
        (b"tx_id,fraud\n", "text/csv", 422),
        (b"\xff", "text/csv", 422),
        (b"{}", "application/xml", 415),
        (b"[" + b"{}," * 10_000 + b"{}]", "application/json", 422),
        (b"x" * 9_000_000, "text/csv", 413),
    ],
)
def test_what_is_no_list_of_labels_is_refused(api: Api, body: bytes, kind: str, status: int) -> None:
    answer = api.client("ingest").post("/v1/labels", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_labels_need_the_scope_to_send(api: Api) -> None:
    assert api.client("read").post("/v1/labels", json=label()).status_code == 403
    assert api.stranger().post("/v1/labels", json=label()).status_code == 401


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.text('tx_id,fraud;"\n1é{}[]:', max_size=80).map(str.encode), st.booleans())
def test_whatever_comes_is_taken_or_refused(body: bytes, is_csv: bool) -> None:
    try:
        labels, _ = parse_labels(
            body,
            is_csv=is_csv,
            account_id="a",
            recorded_by="k",
            source="s",
            now_ms=1 << 41,
            future_tolerance_ms=0,
        )
    except EventError:
        return
    for one in labels:
        assert decode_label(encode_label(one)) == one


def test_what_is_known_at_a_moment(database: str) -> None:
    def known(day: int, tx_id: str, fraud: bool | None, source: str = "bank") -> Label:
        return Label("a", tx_id, fraud, datetime(2025, 12, day, tzinfo=UTC), source, "key")

    with connect(database) as connection:

        def add(*labels: Label) -> int:
            return store_labels(
                connection, labels, consumer="c", log_id="l", topic="labels", next_offsets={0: 1}
            )

        assert add(known(1, "t1", True), known(2, "t2", True), known(3, "t3", True)) == 3
        # Within one poll each sees those before it: wrong, corrected, and back again.
        assert (
            add(known(4, "t1", False), known(4, "t1", False), known(5, "t1", True), known(6, "t2", None)) == 3
        )
        assert add(known(5, "t1", True)) == 0
        assert add(known(7, "t3", False, "analyst")) == 1

        def at(day: int) -> dict[str, bool]:
            found = fetch(connection, known_labels("a", datetime(2025, 12, day, tzinfo=UTC)))
            return {row["tx_id"]: row["fraud"] for row in found}

        assert at(4) == {"t1": True, "t2": True, "t3": True}
        assert at(5) == {"t1": False, "t2": True, "t3": True}
        assert at(8) == {"t1": True, "t3": False}
