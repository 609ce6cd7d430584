"""What is alerted: incidents of what is new, runs of what is rare, each confirmed by the other; and the band.

Most alerts of one kind alone are no anomalies to people: gaps between usual values that nobody had filled yet, and
bursts that a series has all the time. ``docs/detection.md`` has what each part is worth.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.metrics.memory import (
    F_ALERTED,
    F_GAP_MEAN,
    F_GAP_VARIANCE,
    F_PEAK,
    F_RUNS,
    GAP_Z_MAX,
    I_AT,
    I_COUNT,
    I_INCIDENTS,
    I_OPEN_UNTIL,
    I_QUIET_UNTIL,
    I_TAKEN,
    INCIDENTS_MAX,
    LEARNING_VALUES,
    RAW,
    SEASON,
    VALUES_MAX,
    find_place,
)

# An incident stays open, and is remembered: in points, and at least in time.
INCIDENT_POINTS, INCIDENT_S = 100.0, 8 * 3_600.0
INCIDENT_MEMORY_POINTS, INCIDENT_MEMORY_S = 2_000.0, 7 * 86_400.0
INCIDENT_PEAK_SHARE, HABIT_POWER, REPEAT_FACTOR = 0.5, 0.7, 3.0
NOVELTY_ALERT = 3.0
# Below, a new thing alerts only where the value is somewhat rare as well; in spreads.
NOVELTY_ALONE, NOVELTY_RARITY_MIN = 9.0, 0.75
# A young series has shown little, so much of it is new: until then an alert needs proportionally more.
GROWN_VALUES = 200.0
RARITY_NEIGHBOURS_MIN, RARITY_NEIGHBOURS_SHARE = 5, 0.05
# A rare value alerts only where something of it is new as well.
RARITY_ALERT, RARITY_NOVELTY_MIN = 4.0, 0.1
# A run of rare values is over after so many that are not; runs of a day ago weigh 1/e.
RUN_PAUSE_POINTS, RUN_MEMORY_S = 6, 86_400.0
NORMAL_DECILES = 2.56  # from the 10th to the 90th percentile of a normal distribution, in deviations
# Against its season a value counts from the outermost 5 % of a normal distribution on, in deviations.
SEASON_USUAL = 1.645

# Words of the pace of a bank, by its period (`pace_of`).
HALF_LIFE, SEASON_DECAY, OPEN_POINTS, MEMORY_POINTS, RUN_DECAY = range(5)

# Columns of the output.
OUTPUTS = ("novelty", "surprise", "rarity", "rarity_score", "expected", "lower", "upper", "tail")
NOVELTY, SURPRISE, RARITY, RARITY_SCORE, EXPECTED, LOWER, UPPER, TAIL = range(8)
TAKEN_MARK, NOVELTY_MARK, RARITY_MARK, CHANNEL_MARK = range(4)


@njit(**COMPILED)
def judge(words, numbers, surprise, faded, pace, out, marks):
    """Habituation, incidents, runs, and whether they alert."""
    count, rarity = words[I_COUNT], out[RARITY]
    excess = 0.0
    if surprise > 0.0:
        excess = surprise / _habit(words, numbers, surprise, faded)
    alerts = excess >= NOVELTY_ALERT * _youth(count) and (
        excess >= NOVELTY_ALONE or rarity >= NOVELTY_RARITY_MIN
    )
    # Runs before this one weigh; what is rare all the time has to be rarer.
    limit = RARITY_ALERT * _runs_habit(numbers)
    if rarity >= RARITY_ALERT:
        if count >= words[I_QUIET_UNTIL]:
            marks[RARITY_MARK] = rarity >= limit and excess >= RARITY_NOVELTY_MIN
            numbers[F_RUNS] += 1.0
        words[I_QUIET_UNTIL] = count + RUN_PAUSE_POINTS
    if count < words[I_OPEN_UNTIL]:
        slot = (words[I_INCIDENTS] - 1) % INCIDENTS_MAX
        numbers[F_PEAK + slot] = max(numbers[F_PEAK + slot], surprise)
        if surprise > REPEAT_FACTOR * numbers[F_ALERTED]:
            numbers[F_ALERTED] = surprise
            marks[NOVELTY_MARK] = alerts
    elif excess >= NOVELTY_ALERT:
        slot = words[I_INCIDENTS] % INCIDENTS_MAX
        numbers[F_PEAK + slot] = surprise
        words[I_AT + slot] = count
        words[I_INCIDENTS] += 1
        words[I_OPEN_UNTIL] = count + int(pace[OPEN_POINTS])
        numbers[F_ALERTED] = surprise
        marks[NOVELTY_MARK] = alerts
    if marks[NOVELTY_MARK]:
        # What follows is of the same incident.
        words[I_QUIET_UNTIL] = count + RUN_PAUSE_POINTS
    out[SURPRISE] = surprise
    out[NOVELTY] = excess / (1.0 + excess)


@njit(**COMPILED)
def measure_rarity(words, ring, order, x, place, residual, deviation, out):
    """Distance to the k-th nearest kept value, in spreads, or how far out it is for its hour, if that is more.

    And the share of values as far out on x's side.
    """
    count = words[I_COUNT]
    kept = min(count, VALUES_MAX)
    spread, neighbours = _scale(ring, order, kept)
    order = order[RAW]
    low, high = max(0, place - neighbours), min(place, kept - neighbours)
    # The window of so many values whose farther end is nearest: its left end comes nearer, its right end farther.
    while low < high:
        middle = (low + high) // 2
        if x - ring[order[middle], RAW] > ring[order[middle + neighbours - 1], RAW] - x:
            low = middle + 1
        else:
            high = middle
    distance = _farther(ring, order, low, neighbours, x)
    if low > 0:
        distance = min(distance, _farther(ring, order, low - 1, neighbours, x))
    rarity = 0.0
    if distance > 0.0:
        rarity = GAP_Z_MAX
        if spread > 0.0:
            rarity = min(rarity, distance / spread)
    if deviation > 0.0:
        rarity = max(rarity, min(GAP_Z_MAX, abs(residual) / deviation) - SEASON_USUAL)
    out[RARITY] = rarity
    out[RARITY_SCORE] = 3.0 * rarity / (rarity + 4.0)
    below = place
    if place > 0 and ring[order[place - 1], RAW] == x:
        below = find_place(ring, order, RAW, kept, x, False)
    out[TAIL] = (1.0 + min(place, kept - below)) / (kept + 1.0)


@njit(**COMPILED)
def find_band(words, numbers, ring, order, predicted, deviation, faded, out):
    """What was expected, and where novelty or rarity of the value itself, or against its season, would alert."""
    kept = min(words[I_COUNT], VALUES_MAX)
    spread, neighbours = _scale(ring, order, kept)
    limit = NOVELTY_ALERT * _youth(words[I_COUNT]) * _habit(words, numbers, NOVELTY_ALERT, faded)
    rare = RARITY_ALERT * _runs_habit(numbers)
    raw = order[RAW]
    reach = numbers[F_GAP_MEAN + RAW] + limit * math.sqrt(numbers[F_GAP_VARIANCE + RAW])
    lower, upper = ring[raw[0], RAW] - reach, ring[raw[kept - 1], RAW] + reach
    lower = max(lower, ring[raw[neighbours - 1], RAW] - rare * spread)
    upper = min(upper, ring[raw[kept - neighbours], RAW] + rare * spread)
    expected = ring[raw[kept // 2], RAW]
    if deviation >= 0.0:
        expected = min(max(predicted, lower), upper)
        if deviation > 0.0:
            reach = (SEASON_USUAL + rare) * deviation
            lower = min(max(lower, predicted - reach), expected)
            upper = max(min(upper, predicted + reach), expected)
        taken = min(words[I_TAKEN + SEASON], VALUES_MAX)
        if taken >= LEARNING_VALUES:
            residuals = order[SEASON]
            reach = numbers[F_GAP_MEAN + SEASON] + limit * math.sqrt(numbers[F_GAP_VARIANCE + SEASON])
            below = predicted + ring[residuals[0], SEASON] - reach
            above = predicted + ring[residuals[taken - 1], SEASON] + reach
            if max(lower, below) <= expected <= min(upper, above):
                lower, upper = max(lower, below), min(upper, above)
    out[EXPECTED], out[LOWER], out[UPPER] = expected, lower, upper


@njit(**COMPILED)
def fade(words, numbers, pace, faded):
    """What is left of each remembered incident, and of runs, at this point."""
    numbers[F_RUNS] *= pace[RUN_DECAY]
    count, incidents = words[I_COUNT], words[I_INCIDENTS]
    for number in range(max(0, incidents - INCIDENTS_MAX), incidents):
        slot = number % INCIDENTS_MAX
        faded[slot] = math.exp((words[I_AT + slot] - count) / pace[MEMORY_POINTS])


@njit(**COMPILED)
def _habit(words, numbers, surprise, faded):
    """Past incidents at least half as surprising, the longer ago the less; the open one is not past."""
    count, incidents = words[I_COUNT], words[I_INCIDENTS]
    habit = 0.0
    for number in range(max(0, incidents - INCIDENTS_MAX), incidents):
        if number == incidents - 1 and count < words[I_OPEN_UNTIL]:
            break
        slot = number % INCIDENTS_MAX
        if numbers[F_PEAK + slot] >= INCIDENT_PEAK_SHARE * surprise:
            habit += faded[slot]
    return (1.0 + habit) ** HABIT_POWER


@njit(**COMPILED)
def _runs_habit(numbers):
    """By how much rarer a run has to be because of those of the last days."""
    return math.sqrt(1.0 + numbers[F_RUNS])


@njit(**COMPILED)
def _youth(count):
    """By how much stronger an alert of a young series has to be."""
    return max(1.0, GROWN_VALUES / count)


@njit(**COMPILED)
def _scale(ring, order, kept):
    """Spread of the kept values, and how many neighbours rarity looks at."""
    order = order[RAW]
    last = kept - 1
    spread = (ring[order[(9 * last) // 10], RAW] - ring[order[last // 10], RAW]) / NORMAL_DECILES
    if spread <= 0.0:
        spread = (ring[order[last], RAW] - ring[order[0], RAW]) / 20.0
    return spread, max(RARITY_NEIGHBOURS_MIN, int(RARITY_NEIGHBOURS_SHARE * kept))


@njit(**COMPILED)
def _farther(ring, order, first, neighbours, x):
    return max(x - ring[order[first], RAW], ring[order[first + neighbours - 1], RAW] - x)
