"""One compiled call takes new points of any number of series into their states and says how strange each is.

A state's memory is bounded by the newest ``VALUES_MAX`` values. Every point is compared with what came before it
only, then taken in; so a series cut into calls anywhere gives the same bits. ``docs/detection.md`` says what the
parts are for and what each is worth.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyze.features.compiled import COMPILED

__all__ = [
    "CHANNELS",
    "CHANNEL_NAMES",
    "CLASSES",
    "I_CLASS",
    "I_COUNT",
    "I_LAST_MS",
    "I_PLACED",
    "I_SEEN",
    "I_SLOT",
    "I_TORN",
    "OUTPUTS",
    "VALUES_MAX",
    "WORDS",
    "advance_series",
    "move_values",
]

VALUES_MAX = 8_000
# Values that a block has room for; a series moves on to the next class when it outgrows its own.
CLASSES = (64, 256, 1_024, 4_096, VALUES_MAX)

# Six sorted memories for five channels: a sustained level is seen from below and from above.
RAW, MEAN, LOW, HIGH, LOG, SEASON = range(6)
CHANNELS = 6
CHANNEL_NAMES = ("value", "mean of 3", "sustained high", "sustained low", "order of magnitude", "season")

VALUE_ABS_MAX = 1e150  # squares of distances stay finite
LEARNING_VALUES = 30  # nothing is strange before
GAP_Z_MAX = 1e6
MEAN_POINTS, SUSTAINED_POINTS = 3, 6
LEVEL_RATE = 0.005
SEASON_RATE_MIN, SEASON_VISITS_MIN = 0.3, 2  # one visit is no habit
SEASON_HALF_LIFE_DAYS, SEASON_HALF_LIFE_POINTS_MIN = 7, 140
SEASON_LEARNING_SHARE, SEASON_ERROR_SHARE_MAX = 0.25, 0.7
INCIDENTS_MAX = 128  # at 100 points each, the first of them weighs less than .002
INCIDENT_POINTS, INCIDENT_MEMORY_POINTS = 100, 2_000.0
INCIDENT_PEAK_SHARE, HABIT_POWER, REPEAT_FACTOR = 0.5, 0.7, 3.0
NOVELTY_ALERT = 3.0
# A young series has shown little, so much of it is new: until then an alert needs proportionally more.
GROWN_VALUES = 100.0
RARITY_NEIGHBOURS_MIN, RARITY_NEIGHBOURS_SHARE = 5, 0.05
RARITY_ALERT, RARITY_QUIET_POINTS = 4.0, 12
NORMAL_DECILES = 2.56  # from the 10th to the 90th percentile of a normal distribution, in deviations
_DAY_MS, _WEEK_MS = 86_400_000, 604_800_000
# 1970-01-01 was a Thursday: weeks begin on Monday.
_MONDAY_MS = 4 * _DAY_MS

# A state's words of eight bytes: integers first, then floats. All zero is a series that nobody has seen.
I_LAST_MS, I_SEEN, I_COUNT, I_CLASS, I_SLOT, I_PLACED, I_TORN = range(7)
I_INCIDENTS, I_OPEN_UNTIL, I_QUIET_UNTIL = 7, 8, 9
I_TAKEN = 10  # CHANNELS words: values a memory has taken
F_LEVEL, F_SCALE, F_ALERTED = 16, 17, 18
F_ERROR, F_BASE, F_COMPARED = 20, 22, 24  # two words each: phase of the day, of the week
F_GAP_MEAN, F_GAP_VARIANCE = 26, 32  # CHANNELS words each
F_PEAK, I_AT = 38, 38 + INCIDENTS_MAX
WORDS = 38 + 2 * INCIDENTS_MAX

# Columns of the output.
OUTPUTS = ("novelty", "surprise", "rarity", "rarity_score", "expected", "lower", "upper", "tail")
_NOVELTY, _SURPRISE, _RARITY, _RARITY_SCORE, _EXPECTED, _LOWER, _UPPER, _TAIL = range(8)
_TAKEN, _NOVELTY_ALERT, _RARITY_ALERT, _CHANNEL = range(4)


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
    half_life,
    decay,
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
    half_life, decay
        Of the seasonal comparison, in points; and what remains of it after one point.
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
                marks[row, _TAKEN] = 1
                if abs(values[row]) <= VALUE_ABS_MAX:  # neither NaN nor infinite
                    local_ms = ts_ms[row] + offset_ms[row]
                    _take(
                        words, numbers, ring, order, season[s], visits[s], local_ms, values[row],
                        day_bins, week_bins, half_life, decay, faded, out[row], marks[row],
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
    half_life,
    decay,
    faded,
    out,
    marks,
):
    count = words[I_COUNT]
    if count == 0:
        numbers[F_LEVEL] = x
    residual, predicted, in_season = _predict(
        numbers, season, visits, local_ms, x, day_bins, week_bins, half_life, decay
    )
    place = _place(ring, order[RAW], RAW, min(count, VALUES_MAX), x, True)
    if count >= LEARNING_VALUES:
        _fade(words, faded)
        _band(words, numbers, ring, order, predicted, in_season, faded, out)
        _rarity(words, ring, order, x, place, out, marks)
    surprise, marks[_CHANNEL] = _surprise(words, numbers, ring, order, x, place, residual, in_season)
    if count >= LEARNING_VALUES:
        _judge(words, numbers, surprise, faded, out, marks)
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
            place = _place(ring, order[number], number, min(words[I_TAKEN + number], VALUES_MAX), value, True)
        z = _gap(words, numbers, ring, order, number, value, place)
        if number == HIGH and not high < numbers[F_LEVEL]:
            continue
        surprise += z
        if z > strongest:
            strongest, channel = z, number
    return surprise, channel


@njit(**COMPILED)
def _gap(words, numbers, ring, order, channel, value, place):
    """Gap novelty: how much farther the nearest earlier value lies than nearest values used to; then remember it."""
    taken = words[I_TAKEN + channel]
    kept = min(taken, VALUES_MAX)
    order = order[channel]
    z = 0.0
    if kept > 0:
        distance = math.inf
        if place > 0:
            distance = value - ring[order[place - 1], channel]
        if place < kept:
            distance = min(distance, ring[order[place], channel] - value)
        mean, variance = numbers[F_GAP_MEAN + channel], numbers[F_GAP_VARIANCE + channel]
        excess = distance - mean
        if taken >= LEARNING_VALUES and excess > 0.0:
            z = GAP_Z_MAX
            if variance > 0.0:
                z = min(z, excess / math.sqrt(variance))
        rate = max(1.0 / VALUES_MAX, 1.0 / taken)
        numbers[F_GAP_MEAN + channel] = mean + rate * excess
        numbers[F_GAP_VARIANCE + channel] = (1.0 - rate) * (variance + rate * excess * excess)
    slot = taken % VALUES_MAX
    if kept == VALUES_MAX:
        # Equal values lie in the order they came, so the first of them is the one that goes.
        gone = _place(ring, order, channel, kept, ring[slot, channel], False)
        if gone < place:
            place -= 1
            _shift(order, gone + 1, gone, place - gone)
        else:
            _shift(order, place, place + 1, gone - place)
    else:
        _shift(order, place, place + 1, kept - place)
    order[place] = slot
    ring[slot, channel] = value
    words[I_TAKEN + channel] = taken + 1
    return z


@njit(**COMPILED)
def _place(ring, order, channel, kept, value, behind):
    """The first place whose value is not below ``value`` or, ``behind``, above it."""
    low, high = 0, kept
    while low < high:
        middle = (low + high) // 2
        other = ring[order[middle], channel]
        if other < value or (behind and other == value):
            low = middle + 1
        else:
            high = middle
    return low


@intrinsic
def _shift(typing, order, source, target, count):
    """Move so many uint16 of an array to another place in it; compiled loops move one at a time."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, value=arguments[0])
        places = [
            cgutils.get_item_pointer(context, builder, signature.args[0], array, [place], wraparound=False)
            for place in arguments[1:3]
        ]
        cgutils.raw_memmove(builder, places[1], places[0], arguments[3], context.get_constant(types.intp, 2))
        return context.get_dummy_value()

    return types.void(order, types.intp, types.intp, types.intp), generate


@njit(**COMPILED)
def _predict(numbers, season, visits, local_ms, x, day_bins, week_bins, half_life, decay):
    """Residual of the better phase, what it predicted, whether it is good enough; then learn from ``x``."""
    best, residual, predicted, in_season = SEASON_ERROR_SHARE_MAX, 0.0, 0.0, False
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
                best, residual, predicted, in_season = error / base, x - mean, mean, True
            numbers[F_ERROR + phase] = decay * error + abs(x - mean)
            numbers[F_BASE + phase] = decay * base + abs(x - numbers[F_LEVEL])
            numbers[F_COMPARED + phase] += 1.0
        if seen < 4:
            visits[place] = seen + 1
        season[place] = mean + max(SEASON_RATE_MIN, 1.0 / (seen + 1.0)) * (x - mean)
    return residual, predicted, in_season


@njit(**COMPILED)
def _fade(words, faded):
    """What is left of each remembered incident at this point."""
    count, incidents = words[I_COUNT], words[I_INCIDENTS]
    for number in range(max(0, incidents - INCIDENTS_MAX), incidents):
        slot = number % INCIDENTS_MAX
        faded[slot] = math.exp((words[I_AT + slot] - count) / INCIDENT_MEMORY_POINTS)


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
def _youth(count):
    return max(1.0, GROWN_VALUES / count)


@njit(**COMPILED)
def _judge(words, numbers, surprise, faded, out, marks):
    """Habituation, incidents and the alert."""
    count = words[I_COUNT]
    excess = 0.0
    if surprise > 0.0:
        excess = surprise / _habit(words, numbers, surprise, faded)
    if count < words[I_OPEN_UNTIL]:
        slot = (words[I_INCIDENTS] - 1) % INCIDENTS_MAX
        numbers[F_PEAK + slot] = max(numbers[F_PEAK + slot], surprise)
        if surprise > REPEAT_FACTOR * numbers[F_ALERTED]:
            numbers[F_ALERTED] = surprise
            marks[_NOVELTY_ALERT] = excess >= NOVELTY_ALERT * _youth(count)
    elif excess >= NOVELTY_ALERT:
        slot = words[I_INCIDENTS] % INCIDENTS_MAX
        numbers[F_PEAK + slot] = surprise
        words[I_AT + slot] = count
        words[I_INCIDENTS] += 1
        words[I_OPEN_UNTIL] = count + INCIDENT_POINTS
        numbers[F_ALERTED] = surprise
        marks[_NOVELTY_ALERT] = excess >= NOVELTY_ALERT * _youth(count)
    if marks[_NOVELTY_ALERT]:
        # What follows is of the same incident.
        words[I_QUIET_UNTIL] = count + RARITY_QUIET_POINTS
    out[_SURPRISE] = surprise
    out[_NOVELTY] = excess / (1.0 + excess)


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
def _rarity(words, ring, order, x, place, out, marks):
    """Distance to the k-th nearest kept value, in spreads; and the share of values as far out on x's side."""
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
    out[_RARITY] = rarity
    out[_RARITY_SCORE] = 3.0 * rarity / (rarity + 4.0)
    below = place
    if place > 0 and ring[order[place - 1], RAW] == x:
        below = _place(ring, order, RAW, kept, x, False)
    out[_TAIL] = (1.0 + min(place, kept - below)) / (kept + 1.0)
    if rarity >= RARITY_ALERT and count >= words[I_QUIET_UNTIL]:
        marks[_RARITY_ALERT] = 1
        words[I_QUIET_UNTIL] = count + RARITY_QUIET_POINTS


@njit(**COMPILED)
def _farther(ring, order, first, neighbours, x):
    return max(x - ring[order[first], RAW], ring[order[first + neighbours - 1], RAW] - x)


@njit(**COMPILED)
def _band(words, numbers, ring, order, predicted, in_season, faded, out):
    """What was expected, and where novelty or rarity of the value itself, or against its season, would alert."""
    kept = min(words[I_COUNT], VALUES_MAX)
    spread, neighbours = _scale(ring, order, kept)
    limit = NOVELTY_ALERT * _youth(words[I_COUNT]) * _habit(words, numbers, NOVELTY_ALERT, faded)
    raw = order[RAW]
    reach = numbers[F_GAP_MEAN + RAW] + limit * math.sqrt(numbers[F_GAP_VARIANCE + RAW])
    lower, upper = ring[raw[0], RAW] - reach, ring[raw[kept - 1], RAW] + reach
    lower = max(lower, ring[raw[neighbours - 1], RAW] - RARITY_ALERT * spread)
    upper = min(upper, ring[raw[kept - neighbours], RAW] + RARITY_ALERT * spread)
    expected = ring[raw[kept // 2], RAW]
    if in_season:
        expected = min(max(predicted, lower), upper)
        taken = min(words[I_TAKEN + SEASON], VALUES_MAX)
        if taken >= LEARNING_VALUES:
            residuals = order[SEASON]
            reach = numbers[F_GAP_MEAN + SEASON] + limit * math.sqrt(numbers[F_GAP_VARIANCE + SEASON])
            below = predicted + ring[residuals[0], SEASON] - reach
            above = predicted + ring[residuals[taken - 1], SEASON] + reach
            if max(lower, below) <= expected <= min(upper, above):
                lower, upper = max(lower, below), min(upper, above)
    out[_EXPECTED], out[_LOWER], out[_UPPER] = expected, lower, upper


@njit(cache=True, **COMPILED)
def move_values(from_ring, from_order, to_ring, to_order, words):
    """Copy one series' memories into a larger block."""
    for channel in range(CHANNELS):
        kept = min(words[I_TAKEN + channel], VALUES_MAX)
        for place in range(kept):
            to_ring[place, channel] = from_ring[place, channel]
            to_order[channel, place] = from_order[channel, place]
