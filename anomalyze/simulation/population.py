"""Who lives in the simulated world: cities, merchants and users with habits of their own.

Everything is drawn once from the seed and held in flat arrays, so that a day of traffic is a few array
operations whatever the number of users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CATEGORIES", "CITIES", "City", "Population", "build_population"]

# Share of a purchase's amount that its category explains: the factor on the user's usual amount.
CATEGORIES: tuple[tuple[str, float, float], ...] = (
    # name, factor on the user's median amount, how often it is visited
    ("groceries", 1.0, 0.30),
    ("coffee", 0.25, 0.16),
    ("restaurants", 1.1, 0.16),
    ("transport", 0.4, 0.12),
    ("fuel", 1.5, 0.08),
    ("clothing", 2.0, 0.06),
    ("pharmacy", 0.7, 0.06),
    ("electronics", 3.5, 0.02),
    ("home", 2.2, 0.04),
)
ONLINE_CATEGORIES: tuple[tuple[str, float], ...] = (
    ("marketplace", 1.3),
    ("digital_goods", 0.4),
    ("streaming", 0.4),
    ("travel", 4.0),
    ("donations", 0.5),
)

MERCHANTS_PER_CITY = 120
ONLINE_MERCHANTS = 80
FAVOURITES = 12  # merchants that a user goes back to


@dataclass(frozen=True, slots=True)
class City:
    """A place people live in or travel to; coordinates in degrees, offset in hours east of UTC."""

    name: str
    country: str
    latitude: float
    longitude: float
    utc_offset_h: float
    currency: str
    weight: float


# Rounded public coordinates; standard time the year round, which is near enough for a rhythm.
CITIES: tuple[City, ...] = (
    City("New York", "US", 40.71, -74.01, -5, "USD", 8.0),
    City("Los Angeles", "US", 34.05, -118.24, -8, "USD", 5.0),
    City("Chicago", "US", 41.88, -87.63, -6, "USD", 4.0),
    City("Houston", "US", 29.76, -95.37, -6, "USD", 3.0),
    City("Miami", "US", 25.76, -80.19, -5, "USD", 2.0),
    City("Seattle", "US", 47.61, -122.33, -8, "USD", 2.0),
    City("Denver", "US", 39.74, -104.99, -7, "USD", 2.0),
    City("Atlanta", "US", 33.75, -84.39, -5, "USD", 2.0),
    City("Boston", "US", 42.36, -71.06, -5, "USD", 2.0),
    City("San Francisco", "US", 37.77, -122.42, -8, "USD", 2.0),
    City("Toronto", "CA", 43.65, -79.38, -5, "CAD", 2.0),
    City("London", "GB", 51.51, -0.13, 0, "GBP", 3.0),
    City("Paris", "FR", 48.86, 2.35, 1, "EUR", 2.0),
    City("Berlin", "DE", 52.52, 13.41, 1, "EUR", 2.0),
    City("Madrid", "ES", 40.42, -3.70, 1, "EUR", 1.5),
    City("Rome", "IT", 41.89, 12.51, 1, "EUR", 1.5),
    City("Amsterdam", "NL", 52.37, 4.90, 1, "EUR", 1.0),
    City("Stockholm", "SE", 59.33, 18.07, 1, "SEK", 0.7),
    City("Warsaw", "PL", 52.23, 21.01, 1, "PLN", 1.0),
    City("Tokyo", "JP", 35.69, 139.69, 9, "JPY", 1.5),
    City("Singapore", "SG", 1.29, 103.85, 8, "SGD", 1.0),
    City("Sydney", "AU", -33.87, 151.21, 10, "AUD", 1.0),
    City("Mumbai", "IN", 19.07, 72.88, 5.5, "INR", 1.5),
    City("Sao Paulo", "BR", -23.55, -46.64, -3, "BRL", 1.5),
    City("Mexico City", "MX", 19.43, -99.13, -6, "MXN", 1.5),
    City("Lagos", "NG", 6.45, 3.39, 1, "USD", 0.0),  # nobody's home: far away for the scenarios
    City("Jakarta", "ID", -6.21, 106.85, 7, "USD", 0.0),
    City("Kyiv", "UA", 50.45, 30.52, 2, "USD", 0.0),
)
# Local price level: how many units of the currency an amount of one dollar is; only orders of magnitude.
PRICE_LEVEL = {
    "USD": 1.0,
    "CAD": 1.3,
    "GBP": 0.8,
    "EUR": 0.9,
    "SEK": 10.0,
    "PLN": 4.0,
    "JPY": 140.0,
    "SGD": 1.3,
    "AUD": 1.5,
    "INR": 80.0,
    "BRL": 5.0,
    "MXN": 18.0,
}


@dataclass(frozen=True, slots=True)
class Population:
    """Users ``[u]`` and merchants ``[m]`` as arrays; indices refer to each other and to ``CITIES``.

    Merchants of city c are ``[c * MERCHANTS_PER_CITY, (c + 1) * MERCHANTS_PER_CITY)``, online ones follow.
    ``rhythm`` ``[u, 3]`` are the shares of morning, noon and evening; ``usual`` the median amount in dollars.
    """

    users: int
    home: npt.NDArray[np.int64]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    per_day: npt.NDArray[np.float64]
    usual: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    rhythm: npt.NDArray[np.float64]
    shift_h: npt.NDArray[np.float64]
    online_share: npt.NDArray[np.float64]
    devices: npt.NDArray[np.int64]
    favourites: npt.NDArray[np.int64]
    merchant_city: npt.NDArray[np.int64]
    merchant_category: npt.NDArray[np.int64]
    merchant_latitude: npt.NDArray[np.float64]
    merchant_longitude: npt.NDArray[np.float64]
    category_names: tuple[str, ...]
    category_factor: npt.NDArray[np.float64]

    @property
    def online_start(self) -> int:
        """Index of the first online merchant."""
        return len(CITIES) * MERCHANTS_PER_CITY


def build_population(users: int, seed: int, *, per_day_mean: float = 2.0) -> Population:
    """Draw a population.

    Parameters
    ----------
    users
        How many.
    seed
        The same seed gives the same people.
    per_day_mean
        Mean transactions a user makes in a day; people differ by a factor of four and more.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    weight = np.array([city.weight for city in CITIES])
    home = random.choice(len(CITIES), size=users, p=weight / weight.sum())
    at = np.array([(city.latitude, city.longitude) for city in CITIES])
    names = tuple(name for name, _, _ in CATEGORIES) + tuple(name for name, _ in ONLINE_CATEGORIES)
    factor = np.array([f for _, f, _ in CATEGORIES] + [f for _, f in ONLINE_CATEGORIES])
    visited = np.array([share for _, _, share in CATEGORIES])

    local = len(CITIES) * MERCHANTS_PER_CITY
    merchants = local + ONLINE_MERCHANTS
    city = np.repeat(np.arange(len(CITIES)), MERCHANTS_PER_CITY)
    category = np.concatenate(
        [
            random.choice(len(CATEGORIES), size=local, p=visited / visited.sum()),
            len(CATEGORIES) + random.integers(0, len(ONLINE_CATEGORIES), ONLINE_MERCHANTS),
        ]
    )
    spot = at[city] + random.normal(0.0, 0.06, (local, 2))  # about 6 km
    nowhere = np.full((merchants - local, 2), np.nan)
    spot = np.concatenate([spot, nowhere])

    favourites = home[:, None] * MERCHANTS_PER_CITY + random.integers(
        0, MERCHANTS_PER_CITY, (users, FAVOURITES)
    )
    online = random.integers(local, merchants, (users, FAVOURITES // 4))
    favourites[:, : FAVOURITES // 4] = online  # the first quarter are the online ones
    around = at[home] + random.normal(0.0, 0.05, (users, 2))
    per_day = random.gamma(3.0, per_day_mean / 3.0, users).clip(per_day_mean / 6.0, per_day_mean * 3.0)
    return Population(
        users=users,
        home=home,
        latitude=around[:, 0],
        longitude=around[:, 1],
        per_day=per_day,
        usual=np.exp(random.normal(3.3, 0.6, users)),
        spread=random.uniform(0.35, 0.7, users),
        rhythm=random.dirichlet([2.0, 4.0, 5.0], users),
        shift_h=random.normal(0.0, 0.8, users),
        online_share=random.beta(2.0, 6.0, users),
        devices=random.integers(1, 3, users),
        favourites=favourites,
        merchant_city=np.concatenate([city, np.full(merchants - local, -1)]),
        merchant_category=category,
        merchant_latitude=spot[:, 0],
        merchant_longitude=spot[:, 1],
        category_names=names,
        category_factor=factor,
    )
