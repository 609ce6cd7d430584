"""A simulated world: so many users, so many days, with or without incidents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anomalyze.simulation.population import build_population
from anomalyze.simulation.scenario import draw_incidents
from anomalyze.simulation.traffic import DAY_MS, Traffic, draw_day

__all__ = ["Simulation", "plan_simulation"]

PER_DAY_MEAN = 2.0
HISTORY_DAYS = 30  # a planned world lasts this long, so that usual ranges exist in its second half


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated world; ``chunks`` are its transactions.

    Parameters
    ----------
    users, seed
        Size of the population, and what everything is drawn from.
    start_ms
        Midnight UTC of the first day, ms since 1970.
    days
        How many days.
    per_day_mean
        Mean transactions of a user in a day.
    incidents_per_10k
        Labelled incidents for each 10,000 ordinary transactions; 0 gives ordinary traffic only.
    scenarios
        Which of ``scenario.SCENARIOS`` to draw from; empty means all.
    """

    users: int
    seed: int
    start_ms: int
    days: int
    per_day_mean: float = PER_DAY_MEAN
    incidents_per_10k: float = 0.0
    scenarios: tuple[str, ...] = ()

    def chunks(self) -> Iterator[Traffic]:
        """One chunk a day, in time order. The same parameters give the same bytes."""
        population = build_population(self.users, self.seed, per_day_mean=self.per_day_mean)
        for day in range(self.days):
            ordinary = draw_day(population, self.seed, self.start_ms, day)
            if self.incidents_per_10k > 0:
                ordinary = draw_incidents(
                    population,
                    ordinary,
                    seed=self.seed,
                    per_10k=self.incidents_per_10k,
                    names=self.scenarios,
                )
            yield ordinary


def plan_simulation(
    transactions: int,
    seed: int,
    end_ms: int,
    *,
    incidents_per_10k: float = 20.0,
    scenarios: tuple[str, ...] = (),
) -> Simulation:
    """A world with about so many transactions in 30 days that end with the last midnight before ``end_ms``.

    Time runs faster than a clock in it: at a real pace a user would need weeks to have a history.
    """
    users = max(20, round(transactions / (HISTORY_DAYS * PER_DAY_MEAN)))
    start_ms = (end_ms // DAY_MS - HISTORY_DAYS) * DAY_MS
    return Simulation(
        users=users,
        seed=seed,
        start_ms=start_ms,
        days=HISTORY_DAYS,
        incidents_per_10k=incidents_per_10k,
        scenarios=scenarios,
    )
