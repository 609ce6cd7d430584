"""A day's and a week's habits of a series: what they predict, how well, and whether that is good enough to be used."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.metrics.memory import F_BASE, F_COMPARED, F_ERROR, F_LEVEL

SEASON_HALF_LIFE_DAYS, SEASON_HALF_LIFE_POINTS_MIN = 7, 140
SEASON_RATE_MIN, SEASON_VISITS_MIN = 0.3, 2  # one visit is no habit
SEASON_LEARNING_SHARE, SEASON_ERROR_SHARE_MAX = 0.25, 0.7
# Deviation of a normal distribution for a mean error of 1.
NORMAL_DEVIATION = math.sqrt(math.pi / 2.0)
_DAY_MS, _WEEK_MS = 86_400_000, 604_800_000
# 1970-01-01 was a Thursday: weeks begin on Monday.
_MONDAY_MS = 4 * _DAY_MS


@njit(**COMPILED)
def predict(numbers, season, visits, local_ms, x, day_bins, week_bins, half_life, decay):
    """Residual of the better phase, what it predicted, its deviation of late; then learn from ``x``.

    The deviation is negative where no phase is good enough.
    """
    best, residual, predicted, deviation = SEASON_ERROR_SHARE_MAX, 0.0, 0.0, -1.0
    for phase in range(2):
        bins = day_bins if phase == 0 else week_bins
        if bins < 2:
            continue
        length_ms = _DAY_MS if phase == 0 else _WEEK_MS
        # To the nearest bin: a point that comes a second early or late is of the same one.
        place = ((local_ms - _MONDAY_MS) % length_ms * bins + length_ms // 2) // length_ms % bins
        if phase == 1:
            place += day_bins
        mean, seen = season[place], visits[place]
        if seen > 0:
            error, base = numbers[F_ERROR + phase], numbers[F_BASE + phase]
            learned = numbers[F_COMPARED + phase] >= SEASON_LEARNING_SHARE * half_life
            if learned and seen >= SEASON_VISITS_MIN and error < best * base:
                best, residual, predicted = error / base, x - mean, mean
                # The weights of the errors add up to this.
                weight = (1.0 - decay ** numbers[F_COMPARED + phase]) / (1.0 - decay)
                deviation = NORMAL_DEVIATION * error / weight
            numbers[F_ERROR + phase] = decay * error + abs(x - mean)
            numbers[F_BASE + phase] = decay * base + abs(x - numbers[F_LEVEL])
            numbers[F_COMPARED + phase] += 1.0
        if seen < 4:
            visits[place] = seen + 1
        season[place] = mean + max(SEASON_RATE_MIN, 1.0 / (seen + 1.0)) * (x - mean)
    return residual, predicted, deviation
