"""Lists of accounts: against a dictionary, with expiry, and the same after a restart."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from anomalyze.errors import ContractError, EventError
from anomalyze.events.batch import Severity
from anomalyze.rules import ColumnTypes, ListTable, Rule, RuleSet, compile_rules, list_value_key
from anomalyze.rules import lists as lists_module

ACCOUNTS = ["acct_1", "acct_2", "acct_3"]
FIELDS = ["device_id", "user_id"]
VALUES = ["v1", "v2", "é"]


def change(
    op: str, account: str, name: str, field: str, value: str, expires_ms: int | None = None
) -> dict[str, Any]:
    body = {"control": "list", "op": op, "account_id": account, "list": name, "field": field, "value": value}
    return body if expires_ms is None else body | {"expires_ms": expires_ms}


changes = st.lists(
    st.builds(
        change,
        st.sampled_from(["add", "add", "remove"]),
        st.sampled_from(ACCOUNTS[:2]),
        st.sampled_from(["block", "allow"]),
        st.sampled_from(FIELDS),
        st.sampled_from(VALUES),
        st.sampled_from([None, 0, 5, 10]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(changes, st.integers(0, 25), st.lists(st.integers(0, 12), min_size=3, max_size=3))
def test_a_table_is_a_dictionary_with_expiry(
    bodies: list[dict[str, Any]], cut: int, times: list[int]
) -> None:
    table, known = ListTable(), dict[tuple[str, ...], float]()
    for i, body in enumerate(bodies):
        if i == cut:
            table = ListTable.restore(table.snapshot())
        table.apply(body)
        key = (body["account_id"], body["list"], body["field"], body["value"])
        if body["op"] == "add":
            known[key] = body.get("expires_ms", float("inf"))
        else:
            known.pop(key, None)
    assert len(table) == len(known)
    rows = [(a, v, t) for a in ACCOUNTS for v in [*VALUES, "unlisted"] for t in times]
    account = np.array([ACCOUNTS.index(a) for a, _, _ in rows], dtype=np.int32)
    at_ms = np.array([t for _, _, t in rows], dtype=np.int64)
    for name in ("block", "allow", "none"):
        for field in FIELDS:
            hashes = np.array([list_value_key(a, field, v) for a, v, _ in rows], dtype=np.uint64)
            found = table.contains(ACCOUNTS, account, name, field, hashes, at_ms)
            assert found.tolist() == [t < known.get((a, name, field, v), -1) for a, v, t in rows]


def test_null_is_on_no_list() -> None:
    table = ListTable()
    table.apply(change("add", "acct_1", "block", "ip", "v1"))
    zeros = np.zeros(1, dtype=np.int64)
    assert not table.contains(
        ["acct_1"], zeros.astype(np.int32), "block", "ip", zeros.astype(np.uint64), zeros
    )[0]


def test_many_entries_are_all_found_and_nothing_else() -> None:
    table = ListTable()
    for i in range(3_000):  # the filter grows several times
        table.apply(change("add", "acct_1", "block", "ip", f"10.{i}"))
    hashes = np.array([list_value_key("acct_1", "ip", f"10.{i}") for i in range(6_000)], dtype=np.uint64)
    zeros = np.zeros(6_000, dtype=np.int64)
    for one in (table, ListTable.restore(table.snapshot())):
        found = one.contains(["acct_1"], zeros.astype(np.int32), "block", "ip", hashes, zeros)
        assert found.tolist() == [True] * 3_000 + [False] * 3_000


def test_equal_logs_give_equal_bytes() -> None:
    tables = [ListTable(), ListTable()]
    for table in tables:
        for value in VALUES:
            table.apply(change("add", "acct_1", "block", "ip", value))
        table.apply(change("remove", "acct_1", "block", "ip", "v2"))
    first, second = (table.snapshot() for table in tables)
    assert {k: v.tobytes() for k, v in first.items()} == {k: v.tobytes() for k, v in second.items()}
    again = ListTable.restore(first).snapshot()
    assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in first.items()}
    first["value"][0] += np.uint64(1)  # a snapshot is a copy
    assert tables[0].snapshot()["value"].tolist() == second["value"].tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "clear"},
        {"account_id": ""},
        {"list": "No Such Name"},
        {"field": "amount"},
        {"value": "x" * 129},
        {"value": 5},
        {"value": "\ud800"},
        {"expires_ms": 1 << 63},
        {"expires_ms": -1},
        {"expires_ms": "tomorrow"},
    ],
)
def test_wrong_records_change_nothing(wrong: dict[str, Any]) -> None:
    table = ListTable()
    before = table.snapshot()
    with pytest.raises(EventError):
        table.apply(change("add", "acct_1", "block", "ip", "v1") | wrong)
    assert {k: v.tobytes() for k, v in table.snapshot().items()} == {
        k: v.tobytes() for k, v in before.items()
    }


def test_removing_what_was_never_there_leaves_no_trace() -> None:
    table = ListTable()
    table.apply(change("remove", "nobody", "block", "ip", "v1"))
    assert table.snapshot()["names"].tobytes() == ListTable().snapshot()["names"].tobytes()


def test_a_full_table_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists_module, "MAX_ENTRIES", 2)
    table = ListTable()
    for value in ("v1", "v2"):
        table.apply(change("add", "acct_1", "block", "ip", value))
    with pytest.raises(EventError, match="at most 2"):
        table.apply(change("add", "acct_1", "block", "ip", "v3"))
    table.apply(change("remove", "acct_1", "block", "ip", "v1"))
    table.apply(change("add", "acct_1", "block", "ip", "v3"))
    assert len(table) == 2


def test_a_damaged_snapshot_is_refused() -> None:
    table = ListTable()
    for value in VALUES:
        table.apply(change("add", "acct_1", "block", "ip", value))
    arrays = table.snapshot()
    for damage in (
        {"value": arrays["value"][::-1]},
        {"place": arrays["place"][:1]},
        {"names": arrays["names"][:5]},
    ):
        with pytest.raises(ContractError):
            ListTable.restore(arrays | damage)


def test_rules_look_up_by_account_and_time() -> None:
    rule = Rule("BLOCK", "list", Severity.CRITICAL, "in_list(user_id, 'block')", "listed", effect="block")
    compiled = compile_rules(RuleSet((rule,)), ColumnTypes.of_features({}))
    table = ListTable()
    table.apply(change("add", "acct_1", "block", "user_id", "u", expires_ms=100))
    accounts = ["acct_2", "acct_1"]
    account = np.array([0, 1, 1], dtype=np.int32)
    users = np.array([list_value_key(accounts[i], "user_id", "u") for i in account], dtype=np.uint64)
    fired = compiled.evaluate(
        {"user_id": users},
        3,
        table,
        accounts=accounts,
        account=account,
        ts_ms=np.array([50, 99, 100], dtype=np.int64),
    )
    assert fired[:, 0].tolist() == [False, True, False]
    assert not compiled.evaluate({"user_id": users}, 3).any()
