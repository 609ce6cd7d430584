"""What the state remembers, forgets, refuses and costs."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyze.errors import ContractError
from anomalyze.events.hashing import text_key, user_key
from anomalyze.features import Disposition, FeatureSpec, FeatureState, HistoryFlag
from tests.test_features.histories import DAY, START, judge, random_history, record

MINUTE = 60_000


def features(spec: FeatureSpec, out: np.ndarray, row: int) -> dict[str, float]:
    return dict(zip(spec.names, out[row].tolist(), strict=True))


def test_sixty_transactions_cost_two_kilobytes(spec: FeatureSpec) -> None:
    users = 500
    state = FeatureState()
    for turn in range(60):
        judge(spec, [record(turn, START + turn * DAY // 2, user=user) for user in range(users)], state)
    assert state.users == users
    assert state.bytes_used / users <= 2048
    held = sum(array.nbytes for array in state.snapshot().values())
    assert held / users <= 2048


def test_repeats_updates_and_conflicts(spec: FeatureSpec) -> None:
    log = [
        record(1, START, status=1),
        record(1, START, status=1),
        record(1, START, status=2),
        record(1, START, status=2, payload=99),
        record(2, START + 1000),
    ]
    out, disposition, _ = judge(spec, log, FeatureState())
    assert [Disposition(d).name for d in disposition] == [
        "JUDGE",
        "REPEAT",
        "STATUS_UPDATE",
        "CONFLICT",
        "JUDGE",
    ]
    assert np.isnan(out[1:4]).all()
    last = features(spec, out, 4)
    assert last["user_tx_count_5m"] == 2
    assert last["user_declined_streak"] == 1  # the update took effect, the conflict did not


def test_identity_is_remembered_over_1024_events(spec: FeatureSpec) -> None:
    state = FeatureState()
    log = [record(i, START + i * MINUTE * 60) for i in range(1500)]
    judge(spec, log, state)
    again = judge(spec, [log[1500 - 1024], log[1500 - 1025]], state)[1]
    assert again.tolist() == [Disposition.REPEAT, Disposition.JUDGE]


def test_windows_that_reach_beyond_the_events_kept_say_so(spec: FeatureSpec) -> None:
    log = [record(i, START + i * 40 * MINUTE) for i in range(1200)]  # 1,024 of them span 28 days
    out, _, flags = judge(spec, log, FeatureState())
    truncated = [bool(flag & HistoryFlag.TRUNCATED) for flag in flags]
    assert truncated == [i >= 1024 for i in range(1200)]
    assert features(spec, out, 1199)["user_tx_count_30d"] == 1025


def test_an_event_older_than_all_that_is_kept_is_not_remembered(spec: FeatureSpec) -> None:
    state = FeatureState()
    judge(spec, [record(i, START + i * MINUTE) for i in range(1100)], state)
    before = state.snapshot()
    late = record(5000, START + 10 * MINUTE)
    assert judge(spec, [late, late], state)[1].tolist() == [Disposition.JUDGE] * 2
    assert state.snapshot()["events"].tobytes() == before["events"].tobytes()


def test_a_late_event_is_judged_at_its_time_and_takes_its_place(spec: FeatureSpec) -> None:
    log = [
        record(1, START),
        record(2, START + 8 * MINUTE),
        record(3, START + 4 * MINUTE),  # late
        record(4, START + 8 * MINUTE),
    ]
    out, _, flags = judge(spec, log, FeatureState())
    assert flags.tolist() == [0, 0, HistoryFlag.LATE, 0]
    assert features(spec, out, 2)["user_tx_count_5m"] == 2
    assert features(spec, out, 3)["user_tx_count_5m"] == 3


def test_an_event_older_than_the_longest_window_is_not_remembered(spec: FeatureSpec) -> None:
    state = FeatureState()
    old = record(2, START - 31 * DAY)
    _, disposition, flags = judge(spec, [record(1, START), old, old, record(3, START + 1)], state)
    late = HistoryFlag.LATE | HistoryFlag.INCOMPLETE
    assert disposition.tolist() == [Disposition.JUDGE] * 4
    assert flags.tolist() == [0, late, late, 0]


def test_a_guest_has_no_user_features(spec: FeatureSpec) -> None:
    """1,024 transactions in three days, and a quarter of the account's."""
    log = []
    for i in range(4 * 1500):
        user = 0 if i % 4 == 0 else i
        log.append(record(i, START + i * MINUTE, user=user, merchant=1, device=user, append=START))
    out, _, flags = judge(spec, log, FeatureState())
    guest = [i for i, flag in enumerate(flags) if flag & HistoryFlag.GUEST]
    assert guest == list(range(4 * 1024, len(log), 4))
    last = features(spec, out, guest[-1])
    kept = {name for name, value in last.items() if not np.isnan(value)}
    assert kept == {"amount_base", "local_hour", "weekday", "is_night"}


def test_a_busy_user_of_a_large_account_is_no_guest(spec: FeatureSpec) -> None:
    log = [record(i, START + i * MINUTE, user=0 if i % 30 == 0 else i) for i in range(30 * 1100)]
    assert not (judge(spec, log, FeatureState())[2] & HistoryFlag.GUEST).any()


def test_a_user_unheard_of_for_long_is_as_new(spec: FeatureSpec) -> None:
    """By append time, whether or not the memory was given back before."""
    later = START + 181 * DAY
    log = [record(i, START + i * DAY, user=user) for i in range(40) for user in (1, 2)]
    back = record(99, START + 41 * DAY, user=1, append=later)
    day_before = record(98, START + 41 * DAY, user=3, append=START + 180 * DAY)

    state = FeatureState()
    judge(spec, log, state)
    at_once = judge(spec, [day_before, back], state)[0][1]
    assert features(spec, at_once[None], 0)["user_age_days"] == 0
    assert features(spec, at_once[None], 0)["user_amount_n"] == 0

    swept = FeatureState()
    judge(spec, log, swept)
    judge(spec, [day_before | {"append": later}], swept)
    assert swept.sweep() == 2
    assert judge(spec, [back], swept)[0].tobytes() == at_once.tobytes()
    assert swept.users == 3  # the rows are used again

    kept = FeatureState()
    judge(spec, [*log, day_before], kept)
    assert kept.sweep() == 0
    still = judge(spec, [back | {"append": START + 180 * DAY}], kept)[0]
    assert features(spec, still, 0)["user_amount_n"] == 40


def test_a_full_state_refuses_new_users_until_others_are_forgotten(spec: FeatureSpec) -> None:
    state = FeatureState(users_max=3)
    log = [record(i, START + i, user=i) for i in range(5)]
    out, disposition, flags = judge(spec, log, state)
    assert disposition.tolist() == [Disposition.JUDGE] * 5
    assert flags.tolist() == [0, 0, 0, HistoryFlag.STATE_FULL, HistoryFlag.STATE_FULL]
    assert np.isnan(out[4, spec.index("user_tx_count_5m")])
    assert out[4, spec.index("amount_base")] == 10.0
    judge(spec, [record(9, START + 9, user=2, append=START + 100 * DAY)], state)
    assert judge(spec, [record(10, START, user=8, append=START + 181 * DAY)], state)[2].tolist() == [0]


def test_the_moment_of_a_sweep_decides_nothing(spec: FeatureSpec) -> None:
    """Full states refuse the same users however the log is cut."""
    rng = np.random.default_rng(2)
    log = [
        record(i, START + i * DAY, user=int(rng.integers(40)), append=START + i * 5 * DAY) for i in range(400)
    ]
    whole = judge(spec, log, FeatureState(users_max=20))
    state, parts = FeatureState(users_max=20), []
    for first in range(0, 400, 7):
        parts.append(judge(spec, log[first : first + 7], state))
        state.sweep()
    assert whole[2].any()
    for i in range(3):
        assert np.concatenate([part[i] for part in parts]).tobytes() == whole[i].tobytes()


def test_confirmed_fraud_stays_out_of_the_baseline(spec: FeatureSpec) -> None:
    log = [record(i, START + i * DAY, 1000 if i < 12 else 90_000, device=int(i >= 12)) for i in range(20)]
    probe = record(50, START + 22 * DAY, 1000, device=1)
    plain, marked = FeatureState(), FeatureState()
    judge(spec, log, plain)
    judge(spec, log, marked)
    for i in range(12, 20):
        assert marked.mark_fraud(user_key("acct_0", "0"), text_key(f"tx{i}"))
    assert not marked.mark_fraud(user_key("acct_0", "0"), text_key("unknown"))
    before = features(spec, judge(spec, [probe], plain)[0], 0)
    after = features(spec, judge(spec, [probe], marked)[0], 0)
    assert (before["user_amount_n"], after["user_amount_n"]) == (20, 12)
    assert before["user_amount_p95"] == 900.0
    assert after["user_amount_p95"] == 10.0
    assert (before["is_new_device"], after["is_new_device"]) == (0.0, 1.0)


def test_times_known_to_the_day_have_no_features_within_it(spec: FeatureSpec) -> None:
    log = [record(i, START + i * DAY, place=(1.0, 1.0, 0.0)) for i in range(30)]
    out = judge(spec, log, FeatureState(), day_only=True)[0]
    last = features(spec, out, 29)
    null = {name for name, value in last.items() if np.isnan(value)}
    assert {"user_tx_count_1h", "user_amount_sum_5m", "local_hour", "is_night", "hour_rarity"} <= null
    assert {"travel_kmh", "user_seconds_since_last"} <= null
    assert not {"user_tx_count_24h", "user_amount_rz", "weekday", "travel_km"} & null


def test_large_amounts_do_not_cancel(spec: FeatureSpec) -> None:
    most = (1 << 47) - 1
    log = [record(i, START + i, most - i % 3) for i in range(60)]
    last = features(spec, judge(spec, log, FeatureState())[0], 59)
    assert last["user_amount_std_5m"] == pytest.approx(
        np.std([i % 3 for i in range(60)], ddof=1) / 100, rel=1e-9
    )


def test_a_snapshot_is_apart_from_the_state(spec: FeatureSpec) -> None:
    log = random_history(8, 300)
    state = FeatureState()
    judge(spec, log[:200], state)
    saved = state.snapshot()
    judge(spec, log[200:], state)
    once = judge(spec, log[200:], FeatureState.restore(saved))[0]
    assert judge(spec, log[200:], FeatureState.restore(saved))[0].tobytes() == once.tobytes()


def test_a_spent_snapshot_lends_its_memory(spec: FeatureSpec) -> None:
    log = random_history(8, 600)
    state = FeatureState()
    judge(spec, log[:300], state)
    first = state.snapshot()
    place = first["events"].__array_interface__["data"][0]
    for end in (310, 320, 600):
        judge(spec, log[end - 10 : end], state)
        fresh, again = state.snapshot(), state.snapshot(first)
        assert all(fresh[name].tobytes() == again[name].tobytes() for name in fresh)
        if end == 310:
            assert again["events"].__array_interface__["data"][0] == place
        first = again


def test_other_snapshots_are_refused(spec: FeatureSpec) -> None:
    state = FeatureState()
    judge(spec, random_history(1, 50), state)
    saved = state.snapshot()
    with pytest.raises(ContractError, match="expected format 1, got 7"):
        FeatureState.restore(saved | {"meta": np.array([7] + [0] * 15)})
    with pytest.raises(ContractError, match="events: expected shape"):
        FeatureState.restore(saved | {"events": saved["events"][:-1]})
    with pytest.raises(ContractError, match="got none"):
        FeatureState.restore({})


def test_many_accounts_share_a_partition(spec: FeatureSpec) -> None:
    """The accounts' counters grow, and cuts and snapshots do not matter to who is a guest."""
    log = [record(i, START + i * MINUTE, user=0, account=i % 5 and i % 300) for i in range(6_000)]
    whole = judge(spec, log, FeatureState())
    state, parts = FeatureState(), []
    for first in range(0, len(log), 700):
        parts.append(judge(spec, log[first : first + 700], state))
        state = FeatureState.restore(state.snapshot())
    assert (whole[2] & HistoryFlag.GUEST).any()
    for i in range(3):
        assert np.concatenate([part[i] for part in parts]).tobytes() == whole[i].tobytes()
