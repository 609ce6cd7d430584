"""Seeded traffic of ordinary users with daily rhythms, with labelled incidents among it.

A day (UTC) is drawn at once from (seed, day) alone, so any day can be made again without the ones before it,
and the iterator's chunks are in time order. Money is in minor units, times in ms since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from anomalyze.simulation.population import (
    CITIES,
    FAVOURITES,
    MERCHANTS_PER_CITY,
    PRICE_LEVEL,
    Population,
)

__all__ = ["CHANNELS", "DAY_MS", "STATUSES", "Traffic", "draw_day"]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
CHANNELS = ("card_present", "online")
STATUSES = ("approved", "declined")

CURRENCIES = tuple(PRICE_LEVEL)
CITY_CURRENCY = np.array([CURRENCIES.index(city.currency) for city in CITIES])
LEVEL = np.array([PRICE_LEVEL[code] for code in CURRENCIES])
DECIMALS = np.array([0 if code == "JPY" else 2 for code in CURRENCIES])
CITY_AT = np.array([(city.latitude, city.longitude) for city in CITIES])
CITY_OFFSET_H = np.array([city.utc_offset_h for city in CITIES])

# Local hours of the three parts of a day, and how far people scatter around them.
PEAK_H = np.array([8.2, 12.7, 18.6])
SPREAD_H = np.array([1.1, 1.2, 1.9])

TRIP_BLOCK_DAYS = 14  # a user makes at most one trip in a block
TRIP_SHARE = 0.10
TRIP_KM_MAX = 8_000.0  # so that a night is enough to fly there
DECLINED_SHARE = 0.012
REFUND_SHARE = 0.008
EARTH_RADIUS_KM = 6371.0088


@dataclass(slots=True)
class Traffic:
    """A chunk of transactions as columns ``[n]`` in time order.

    ``city`` is -1 for online transactions, which carry no place. ``device`` is the user's own one (0, 1) or,
    from 100 on, one never seen before. ``label`` is an index into ``scenario.SCENARIOS`` (0: ordinary),
    ``incident`` numbers the incidents of the day (-1: none).
    """

    day: int
    user: npt.NDArray[np.int64]
    ts_ms: npt.NDArray[np.int64]
    amount_minor: npt.NDArray[np.int64]
    currency: npt.NDArray[np.int64]
    merchant: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]
    city: npt.NDArray[np.int64]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    device: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    status: npt.NDArray[np.int64]
    label: npt.NDArray[np.int8]
    incident: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Traffic:
        """The rows named, in that order."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "day"})


def join(parts: Sequence[Traffic]) -> Traffic:
    """The parts one after another, sorted by time (ties keep their order)."""
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(Traffic)
        if f.name != "day"
    }
    return Traffic(day=parts[0].day, **columns).take(np.argsort(columns["ts_ms"], kind="stable"))


def draw_day(population: Population, seed: int, start_ms: int, day: int) -> Traffic:
    """The ordinary transactions of one day."""
    random = np.random.Generator(np.random.Philox(key=[seed, 2 + 8 * day]))
    weekend = ((start_ms // DAY_MS + day + 3) % 7) >= 5
    counts = random.poisson(population.per_day * (1.15 if weekend else 0.94))
    user = np.repeat(np.arange(population.users), counts)
    n = len(user)

    away, place, edge = trips(population, seed, day)
    city = np.where(away, place, population.home)[user]
    online = random.random(n) < population.online_share[user]

    part = (random.random(n)[:, None] > population.rhythm.cumsum(axis=1)[user][:, :2]).sum(axis=1)
    local_h = PEAK_H[part] + population.shift_h[user] + random.normal(0.0, 1.0, n) * SPREAD_H[part]
    utc_h = np.mod(local_h - CITY_OFFSET_H[city], 24.0)
    # On the days of departure and return people buy around noon UTC: the nights are for flying.
    utc_h = np.where(edge[user], 10.0 + 4.0 * random.random(n), utc_h)
    ts_ms = start_ms + day * DAY_MS + (utc_h * HOUR_MS).astype(np.int64)

    merchant = draw_merchants(random, population, user, city, online, away[user])
    currency = CITY_CURRENCY[np.where(online, population.home[user], city)]
    amount_minor = draw_amounts(random, population, user, merchant, currency)
    refund = random.random(n) < REFUND_SHARE
    device = (random.random(n) < 0.25).astype(np.int64) * (population.devices[user] - 1)
    traffic = Traffic(
        day=day,
        user=user,
        ts_ms=ts_ms,
        amount_minor=np.where(refund, -amount_minor, amount_minor),
        currency=currency,
        merchant=merchant,
        category=population.merchant_category[merchant],
        city=np.where(online, -1, city),
        latitude=population.merchant_latitude[merchant],
        longitude=population.merchant_longitude[merchant],
        device=device,
        channel=online.astype(np.int64),
        status=((random.random(n) < DECLINED_SHARE) & ~refund).astype(np.int64),
        label=np.zeros(n, dtype=np.int8),
        incident=np.full(n, -1, dtype=np.int64),
    )
    return traffic.take(np.argsort(ts_ms, kind="stable"))


def trips(
    population: Population, seed: int, day: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Who is away on this day, where, and whether it is the first or last day of the trip; all ``[u]``."""
    random = np.random.Generator(np.random.Philox(key=[seed, 3 + 8 * (day // TRIP_BLOCK_DAYS)]))
    u = population.users
    travels = random.random(u) < TRIP_SHARE
    first = random.integers(1, TRIP_BLOCK_DAYS - 8, u)
    length = random.integers(2, 7, u)
    weight = np.array([city.weight for city in CITIES])
    place = random.choice(len(CITIES), size=u, p=weight / weight.sum())
    near = distance_km(CITY_AT[population.home], CITY_AT[place]) <= TRIP_KM_MAX
    today = day % TRIP_BLOCK_DAYS
    away = travels & near & (today >= first) & (today < first + length)
    edge = away & ((today == first) | (today == first + length - 1))
    return away, place, edge


def draw_merchants(
    random: np.random.Generator,
    population: Population,
    user: npt.NDArray[np.int64],
    city: npt.NDArray[np.int64],
    online: npt.NDArray[np.bool_],
    away: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """Mostly favourites, the first ones most; away from home any merchant of that city."""
    n = len(user)
    quarter = FAVOURITES // 4
    skew = random.random(n) ** 1.8
    known_local = population.favourites[user, quarter + (skew * (FAVOURITES - quarter)).astype(np.int64)]
    any_local = city * MERCHANTS_PER_CITY + random.integers(0, MERCHANTS_PER_CITY, n)
    known_online = population.favourites[user, (skew * quarter).astype(np.int64)]
    any_online = random.integers(population.online_start, len(population.merchant_city), n)
    explores = random.random(n)
    local = np.where(away | (explores < 0.12), any_local, known_local)
    return np.where(online, np.where(explores < 0.12, any_online, known_online), local)


def draw_amounts(
    random: np.random.Generator,
    population: Population,
    user: npt.NDArray[np.int64],
    merchant: npt.NDArray[np.int64],
    currency: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Log-normal around the user's usual amount, moved by the merchant's category; at least 0.5 units."""
    factor = population.category_factor[population.merchant_category[merchant]]
    dollars = population.usual[user] * factor
    dollars = dollars * np.exp(population.spread[user] * random.normal(0.0, 1.0, len(user)))
    return minor_units(np.maximum(dollars, 0.5), currency)


def minor_units(dollars: npt.NDArray[np.float64], currency: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Dollars to whole minor units of each row's currency, by its price level."""
    return np.rint(dollars * LEVEL[currency] * 10.0 ** DECIMALS[currency]).astype(np.int64)


def distance_km(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Great-circle distance between rows of (latitude, longitude) in degrees (haversine)."""
    a, b = np.radians(a), np.radians(b)
    h = (
        np.sin((b[:, 0] - a[:, 0]) / 2) ** 2
        + np.cos(a[:, 0]) * np.cos(b[:, 0]) * np.sin((b[:, 1] - a[:, 1]) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(h.clip(0.0, 1.0)))
