"""The kernel against the slow reference, and against itself however its input is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomalyze.features import AccountParameters, Disposition, FeatureSpec, FeatureState
from tests.test_features.histories import histories, judge, random_history
from tests.test_features.reference import Reference

_RELAXED = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def assert_equals_reference(
    spec: FeatureSpec, log: list[dict[str, Any]], reference: Reference, **how: Any
) -> None:
    out, disposition, _ = judge(spec, log, FeatureState(), **how)
    for i, item in enumerate(log):
        kind, expected = reference.take(item)
        assert Disposition(disposition[i]).name == kind, f"row {i}"
        if expected is None:
            assert np.isnan(out[i]).all()
            continue
        assert set(expected) == set(spec.names) - set(spec.profile_names)
        wanted = np.array([expected.get(name, np.nan) for name in spec.names], dtype=np.float64)
        close = np.isclose(out[i], wanted, rtol=1e-9, atol=1e-7, equal_nan=True)
        wrong = {n: (out[i][j], wanted[j]) for j, n in enumerate(spec.names) if not close[j]}
        assert not wrong, f"row {i}: (kernel, reference) {wrong}"


@given(log=histories())
@_RELAXED
def test_every_feature_equals_the_slow_reference(spec: FeatureSpec, log: list[dict[str, Any]]) -> None:
    assert_equals_reference(spec, log, Reference())


@pytest.mark.parametrize("seed", range(4))
def test_long_histories_equal_the_slow_reference(spec: FeatureSpec, seed: int) -> None:
    log = random_history(seed, 500, users=1 + seed, days=20.0 * (1 + seed))
    assert_equals_reference(spec, log, Reference())


def test_one_thousand_and_twenty_four_events_are_kept(spec: FeatureSpec) -> None:
    log = random_history(11, 1180, users=1, days=80.0)
    assert_equals_reference(spec, log, Reference())


def test_local_time_follows_the_account(spec: FeatureSpec) -> None:
    log = random_history(5, 200)  # all in winter
    assert_equals_reference(
        spec, log, Reference(offset_ms=9 * 3_600_000), accounts=AccountParameters(time_zone="Asia/Tokyo")
    )


@given(data=st.data(), log=histories())
@_RELAXED
def test_cuts_and_restarts_change_no_bit(
    spec: FeatureSpec, data: st.DataObject, log: list[dict[str, Any]]
) -> None:
    whole, kinds, flags = judge(spec, log, FeatureState())
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(log) - 1)), max_size=8)) | {0, len(log)})
    state = FeatureState()
    for first, end in pairwise(cuts):
        if data.draw(st.booleans()):
            state = FeatureState.restore(state.snapshot())
        part = judge(spec, log[first:end], state)
        assert part[0].tobytes() == whole[first:end].tobytes()
        assert part[1].tobytes() == kinds[first:end].tobytes()
        assert part[2].tobytes() == flags[first:end].tobytes()


def test_nothing_is_seen_before_it_came(spec: FeatureSpec) -> None:
    """A row's features do not change with what follows it, nor with other users' rows."""
    log = random_history(3, 300, users=3)
    whole = judge(spec, log, FeatureState())[0]
    for end in (1, 17, 100, 299):
        assert judge(spec, log[:end], FeatureState())[0].tobytes() == whole[:end].tobytes()
    mine = [i for i, item in enumerate(log) if item["user"] == 1]
    alone = judge(spec, [log[i] for i in mine], FeatureState())[0]
    assert alone.tobytes() == whole[mine].tobytes()
