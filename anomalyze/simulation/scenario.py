"""Labelled incidents: what an attack looks like, drawn into a day of ordinary traffic.

Each scenario is a pure function of (random, population, the day's ordinary rows, how many) and returns rows
with their label and the number of their incident.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from anomalyze.simulation.population import CITIES, FAVOURITES, MERCHANTS_PER_CITY, Population
from anomalyze.simulation.traffic import (
    CITY_AT,
    CITY_CURRENCY,
    DAY_MS,
    HOUR_MS,
    Traffic,
    distance_km,
    join,
    minor_units,
)

__all__ = ["SCENARIOS", "draw_incidents"]

SCENARIOS = ("ordinary", "burst", "impossible_travel", "spike", "card_testing", "account_takeover")
MINUTE_MS = 60_000
NEW_DEVICE = 100  # device numbers from here on were never seen with any user


def draw_incidents(
    population: Population, ordinary: Traffic, *, seed: int, per_10k: float, names: tuple[str, ...] = ()
) -> Traffic:
    """The day with incidents in it; their number is Poisson with mean ``per_10k`` of 10,000 ordinary rows."""
    random = np.random.Generator(np.random.Philox(key=[seed, 4 + 8 * ordinary.day]))
    chosen = [SCENARIOS.index(name) for name in names] or list(range(1, len(SCENARIOS)))
    total = int(random.poisson(len(ordinary) * per_10k / 10_000))
    kinds = random.choice(np.array(chosen), size=total)
    parts = [ordinary]
    for kind in chosen:
        count = int((kinds == kind).sum())
        if count and len(ordinary):
            rows = DRAW[SCENARIOS[kind]](random, population, ordinary, count)
            rows.label[:] = kind
            rows.incident += 1_000_000 * kind
            parts.append(rows)
    return join(parts)


def burst(random: np.random.Generator, population: Population, ordinary: Traffic, count: int) -> Traffic:
    """Six to twelve purchases at unknown merchants of the home city within five minutes."""
    rows = repeated(random, population, ordinary, count, random.integers(6, 13, count))
    n = len(rows)
    rows.ts_ms += (random.random(n) * 5 * MINUTE_MS).astype(np.int64)
    home = population.home[rows.user]
    at_merchant(rows, population, home * MERCHANTS_PER_CITY + random.integers(0, MERCHANTS_PER_CITY, n))
    pay(rows, population.usual[rows.user] * random.uniform(0.8, 3.0, n))
    return rows


def impossible_travel(
    random: np.random.Generator, population: Population, ordinary: Traffic, count: int
) -> Traffic:
    """A purchase in a shop over 3,000 km away, 2 to 40 minutes after an ordinary one in a shop."""
    in_shops = np.flatnonzero((ordinary.city >= 0) & (ordinary.amount_minor > 0) & (ordinary.status == 0))
    anchor = ordinary.take(random.choice(in_shops, size=count))
    far = np.empty(count, dtype=np.int64)
    for i, city in enumerate(anchor.city):
        away = distance_km(np.broadcast_to(CITY_AT[city], CITY_AT.shape), CITY_AT)
        far[i] = random.choice(np.flatnonzero(away > 3_000.0))
    rows = blank(anchor.day, anchor.user, anchor.ts_ms + random.integers(2, 41, count) * MINUTE_MS)
    rows.incident[:] = np.arange(count)
    at_merchant(rows, population, far * MERCHANTS_PER_CITY + random.integers(0, MERCHANTS_PER_CITY, count))
    pay(rows, population.usual[rows.user] * random.uniform(1.0, 5.0, count))
    rows.device[:] = NEW_DEVICE + rows.user
    return rows


def spike(random: np.random.Generator, population: Population, ordinary: Traffic, count: int) -> Traffic:
    """One purchase of 12 to 50 times the user's usual amount, at least 300 dollars, at a known merchant."""
    rows = repeated(random, population, ordinary, count, np.ones(count, dtype=np.int64))
    at_merchant(rows, population, population.favourites[rows.user, random.integers(0, FAVOURITES, count)])
    pay(rows, np.maximum(300.0, population.usual[rows.user] * random.uniform(12.0, 50.0, count)))
    return rows


def card_testing(
    random: np.random.Generator, population: Population, ordinary: Traffic, count: int
) -> Traffic:
    """Six to fifteen tiny online purchases, most declined, within ten minutes, then one large one."""
    sizes = random.integers(7, 17, count)
    rows = repeated(random, population, ordinary, count, sizes)
    n = len(rows)
    last = np.cumsum(sizes) - 1
    at = random.random(n) * 10 * MINUTE_MS
    at[last] = 12 * MINUTE_MS
    rows.ts_ms += at.astype(np.int64)
    shop = random.integers(population.online_start, len(population.merchant_city), count)
    at_merchant(rows, population, np.repeat(shop, sizes))
    dollars = random.uniform(0.5, 2.5, n)
    dollars[last] = np.maximum(150.0, population.usual[rows.user[last]] * random.uniform(5.0, 15.0, count))
    pay(rows, dollars)
    rows.status[:] = random.random(n) < 0.7
    rows.status[last] = 0
    rows.device[:] = NEW_DEVICE + rows.user
    return rows


def account_takeover(
    random: np.random.Generator, population: Population, ordinary: Traffic, count: int
) -> Traffic:
    """Three to five online purchases of 4 to 12 times the usual, from a new device, at four in the night."""
    sizes = random.integers(3, 6, count)
    rows = repeated(random, population, ordinary, count, sizes)
    n = len(rows)
    offset_h = np.array([city.utc_offset_h for city in CITIES])[population.home[rows.user]]
    midnight = rows.ts_ms - rows.ts_ms % DAY_MS
    hour = np.mod(3.5 - offset_h, 24.0).clip(0.0, 22.5)
    rows.ts_ms[:] = midnight + (hour * HOUR_MS).astype(np.int64)
    rows.ts_ms += (random.random(n) * 50 * MINUTE_MS).astype(np.int64)
    shop = random.integers(population.online_start, len(population.merchant_city), n)
    at_merchant(rows, population, shop)
    pay(rows, np.maximum(120.0, population.usual[rows.user] * random.uniform(4.0, 12.0, n)))
    rows.device[:] = NEW_DEVICE + rows.user
    return rows


DRAW: dict[str, Callable[[np.random.Generator, Population, Traffic, int], Traffic]] = {
    "burst": burst,
    "impossible_travel": impossible_travel,
    "spike": spike,
    "card_testing": card_testing,
    "account_takeover": account_takeover,
}


def repeated(
    random: np.random.Generator,
    population: Population,
    ordinary: Traffic,
    count: int,
    sizes: npt.NDArray[np.int64],
) -> Traffic:
    """Blank rows of ``count`` incidents: each of one user, from the time of an ordinary purchase of his day."""
    anchor = random.integers(0, len(ordinary), count)
    start = ordinary.ts_ms[anchor]
    midnight = start - start % DAY_MS
    start = np.minimum(start, midnight + DAY_MS - 20 * MINUTE_MS)  # all of it on this day
    rows = blank(ordinary.day, np.repeat(ordinary.user[anchor], sizes), np.repeat(start, sizes))
    rows.incident[:] = np.repeat(np.arange(count), sizes)
    return rows


def blank(day: int, user: npt.NDArray[np.int64], ts_ms: npt.NDArray[np.int64]) -> Traffic:
    """Rows with a user and a time; the rest is filled in by the scenario."""
    n = len(user)
    return Traffic(
        day=day,
        user=user.copy(),
        ts_ms=ts_ms.copy(),
        amount_minor=np.zeros(n, dtype=np.int64),
        currency=np.zeros(n, dtype=np.int64),
        merchant=np.zeros(n, dtype=np.int64),
        category=np.zeros(n, dtype=np.int64),
        city=np.zeros(n, dtype=np.int64),
        latitude=np.zeros(n),
        longitude=np.zeros(n),
        device=np.zeros(n, dtype=np.int64),
        channel=np.zeros(n, dtype=np.int64),
        status=np.zeros(n, dtype=np.int64),
        label=np.zeros(n, dtype=np.int8),
        incident=np.zeros(n, dtype=np.int64),
    )


def at_merchant(rows: Traffic, population: Population, merchant: npt.NDArray[np.int64]) -> None:
    """Put the rows at these merchants: place, channel and currency follow."""
    online = merchant >= population.online_start
    rows.merchant[:] = merchant
    rows.category[:] = population.merchant_category[merchant]
    rows.city[:] = population.merchant_city[merchant]
    rows.latitude[:] = population.merchant_latitude[merchant]
    rows.longitude[:] = population.merchant_longitude[merchant]
    rows.channel[:] = online
    rows.currency[:] = CITY_CURRENCY[np.where(online, population.home[rows.user], rows.city)]


def pay(rows: Traffic, dollars: npt.NDArray[np.float64]) -> None:
    """Set the amounts."""
    rows.amount_minor[:] = minor_units(dollars, rows.currency)
