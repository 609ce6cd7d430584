"""Lists: by account, by field, ending by append time, changed by control records only."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyze.detection import listing
from anomalyze.detection.listing import ListState
from anomalyze.events.hashing import text_key

PUT = {
    "control": "list",
    "op": "put",
    "account_id": "a",
    "list": "block",
    "field": "device_id",
    "value": "d1",
}


def contains(state: ListState, value: str, account: str = "a", at_ms: int = 0, name: str = "block") -> bool:
    return bool(
        state.contains(
            name,
            "device_id",
            np.array([text_key(value) if value else 0], dtype=np.uint64),
            np.array([text_key(account)], dtype=np.uint64),
            np.array([at_ms], dtype=np.int64),
        )[0]
    )


def test_an_entry_counts_for_its_account_list_and_value_only() -> None:
    state = ListState()
    assert not contains(state, "d1")
    assert state.apply(PUT) is None
    assert contains(state, "d1")
    assert not contains(state, "d1", account="b")
    assert not contains(state, "d2")
    assert not contains(state, "")
    assert not contains(state, "d1", name="allow")


def test_an_entry_ends_by_append_time_and_by_removal() -> None:
    state = ListState()
    state.apply({**PUT, "expires_at": "1970-01-01T00:00:10Z"})
    assert contains(state, "d1", at_ms=9_999)
    assert not contains(state, "d1", at_ms=10_000)
    state.apply({**PUT, "value": "d2"})
    state.apply({**PUT, "op": "remove"})
    assert not contains(state, "d1", at_ms=0)
    assert contains(state, "d2")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"op": "drop"}, "put or remove"),
        ({"field": "colour"}, "field"),
        ({"value": ""}, "value"),
        ({"value": 7}, "value"),
        ({"expires_at": "2026-01-01T00:00:00"}, "offset"),
        ({"expires_at": "soon"}, "expires_at"),
    ],
)
def test_a_bad_record_changes_nothing_and_says_why(change: dict[str, object], word: str) -> None:
    state = ListState()
    reason = state.apply({**PUT, **change})
    assert reason is not None
    assert word in reason
    assert len(state) == 0


def test_full_lists_refuse_and_keep_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "ENTRIES_MAX", 1)
    state = ListState()
    assert state.apply(PUT) is None
    assert "full" in str(state.apply({**PUT, "value": "d2"}))
    assert state.apply(PUT) is None
    assert contains(state, "d1")


def test_a_snapshot_holds_everything() -> None:
    state = ListState()
    for value in ("d1", "d2", "d3"):
        state.apply({**PUT, "value": value, "expires_at": "2030-01-01T00:00:00+02:00"})
    again = ListState()
    again.restore(state.snapshot())
    assert contains(again, "d2", at_ms=1)
    assert {n: a.tobytes() for n, a in again.snapshot().items()} == {
        n: a.tobytes() for n, a in state.snapshot().items()
    }
