"""Medians and distances in compiled loops, in room that the caller lends: what is compiled here allocates nothing."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from numba import njit

from anomalyze.features.compiled import COMPILED

__all__ = ["DEVIATIONS", "deviation", "first_not_below", "in_scales", "median", "quantile", "select"]

# The median absolute deviation of a normal distribution, as a multiple of its standard deviation, inverted.
DEVIATIONS = 1.4826


@njit(**COMPILED)
def select(room, count, rank):
    """The value of that rank (from 0) among the first ``count``; they change places (Hoare's quickselect)."""
    low, high = 0, count - 1
    while low < high:
        middle = room[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while room[left] < middle:
                left += 1
            while room[right] > middle:
                right -= 1
            if left <= right:
                room[left], room[right] = room[right], room[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    return room[rank]


@njit(**COMPILED)
def median(room, count):
    """The median of the first ``count``; the mean of the middle two of an even number."""
    upper = select(room, count, count // 2)
    if count % 2:
        return upper
    # All before that rank are no larger now.
    lower = room[0]
    for place in range(1, count // 2):
        lower = max(lower, room[place])
    return 0.5 * lower + 0.5 * upper


@njit(**COMPILED)
def deviation(room, count, centre):
    """The median absolute deviation from ``centre``, as a standard deviation; the room holds the distances after it."""
    for place in range(count):
        room[place] = abs(room[place] - centre)
    return DEVIATIONS * median(room, count)


@njit(**COMPILED)
def quantile(room, count, share):
    """The value that ``share`` of the first ``count`` do not exceed."""
    return select(room, count, min(count - 1, int(share * count)))


@njit(**COMPILED)
def first_not_below(sorted_values, count, value):
    """The first place among ``count`` sorted ones that is not below ``value``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**COMPILED)
def in_scales(away, scale, most):
    """A distance in scales, ``most`` at most; what is away at all from what never moves is as far as can be."""
    if away > 0.0:
        return min(most, away / scale) if scale > 0.0 else most
    return 0.0
