"""The simulated world: same seed, same bytes; time order; incidents labelled as what they are."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from anomalyze.simulation.record import Labels, evaluate_found, flat_records, user_ids, wire_records
from anomalyze.simulation.scenario import SCENARIOS
from anomalyze.simulation.traffic import CITY_AT, DAY_MS, distance_km
from anomalyze.simulation.world import Simulation, plan_simulation

START_MS = 1_760_054_400_000  # 2025-10-10


def world(**changes: object) -> Simulation:
    values = {"users": 300, "seed": 7, "start_ms": START_MS, "days": 6, "incidents_per_10k": 60.0}
    return Simulation(**{**values, **changes})  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def records(seed: int) -> list[bytes]:
        return list(
            itertools.chain.from_iterable(wire_records(c, "s", "a") for c in world(seed=seed).chunks())
        )

    assert records(7) == records(7)
    assert records(7) != records(8)


def test_chunks_are_days_in_time_order() -> None:
    for day, chunk in enumerate(world().chunks()):
        assert (np.diff(chunk.ts_ms) >= 0).all()
        assert chunk.ts_ms[0] >= START_MS + day * DAY_MS
        assert chunk.ts_ms[-1] < START_MS + (day + 1) * DAY_MS


def test_ordinary_traffic_has_no_labels_and_a_daily_rhythm() -> None:
    chunks = list(world(users=3000, incidents_per_10k=0.0, days=4).chunks())
    assert not any(chunk.label.any() for chunk in chunks)
    hours = np.concatenate([(c.ts_ms // 3_600_000) % 24 for c in chunks])
    home = np.concatenate([c.city for c in chunks]) == 0  # New York, five hours behind
    local = np.bincount((hours[home] - 5) % 24, minlength=24)
    assert local[12:21].sum() > 4 * local[0:6].sum()


@pytest.mark.parametrize("scenario", SCENARIOS[1:])
def test_each_scenario_can_be_asked_for_alone(scenario: str) -> None:
    labels = np.concatenate([c.label for c in world(scenarios=(scenario,)).chunks()])
    assert set(labels.tolist()) == {0, SCENARIOS.index(scenario)}


def test_impossible_travel_is_impossible() -> None:
    for chunk in world(scenarios=("impossible_travel",), users=2000).chunks():
        for row in np.flatnonzero(chunk.label):
            before = np.flatnonzero(
                (chunk.user[:row] == chunk.user[row]) & (chunk.city[:row] >= 0) & (chunk.label[:row] == 0)
            )
            last = before[-1]
            km = distance_km(CITY_AT[[chunk.city[last]]], CITY_AT[[chunk.city[row]]])[0]
            assert km > 900 * max(1 / 60, (chunk.ts_ms[row] - chunk.ts_ms[last]) / 3_600_000)


def test_records_are_json_with_the_fields_of_the_contract() -> None:
    chunk = next(world().chunks())
    for user, body, record in zip(
        user_ids(chunk), flat_records(chunk, "s"), wire_records(chunk, "s", "acct"), strict=True
    ):
        flat, full = msgspec.json.decode(body), msgspec.json.decode(record)
        assert full["meta"]["user_id"] == flat.pop("user_id") == user
        assert full["meta"]["timestamp"] == flat.pop("timestamp")
        assert full["meta"]["account_id"] == "acct"
        assert full["data"] == flat
        assert ("latitude" in flat) == (flat["channel"] == "card_present")
    assert len({msgspec.json.decode(b)["tx_id"] for b in flat_records(chunk, "s")}) == len(chunk)


def test_found_counts_incidents_rows_and_false_alarms() -> None:
    labels = Labels({"a": ("burst", "1"), "b": ("burst", "1"), "c": ("burst", "2"), "d": ("spike", "3")})
    found = evaluate_found(labels, ["b", "d", "x"])
    assert found.incidents == {"burst": (1, 2), "spike": (1, 1)}
    assert found.transactions == {"burst": (1, 3), "spike": (1, 1)}
    assert found.false_alarms == 1
    assert found.recall == pytest.approx(2 / 3)


def test_a_plan_has_about_as_many_transactions_as_asked() -> None:
    plan = plan_simulation(12_000, 3, START_MS + 3_600_000)
    total = sum(len(chunk) for chunk in plan.chunks())
    assert 9_000 < total < 15_000
    assert plan.start_ms + plan.days * DAY_MS == START_MS
