"""Cases: 24 hours, one name for the same log, and nothing lost in a snapshot."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyze.detection import case as case_module
from anomalyze.detection.case import CaseState, anomaly_id, case_id

HOUR_MS = 3_600_000
WINDOW_MS = 24 * HOUR_MS
USER = (11, 22)


def assign(state: CaseState, tx: int, hour: float, user: tuple[int, int] = USER, value: float = 10.0) -> str:
    return state.assign(user, tx, int(hour * HOUR_MS), 2, value, WINDOW_MS).id


def test_a_case_spans_24_hours_from_its_first_anomaly() -> None:
    state = CaseState()
    first = assign(state, 1, 100)
    assert first == case_id(USER, 1)
    assert assign(state, 2, 110) == first
    assert assign(state, 3, 123.99) == first
    second = assign(state, 4, 124)  # 24 h after the first, though 1 s after the last
    assert second == case_id(USER, 4)
    assert assign(state, 5, 130) == second


def test_a_late_anomaly_finds_the_case_of_its_own_time() -> None:
    state = CaseState()
    old = assign(state, 1, 100)
    new = assign(state, 2, 200)
    assert assign(state, 3, 105) == old
    assert assign(state, 4, 190) == new  # before the new one's first, within its window
    assert assign(state, 5, 30) == case_id(USER, 5)


def test_users_have_cases_of_their_own() -> None:
    state = CaseState()
    assert assign(state, 1, 100) != assign(state, 1, 100, user=(11, 23))


def test_a_case_counts_its_anomalies_and_their_value() -> None:
    state = CaseState()
    state.assign(USER, 1, 0, 2, -40.0, WINDOW_MS)
    state.assign(USER, 2, 0, 4, float("nan"), WINDOW_MS)
    found = state.assign(USER, 3, 0, 1, 2.5, WINDOW_MS)
    assert (found.anomalies, found.severity, found.value_base) == (3, 4, 42.5)


def test_a_snapshot_goes_on_as_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_module, "USERS_MAX", 5)
    random = np.random.default_rng(3)
    events = [
        (int(u), int(t), float(h))
        for u, t, h in zip(
            random.integers(0, 8, 300), range(300), np.sort(random.uniform(0, 2000, 300)), strict=True
        )
    ]
    straight, restarted = CaseState(), CaseState()
    for user, tx, hour in events:
        expected = assign(straight, tx, hour, user=(user, 1), value=0.1)
        if tx % 7 == 0:
            arrays = restarted.snapshot()
            restarted = CaseState()
            restarted.restore(arrays)
        assert assign(restarted, tx, hour, user=(user, 1), value=0.1) == expected
    for name, array in straight.snapshot().items():
        assert array.tobytes() == restarted.snapshot()[name].tobytes()
    assert len(np.unique(straight.snapshot()["user"], axis=0)) == 5


def test_a_user_keeps_only_the_cases_opened_last() -> None:
    state = CaseState()
    for tx in range(20):
        assign(state, tx, 100.0 * tx)
    assert len(state.snapshot()["id"]) == case_module.CASES_PER_USER_MAX


def test_ids_depend_on_user_and_transaction_only() -> None:
    assert anomaly_id(USER, 5) == anomaly_id(USER, 5)
    assert len({anomaly_id(USER, 5), anomaly_id(USER, 6), anomaly_id((11, 23), 5), case_id(USER, 5)}) == 4
