"""Places in 35 bits, and the distance between two of them.

A place is kept as a point on a grid of 0.0055 degrees (0.6 km of latitude) and a radius rounded up to one
of 15 steps. Both ends of a distance are read from the grid, so the same coordinates are 0 km apart.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

import numpy as np
from numba import njit

from anomalyze.features.compiled import COMPILED

__all__ = ["RADIUS_STEPS_KM", "encode_place", "great_circle_km", "travel_between_km"]

EARTH_RADIUS_KM = 6371.0088  # mean radius R1, IUGG
# Rounded up, so that a journey is never made longer than it may have been. Code 0: no place known.
RADIUS_STEPS_KM = np.array(
    [0.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 60.0, 100.0, 170.0, 300.0, 500.0, 900.0, 1600.0, 3000.0]
)
_LATITUDES = 1 << 15
_LONGITUDES = 1 << 16


@njit(**COMPILED)
def great_circle_km(latitude_a, longitude_a, latitude_b, longitude_b):
    """Great-circle distance in km between two points in degrees, by the haversine formula.

    Source: Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984).

    >>> round(great_circle_km(52.52, 13.405, 40.7128, -74.006))  # Berlin, New York
    6385
    """
    phi_a, phi_b = math.radians(latitude_a), math.radians(latitude_b)
    half_phi = (phi_b - phi_a) / 2.0
    half_lambda = math.radians(longitude_b - longitude_a) / 2.0
    h = math.sin(half_phi) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(half_lambda) ** 2
    return 2.0 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


@njit(**COMPILED)
def encode_place(latitude, longitude, radius_km):
    """Grid point (31 bits) above radius code (4 bits); 0 when there is no place.

    >>> encode_place(math.nan, 13.4, 0.0)
    0
    """
    if not (abs(latitude) <= 90.0 and abs(longitude) <= 180.0):
        return np.int64(0)
    row = min(np.int64((latitude + 90.0) / 180.0 * _LATITUDES), _LATITUDES - 1)
    column = np.int64((longitude + 180.0) / 360.0 * _LONGITUDES) & (_LONGITUDES - 1)
    code = 1
    while code < 15 and RADIUS_STEPS_KM[code] < radius_km:
        code += 1
    return ((row << 16 | column) << 4) | code


@njit(**COMPILED)
def travel_between_km(place_a, place_b):
    """Kilometres that certainly lie between two encoded places: distance less both radii, at least 0.

    >>> home = encode_place(52.52, 13.405, 20.0)
    >>> float(travel_between_km(home, home)), round(travel_between_km(home, encode_place(40.7, -74.0, 20.0)))
    (0.0, 6346)
    """
    point_a, point_b = place_a >> 4, place_b >> 4
    if point_a == point_b:
        return 0.0
    distance = great_circle_km(
        ((point_a >> 16) + 0.5) * (180.0 / _LATITUDES) - 90.0,
        ((point_a & (_LONGITUDES - 1)) + 0.5) * (360.0 / _LONGITUDES) - 180.0,
        ((point_b >> 16) + 0.5) * (180.0 / _LATITUDES) - 90.0,
        ((point_b & (_LONGITUDES - 1)) + 0.5) * (360.0 / _LONGITUDES) - 180.0,
    )
    return max(0.0, distance - RADIUS_STEPS_KM[place_a & 15] - RADIUS_STEPS_KM[place_b & 15])
