"""One compiled call takes new points of any number of series into their states and says how strange each is.

A state's memory is bounded by the newest ``VALUES_MAX`` values. Every point is compared with what came before it
only, then taken in; so a series cut into calls anywhere gives the same bits. ``docs/detection.md`` says what the
parts are for and what each is worth.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

import numpy as np
from numba import njit

from anomalyze.features.compiled import COMPILED
from anomalyze.metrics.alert_rule import (
    CHANNEL_MARK,
    HALF_LIFE,
    INCIDENT_MEMORY_POINTS,
    INCIDENT_MEMORY_S,
    INCIDENT_POINTS,
    INCIDENT_S,
    NOVELTY_ALERT,
    OUTPUTS,
    RUN_MEMORY_S,
    SEASON_DECAY,
    TAKEN_MARK,
    fade,
    find_band,
    judge,
    measure_rarity,
)
from anomalyze.metrics.memory import (
    CHANNELS,
    CLASSES,
    F_LEVEL,
    F_SCALE,
    HIGH,
    I_CLASS,
    I_COUNT,
    I_LAST_MS,
    I_PLACED,
    I_SEEN,
    I_SLOT,
    I_TAKEN,
    I_TORN,
    INCIDENTS_MAX,
    LEARNING_VALUES,
    LOG,
    LOW,
    MEAN,
    RAW,
    SEASON,
    VALUES_MAX,
    WORDS,
    find_place,
    gap,
    move_values,
)
from anomalyze.metrics.season import SEASON_HALF_LIFE_DAYS, SEASON_HALF_LIFE_POINTS_MIN, predict

__all__ = [
    "CHANNELS",
    "CHANNEL_NAMES",
    "CLASSES",
    "INCIDENTS_MAX",
    "I_CLASS",
    "I_COUNT",
    "I_LAST_MS",
    "I_PLACED",
    "I_SEEN",
    "I_SLOT",
    "I_TORN",
    "NOVELTY_ALERT",
    "OUTPUTS",
    "VALUES_MAX",
    "WORDS",
    "advance_series",
    "move_values",
    "pace_of",
]

CHANNEL_NAMES = ("value", "mean of 3", "sustained high", "sustained low", "order of magnitude", "season")

VALUE_ABS_MAX = 1e150  # squares of distances stay finite
MEAN_POINTS, SUSTAINED_POINTS = 3, 6
LEVEL_RATE = 0.005
_DAY_S = 86_400.0


def pace_of(period_s: float) -> np.ndarray:
    """What depends on the distance of two points: float64 ``[5]``, in points and per point.

    The half-life of the seasonal comparison and what remains of it after a point; for how long an incident stays
    open; how long ago one weighs 1/e; what remains of the runs of rare values after a point.
    """
    half_life = max(float(SEASON_HALF_LIFE_POINTS_MIN), SEASON_HALF_LIFE_DAYS * _DAY_S / period_s)
    return np.array(
        [
            half_life,
            0.5 ** (1.0 / half_life),
            float(int(max(INCIDENT_POINTS, INCIDENT_S / period_s))),
            max(INCIDENT_MEMORY_POINTS, INCIDENT_MEMORY_S / period_s),
            math.exp(-period_s / RUN_MEMORY_S),
        ]
    )


@njit(cache=True, **COMPILED)
def advance_series(
    series,
    ts_ms,
    values,
    offset_ms,
    ints,
    floats,
    rings,
    orders,
    season,
    visits,
    day_bins,
    week_bins,
    pace,
    faded,
    out,
    marks,
):
    """Take rows, sorted by series and time, into their states.

    Parameters
    ----------
    series, ts_ms, values, offset_ms
        int64, int64, float64, int64 ``[N]``; the offset is added to a time to find its place in day and week.
    ints, floats
        ``[S, WORDS]``: one memory, two types.
    rings, orders
        Of each class float64 ``[B, capacity, CHANNELS]`` and uint16 ``[B, CHANNELS, capacity]``. Blocks must have
        room for the rows.
    season, visits
        float64 and int8 ``[S, day_bins + week_bins]``.
    pace
        Of the bank's period: `pace_of`.
    faded
        float64 ``[INCIDENTS_MAX]``, room to work in.
    out
        float64 ``[N, len(OUTPUTS)]``, written; NaN where a row was not judged.
    marks
        int8 ``[N, 4]``, written: taken, novelty alert, rarity alert, channel.
    """
    row = 0
    while row < len(series):
        s = series[row]
        words, numbers = ints[s], floats[s]
        ring = rings[words[I_CLASS]][words[I_SLOT]]
        order = orders[words[I_CLASS]][words[I_SLOT]]
        words[I_TORN] = 1
        while row < len(series) and series[row] == s:
            out[row, :] = np.nan
            marks[row, :] = 0
            if words[I_SEEN] == 0 or ts_ms[row] > words[I_LAST_MS]:
                words[I_LAST_MS] = ts_ms[row]
                words[I_SEEN] += 1
                marks[row, TAKEN_MARK] = 1
                if abs(values[row]) <= VALUE_ABS_MAX:  # neither NaN nor infinite
                    local_ms = ts_ms[row] + offset_ms[row]
                    _take(
                        words, numbers, ring, order, season[s], visits[s], local_ms, values[row],
                        day_bins, week_bins, pace, faded, out[row], marks[row],
                    )  # fmt: skip
            row += 1
        words[I_TORN] = 0


@njit(**COMPILED)
def _take(
    words,
    numbers,
    ring,
    order,
    season,
    visits,
    local_ms,
    x,
    day_bins,
    week_bins,
    pace,
    faded,
    out,
    marks,
):
    count = words[I_COUNT]
    if count == 0:
        numbers[F_LEVEL] = x
    residual, predicted, deviation = predict(
        numbers, season, visits, local_ms, x, day_bins, week_bins, pace[HALF_LIFE], pace[SEASON_DECAY]
    )
    place = find_place(ring, order[RAW], RAW, min(count, VALUES_MAX), x, True)
    if count >= LEARNING_VALUES:
        fade(words, numbers, pace, faded)
        find_band(words, numbers, ring, order, predicted, deviation, faded, out)
        measure_rarity(words, ring, order, x, place, residual, deviation, out)
    surprise, marks[CHANNEL_MARK] = _surprise(
        words, numbers, ring, order, x, place, residual, deviation >= 0.0
    )
    if count >= LEARNING_VALUES:
        judge(words, numbers, surprise, faded, pace, out, marks)
    numbers[F_LEVEL] += max(LEVEL_RATE, 1.0 / (count + 1)) * (x - numbers[F_LEVEL])
    words[I_COUNT] = count + 1


@njit(**COMPILED)
def _surprise(words, numbers, ring, order, x, place, residual, in_season):
    """Sum of the channels' gap novelties, and the channel that says most."""
    count = words[I_COUNT]
    total, low, high = x, x, x
    for back in range(1, min(SUSTAINED_POINTS, count + 1)):
        earlier = ring[(count - back) % VALUES_MAX, RAW]
        if back < MEAN_POINTS:
            total += earlier
        low, high = min(low, earlier), max(high, earlier)
    numbers[F_SCALE] += (abs(x) - numbers[F_SCALE]) / (count + 1)
    magnitude = 0.0
    if numbers[F_SCALE] > 0.0:
        magnitude = math.log(1.0 + abs(x) / numbers[F_SCALE])
    surprise, strongest, channel = 0.0, 0.0, 0
    for number in range(CHANNELS):
        if number == RAW:
            value = x
        elif number == MEAN:
            value = total / min(MEAN_POINTS, count + 1)
        elif number == LOW:
            value = low
        elif number == HIGH:
            value = high
        elif number == LOG:
            value = -magnitude if x < 0.0 else magnitude
        else:
            value = residual
        if number == SEASON and not in_season:
            continue
        if number != RAW:
            place = find_place(
                ring, order[number], number, min(words[I_TAKEN + number], VALUES_MAX), value, True
            )
        z = gap(words, numbers, ring, order, number, value, place)
        if number == HIGH and not high < numbers[F_LEVEL]:
            continue
        surprise += z
        if z > strongest:
            strongest, channel = z, number
    return surprise, channel
