"""What is remembered of a series: its words, and sorted memories of the newest values of each channel."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyze.features.compiled import COMPILED

VALUES_MAX = 8_000
# Values that a block has room for; a series moves on to the next class when it outgrows its own.
CLASSES = (64, 256, 1_024, 4_096, VALUES_MAX)

# Six sorted memories for five channels: a sustained level is seen from below and from above.
RAW, MEAN, LOW, HIGH, LOG, SEASON = range(6)
CHANNELS = 6

LEARNING_VALUES = 30  # nothing is strange before
GAP_Z_MAX = 1e6
INCIDENTS_MAX = 128  # at 100 points each, the first of them weighs less than .002

# A state's words of eight bytes: integers first, then floats. All zero is a series that nobody has seen.
I_LAST_MS, I_SEEN, I_COUNT, I_CLASS, I_SLOT, I_PLACED, I_TORN = range(7)
I_INCIDENTS, I_OPEN_UNTIL, I_QUIET_UNTIL = 7, 8, 9
I_TAKEN = 10  # CHANNELS words: values a memory has taken
F_LEVEL, F_SCALE, F_ALERTED, F_RUNS = 16, 17, 18, 19
F_ERROR, F_BASE, F_COMPARED = 20, 22, 24  # two words each: phase of the day, of the week
F_GAP_MEAN, F_GAP_VARIANCE = 26, 32  # CHANNELS words each
F_PEAK, I_AT = 38, 38 + INCIDENTS_MAX
WORDS = 38 + 2 * INCIDENTS_MAX


@njit(**COMPILED)
def gap(words, numbers, ring, order, channel, value, place):
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
        gone = find_place(ring, order, channel, kept, ring[slot, channel], False)
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
def find_place(ring, order, channel, kept, value, behind):
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


@njit(cache=True, **COMPILED)
def move_values(from_ring, from_order, to_ring, to_order, words):
    """Copy one series' memories into a larger block."""
    for channel in range(CHANNELS):
        kept = min(words[I_TAKEN + channel], VALUES_MAX)
        for place in range(kept):
            to_ring[place, channel] = from_ring[place, channel]
            to_order[channel, place] = from_order[channel, place]
