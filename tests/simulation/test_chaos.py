"""The whole product under load while files come in, bundles are swapped and programs and servers are killed: nothing
lost, nothing twice, every verdict as an undisturbed replay gives it. ``ANOMALYZE_CHAOS_KILLS=20`` and
``python -m tests.simulation.chaos`` do the same for longer."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.folders import passable_folder
from tests.kafka import missing_programs
from tests.simulation.chaos import is_clean, rounds, run

# Every program has its turn once, and two of them again.
KILLS = int(os.environ.get("ANOMALYZE_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("ANOMALYZE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
TRANSACTIONS = 3_000


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bus", ["embedded", "kafka"])
def test_killing_any_program_again_and_again_loses_nothing_and_doubles_nothing(bus: str) -> None:
    missing = missing_programs() if bus == "kafka" else None
    if missing is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    print(f"ANOMALYZE_CHAOS_SEED={SEED} ANOMALYZE_CHAOS_KILLS={KILLS}")
    with passable_folder() as folder:
        result = run(bus, KILLS, SEED, TRANSACTIONS, Path(folder) / "stack")
    assert is_clean(result), result
    assert result["stored"] == result["accepted"] == result["sent"] == TRANSACTIONS
    assert sum(result["kills"].values()) == KILLS
    # Promoted and rolled back in the middle; what was not champion was shadowed.
    assert len(result["bundles"]) == 2
    assert min(result["bundles"].values()) > 0
    assert result["challenged"] > 0


@pytest.mark.parametrize("bus", ["embedded", "kafka"])
def test_ten_kills_meet_every_program(bus: str) -> None:
    orders = [rounds(random.Random(seed), bus, 10) for seed in range(20)]
    programs = {"api", "detector", "sink", "postgresql", "valkey", "uploader"} | (
        {"broker"} if bus == "kafka" else set()
    )
    assert all(set(order) == programs for order in orders)
    assert len({tuple(order) for order in orders}) > 10
